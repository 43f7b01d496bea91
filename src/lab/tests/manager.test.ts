/**
 * The interface manager over real HTTP, with real interfaces: each row of its table of routes, of what it
 * refuses, of an interface's life, and of what is left at the end.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { type Lab, ours, ROOT } from "../lab.ts";
import { ask, Events } from "../manager/ask.ts";
import { Running } from "../running.ts";
import { newFolder } from "./folder.ts";
import { type Manager, startManager } from "./managers.ts";
import { checkMetrics, labTest, ping, retry, SECRET, standIn, startServer } from "./testing.ts";

const links = (lab: Lab) =>
  JSON.parse(lab.run("client", "ip -json address show"))
    .map((link: { ifname: string }) => link.ifname)
    .sort();
const NOTHING = ["eth0", "lo", "probe"]; // of the host, without an interface of the manager

labTest("each row of the table of endpoints does what it says", async (lab) => {
  const { call } = await startManager(lab, "client");
  const good = async (message: string, ...request: Parameters<Manager["call"]>) => {
    const { status, json } = await call(...request);
    assert.deepEqual([status, json], [200, { status: "success", message }]);
  };
  const health = await call("GET", "/health");
  assert.equal(health.json.status, "healthy");
  const none = await call("GET", "/api/interface/status");
  assert.deepEqual([none.status, none.json.status], [200, "no_interface"]);
  for (const [method, what] of [
    ["POST", "start"],
    ["POST", "stop"],
    ["POST", "configure"],
    ["DELETE", "delete"],
  ]) {
    const { status, json } = await call(method!, `/api/interface/${what}`);
    assert.equal(status, 400, what);
    assert.match(json.error, /^name: there is no interface/);
  }

  await good("Interface tun0 created successfully", "POST", "/api/interface/create");
  const { json } = await call("GET", "/api/interface/status");
  const { name, mtu, address, netmask, active, hardware_addr } = json;
  assert.deepEqual(
    { name, mtu, address, netmask, active, hardware_addr },
    {
      name: "tun0",
      mtu: 1500,
      address: "10.0.0.1",
      netmask: "255.255.255.0",
      active: false,
      hardware_addr: "",
    },
  );
  const [link] = JSON.parse(lab.run("client", "ip -json address show tun0"));
  assert.deepEqual([json.index, json.flags], [link.ifindex, link.flags]);
  assert.deepEqual([link.addr_info[0].local, link.addr_info[0].prefixlen], ["10.0.0.1", 24]);

  const again = await call("POST", "/api/interface/create", { name: "tun0" });
  assert.deepEqual([again.status, again.json.error], [409, "name: there is an interface tun0 already"]);
  const others = await call("POST", "/api/interface/create", { name: "eth0" });
  assert.deepEqual(
    [others.status, others.json.error],
    [409, "name: this machine has an interface eth0 already"],
  );

  await good("Interface tun0 started, mode monitor", "POST", "/api/interface/start");
  await good("Interface tun0 is already running", "POST", "/api/interface/start");
  assert.equal((await call("GET", "/api/interface/status")).json.active, true);
  const echo = { mode: "echo" };
  await good(
    "Interface tun0 is already running: its mode is echo from now on",
    "POST",
    "/api/interface/start",
    echo,
  );
  await good("Interface tun0 is already running", "POST", "/api/interface/start"); // echo, as before
  ping(lab, "client", "10.0.0.77");
  await good("Interface tun0 stopped", "POST", "/api/interface/stop");
  await good("Interface tun0 is not running", "POST", "/api/interface/stop");
  assert.notEqual(lab.try("client", "ping -c 1 -W 0.3 10.0.0.77").status, 0);

  const other = { address: "10.7.0.1", netmask: "255.255.0.0", mtu: 1280 };
  await good("Interface tun0 configured successfully", "POST", "/api/interface/configure", other);
  await good("Interface tun0 configured successfully", "POST", "/api/interface/configure", { mtu: 9000 });
  const now = (await call("GET", "/api/interface/status")).json;
  assert.deepEqual([now.address, now.netmask, now.mtu], ["10.7.0.1", "255.255.0.0", 9000]);
  assert.match(lab.run("client", "ip -o -4 address show tun0"), /inet 10\.7\.0\.1\/16 /);
  await good("Interface tun0 deleted successfully", "DELETE", "/api/interface/delete");
  assert.deepEqual(links(lab), NOTHING);

  const missing = await call("GET", "/api/interface");
  assert.equal(missing.status, 404);
  const routes: [path: string, allow: string][] = [
    ...["/health", "/api/interface/status", "/api/interface/list", "/metrics"].map(
      (path) => [path, "GET, HEAD"] as [string, string],
    ),
    ...["create", "start", "stop", "configure"].map(
      (path) => [`/api/interface/${path}`, "POST"] as [string, string],
    ),
    ["/api/interface/delete", "DELETE"],
    ["/api/progress", "POST, GET, HEAD, DELETE"],
  ];
  for (const [path, allow] of routes) {
    const { status, headers } = await call("PUT", path, {});
    assert.deepEqual([path, status, headers.allow], [path, 405, allow]);
  }
  assert.equal((await call("HEAD", "/health")).status, 200);
});

labTest("what is wrong is answered with 400, and names the field; nothing is made", async (lab) => {
  const { call } = await startManager(lab, "client");
  const refused: [field: string, body: unknown][] = [
    ["body", "{"],
    ["body", "[]"],
    ["body", "null"],
    ["body", '"tun0"'],
    ["body", Buffer.from('{"name":"\xff"}', "latin1")],
    ["name", { name: "" }],
    ["name", { name: "sixteen-letters-" }],
    ["name", { name: "tun/0" }],
    ["name", { name: "tun 0" }],
    ["name", { name: "tun%d" }],
    ["name", { name: "eth0#x" }], // a comment to ip -batch
    ["name", { name: "a\\" }],
    ["name", { name: "'a'" }],
    ["name", { name: "-force" }],
    ["name", { name: ".." }],
    ["name", { name: "tün" }],
    ["name", { name: "all" }],
    ["name", { name: 7 }],
    ["name", { name: null }],
    ["type", { type: "tin" }],
    ["address", { address: "10.0.0" }],
    ["address", { address: "10.0.0.256" }],
    ["address", { address: "10.0.0.1/24" }],
    ["address", { address: "0.0.0.0" }],
    ["address", { address: "127.0.0.1" }],
    ["address", { address: "224.0.0.1" }],
    ["address", { address: "255.255.255.255" }],
    ["address", { address: "10.0.0.0" }],
    ["address", { address: "10.0.0.255" }],
    ["address", { address: "::1" }],
    ["address", { address: ["10.0.0.1"] }],
    ["netmask", { netmask: "255.0.255.0" }],
    ["netmask", { netmask: "0.255.255.0" }],
    ["netmask", { netmask: "255.255.255.1" }],
    ["netmask", { netmask: "0.0.0.0" }],
    ["netmask", { netmask: "24" }],
    ["mtu", { mtu: 67 }],
    ["mtu", { mtu: 65536 }],
    ["mtu", { mtu: -1 }],
    ["mtu", { mtu: 1500.5 }],
    ["mtu", { mtu: "1500" }],
    ["mtu", { mtu: 1e300 }],
    ["mtu", { type: "tap", mtu: 65535 }],
    ["address6", { address6: "fd00::1" }],
    ["address6", { address6: "fe80::1/64" }],
    ["address6", { address6: "::1/128" }],
    ["address6", { address6: "ff02::1/64" }],
    ["address6", { address6: "fd00::1/129" }],
    ["address6", { address6: "fd00::1/64" }], // this host has no IPv6
    ['"nmae"', { nmae: "tun0" }],
    ['"__proto__"', '{"__proto__":{"name":"tun0"}}'],
  ];
  for (const [field, body] of refused) {
    const { status, json } = await call("POST", "/api/interface/create", body);
    assert.equal(status, 400, `${JSON.stringify(body)}: ${JSON.stringify(json)}`);
    assert.ok(json.error.startsWith(`${field}: `), json.error);
  }
  assert.deepEqual(links(lab), NOTHING);
  const inQuery = await call("POST", "/api/interface/create?name=tun7&mtu=1400");
  assert.deepEqual([inQuery.status, inQuery.json.error], [400, '"mtu": no field of a URL, name alone is']);
  for (const query of ["name=tun7&name=tun8", "name=tun8"]) {
    const twice = await call(
      "POST",
      `/api/interface/create?${query}`,
      query.includes("&") ? {} : { name: "tun7" },
    );
    assert.deepEqual([twice.status, twice.json.error], [400, "name: is given twice"]);
  }
  const typo = await call("POST", "/api/interface/create", { nmae: "tun0" });
  assert.equal(typo.json.error, '"nmae": no such field, the nearest is name');

  for (const mtu of [68, 65535]) {
    assert.equal((await call("POST", "/api/interface/create", { name: "tun7", mtu })).status, 200);
    assert.equal(
      (await call("POST", "/api/interface/configure", { name: "tun7", address: "10.0.0.255" })).status,
      400,
    );
    assert.equal((await call("POST", "/api/interface/start", { mode: "both" })).status, 400);
    assert.equal((await call("GET", "/api/interface/status")).json.mtu, mtu);
    assert.equal((await call("DELETE", "/api/interface/delete?name=tun7")).status, 200);
  }
  const large = await call("POST", "/api/interface/create", { name: "x".repeat(20_000) });
  assert.equal(large.status, 413);
  const form = await call("POST", "/api/interface/create", "name=tun0", { "Content-Type": "text/plain" });
  assert.equal(form.status, 415);
  assert.deepEqual(links(lab), NOTHING);
});

labTest(
  "in echo mode TUN and TAP answer pings, IPv4 and IPv6, several at once; packets are shown",
  async (lab) => {
    lab.addIPv6();
    const { call, socketPath } = await startManager(lab, "client");
    const interfaces = [
      { name: "tun0", address: "10.1.0.1", address6: "fd01::1/64" },
      { name: "tap0", address: "10.2.0.1", address6: "fd02::1/64", type: "tap" },
      { name: "tap1", address: "10.3.0.1", type: "tap", mtu: 1000 },
    ];
    for (const one of interfaces)
      assert.equal((await call("POST", "/api/interface/create", one)).status, 200);
    const several = await call("POST", "/api/interface/start", { mode: "echo" });
    assert.deepEqual(
      [several.status, several.json.error],
      [400, "name: there are several interfaces, name one of tun0, tap0, tap1"],
    );
    const events = new Events({ socketPath });
    await events.until((event, data) => event === "interface" && data.name === "tap1");
    for (const { name } of interfaces)
      assert.equal((await call("POST", `/api/interface/start?name=${name}`, { mode: "echo" })).status, 200);
    for (const target of ["10.1.0.9", "10.2.0.9", "10.3.0.9", "fd01::9", "fd02::9"])
      ping(lab, "client", target, 2);
    const configure = async (settings: object) =>
      (await call("POST", "/api/interface/configure", { name: "tap1", ...settings })).json.error;
    const addresses = () => lab.run("client", "ip -o -6 address show dev tap1 scope global");
    assert.equal(await configure({ address6: "fd03::1/64" }), "address6: it needs an mtu of 1280 bytes");
    assert.equal(await configure({ address6: "fd03::1/64", mtu: 1400 }), undefined);
    ping(lab, "client", "fd03::9", 1);
    assert.equal(await configure({ address6: "fd04::1/64" }), undefined);
    assert.match(addresses(), /^(?!.*fd03).*inet6 fd04::1\/64/);
    assert.equal(await configure({ address6: "off", mtu: 1000 }), undefined);
    assert.equal(addresses(), "");

    lab.run("client", ["bash", "-c", "echo hi > /dev/udp/10.3.0.9/53"]); // with its ports
    await events.until(
      (event, { text }) => event === "packet" && /10\.3\.0\.9 UDP \d+ → 53 3 bytes/.test(text),
    );
    const request = await events.until(
      (event, { text }) => event === "packet" && /10\.1\.0\.9 ICMP echo request/.test(text),
    );
    const reply = await events.until(
      (event, { text }) => event === "packet" && /10\.1\.0\.9 → 10\.1\.0\.1 ICMP echo reply/.test(text),
    );
    assert.deepEqual(
      [request.host, request.step, reply.step, reply.id],
      ["tun0", "read", "inject", request.id],
    );
    assert.ok(reply.time > request.time && request.bytes === 84 && request.hex.startsWith("45000054"));
    await events.until(
      (event, { text }) => event === "packet" && text.endsWith("ARP who has 10.2.0.9? tell 10.2.0.1"),
    );
    await events.until(
      (event, { text }) => event === "packet" && text.endsWith("ARP 10.2.0.9 is at 02:00:0a:02:00:09"),
    );
    assert.match(lab.run("client", "ip neigh show fd02::9"), /lladdr 02:00:00:00:00:09/);

    const { json } = await call("GET", "/api/interface/list");
    const byName = Object.fromEntries(json.interfaces.map((one: { name: string }) => [one.name, one]));
    assert.deepEqual(Object.keys(byName), ["tun0", "tap0", "tap1"]);
    assert.deepEqual([byName.tun0.address6, byName.tap1.address6, byName.tap1.mtu], ["fd01::1/64", "", 1000]);
    assert.match(byName.tap0.hardware_addr, /^([\da-f]{2}:){5}[\da-f]{2}$/);
    const { read, written, protocols, kernel } = byName.tun0.counters;
    assert.deepEqual([protocols.icmp, protocols.icmpv6, protocols.arp], [2, 2, 0]);
    assert.deepEqual(
      [read, written],
      [
        { packets: 4, bytes: 376 },
        { packets: 4, bytes: 376 },
      ],
    );
    assert.deepEqual([kernel.tx.packets, kernel.rx.packets], [4, 4]);
    assert.ok(byName.tap1.counters.protocols.arp >= 1);

    // more than 20 a second are folded, until it is quiet; none is lost to the counters
    lab.run("client", "ping -q -c 200 -i 0.002 10.1.0.9");
    const ofTun0 = (name: string) =>
      events.all.filter(({ event, data }) => event === name && data.host === "tun0").map(({ data }) => data);
    const reads = () => ofTun0("packet").filter(({ step }) => step === "read").length;
    const folds = () => ofTun0("folded").reduce((sum, { packets }) => sum + packets, 0);
    await events.until(() => reads() + folds() === 204);
    assert.ok(folds() > 0 && ofTun0("folded").every(({ packets, bytes }) => bytes === packets * 84));
    assert.equal((await call("GET", "/api/interface/status?name=tun0")).json.counters.read.packets, 204);
    events.end();
  },
);

labTest(
  "a hundred requests at once: one creates, the others are told; what follows finds it",
  async (lab) => {
    const { call, socketPath } = await startManager(lab, "client");
    const creates = Array.from({ length: 98 }, () => call("POST", "/api/interface/create"));
    const started = call("POST", "/api/interface/start");
    const deleted = call("DELETE", "/api/interface/delete");
    const statuses = (await Promise.all(creates)).map(({ status }) => status).sort();
    assert.deepEqual(statuses, [200, ...Array(97).fill(409)]);
    assert.deepEqual([(await started).status, (await deleted).status], [200, 200]);
    // three in one write, on one connection: each finds what the one before has done
    const [create, start, remove] = [
      "POST /api/interface/create",
      "POST /api/interface/start",
      "DELETE /api/interface/delete",
    ];
    const text = [create, start, remove, start].map((line) => `${line} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    const socket = connect(socketPath, () => socket.write(text.join("")));
    let answers = "";
    socket.setEncoding("utf8").on("data", (part) => (answers += part));
    await retry(() =>
      assert.deepEqual(
        answers.match(/^HTTP.*/gm)?.map((line) => line.slice(9, 12)),
        ["200", "200", "200", "400"],
      ),
    );
    socket.destroy();

    const names = Array.from({ length: 64 }, (_, i) => `many${i}`);
    const made = await Promise.all(names.map((name) => call("POST", "/api/interface/create", { name })));
    assert.ok(made.every(({ status }) => status === 200));
    const last = await call("POST", "/api/interface/create", { name: "one-more" });
    assert.deepEqual([last.status, last.json.error], [409, "name: there are 64 interfaces already"]);
    assert.deepEqual(links(lab), [...NOTHING, ...names].sort());
    await Promise.all(names.map((name) => call("DELETE", `/api/interface/delete?name=${name}`)));
    assert.deepEqual(links(lab), NOTHING);
  },
);

