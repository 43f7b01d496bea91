// The manager's page: it asks the API, takes the events, and shows them. page.ts puts this and lanes.js into
// page.html. What comes from outside becomes text, by element(), never markup.
/* global WALK, KINDS, Lanes, element, evidenceList */

const $ = (id) => document.getElementById(id);

// ---- asking the manager ----

const authorization = () => {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
};

let quiet;
function say(text, wrong = false) {
  $("said").textContent = text;
  $("said").classList.toggle("wrong", wrong);
  clearTimeout(quiet);
  quiet = setTimeout(() => ($("said").textContent = ""), 8000);
}

/** The answer to a request; undefined if it failed: then it says why, and shows the wrong field of `form`. */
async function ask(method, path, body, form) {
  try {
    const headers = { ...authorization(), ...(body && { "Content-Type": "application/json" }) };
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    const answer = await response.json();
    if (response.status === 401) $("door").hidden = false;
    if (response.ok) return answer;
    say(answer.error, true);
    form?.elements[answer.error.split(":")[0]]?.focus?.();
  } catch (error) {
    say(`The manager does not answer: ${error.message}`, true);
  }
}
async function change(method, path, body, form) {
  const answer = await ask(method, path, body, form);
  if (!answer) return;
  say(answer.message);
  form?.reset();
}

/** The events, for ever. EventSource could not send the token. */
async function follow() {
  for (;;) {
    try {
      const response = await fetch("/api/events", { headers: authorization() });
      if (response.status === 401) $("door").hidden = false;
      if (!response.ok) throw new Error((await response.json()).error);
      $("link").textContent = "● live";
      forgetAll();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = "", next = await reader.read(); !next.done; next = await reader.read()) {
        const events = (rest + next.value).split("\n\n");
        rest = events.pop();
        for (const event of events) {
          const [, name, data] = /^event: (.*)\ndata: (.*)$/m.exec(event) ?? [];
          if (name) take(name, JSON.parse(data));
        }
      }
      throw new Error("the connection has ended");
    } catch (error) {
      $("link").textContent = `○ ${error.message}`;
    }
    await new Promise((resolve) => {
      hasToken = resolve;
      if ($("door").hidden) setTimeout(resolve, 1000);
    });
  }
}
let hasToken;

/** Forgets what there was: the state, which comes next, tells what there is. */
function forgetAll() {
  for (const name of [...interfaces.keys()]) remove(name);
  for (const name of [...vpns.keys()]) removeVpn(name);
  students.clear();
  showStudents();
}
$("door").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("door").elements.token.value);
  $("door").hidden = true;
  hasToken?.();
};

// ---- interfaces ----

const interfaces = new Map(); // name → its card
const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

function card(name) {
  const [box, head] = [element("div", "", "card"), element("h3", `${name} `)];
  const [facts, counted] = [element("p", ""), element("p", "", "dim")];
  const button = (text, run) => Object.assign(element("button", text), { onclick: run });
  const post = (action, more) => () => change("POST", `/api/interface/${action}`, { name, ...more });
  const buttons = element("p", "", "row");
  const form = $("create").cloneNode(true);
  form.removeAttribute("id");
  form.reset();
  for (const field of ["name", "type"]) form.elements[field].closest("label").remove();
  form.querySelector("button").textContent = "configure";
  form.onsubmit = (event) => submit(event, "configure", { name });
  const more = document.createElement("details");
  more.append(element("summary", "configure"), form);
  buttons.append(
    button("start monitor", post("start", { mode: "monitor" })),
    button("start echo", post("start", { mode: "echo" })),
    button("stop", post("stop")),
    button("delete", () => change("DELETE", `/api/interface/delete?name=${encodeURIComponent(name)}`)),
  );
  const badge = head.appendChild(element("span", "", "badge"));
  box.append(head, facts, counted, buttons, more);
  return { box, badge, facts, counted, form };
}

function submit(event, action, body) {
  event.preventDefault();
  const form = event.target;
  for (const { name, value, type } of form.elements)
    if (name && value) body[name] = type === "number" ? Number(value) : value;
  change("POST", `/api/interface/${action}`, body, form);
}

function remove(name) {
  interfaces.get(name)?.box.remove();
  interfaces.delete(name);
  offer(name, false);
}

