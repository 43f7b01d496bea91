/** `--socks`: programs on the client reach what is beyond the tunnel, and nothing else goes there. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, ours, SERVER, TARGET, TARGET6 } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { newFolder } from "./folder.ts";
import { labTest, needs, retry, SECRET, snapshot, startServer } from "./testing.ts";

const NAME = "some.name.test"; // the lab's name server says it is TARGET
const PROXY = "--proxy socks5h://127.0.0.1:1080";

/** A client without a route. */
async function start(lab: Lab, env: NodeJS.ProcessEnv, ...args: string[]): Promise<Running> {
  const all = [SERVER, "--configure", "--socks-dns", TARGET, ...args];
  const client = startProgram(lab, "client", "client", all, { env: { ...SECRET.env, ...env } });
  await client.until(/connected to/);
  return client;
}

/** What curl(1) gets, and its exit code. */
function curl(lab: Lab, args: string, host = "client"): [code: number | null, text: string] {
  const { status, stdout, stderr } = lab.try(host, `curl -sS -m 20 ${args}`);
  return [status, (stdout + stderr).trim()];
}
const HELLO = [0, "hello from the internet"];

/** The packets that pass a device of the client, as tcpdump(8) tells them, from now on. */
async function watchPackets(lab: Lab, device: string): Promise<Running> {
  const tap = new Running(lab.spawn("client", ["tcpdump", "-i", device, "-nlq"]));
  await tap.until(/listening on/);
  return tap;
}

/** A program that speaks SOCKS5's UDP ASSOCIATE: asks a name server by its name, and prints the answer. */
const DATAGRAMS = `
  const dgram = require("node:dgram"), net = require("node:net");
  const request = Buffer.from("05010005030001000000000000", "hex");
  const control = net.connect(1080, "127.0.0.1", () => control.write(request));
  let got = Buffer.alloc(0);
  control.on("data", (data) => {
    got = Buffer.concat([got, data]);
    if (got.length < 12) return;
    const udp = dgram.createSocket("udp4");
    const query = Buffer.from("123401000001000000000000016101620000010001", "hex");
    const to = Buffer.from("${NAME}");
    const head = Buffer.concat([Buffer.from([0, 0, 0, 3, to.length]), to, Buffer.from([0, 53])]);
    const send = (bytes) => udp.send(bytes, got.readUInt16BE(10), "127.0.0.1");
    udp.on("message", (answer) => (console.log("answer " + answer.toString("hex")), process.exit(0)));
    send(Buffer.from([0, 0, 1, 1]));
    send(Buffer.concat([head, query]));
  });
  setTimeout(() => process.exit(1), 20000);`;

/** Hostile and slow programs; then a good one that sends a byte at a time, and prints what it gets. */
const HOSTILE = `
  const net = require("node:net");
  const good = () => {
    const socket = net.connect(1080, "127.0.0.1").on("error", () => {}).setNoDelay(true);
    const request = Buffer.from("05010005010001080808080050", "hex");
    const bytes = Buffer.concat([request, Buffer.from("GET / HTTP/1.0\\r\\n\\r\\n")]);
    let text = "";
    socket.on("data", (data) => (text += data)).on("end", () => (console.log(text), process.exit(0)));
    let at = 0;
    const next = () => at < bytes.length && socket.write(bytes.subarray(at, ++at), () => setImmediate(next));
    next();
  };
  let left = 300;
  const done = () => --left === 0 && good();
  for (let i = 0; i < 300; i++) {
    const socket = net.connect(1080, "127.0.0.1", () => {
      if (i % 3 === 0) socket.write(require("node:crypto").randomBytes(i)), socket.resetAndDestroy();
      if (i % 3 === 1) socket.end(Buffer.from("0501000501000108080808", "hex"));
      done(); // each third one says nothing, and stays
    });
    socket.on("error", () => {}).resume();
  }
  setTimeout(() => process.exit(1), 20000);`;