labTest("a change that fails leaves nothing: no interface, no half of a configuration", async (lab) => {
  // this ip takes every address but one
  const ip = `case "$*" in *-batch*) sed "/add 10.66/s/tun0/none/" | real "$@" ;; *) real "$@" ;; esac`;
  const { env } = standIn("ip", ip);
  const { call } = await startManager(lab, "client", [], env);
  const failed = await call("POST", "/api/interface/create", { address: "10.66.0.1" });
  assert.equal(failed.status, 500);
  assert.match(
    failed.json.error,
    /Cannot run 'ip address add 10\.66\.0\.1\/255\.255\.255\.0 dev tun0': .*"none"\. Try: /,
  );
  assert.deepEqual(links(lab), NOTHING);
  assert.equal((await call("GET", "/api/interface/status")).json.status, "no_interface");
  await call("POST", "/api/interface/create");
  const before = lab.run("client", "ip -o address show tun0");
  assert.equal(
    (await call("POST", "/api/interface/configure", { address: "10.66.0.1", mtu: 1300 })).status,
    500,
  );
  assert.equal(lab.run("client", "ip -o address show tun0"), before);
  assert.match(lab.run("client", "ip link show tun0"), /mtu 1500 /);
  assert.equal((await call("GET", "/api/interface/status")).json.mtu, 1500);
});