function showInterface(one) {
  if (one.status === "deleted") return remove(one.name);
  if (!interfaces.has(one.name)) interfaces.set(one.name, card(one.name));
  const { box, badge, facts, counted, form } = interfaces.get(one.name);
  badge.textContent = one.active ? `running, ${one.mode}` : "stopped";
  badge.classList.toggle("on", one.active);
  const { type, address, netmask, address6, mtu, index, flags, hardware_addr } = one;
  const said = [type, `${address} ${netmask}`, address6, `mtu ${mtu}`, `index ${index}`, hardware_addr];
  facts.textContent = [...said, ...flags].filter(Boolean).join(", ");
  const { read, written, protocols } = one.counters;
  const amounts = `read ${count(read.packets, "packet")}, ${count(read.bytes, "byte")}`;
  const kinds = Object.entries(protocols).flatMap(([kind, n]) => (n > 0 ? `${kind} ${n}` : []));
  counted.textContent = [amounts, `wrote ${count(written.packets, "packet")}`, ...kinds].join(", ");
  for (const field of ["address", "netmask", "address6", "mtu"])
    form.elements[field].placeholder = one[field] || "off";
  if (box.parentNode) return;
  $("cards").append(box);
  offer(one.name, true);
}
setInterval(async () => {
  if (interfaces.size === 0 || document.hidden) return; // counters are no events
  const { interfaces: all = [] } = (await ask("GET", "/api/interface/list")) ?? {};
  for (const one of all) if (interfaces.has(one.name)) showInterface(one); // it may be deleted by now
}, 2000);

// ---- the VPN programs and their clients ----

const vpns = new Map(); // name → its card, its own addresses, and its clients by address
const named = new Map(); // a client's address → the student who is there, "Ana (10.8.0.7)"
const SECONDS = 60; // of a chart
const UNITS = Object.entries({ Gbit: 1e9, Mbit: 1e6, kbit: 1e3, bit: 0 });