labTest(
  "--socks: TCP, UDP and names go through the tunnel, without a route, and nothing else",
  async (lab, t) => {
    if (!needs(t, "curl") || !needs(t, "tcpdump")) return;
    lab.addIPv6();
    lab.run("client", "sysctl -qw net.ipv4.conf.all.rp_filter=1"); // else the rule is not needed for IPv4
    await startServer(lab);
    await new Running(lab.spawn("internet", ours("lab/internet"))).until(/ready/);
    const before = snapshot(lab, "client");
    const path = join(newFolder(), "status");
    const user = process.getuid!() === 0 ? ["--user", "nobody"] : [];
    const client = await start(lab, {}, "--socks", "1080", "--status", path, ...user);
    const [outside, inside] = [await watchPackets(lab, "eth0"), await watchPackets(lab, "tun0")];

    assert.deepEqual(curl(lab, `${PROXY} http://${NAME}/`), HELLO);
    assert.deepEqual(curl(lab, `${PROXY} http://${TARGET}/`), HELLO);
    assert.deepEqual(curl(lab, `${PROXY} http://[${TARGET6}]/`), HELLO);
    assert.match(
      lab.run("client", [process.execPath, "-e", DATAGRAMS]),
      /^answer 00000001080808080035123481800001.*08080808$/m, // from 8.8.8.8, port 53; DNS's answer
    );
    assert.match(lab.run("client", [process.execPath, "-e", HOSTILE]), /hello from the internet/);
    for (const [args, reply] of [
      [`http://${TARGET}:81/`, 5],
      ["http://127.0.0.1/", 2],
      ["http://10.8.0.2/", 2],
      ["http://a..b/", 4],
    ] as const)
      assert.match(curl(lab, `${PROXY} ${args}`)[1], new RegExp(`\\(${reply}\\)`), args);
    // The rule is for IPv6, and for rp_filter. Whatever the routes say, no packet takes another way.
    const rule = "from 10.8.0.2 lookup 87 pref 8598";
    lab.run("client", `ip rule del ${rule}`);
    lab.run("client", "ip -6 route flush table 87");
    assert.equal(curl(lab, `${PROXY} -m 2 http://${TARGET}/`)[0], 28, "strict rp_filter drops the answers");
    lab.run("client", "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.tun0.rp_filter=0");
    assert.deepEqual(curl(lab, `${PROXY} http://${NAME}/`), HELLO);
    assert.match(curl(lab, `${PROXY} http://[${TARGET6}]/`)[1], /\(3\)/);
    lab.run("client", `ip rule add ${rule}`); // its undoing is to find it
    lab.run("client", "sysctl -qw net.ipv4.conf.all.rp_filter=1");
    await inside.until(/8\.8\.8\.8\.53: UDP/);
    await inside.until(/IP6 fd56:504e::a08:2\.\d+ > 2001:4860:4860::8888\.80: tcp/);

    lab.try("client", `ping -c 1 -W 1 ${TARGET}`); // nobody answers: this way there is no NAT
    await outside.until(/192\.168\.1\.100 > 8\.8\.8\.8: ICMP/);
    await outside.stop();
    await inside.stop();
    assert.doesNotMatch(
      inside.output,
      /ICMP echo/,
      "what has not asked for it does not go through the tunnel",
    );
    const tunnel = /192\.168\.1\.1(00)?\.5555: |192\.168\.1\.1\.5555 > |ICMP|ARP|ICMP6/;
    const leaked = outside.output.split("\n").filter((line) => /\bIP6? /.test(line) && !tunnel.test(line));
    assert.deepEqual(leaked, []);

    const read = `require("node:net").connect("${path}").once("data", (data) => {
      console.log(String(data).split("\\n")[0]);
      process.exit();
    })`;
    await retry(() => {
      const { socks, drops } = JSON.parse(lab.run("client", [process.execPath, "-e", read]));
      assert.deepEqual(
        [socks.open, socks.ok >= 5, socks.failed >= 200],
        [0, true, true],
        JSON.stringify(socks),
      );
      assert.equal(drops["socks-refused"], 1);
    });
    assert.equal(await client.stop(), 0, client.output);
    assert.equal(snapshot(lab, "client"), before);
  },
);

labTest("--socks for other machines asks for a login; after another session, too", async (lab, t) => {
  if (!needs(t, "curl")) return;
  const server = await startServer(lab);
  await new Running(lab.spawn("internet", ours("lab/internet"))).until(/ready/);
  const file = join(newFolder(), "login");
  writeFileSync(file, "student:pass word\n", { mode: 0o600 });
  const at = "--proxy socks5h://192.168.1.100:1080";
  const ask = (login: string) => curl(lab, `${login} ${at} http://${NAME}/`, "server")[0];
  const byFile = await start(lab, {}, "--socks", "192.168.1.100:1080", "--socks-login", file);
  assert.equal(ask("--proxy-user student:pass%20word"), 0);
  assert.deepEqual([ask(""), ask("--proxy-user student:other")], [97, 97]);
  await byFile.until(/--socks: a wrong user or password/);
  assert.equal(await byFile.stop(), 0);
  const environment = { SIMPLE_VPN_SOCKS_LOGIN: "student:secret" };
  const client = await start(lab, environment, "--socks", "192.168.1.100:1080");
  assert.deepEqual([ask("--proxy-user student:secret"), ask("")], [0, 97]);
  await server.stop();
  await startServer(lab, "--subnet", "172.16.5.0/24");
  await client.until(/now 172\.16\.5\.2/);
  assert.match(
    lab.run("client", "ip rule"),
    /^0:.*\n8598:\tfrom 172\.16\.5\.2 lookup 87\n32766:/,
    "none for 10.8.0.2",
  );
  assert.equal(ask("--proxy-user student:secret"), 0, "its sockets have the new address");
  assert.equal(await client.stop(), 0, client.output);
});
