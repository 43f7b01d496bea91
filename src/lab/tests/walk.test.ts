/**
 * `make walk`: the nineteen steps, with and without root; and its three files, in the programs that they are
 * for.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { Failure } from "../../base/failure.ts";
import { ROOT, spawned } from "../lab.ts";
import { Running } from "../running.ts";
import { labTest, needs, runProgram } from "./testing.ts";
import { WALK } from "../../picture/steps.ts";
import { Browser } from "./browser.ts";
import { newFolder } from "./folder.ts";

const folder = newFolder();
const asRoot = process.getuid?.() === 0;
const TRACING = "/sys/kernel/tracing";
const TRACEFS = `test -d ${TRACING}/instances || mount -t tracefs tracefs ${TRACING}`;

/** Runs walk.ts over a transport; its files land in the folder `out`. */
function runOver(TRANSPORT: "tcp" | "udp", out: string, ...args: string[]) {
  const [program, words] = spawned("lab/walk/walk", "--out", out, ...args);
  const env = { ...process.env, TRANSPORT };
  // most systems have tracefs mounted; here, the walks over UDP find it so
  const mount = "mount -t tracefs tracefs /sys/kernel/tracing 2> /dev/null || true";
  const mounted = ["unshare", "--mount", "sh", "-c", `${mount}; exec "$@"`, "sh"];
  const [first, ...rest] = [...(asRoot && TRANSPORT === "udp" ? mounted : []), program, ...words];
  return spawnSync(first!, rest, { cwd: ROOT, encoding: "utf8", timeout: 150_000, env });
}
const runWalk = (out: string, ...args: string[]) => runOver("tcp", out, ...args);
const walk = (...args: string[]) => runWalk(folder, ...args);

let plain: { out: string; stdout: string } | undefined;
/** The walk without options, run once for all tests. */
function plainWalk() {
  if (plain) return plain;
  const out = newFolder();
  const { status, stdout, stderr } = runWalk(out);
  assert.equal(status, 0, stdout + stderr);
  return (plain = { out, stdout });
}

labTest(
  "make walk shows all 19 steps in order, with evidence, or says which ones need tracepoints",
  async () => {
    const { stdout } = plainWalk();
    const seen = stdout.split("\n").flatMap((line) => /^ +(R?\d+) {2}\S/.exec(line)?.[1] ?? []);
    assert.deepEqual(
      seen,
      WALK.map(({ id }) => id),
    );
    if (asRoot) {
      assert.match(stdout, /19 of 19 steps seen/);
      assert.doesNotMatch(stdout, /no evidence/);
      assert.match(stdout, /fib_table_lookup 0\.0\.0\.0 → 8\.8\.8\.8 ==> dev tun0/);
    } else assert.match(stdout, /17 of 19 steps seen\. Steps 1, R8 need the kernel's tracepoints/);
    assert.match(stdout, /^Open file:\/\/\/\S+\/walk\.html in a browser\.$/m);
    assert.match(stdout, /≤ \+\d+ µs .* as seen at 4/);
    assert.match(
      stdout,
      /tap +02 00 00 \w\w .*eth0 → 192\.168\.1\.100 → 192\.168\.1\.1 TCP \d+ → 5555/,
      "ciphertext at 7",
    );
    assert.match(
      stdout,
      /tap +45 00 00 54 .*eth1 → 203\.0\.113\.1 → 8\.8\.8\.8 ICMP echo request/,
      "the NATed source at 9",
    );
  },
);

labTest("over UDP, all 19 steps; each frame is a datagram, and its number is its name", async () => {
  const out = newFolder();
  const { status, stdout, stderr } = runOver("udp", out);
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, asRoot ? /19 of 19 steps seen/ : /17 of 19 steps seen/);
  // which number it is depends on the keepalives and probes before it
  const framed = /frame up(\d+): header of 16 bytes in front, with number \1: a datagram of 132 bytes/;
  const [, up] = framed.exec(stdout) ?? assert.fail(stdout);
  const [, down] = /frame down(\d+): .* a datagram of 132 bytes/.exec(stdout) ?? assert.fail(stdout);
  assert.match(stdout, new RegExp(`read up${up}: read 132 bytes from 192\\.168\\.1\\.100:\\d+`));
  const taps = [...stdout.matchAll(/tap +02 00 00 74 .* (eth0 [→←]) .* UDP (.*) 132 bytes, number (\d+)$/gm)];
  assert.deepEqual(
    taps.map(([, device, ports, number]) => [device, /^5555/.test(ports!) ? "down" : "up", number]),
    [
      ["eth0 →", "up", up],
      ["eth0 ←", "up", up],
      ["eth0 →", "down", down],
      ["eth0 ←", "down", down],
    ],
    "7 on both hosts, R4, R5",
  );
  if (asRoot)
    for (const [step, host, event] of [
      [7, "client", "net_dev_start_xmit dev=eth0 len=174"],
      [7, "server", "netif_receive_skb dev=eth0"],
      [8, "server", "sock_recv_length .*length = 132"],
      ["R5", "client", "sock_recv_length .*length = 132"],
    ])
      assert.match(stdout, new RegExp(` ${step}  .*\\n(.+\\n)*.* ${host} +tracepoint ${event}`));
  const page = readFileSync(join(out, "walk.html"), "utf8");
  assert.ok(page.includes('"kind":"datagram"') && !page.includes('"kind":"frame"'));
});