labTest("who goes away in the middle costs nobody anything: a whole interface, or none", async (lab) => {
  const { call, socketPath } = await startManager(lab, "client");
  const lines = (name: string, length: number) =>
    `POST /api/interface/create HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n` +
    `Content-Length: ${length}\r\n\r\n{"name":"${name}"}`;
  for (let i = 0; i < 20; i++) {
    const name = `gone${String(i).padStart(2, "0")}`;
    const socket = connect(socketPath);
    socket.on("error", () => {}).write(lines(name, i % 2 ? 17 : 18)); // every other one lacks a byte
    await new Promise((resolve) => setTimeout(resolve, i));
    socket.destroy();
  }
  const events = Array.from({ length: 10 }, () => new Events({ socketPath }));
  for (const one of events) one.end();
  await call("POST", "/api/interface/create", { name: "last" }); // all before it are done now
  const { interfaces } = (await call("GET", "/api/interface/list")).json;
  const names: string[] = interfaces.map((one: { name: string }) => one.name);
  assert.ok(names.includes("last") && names.length > 1, names.join());
  assert.ok(
    names.every((name) => name === "last" || Number(name.slice(4)) % 2 === 1),
    names.join(),
  );
  assert.ok(interfaces.every(({ address, mtu }: any) => address === "10.0.0.1" && mtu === 1500));
  assert.deepEqual(links(lab), [...NOTHING, ...names].sort());
});

