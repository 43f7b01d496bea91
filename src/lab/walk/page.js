// walk.html: plays the walk, and shows what is known of each step. page.ts puts this and lanes.js into
// page.html. What was recorded becomes text, by element(), never markup.
/* global WALK, Lanes, element, evidenceList */

const $ = (id) => document.getElementById(id);
const lanes = new Lanes();
const { steps } = lanes;
const LINE = 700; // ms to read a line of evidence
const ALL = String(WALK.packets.length); // in the chooser: not one packet, but all of them

let known; // step → the evidence of it, of the chosen packet
let end; // the last step that there is evidence of
let stops; // where the packet stops: at each step, and there at each change of its first bytes
let now = 0; // a stop
let described; // a step: that of the panel
let timer;

/** Takes one packet of the command, and goes to its first step. */
function choose(packet) {
  known = WALK.steps.map(({ evidence }) =>
    evidence.filter(({ of }) => packet === ALL || of.includes(+packet)),
  );
  end = known.findLastIndex((all) => all.length > 0);
  let bytes;
  stops = known.flatMap((all, index) => {
    const here = [];
    all.forEach((one, line) => {
      const isChange = one.hex && (one.hex.slice(0, 8) !== bytes?.hex.slice(0, 8) || one.kind !== bytes.kind);
      if (line === 0 || isChange) here.push({ index, line, bytes: one.hex ? (bytes = one) : bytes });
    });
    return here.length > 0 ? here : [{ index, line: 0, bytes: index < end ? bytes : undefined }];
  });
  known.forEach(([first], index) => lanes.note(index, first && `${first.when} µs`));
  described = undefined;
  go(0, false);
}

/** Why nothing is known of a step. */
function why({ id }) {
  const reason = WALK.lacking[id] || WALK.lacking[3];
  if (WALK.steps.every((step, i) => step.id !== id || step.evidence.length === known[i].length))
    return `No evidence: ${reason}`;
  const answered = known.some((all, i) => all.length > 0 && WALK.steps[i].id.startsWith("R"));
  return id.startsWith("R") && !answered
    ? "No answer to this packet came before the next one was sent."
    : "Nothing was recorded here of this packet alone. Choose all packets to see the others.";
}

function describe(index) {
  if (index === described) return; // what has the focus in the panel stays
  described = index;
  const step = WALK.steps[index];
  const link = Object.assign(element("a", "the story of this step"), { href: `#${step.anchor}` });
  $("title").textContent = `${step.id}. ${step.title}`;
  $("where").replaceChildren(`${step.lane}, ${step.where} · `, link);
  $("sentence").textContent = step.sentence;
  const all = known[index];
  $("evidence").replaceChildren(all.length > 0 ? evidenceList(all) : element("p", why(step)));
}

/** To a stop. `back`: from the stories below to the picture. */
function go(stop, back = true) {
  now = (stop + stops.length) % stops.length;
  const { index, line, bytes } = stops[now];
  lanes.at(index, bytes?.hex, bytes?.kind);
  describe(index);
  const lines = [...$("evidence").querySelectorAll("li")];
  lines.forEach((one, i) => one.classList.toggle("now", i === line));
  if (lines[line]) {
    const [one, panel] = [lines[line], $("panel")].map((what) => what.getBoundingClientRect());
    $("panel").scrollTop += Math.max(0, one.bottom - panel.bottom) || Math.min(0, one.top - panel.top);
  }
  if (back) scrollTo(0, 0);
}
/** To the first stop of a step. */
const show = (index, back) =>
  go(
    stops.findIndex((stop) => stop.index === index % steps.length),
    back,
  );

/** Goes on by itself: the more lines there are to read, the later. */
function tick() {
  const [{ index, line }, next] = [stops[now], stops[now + 1]];
  if (!next || next.index > end) return play(false);
  const lines = (next.index === index ? next.line : known[index].length) - line;
  timer = setTimeout(() => (go(now + 1), tick()), (LINE * Math.max(2, lines)) / $("speed").value);
}
function play(on) {
  clearTimeout(timer);
  timer = undefined;
  $("play").textContent = on ? "❚❚ pause" : "▶ play";
  if (on) tick();
}

$("command").textContent = WALK.command;
$("packets").append(...[...WALK.packets, "all packets"].map((text, i) => new Option(text, i)));
$("chooser").hidden = WALK.packets.length < 2;
if ($("chooser").hidden) $("packets").value = ALL; // what is of no packet, too
$("packets").onchange = () => (play(false), choose($("packets").value));
$("speed").onchange = () => (lanes.packet.style.transitionDuration = `${0.4 / $("speed").value}s`);
$("back").onclick = () => (play(false), go(now - 1));
$("next").onclick = () => (play(false), go(now + 1));
$("play").onclick = () => {
  if (!timer && !(stops[now + 1]?.index <= end)) go(0);
  play(!timer);
};
$("large").onclick = () => {
  document.body.classList.toggle("large");
  go(now);
};
lanes.onChoose((index) => (play(false), show(index)));
steps.forEach((step, index) => {
  step.onfocus = () => {
    if (!timer && index !== stops[now].index) show(index, false);
  };
});

/** A step on, or back. */
const byStep = (direction) => show(stops[now].index + direction + steps.length);
const KEYS = {
  ArrowRight: () => go(now + 1),
  ArrowLeft: () => go(now - 1),
  ArrowDown: () => byStep(1),
  ArrowUp: () => byStep(-1),
};
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.tagName === "SELECT") return;
  const isPressed = /^(BUTTON|A)$/.test(event.target.tagName) && event.key === " ";
  if (KEYS[event.key]) {
    play(false);
    KEYS[event.key]();
    steps[stops[now].index].focus({ preventScroll: true });
  } else if (event.key === "s") {
    document.body.classList.remove("large");
    $("where").querySelector("a").click();
  } else if (event.key === "f") $("large").click();
  else if (event.key === "Escape") document.body.classList.remove("large");
  else if (event.key === " " && !isPressed) $("play").click();
  else return;
  event.preventDefault();
});
choose($("packets").value);