labTest(
  "over UDP, an upload of 5,000 bytes is shown as it is on the wire: no datagram over 1,500",
  async (_, t) => {
    const out = newFolder();
    const upload = `
    const upload = { host: "8.8.8.8", method: "PUT" };
    const request = require("node:http").request(upload, (answer) => answer.resume());
    request.end(Buffer.alloc(5_000)).on("close", () => console.log("done"));`;
    const { status, stdout, stderr } = runOver("udp", out, "--follow", process.execPath, "-e", upload);
    assert.equal(status, 0, stdout + stderr);
    const sizes = [...stdout.matchAll(/ eth0 → .* UDP \d+ → 5555 (\d+) bytes, number/g)].map(([, size]) =>
      Number(size),
    );
    assert.ok(sizes.length >= 5 && Math.max(...sizes) <= 1472, `${sizes}`);
    if (!needs(t, "tshark")) return;
    const fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "udp.length", "-e", "frame.comment"];
    const shown = spawnSync("tshark", ["-r", join(out, "walk.pcapng"), ...fields], {
      encoding: "utf8",
    }).stdout;
    const datagrams = shown
      .split("\n")
      .filter((row) => row.startsWith("client eth0\t") && / step 7/.test(row.replace(/\t/g, " ")));
    assert.equal(datagrams.length, sizes.length);
    for (const row of datagrams) assert.match(row, /inside: 10\.8\.0\.2 → 8\.8\.8\.8 TCP/);
  },
);

/** Runs a program of src/lab/ as nobody, with a /dev/net/tun of this mode. */
function asNobody(mode: string, program: string) {
  const home = newFolder();
  chmodSync(home, 0o777);
  const script = `set -e
    mount -t tmpfs tmpfs /dev/net
    mknod -m ${mode} /dev/net/tun c 10 200
    cp -r package.json src node_modules walkthrough.md ${home}
    cd ${home}
    export HOME=${home} TMPDIR=${home}
    exec setpriv --reuid 65534 --regid 65534 --clear-groups \
      ${process.execPath} --import tsx src/lab/walk/${program}.ts`;
  const done = spawnSync("unshare", ["--mount", "sh", "-c", script], {
    cwd: ROOT,
    encoding: "utf8",
    timeout: 150_000,
  });
  return done;
}

test("an ordinary user sees all but the tracepoints, and is told so", (t) => {
  if (!asRoot) return t.skip("the test above has shown it");
  const { status, stdout, stderr } = asNobody("666", "walk");
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /17 of 19 steps seen\. Steps 1, R8 need the kernel's tracepoints: tracefs /);
  assert.match(stdout, / 3 .*\n.* client +output +ip route get 8\.8\.8\.8, asked afterwards: .* dev tun0 /);
  assert.match(stdout, /tracepoints: tracefs cannot be mounted.*[^.]\. Run as root/);
});