labTest("whatever ends the manager, nothing is left; after SIGKILL with the next start", async (lab) => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGQUIT", "SIGKILL"] as const) {
    const { running, call, socketPath } = await startManager(lab, "client");
    assert.equal(statSync(socketPath).mode & 0o777, 0o600);
    await call("POST", "/api/interface/create");
    await call("POST", "/api/interface/start");
    assert.equal(await running.stop(signal), signal === "SIGKILL" ? "SIGKILL" : 0);
    await retry(() => assert.deepEqual(links(lab), NOTHING));
    assert.equal(existsSync(socketPath), signal === "SIGKILL");
    if (signal !== "SIGKILL") continue;
    const next = new Running(lab.spawn("client", [...ours("manager/main"), "--host", socketPath]));
    await next.until(/the interface manager: /);
    assert.equal((await ask({ socketPath }, "POST", "/api/interface/create")).status, 200);
    const second = new Running(lab.spawn("client", [...ours("manager/main"), "--host", socketPath]));
    assert.equal(await second.ended, 1);
    assert.match(second.output, /Cannot use --host .*: a program that runs has it/);
    await next.stop();
    assert.equal(existsSync(socketPath), false);
    assert.deepEqual(links(lab), NOTHING);
  }
});

labTest("an error in the manager itself: it says so, and leaves nothing", async (lab) => {
  const mistake = `data:text/javascript,process.on("SIGUSR2",()=>{throw new Error("a bug")})`;
  const [node, ...words] = ours("manager/main");
  const socketPath = join(newFolder(), "manager.sock");
  const command = [node!, "--import", mistake, ...words, "--host", socketPath];
  const running = new Running(lab.spawn("client", command));
  await running.until(/the interface manager: /);
  assert.equal((await ask({ socketPath }, "POST", "/api/interface/create")).status, 200);
  running.child.kill("SIGUSR2");
  assert.equal(await running.ended, 1);
  assert.match(running.output, /^error unexpected: a bug\. Try: /m);
  assert.deepEqual(links(lab), NOTHING);
  assert.equal(existsSync(socketPath), false);
});

