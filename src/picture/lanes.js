// What moves in the picture of the walk, and the bytes of a step: for walk.html and for the manager's page.

/** The fields of each kind of bytes, name and length; of "plain" and "xor", the IPv4 header's (RFC 791). */
const IPV4 = [
  ["version, length", 1],
  ["service", 1],
  ["total length", 2],
  ["identification", 2],
  ["flags, fragment", 2],
  ["ttl", 1],
  ["protocol", 1],
  ["checksum", 2],
  ["source", 4],
  ["destination", 4],
  ["payload", 99],
];
const LAYOUT = {
  plain: IPV4,
  xor: IPV4,
  frame: [
    ["type", 1],
    ["length", 3],
    ["sealed body", 99],
  ],
  datagram: [
    ["type", 1],
    ["key", 1],
    ["length", 2],
    ["session", 4],
    ["number", 8],
    ["sealed body", 99],
  ],
  sealed: [["sealed", 99]],
};
/** As who has no key sees it: the header of a frame is no secret, but what matters is sealed. */
const colour = (kind) => (kind === "plain" || kind === "xor" ? kind : "sealed");
const pairs = (hex) => hex.match(/../g) || [];

/** An element with a text. Whatever comes from outside becomes text here, never markup. */
function element(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** The first bytes of a packet, field by field. IPv6 has another header: it is shown as a whole. */
function fields(hex, kind) {
  const bytes = pairs(hex),
    box = element("div", "", "bytes");
  const isIPv6 = LAYOUT[kind] === IPV4 && bytes[0]?.[0] !== (kind === "xor" ? "0" : "4");
  for (const [name, size] of isIPv6 ? [["no IPv4 header", 99]] : LAYOUT[kind]) {
    const part = bytes.splice(0, size);
    if (part.length === 0) break;
    const field = box.appendChild(element("span", part.join(" "), "field " + colour(kind)));
    field.appendChild(element("small", name));
  }
  return box;
}

/** What is known of a step: where that comes from, when, on which host, what, and the bytes. */
function evidenceList(all) {
  const list = element("ol", "", "evidence");
  list.append(...all.map(evidenceItem));
  return list;
}
function evidenceItem({ source, when, host, text, hex, kind }) {
  const item = document.createElement("li");
  item.append(
    element("span", source, "source"),
    element("span", ` ${when} µs ${host} `, "when"),
    element("span", text, "dim"),
  );
  if (hex) item.appendChild(fields(hex, kind));
  return item;
}

/** The steps of the picture, and the packet that moves from one to the other. */
class Lanes {
  constructor() {
    this.steps = [...document.querySelectorAll(".step")];
    this.packet = document.getElementById("packet");
    this.pane = document.getElementById("picture");
    this.index = 0; // where the packet is
    addEventListener("resize", () => this.follow());
  }

  /** Moves the packet to a step, with the bytes that it has there; without any it is not seen. */
  at(index, hex = "", kind = "plain") {
    this.steps.forEach((step, i) => step.classList.toggle("now", i === index));
    const { x, y } = this.steps[index].dataset;
    this.packet.style.transform = `translate(${x}px, ${y}px)`;
    this.packet.querySelector("text").textContent = pairs(hex).slice(0, 4).join(" ");
    if (hex) this.packet.setAttribute("class", colour(kind));
    else this.packet.removeAttribute("class");
    this.index = index;
    this.follow();
  }

  /** Where the picture is larger than its pane, the pane goes with the packet. */
  follow() {
    const [knob, pane] = [this.steps[this.index].firstChild, this.pane].map((one) =>
      one.getBoundingClientRect(),
    );
    this.pane.scrollLeft += knob.x - pane.x - pane.width / 2;
    this.pane.scrollTop += knob.y - pane.y - pane.height / 2;
  }

  /** What is written behind a step's title; undefined: there is no evidence of it. */
  note(index, text) {
    this.steps[index].querySelector(".dim").textContent = text ?? "";
    this.steps[index].firstChild.classList.toggle("missing", text === undefined);
  }

  /** `chosen(index)`: a step was clicked, or Enter or Space pressed on it. */
  onChoose(chosen) {
    this.steps.forEach((step, i) => {
      step.onclick = () => chosen(i);
      step.onkeydown = (event) => {
        if (event.key !== " " && event.key !== "Enter") return;
        event.preventDefault();
        event.stopPropagation();
        chosen(i);
      };
    });
  }
}