test("an ordinary user who may not open /dev/net/tun is told so in one line, with what to do", (t) => {
  if (!asRoot) return t.skip("needs root, to take the device away");
  for (const program of ["walk", "demo"]) {
    const { status, stderr } = asNobody("600", program);
    assert.equal(status, 1);
    assert.match(
      stderr,
      /^error Cannot open \/dev\/net\/tun: EACCES\. Try: .*sudo chmod 666 \/dev\/net\/tun.*\n$/,
    );
  }
});

test("what a program in the lab fails with is passed on as it is", async () => {
  const failing = new Running(spawn(...spawned("client", "--port", "0", "192.0.2.1"), { cwd: ROOT }));
  await assert.rejects(
    failing.until(/connected/),
    (error) => error instanceof Failure && /--port 0 is no/.test(error.message) && error.hint !== "",
  );
});

labTest("two walks at the same time, each with five pings: neither counts the other's packets", async () => {
  if (!asRoot) return; // no tracepoints
  const again = () =>
    new Running(
      spawn(
        ...spawned(
          "lab/walk/walk",
          "--out",
          mkdtempSync(join(folder, "two-")),
          "--follow",
          "ping",
          "-c",
          "5",
          "-i",
          "0.2",
          "8.8.8.8",
        ),
        { cwd: ROOT },
      ),
    );
  for (const one of [again(), again()].map(async (running) => ({
    code: await running.ended,
    output: running.output,
  }))) {
    const { code, output } = await one;
    assert.equal(code, 0, output);
    const count = (text: string) => output.split(`tracepoint ${text}`).length - 1;
    assert.ok(count("netif_receive_skb dev=tun0") <= 10, "5 times 9 and R7");
    assert.ok(count("net_dev_start_xmit dev=eth1") <= 5, "5 times 9");
    assert.ok(count("fib_table_lookup 203.0.113.1 → 8.8.8.8 ==> dev lo") <= 5, "5 times 10");
    assert.ok(count("fib_table_lookup 8.8.8.8 → 10.8.0.2 ==> dev tun0") <= 10, "5 times R2 and R7");
  }
});