labTest("an interface that somebody else deletes is gone, running or not", async (lab) => {
  const { call, running } = await startManager(lab, "client");
  for (const starts of [true, false]) {
    await call("POST", "/api/interface/create");
    if (starts) await call("POST", "/api/interface/start");
    lab.run("client", "ip link del tun0");
    await new Promise((resolve) => setTimeout(resolve, 150)); // a reading serves for 100 ms
    assert.equal((await call("GET", "/api/interface/status")).json.status, "no_interface");
  }
  assert.match(running.output, /Cannot read from tun0: EBADFD/);
});

labTest("the configuration is read anew: interfaces that did not change lose no packet", async (lab) => {
  const file = join(newFolder(), "manager.json");
  const write = (...interfaces: object[]) => writeFileSync(file, JSON.stringify({ mtu: 1400, interfaces }));
  const stays = { name: "stays", address: "10.1.0.1", mode: "echo" };
  write(stays, { name: "goes", address: "10.2.0.1" }, { name: "moves", address: "10.3.0.1" });
  const { call, running } = await startManager(lab, "client", ["--config", file]);
  assert.deepEqual(links(lab), ["eth0", "goes", "lo", "moves", "probe", "stays"]);
  const pings = new Running(lab.spawn("client", ["ping", "-i", "0.01", "10.1.0.9"]));
  await pings.until(/icmp_seq=20 /);

  write(
    stays,
    { name: "moves", address: "10.3.0.2", mtu: 1300 },
    { name: "comes", type: "tap", address: "10.4.0.1" },
  );
  await call("POST", "/api/interface/configure", { name: "stays", mtu: 1350 }); // is not taken back
  running.child.kill("SIGHUP");
  await running.until(/the configuration was read anew/);
  assert.deepEqual(links(lab), ["comes", "eth0", "lo", "moves", "probe", "stays"]);
  const moved = (await call("GET", "/api/interface/status?name=moves")).json;
  assert.deepEqual([moved.address, moved.mtu], ["10.3.0.2", 1300]);
  assert.equal((await call("GET", "/api/interface/status?name=comes")).json.mtu, 1400);
  assert.equal((await call("GET", "/api/interface/status?name=stays")).json.mtu, 1350);

  writeFileSync(file, JSON.stringify({ mtu: 1400, interfaces: [{ name: "new", adress: "10.5.0.1" }] }));
  await running.until(/Cannot use .*manager\.json: "adress": no such field, the nearest is address/);
  writeFileSync(file, "{");
  await running.until(/Cannot use .*manager\.json: .*JSON/);
  assert.deepEqual(links(lab), ["comes", "eth0", "lo", "moves", "probe", "stays"]);
  write(stays);
  await retry(() => assert.deepEqual(links(lab), ["eth0", "lo", "probe", "stays"]));
  const taken = /^error Cannot follow .*: name: this machine has an interface eth0 already\. Try: mend/m;
  write(stays, { name: "eth0" });
  await running.until(taken);
  const second = new Running(lab.spawn("client", [...ours("manager/main"), "--config", file]));
  await second.ended;
  assert.match(second.output, /^error Cannot follow .*: name: this machine has an interface stays already/m);
  await pings.stop("SIGINT");
  const answered = [...pings.output.matchAll(/icmp_seq=(\d+) /g)].map(([, n]) => Number(n));
  const gaps = answered.filter((n, i) => n !== i + 1); // the last one may still have been under way
  assert.deepEqual(gaps, []);
});