/** Bytes a second as people say it. */
function speed(bytes) {
  const bits = bytes * 8;
  const [unit, size] = UNITS.find(([, size]) => bits >= size);
  return size ? `${(bits / size).toFixed(1)} ${unit}/s` : `${bits.toFixed(0)} ${unit}/s`;
}
const age = (seconds) => (seconds < 100 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** One more second of a client: what it sent (up) and was sent (down), and the chart of the last minute. */
function throughput(client, peer, time) {
  const before = client.last ?? { ...peer, time };
  const seconds = (time - before.time) / 1000;
  const rate = (way) => (seconds > 0 ? Math.max(0, peer[way].bytes - before[way].bytes) / seconds : 0);
  client.last = { ...peer, time };
  client.rates.push({ time, up: rate("received"), down: rate("sent") });
  client.rates = client.rates.filter((one) => one.time > time - SECONDS * 1000);
  const { up, down } = client.rates.at(-1);
  const most = Math.max(1000, ...client.rates.flatMap((one) => [one.up, one.down]));
  const shape = { class: "chart", viewBox: `0 0 ${SECONDS} 20`, preserveAspectRatio: "none" };
  const chart = svg("svg", { ...shape, role: "img", "aria-label": `up ${speed(up)}, down ${speed(down)}` });
  for (const way of ["up", "down"]) {
    const x = (one) => (SECONDS - (time - one.time) / 1000).toFixed(1);
    const points = client.rates.map((one) => `${x(one)},${(19 - (one[way] / most) * 18).toFixed(1)}`);
    chart.append(svg("polyline", { class: way, points: points.join(" ") }));
  }
  return { chart, up: speed(up), down: speed(down) };
}

function removeVpn(name) {
  const { box, clients } = vpns.get(name) ?? {};
  box?.remove();
  for (const address of clients?.keys() ?? []) offer(address, false);
  vpns.delete(name);
  $("vpn").querySelector("p").hidden = vpns.size > 0;
}

function showVpn(status) {
  if (status.state === "deleted") return removeVpn(status.name);
  if (!vpns.has(status.name)) {
    const made = { box: element("div", "", "card"), clients: new Map() };
    vpns.set(status.name, made);
    $("vpn").querySelector("p").hidden = true;
    $("vpn").append(made.box);
  }
  const vpn = vpns.get(status.name);
  const { box, clients } = vpn;
  const { role, state, transport, endpoint, tun, inner, drops, peers = [], peerCount } = status;
  vpn.own = inner.map((address) => address.split("/")[0]);
  vpn.isDatagram = transport === "udp";
  const head = element("h3", `${role} `);
  head.append(element("span", state, /^(listening|connected)$/.test(state) ? "badge on" : "badge"));
  const facts = `${inner.join(", ")}, ${tun.name} mtu ${tun.mtu}, ${transport} ${endpoint}`;
  box.replaceChildren(head, element("p", facts));
  const dropped = Object.entries(drops).map(([code, n]) => `${code} ${n}`);
  if (dropped.length > 0) box.append(element("p", `dropped: ${dropped.join(", ")}`, "bad"));
  if (role !== "server") return;
  for (const [address] of clients) {
    if (peers.some((peer) => peer.inner === address)) continue;
    clients.delete(address);
    offer(address, false);
  }
  const list = document.createElement("ul");
  for (const peer of peers) {
    if (!clients.has(peer.inner)) offer(peer.inner, true);
    const client = clients.get(peer.inner) ?? { rates: [] };
    clients.set(peer.inner, client);
    const { chart, up, down } = throughput(client, peer, Date.parse(status.time));
    const row = list.appendChild(element("li", "", "client"));
    const [who, rates] = [element("div", ""), element("div", "", "rates")];
    const where = `${peer.inner6 ?? ""} from ${peer.remote}, seen ${age(peer.lastSeen)} ago`;
    who.append(element("h3", named.get(peer.inner) ?? peer.inner), element("p", where, "dim"));
    rates.append(element("p", `▲ ${up}`), element("p", `▼ ${down}`));
    row.append(who, chart, rates);
  }
  box.append(peers.length > 0 ? list : element("p", "no clients yet", "dim"));
  if (peerCount > peers.length) box.append(element("p", `and ${peerCount - peers.length} more`));
}

// ---- students ----

const students = new Map(); // student → lesson → progress
function showProgress(told) {
  const { student } = told;
  const [, address] = /\(([\d.]+)\)$/.exec(student) ?? [];
  if (told.state === "deleted") {
    students.delete(student);
    if (named.get(address) === student) named.delete(address);
  } else {
    if (address) named.set(address, student);
    students.set(student, (students.get(student) ?? new Map()).set(told.lesson, told));
  }
  showStudents();
}

function showStudents() {
  const names = [...students.keys()].sort(new Intl.Collator("en", { numeric: true }).compare);
  const lessons = [...new Set([...students.values()].flatMap((one) => [...one.keys()]))].sort();
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  head.append(...["student", ...lessons].map((text) => element("th", text)));
  const body = table.createTBody();
  for (const name of names) {
    const row = body.insertRow();
    row.append(element("td", name), ...lessons.map((lesson) => progressCell(students.get(name).get(lesson))));
  }
  $("students").querySelector("table").replaceWith(table);
  $("students").querySelector("p").hidden = names.length > 0;
  table.hidden = names.length === 0;
}

function progressCell(told) {
  const cell = document.createElement("td");
  if (!told) return cell; // not begun
  const { student, lesson, passed, total } = told;
  const bar = Object.assign(document.createElement("progress"), { value: passed, max: total });
  bar.setAttribute("aria-label", `${student}, ${lesson}`);
  cell.append(bar, ` ${passed} of ${total}${passed === total ? " ✓" : ""}`);
  return cell;
}

// ---- the live walk ----

const lanes = new Lanes();
const INDEX = new Map(WALK.map(({ id }, i) => [id, i]));
const BEGIN = /^(5|8\.read|R3\.wake|R5\.read)$/; // what a program begins with, when it takes up a packet
const LATE = 1e9; // ns: what comes later belongs to another packet
const MOST = 200; // walks to look back at

const walks = []; // the newest last
const inHand = new Map(); // program → the walk that it is busy with
let begun = 0; // walks, so far
let [walk, stop, playing] = [undefined, 0, true]; // what is shown: a walk, and where in it

/** The events come from several programs, each a little late: they are put in order first. */
let early = [];
function takeStep(event) {
  if (early.push({ ...event, time: Number(event.time) }) === 1)
    setTimeout(() => {
      const events = early.sort((a, b) => a.time - b.time);
      early = [];
      events.forEach(place);
    }, 300);
}

/** Finds the walk that an event belongs to: by its frame's name, which is the same on both ends. */
function place(event) {
  const { source, time, id, text } = event;
  if (event.step === "summary") return void ($("caption").textContent = `${event.host}: ${text}`);
  if (event.step !== "drop" && !Object.hasOwn(KINDS, event.step)) return; // a note
  const [frame] = id.split(".");
  let mine = inHand.get(source);
  if (event.step === "drop") {
    if (!mine || time - mine.time > LATE / 20) return; // of a packet that is not shown
    Object.assign(event, { step: mine.events.at(-1).step, text: `dropped: ${text}`, dropped: true });
  } else if (!mine?.frames.has(frame) || BEGIN.test(event.step)) {
    const [step] = event.step.split(".");
    const isHere = (one) => one.events.some((other) => other.step.split(".")[0] === step);
    mine = walks.findLast((one) => one.frames.has(frame) && time - one.time < LATE && !isHere(one));
    if (!mine) walks.push((mine = { number: ++begun, own: event.own, frames: new Set([frame]), events: [] }));
    if (walks.length > MOST) walks.shift();
    inHand.set(source, mine);
  }
  mine.time = time;
  mine.events.push(event);
  const [, from, to, what] = /: (\S+) → (\S+) (.*)/.exec(text) ?? [];
  if (!from || mine.from) return;
  Object.assign(mine, { from, to, what });
  // Is it the answer to a packet that went the other way?
  const asked = walks.findLast(
    (one) => one !== mine && one.from === to && one.to === from && !one.answered && time - one.time < LATE,
  );
  if (!asked || event.step.startsWith("6") || event.step.startsWith("8")) return;
  asked.events.push(...mine.events);
  for (const name of mine.frames) asked.frames.add(name);
  asked.time = time;
  asked.answered = true;
  walks.splice(walks.indexOf(mine), 1);
  inHand.set(source, asked);
}

/** What the packet passes: each event, and between them the steps that no program of ours sees. */
function stopsOf({ events, to, own }) {
  const at = new Map();
  for (const event of events) {
    const index = INDEX.get(event.step.split(".")[0]);
    at.set(index, [...(at.get(index) ?? []), event]);
  }
  const indices = [...at.keys()];
  const [first, last] = [Math.min(...indices), Math.max(...indices)];
  // A packet for the server does not reach the internet; one that the manager answers, not even the wire.
  const isServer = [...vpns.values()].some((vpn) => vpn.own.includes(to));
  const leftOut = own ? /^([789]|10|R[1-5])$/ : isServer ? /^(10|R1)$/ : /^$/;
  const steps = WALK.flatMap(({ id }, index) => {
    if (at.has(index)) return at.get(index).map((event) => ({ index, event }));
    if (index < first) return first <= INDEX.get("6") ? [{ index }] : [];
    if (index > last) return last >= INDEX.get("R6") ? [{ index }] : [];
    return leftOut.test(id) ? [] : [{ index }];
  });
  let bytes = events.find(({ hex, step }) => hex && KINDS[step] === "plain");
  for (const one of steps) {
    if (one.event?.hex) bytes = one.event;
    if (WALK[one.index].id !== "1") one.bytes = bytes; // there is no packet yet
  }
  return steps;
}
const kindOf = ({ step, isDatagram }) => (KINDS[step] === "frame" && isDatagram ? "datagram" : KINDS[step]);

function show() {
  const stops = stopsOf(walk);
  stop = Math.min(Math.max(stop, 0), stops.length - 1);
  const { index, event, bytes } = stops[stop];
  lanes.at(index, bytes?.hex, bytes && kindOf(bytes));
  lanes.steps.forEach((step, i) =>
    step.firstChild.classList.toggle("missing", !stops.some((one) => one.index === i && one.event)),
  );
  const { id, title } = WALK[index];
  const what = event ? event.text : `${title} (our programs do not see it)`;
  $("caption").replaceChildren(element("b", event?.step ?? id), ` ${what}`);
  $("caption").classList.toggle("bad", event?.dropped === true);
  $("caption").title = `${walk.from} → ${walk.to} ${walk.what}`;
  if ($("panel").hidden) return;
  showBytes(index, event);
  lanes.steps[index].scrollIntoView({ block: "nearest" });
}

function showBytes(index, now) {
  const { id, title, where, lane, sentence } = WALK[index];
  const events = walk?.events.filter(({ step }) => step.split(".")[0] === id) ?? [];
  const all = events.map((event) => {
    const micros = Math.round((event.time - walk.events[0].time) / 1000);
    return { ...event, source: event.step, when: `+${micros}`, kind: kindOf(event) };
  });
  const none = "Our programs do not see this step of the packet. make walk shows it.";
  const close = element("button", "✕ close");
  Object.assign(close, { title: "Escape", onclick: () => ($("panel").hidden = true) });
  const head = element("p", "", "row");
  head.append(element("h2", `${id}. ${title}`), element("span", `${lane}, ${where}`, "dim"), close);
  const found = all.length > 0 ? evidenceList(all) : element("p", none, "dim");
  found.children[events.indexOf(now)]?.classList.add("now");
  $("panel").replaceChildren(head, element("p", sentence), found);
}

const isOf = (one) => !$("who").value || [one.from, one.to, one.own].includes($("who").value);
/** To the next walk, or the one before: 1, -1. `far`: to the newest. Is there one? */
function otherWalk(direction, far) {
  const mine = walks.filter(isOf);
  const number = walk?.number ?? 0;
  const next =
    direction < 0
      ? mine.findLast((one) => one.number < number)
      : far
        ? mine.at(-1)
        : mine.find((one) => one.number > number);
  if (!next || next === walk) return false;
  [walk, stop] = [next, direction > 0 ? 0 : Infinity];
  return true;
}
/** A step on, or back. */
function move(direction, far = false) {
  const end = !walk || (direction > 0 ? stop + 1 >= stopsOf(walk).length : stop === 0);
  if (end && !otherWalk(direction, far)) return;
  if (!end) stop += direction;
  show();
}
function tick() {
  if (playing) move(1, true);
  const isSeen = walk && stopsOf(walk)[stop]?.event;
  setTimeout(tick, (isSeen ? 450 : 220) / $("speed").value);
}
function play(on) {
  playing = on;
  $("play").textContent = on ? "❚❚ pause" : "▶ play";
}
/** Whom can one follow? `name`, from now on; or no longer. */
function offer(name, there) {
  const old = [...$("who").options].find((one) => one.value === name);
  if (there && !old) $("who").append(element("option", name));
  if (!there) old?.remove();
}

lanes.onChoose((index) => {
  play(false);
  $("panel").hidden = false;
  const at = walk ? stopsOf(walk).findIndex((one) => one.index === index) : -1;
  if (at < 0) return showBytes(index);
  stop = at;
  show();
});
$("back").onclick = () => (play(false), move(-1));
$("next").onclick = () => (play(false), move(1));
$("play").onclick = () => play(!playing);
$("speed").onchange = () => (lanes.packet.style.transitionDuration = `${0.4 / $("speed").value}s`);
$("large").onclick = () => document.body.classList.toggle("large");
$("create").onsubmit = (event) => submit(event, "create", {});
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  if (event.key === "f") $("large").click();
  else if (event.key === "ArrowLeft") $("back").click();
  else if (event.key === "ArrowRight") $("next").click();
  else if (event.key === "Escape" && !$("panel").hidden) $("panel").hidden = true;
  else if (event.key === "Escape") document.body.classList.remove("large");
  else if (event.key === " " && !/^(BUTTON|A|SUMMARY)$/.test(event.target.tagName)) $("play").click();
  else return;
  event.preventDefault();
});

// ---- the events ----

const TAKE = {
  interface: showInterface,
  vpn: showVpn,
  progress: showProgress,
  step: (event) => takeStep({ ...event, source: event.name, isDatagram: vpns.get(event.name)?.isDatagram }),
  /** An interface of the manager's own: what it reads and writes happens where a client's does. */
  packet: ({ host, step, ...event }) =>
    takeStep({ ...event, host, source: host, own: host, step: step === "read" ? "6.read" : "R6.write" }),
  folded: ({ host, packets }) =>
    say(`${host}: ${count(packets, "packet")} in a second, too many to show each`),
  client: ({ text }) => say(text),
  lost: ({ events }) => {
    say(`this page was too slow for ${count(events, "event")}`, true);
    forgetAll();
  },
};
/** A program of another version may leave something out. That is no reason to take no more events. */
function take(name, data) {
  try {
    TAKE[name]?.(data);
  } catch (error) {
    console.error(error);
  }
}
play(true);
tick();
follow();