labTest(
  "a trace that a killed run has left, and that somebody still reads, disturbs no walk",
  async (lab) => {
    if (!asRoot || lab.try("lab", ["sh", "-c", TRACEFS]).status !== 0) return;
    // no process has this number: pid_max is 4194304
    const left = `${TRACING}/instances/simple-vpn-4194305`;
    lab.run("lab", `mkdir -p ${left}`);
    const reader = lab.spawn("lab", ["sh", "-c", `exec 3<${left}/trace_pipe; echo open; exec cat`], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    await new Promise((resolve) => reader.stdout!.once("data", resolve));
    assert.match(walk().stdout, /19 of 19 steps seen/);
    await new Promise((resolve) => (reader.once("exit", resolve), reader.stdin!.end()));
    lab.run("lab", `rmdir ${left}`);
  },
);

let web: { out: string; stdout: string } | undefined;
/** The walk of a web page, run once for all tests. */
function webWalk() {
  if (web) return web;
  const out = newFolder();
  const fetch = 'require("node:http").get("http://8.8.8.8/", (r) => r.pipe(process.stdout))';
  const [program, words] = spawned("lab/walk/walk", "--out", out, "--follow", process.execPath, "-e", fetch);
  const mounted = ["unshare", "--mount", "sh", "-c", `${TRACEFS}; exec "$@"`, "sh"]; // as systemd does it
  const [first, ...rest] = [...(asRoot ? mounted : []), program, ...words];
  const { status, stdout, stderr } = spawnSync(first!, rest, {
    cwd: ROOT,
    encoding: "utf8",
    timeout: 150_000,
  });
  assert.equal(status, 0, stdout + stderr);
  if (asRoot) assert.ok(stdout.includes("19 of 19 steps seen"), stdout.slice(-3000)); // its end says which
  return (web = { out, stdout });
}

labTest("--follow: a web page instead of a ping; a command that fails is told by the exit code", async () => {
  const { stdout } = webWalk();
  assert.match(stdout, /hello from the internet/);
  assert.match(stdout, /tun0 → 10\.8\.0\.2 → 8\.8\.8\.8 TCP \d+ → 80 SYN/);
  assert.equal(walk("--follow", "false").status, 1);
});

labTest("--follow: a command that starts others is followed into them", async () => {
  const { status, stdout, stderr } = walk("--follow", "sh", "-c", "ping -c 1 8.8.8.8; true");
  assert.equal(status, 0, stdout + stderr);
  if (asRoot) assert.match(stdout, /19 of 19 steps seen/);
});

labTest(
  "--follow: a command that cannot be run is told at once, and leaves the files as they are",
  async () => {
    writeFileSync(join(folder, "walk.svg"), "the last walk's");
    const { status, stdout, stderr } = walk("--follow", "no-such-command");
    assert.equal(status, 1);
    assert.match(stderr, /^error Cannot follow 'no-such-command': .*not found.* Try: /);
    assert.doesNotMatch(stdout, /no evidence/);
    assert.equal(readFileSync(join(folder, "walk.svg"), "utf8"), "the last walk's");
  },
);

labTest(
  "a packet that the server drops is told at its step, in its words; a ping's summary is no R9",
  async () => {
    const { status, stdout } = walk("--follow", "ping", "-c", "1", "-W", "1", "10.8.0.77");
    assert.equal(status, 1);
    const drop =
      /drop: no client holds its destination address: 10\.8\.0\.2 → 10\.8\.0\.77 ICMP echo request/;
    assert.match(stdout, new RegExp(` R3 .*\\n.* server +our code +45 00 00 54 .* ${drop.source}`));
    assert.doesNotMatch(
      stdout,
      /nf_hook_slow/,
      "the redirect that the server's kernel makes, and drops, is no packet of the walk",
    );
    assert.match(stdout, /the application prints it.*\n +no evidence/);
  },
);

labTest("a packet that never entered the tunnel: where its route goes, once", async () => {
  const { status, stdout } = walk("--follow", "ping", "-c", "1", "-W", "1", "203.0.113.8");
  assert.equal(status, 1);
  assert.deepEqual(stdout.match(/no evidence.*/g), [
    "no evidence: the route to 203.0.113.8 is dev eth0, not tun0: " +
      "this packet never entered the tunnel ('ip route get 203.0.113.8')",
  ]);
  assert.doesNotMatch(stdout, /need the kernel's tracepoints/);
});

labTest("an answer that the client's firewall drops: the first missing step says where and why", async () => {
  if (!asRoot) return; // no tracepoints
  const { status, stdout } = walk(
    "--follow",
    "sh",
    "-c",
    "iptables -I INPUT -i tun0 -j DROP; ping -c 1 -W 1 8.8.8.8",
  );
  assert.equal(status, 1);
  assert.match(stdout, / R8 .*\n +no evidence: dropped in \w+\(\): NETFILTER_DROP\n/);
});

labTest("--follow: a DNS query", async () => {
  const query = `
    const resolver = new (require("node:dns").Resolver)();
    resolver.setServers(["8.8.8.8"]);
    resolver.resolve4("example.org", (error, addresses) => console.log(error ?? addresses));`;
  const { status, stdout, stderr } = walk("--follow", process.execPath, "-e", query);
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /'8\.8\.8\.8'/);
  assert.match(stdout, /tun0 → 10\.8\.0\.2 → 8\.8\.8\.8 UDP \d+ → 53 \d+ bytes/);
});

test("walk.pcapng opens in tshark: an interface for each tap, the step in each packet's comment", (t) => {
  if (!needs(t, "tshark")) return;
  const file = join(plainWalk().out, "walk.pcapng");
  const { status, stdout } = spawnSync(
    "tshark",
    [
      "-r",
      file,
      "-T",
      "fields",
      "-e",
      "frame.interface_name",
      "-e",
      "frame.comment",
      "-e",
      "_ws.col.Info",
      "-e",
      "_ws.malformed",
    ],
    { encoding: "utf8" },
  );
  assert.equal(status, 0);
  const rows = stdout
    .trim()
    .split("\n")
    .map((row) => row.split("\t"));
  assert.deepEqual(
    new Set(rows.map(([device]) => device)),
    new Set(["client tun0", "client eth0", "server eth0", "server tun0", "server eth1", "internet eth0"]),
  );
  for (const [device, comment, , malformed] of rows)
    assert.ok(/^step R?\d+: /.test(comment!) && !malformed, `${device}: ${comment}`);
  assert.match(rows[0]!.join(" "), /client tun0 step 4: .* Echo \(ping\) request/);
  for (const step of ["7", "R4", "R5"]) {
    const [request, reply] = ["10.8.0.2 → 8.8.8.8 ICMP echo request", "8.8.8.8 → 10.8.0.2 ICMP echo reply"];
    const inner = `inside: ${step === "7" ? request : reply}`;
    assert.ok(
      rows.find(([, comment]) => comment!.startsWith(`step ${step}: `))![1]!.includes(inner),
      `${step} ${inner}`,
    );
  }
  const leaving = spawnSync("tshark", ["-r", file, "-Y", "frame.packet_flags_direction == 2"], {
    encoding: "utf8",
  }).stdout;
  const [all = 0, shown = 0] = [stdout, leaving].map((text) => text.split("Retransmission").length - 1);
  assert.ok(all > 0, "the same segment on two taps");
  // a busy machine's TCP may really have sent one again
  assert.ok(shown < all / 2, `the filter of walkthrough.md leaves ${shown} of ${all}`);
});

test("walk.html plays in a real browser, by mouse and by keyboard, and loads nothing else", async (t) => {
  if (!needs(t, "chromium")) return;
  const { out } = plainWalk();
  const page = readFileSync(join(out, "walk.html"), "utf8");
  assert.doesNotMatch(page, /(src|href)="?https?:|url\(|@import/);
  const browser = await Browser.open(1280, 720);
  /** The panel's title after a script, in a page of this size that was loaded anew. */
  const title = async (script: string, width = 1280, height = 720) => {
    await browser.look(width, height, "light");
    await browser.go("about:blank");
    await browser.go(pathToFileURL(join(out, "walk.html")).href);
    await browser.ask(`(() => { ${script} })()`);
    return browser.ask<string>("$('title').textContent");
  };
  const key = (name: string, more = "") => {
    const event = `new KeyboardEvent("keydown", { key: "${name}", ${more} bubbles: true })`;
    return `(document.activeElement ?? document.body).dispatchEvent(${event});`;
  };
  const kinds = [...page.matchAll(/"hex":"(.{8})[^"]*","kind":"(\w+)"/g)].map(
    ([, start, kind]) => `${start} ${kind}`,
  );
  for (const kind of ["45000054 plain", "07424216 xor", "02000074 frame"])
    assert.ok(kinds.includes(kind), kind);
  try {
    assert.equal(await title(""), "1. the application asks the kernel to send");
    assert.equal(await title(key("ArrowDown").repeat(6)), "7. ciphertext crosses the wire");
    assert.equal(await title(key("ArrowLeft")), "R9. the application prints it");
    assert.equal(
      await title(
        key("ArrowRight") + key("ArrowRight", "ctrlKey: true,") + key("ArrowLeft", "altKey: true,"),
      ),
      "2. the kernel builds the packet",
    );
    assert.equal(
      await title(`document.querySelectorAll(".step")[4].focus();${key(" ")}document.activeElement.blur();`),
      "5. the client's loop wakes: tun0 is readable",
      "Space chooses a step",
    );
    assert.equal(
      await title(`${key("ArrowLeft")}if (document.activeElement !== steps[18]) show(0);`),
      "R9. the application prints it",
      "the arrows move the focus",
    );

    const changes = `const packet = document.querySelector("#packet");
      show(5);
      window.seen = [];
      while (stops[now].index === 5) {
        seen.push([packet.getAttribute("class"), packet.textContent.trim()].join(" "));
        ${key("ArrowRight")}
      }`;
    assert.equal(await title(changes), "7. ciphertext crosses the wire");
    const seen = await browser.ask<string[]>("seen");
    assert.match(seen.join(), /^plain 45 00 00 54,xor 07 42 42 16,sealed [^,]*,sealed 02 00 00 74$/);
    const bytes = [
      [3, "plain", "45 00 00 54"],
      [6, "sealed", "02 00 00 74"],
      [18, "plain", "45 00 00 54"],
      [0, null, ""],
    ] as const;
    const packet = `const packet = document.querySelector("#packet");
      const good = ${JSON.stringify(bytes)}.every(([step, kind, hex]) => {
        show(step);
        return packet.getAttribute("class") === kind && packet.textContent.trim() === hex;
      });
      show(good ? 4 : 0);`;
    assert.match(await title(packet), /^5\. /, "the packet bears its first bytes, as they are at each step");
    const stories = `
      const hasStory = (_, i) => document.querySelector("#" + WALK.steps[i].anchor + " > h2") !== null;
      show(steps.every(hasStory) ? 3 : 0);`;
    assert.match(await title(stories), /^4\. /, "each step's story is in the page");
    // A page without the window's focus, as a headless one may be, gets no focus events: the step is told
    // itself.
    const ownLink = `
      steps[18].focus();
      steps[18].dispatchEvent(new FocusEvent("focus"));
      const link = document.querySelector("#panel a");
      link.focus();
      if (document.activeElement !== link || !link.hash.endsWith("-r9")) show(0);`;
    assert.equal(
      await title(ownLink),
      "R9. the application prints it",
      "Tab goes on from a step to its story",
    );
    assert.equal(
      await title(`show(4);${key("s")}if (location.hash !== "#step-5") show(0);`),
      "5. the client's loop wakes: tun0 is readable",
      "s opens the story",
    );
    assert.equal(
      await title(`document.querySelectorAll(".step")[9].dispatchEvent(new MouseEvent("click"));`),
      "10. the destination receives, and answers",
    );

    const inView = `
      const box = (one) => one.getBoundingClientRect();
      const inView = (one, top = 0, end = innerHeight) => box(one).top >= top && box(one).bottom <= end + 1;
      const controls = inView($("back"), 0, box($("picture")).top) && inView($("speed"));`;
    const core = `show(5);${inView}
      const panel = $("panel"), names = $("lanes");
      const rows = [...document.querySelectorAll("#panel li")];
      const end = Math.min(innerHeight, box(panel).bottom);
      const isShown = (row) => inView(row, box($("sentence")).bottom, end);
      const allRows = [5, 6].includes(rows.length) && /frame/.test(rows.at(-2).textContent);
      const rowsShown = rows.slice(0, innerWidth < 1500 ? 6 : 3).every(isShown);
      const drawingShown = inView(names) && inView(steps[5], box(names).bottom, box($("picture")).bottom);
      if (!allRows || !rowsShown || !drawingShown || !controls || !$("sentence").textContent) show(0);`;
    for (const [width, height] of [
      [1280, 720],
      [1920, 1080],
    ] as const) {
      assert.equal(
        await title(core, width, height),
        "6. read, XOR, seal, frame, write",
        `${width}: controls, names, the step, its sentence, and its bytes are in view together`,
      );
      const whole = `show(18);${key("f")}${inView}
        const all = [$("sentence"), $("lanes"), ...steps].every((one) => inView(one, box($("back")).bottom));
        if (!all || !controls || document.documentElement.scrollHeight > innerHeight) show(0);`;
      assert.equal(
        await title(whole, width, height),
        "R9. the application prints it",
        `${width}: f fits it all`,
      );
    }
    for (const width of [390, 1280, 1920]) {
      await title("show(8);", width, 720);
      const badges = `[...document.querySelectorAll("#evidence .source")].map((one) => {
        const { left, width } = one.getBoundingClientRect(); return [left, width].map(Math.round).join(); })`;
      assert.equal(new Set(await browser.ask<string[]>(badges)).size, 1, `${width}: the badges are aligned`);
      assert.ok(await browser.ask("document.documentElement.scrollWidth <= innerWidth"), `${width}: fits`);
    }

    // The more lines a step has, the longer it stays; from the last step it goes no further.
    const waits = `
      const waits = {}, set = window.setTimeout;
      window.setTimeout = (run, ms) => { waits[stops[now].index] = (waits[stops[now].index] ?? 0) + ms; };
      for (let i = 0; i < stops.length; i++) { go(i); tick(); }
      window.setTimeout = set;
      window.waits = waits;`;
    await title(waits);
    const [first, sixth, last] = await browser.ask<(number | null)[]>(
      "[waits[0], waits[5], waits[18] ?? null]",
    );
    assert.ok(first! >= 1000 && sixth! >= 2.5 * first! && last === null, `${first}, ${sixth}, ${last} ms`);

    assert.equal(runProgram("lab/walk/slides", [out]).status, 0);
    await browser.look(1280, 720, "light");
    await browser.go(pathToFileURL(join(out, "slides.html")).href);
    const slide = `[$("number").textContent, document.documentElement.scrollHeight <= innerHeight,
      ["title", "bytes", "text"].every((id) => $(id).scrollWidth <= $(id).clientWidth),
      $("walk").getBoundingClientRect().bottom <= $("picture").getBoundingClientRect().bottom + 1,
      $("text").getBoundingClientRect().bottom <= innerHeight && $("picture").clientHeight > 250]`;
    for (let i = 1; i <= 11; i++, await browser.press("ArrowRight"))
      assert.deepEqual(await browser.ask(slide), [`${i} / 11`, true, true, true, true], "a slide fits");
    const xored = /"hex":"(07424216.{32})/.exec(page)![1];
    const onSlide = await browser.ask<string>(
      `show(3); [...$("bytes").querySelectorAll(".xor")].map((one) => one.firstChild.data).join("")`,
    );
    assert.equal(onSlide.replace(/ /g, ""), xored, "the bytes are those of the run");

    await browser.go(pathToFileURL(join(out, "walk.svg")).href);
    const grounds = [];
    for (const scheme of ["light", "dark"] as const) {
      await browser.look(1280, 720, scheme);
      grounds.push(await browser.ask("getComputedStyle(document.documentElement).backgroundColor"));
    }
    assert.deepEqual(grounds, ["rgb(255, 255, 255)", "rgb(20, 22, 26)"], "walk.svg follows the dark scheme");
    assert.deepEqual(browser.complaints, []);
  } finally {
    await browser.close();
  }
});

test("walk.html shows each packet of a web page by itself: its way, and the answer to it", async (t) => {
  if (!needs(t, "chromium")) return;
  const browser = await Browser.open(1280, 720);
  try {
    await browser.go(pathToFileURL(join(webWalk().out, "walk.html")).href);
    const names = await browser.ask<string[]>("[...$('packets').options].map((one) => one.textContent)");
    assert.match(names.join(), /^1 SYN,2 ACK,3 GET,.*,all packets$/);
    /** The text of a step's panel for a packet, counted from 0. */
    const panel = (packet: number, step: string) =>
      browser.ask<string>(`$("packets").value = ${packet}; $("packets").onchange();
        show(WALK.steps.findIndex(({ id }) => id === "${step}")); $("evidence").textContent`);
    const flags = ["SYN", "ACK", "PSH ACK"];
    for (const [i, flag] of flags.entries()) {
      for (const step of ["4", "6", "8", "9", "10"]) {
        const text = await panel(i, step);
        const others = [...text.matchAll(/→ 80 ((?:[A-Z]+ )+)/g)].map(([, flags]) => flags!.trim());
        assert.ok(others.length > 0 && others.every((one) => one === flag), `${flag} at ${step}: ${text}`);
      }
      assert.match(await panel(i, "7"), /TCP \d+ → 5555/, "the frame is found by its bytes");
    }
    assert.match(await panel(0, "R7"), /SYN ACK/);
    assert.match(await panel(1, "R7"), /^No answer to this packet/);
    assert.equal(await browser.ask("$('packet').getAttribute('class')"), null, "no packet where none came");
    assert.match(await panel(2, "R9"), /hello from the internet/);
  } finally {
    await browser.close();
  }
});