labTest("an entry that failed is followed again once it is mended, or what it was before", async (lab) => {
  const file = join(newFolder(), "manager.json");
  const write = (entry: object) => writeFileSync(file, JSON.stringify({ interfaces: [entry] }));
  const original = { name: "moves", address: "10.3.0.1" };
  lab.addIPv6();
  write(original);
  const { call, running } = await startManager(lab, "client", ["--config", file]);
  lab.run("client", "sysctl -qw net.ipv6.conf.moves.disable_ipv6=1"); // that alone the file cannot tell
  const state = async () => (await call("GET", "/api/interface/status?name=moves")).json;

  write({ ...original, address: "10.3.0.2", address6: "fd00::1/64" });
  await running.until(/Cannot run 'ip address add fd00::1\/64/);
  assert.equal((await state()).address, "10.3.0.1");
  write({ ...original, address: "10.3.0.3" });
  await retry(async () => assert.equal((await state()).address, "10.3.0.3"));
  write(original);
  await retry(async () => assert.equal((await state()).address, "10.3.0.1"));
  writeFileSync(file, "{}");
  await retry(() => assert.deepEqual(links(lab), NOTHING));
});

labTest("/metrics is what promtool accepts, and counts", async (lab) => {
  const { call } = await startManager(lab, "client");
  await call("POST", "/api/interface/create");
  await call("POST", "/api/interface/start", { mode: "echo" });
  ping(lab, "client", "10.0.0.9");
  const { text, headers } = await call("GET", "/metrics");
  assert.equal(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
  assert.match(text, /^simple_vpn_manager_interface_packets_total{interface="tun0",kind="read"} 3$/m);
  assert.match(
    text,
    /^simple_vpn_manager_interface_protocol_packets_total{interface="tun0",kind="icmp"} 3$/m,
  );
  assert.match(
    text,
    /_request_duration_seconds_count{method="POST",path="\/api\/interface\/create",code="200"} 1$/m,
  );
  checkMetrics(text);
});

labTest("under load and with faults: a small share of what load.ts does", async (lab) => {
  lab.addIPv6();
  const load = new Running(lab.spawn("client", [...ours("lab/manager/load"), "inside", "--scale", "1"]));
  assert.equal(await load.ended, 0, load.output);
  assert.match(load.output, /nothing left\n$/);
});

/** The examples in draft/manager.md: each line that begins with curl. */
const EXAMPLES = readFileSync(join(ROOT, "draft/manager.md"), "utf8").match(/^curl .*(?:\n  .*)*$/gm) ?? [];

labTest("each example of draft/manager.md works, in its order; each route has one", async (lab) => {
  lab.addIPv6();
  await startServer(lab); // for the example of a client
  const running = new Running(lab.spawn("client", [...ours("manager/main")], SECRET));
  await running.until(/the interface manager: http:\/\/127\.0\.0\.1:8080\//);
  for (const example of EXAMPLES) {
    const { status, stdout, stderr } = lab.try("client", ["sh", "-c", example]);
    const expected = example.includes("--max-time") ? 28 : 0; // curl(1): operation timeout
    assert.equal(status, expected, `${example}\n${stdout}${stderr}`);
    assert.doesNotMatch(stdout, /^{"error"/, example);
  }
  const { paths } = JSON.parse(lab.run("client", "curl -s http://127.0.0.1:8080/openapi.json"));
  const methodOf = (example: string) => /-X (\w+)/.exec(example)?.[1]?.toLowerCase() ?? "get";
  const pathOf = (example: string) => /:8080(\/[\w/.]*)/.exec(example)![1]!;
  const named = (path: string) => path.replace(/(?<=^\/api\/vpn\/)\w+/, "{name}");
  const shown = EXAMPLES.flatMap((one) =>
    [pathOf(one), named(pathOf(one))].map((path) => `${methodOf(one)} ${path}`),
  );
  const routes = Object.keys(paths).flatMap((path) =>
    Object.keys(paths[path]).map((method) => `${method} ${path}`),
  );
  const missing = routes.filter((one) => !shown.includes(one) && !one.endsWith(" /"));
  assert.deepEqual(missing, []);
});
