/** --transport raw in the lab: what is on the wire, what the kernel is told, and what is left at the end. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { ours, SERVER, SERVER6, TARGET } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { Emulator } from "../wire/emulator.ts";
import { addRouter } from "../wire/router.ts";
import { newFolder } from "./folder.ts";
import { SEED } from "./peers.ts";
import {
  labTest,
  needs,
  ping,
  retry,
  SECRET,
  snapshot,
  startClient,
  startServer,
  transfer,
} from "./testing.ts";

const RAW = ["--transport", "raw"];

labTest(
  "tshark finds whole TCP with right checksums, over IPv4 and IPv6; no RST, nothing tracked, all undone",
  async (lab, t) => {
    if (!needs(t, "tshark") || !needs(t, "tcpdump") || !needs(t, "ethtool")) return;
    lab.addIPv6();
    addRouter(lab); // a veth would hand over what the kernel is still to cut
    for (const host of ["client", "server"]) lab.run(host, "ethtool -K eth0 tx off");
    // an address of the link's own is tentative for a second or two
    await retry(() =>
      ["client", "server"].forEach((host) => assert.doesNotMatch(lab.run(host, "ip addr"), /tentative/)),
    );
    const before = ["client", "server"].map((host) => snapshot(lab, host));
    const file = join(newFolder(), "pcap");
    const words = ["tcpdump", "-i", "eth0", "-U", "-Z", "root", "-w", file, "tcp"];
    const capture = new Running(lab.spawn("router", words));
    await capture.until(/listening on/);
    const user = process.getuid!() === 0 ? ["--user", "nobody"] : [];
    const server = await startServer(lab, ...RAW, ...user, "--tcp-flags", "PA,A");
    for (const address of [SERVER, SERVER6]) {
      const args = [address, "--configure", "--route", `${TARGET}/32`, ...RAW, ...user];
      const client = startProgram(lab, "client", "client", args, SECRET);
      await client.until(/connected to/);
      ping(lab, "client", TARGET);
      await transfer(lab, "client", "internet", 1);
      assert.equal(await client.stop(), 0);
      await server.until(/left: it said goodbye/);
    }
    assert.equal(await server.stop(), 0);
    assert.deepEqual(
      ["client", "server"].map((host) => snapshot(lab, host)),
      before,
      "all is undone",
    );
    await capture.stop("SIGINT");

    const fields = ["tcp.srcport", "tcp.flags", "tcp.checksum.status", "ip.checksum.status", "ip.flags.df"];
    const checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"];
    const columns = fields.flatMap((field) => ["-e", field]);
    const shown = lab.run("lab", ["tshark", "-r", file, ...checks, "-T", "fields", ...columns]);
    const rows = shown
      .replace(/\n$/, "")
      .split("\n")
      .map((line) => line.split("\t"));
    const all = (column: number) => [...new Set(rows.map((row) => row[column]))].sort();
    assert.ok(rows.length > 1500, `${rows.length} segments`);
    assert.deepEqual(all(2), ["1"], "TCP's checksums");
    assert.deepEqual(all(3), ["", "1"], "IPv4's checksums; IPv6 has none");
    assert.match(all(4).join(), /^,(1|True)$/, "don't fragment, in IPv4");
    const flags = [...new Set(rows.map(([, bits]) => Number(bits)))].sort();
    assert.deepEqual(flags, [0x10, 0x18], "the kernel leaves PSH to the last piece; and --tcp-flags PA,A");
    const bad = lab.run("lab", [
      "tshark",
      "-r",
      file,
      ...checks,
      "-Y",
      "_ws.malformed || tcp.flags.reset == 1",
    ]);
    assert.equal(bad, "");
  },
);

labTest("one segment in thirty is lost: what is inside arrives, whole", async (lab, t) => {
  if (!needs(t, "ethtool")) return;
  addRouter(lab);
  await Emulator.start(lab, { delay: 5, loss: 0.03 }, SEED);
  const server = await startServer(lab, ...RAW);
  const client = await startClient(lab, "client", ...RAW);
  await transfer(lab, "client", "internet", 16);
  await transfer(lab, "internet", "client", 16);
  for (const program of [server, client]) assert.doesNotMatch(program.output, /left:|Lost the server/);
});

labTest(
  "without --configure: the kernel's RST is seen and ignored; a server started anew is noticed",
  async (lab) => {
    const server = startProgram(lab, "server", "server", RAW, SECRET);
    await server.until(/listening on/);
    assert.match(server.output, /^ {2}iptables -t raw -A PREROUTING -p tcp --dport 5555 -j DROP$/m);
    const client = startProgram(lab, "client", "client", [SERVER, ...RAW], SECRET);
    await client.until(/connected to/);
    await server.until(/connected from/);
    await new Promise((resolve) => setTimeout(resolve, 4000)); // longer than a doubt lasts
    assert.doesNotMatch(client.output, /Lost the server/);
    await server.stop("SIGKILL");
    const again = startProgram(lab, "server", "server", RAW, SECRET);
    await again.until(/listening on/);
    for (const command of ["ip addr add 10.8.0.2/24 dev tun0", "ip link set tun0 up"])
      lab.run("client", command);
    lab.try("client", "ping -c 1 -W 1 10.8.0.1"); // a doubt begins with what is sent
    await client.until(/Lost the server 192\.168\.1\.1:5555: (ECONNRESET|it was started anew)/);
    await client.until(/connected again/, 60_000);
  },
);

labTest(
  "where segments get lost: tools.ts ping and the doctor say so, from both ends; dump decodes them",
  async (lab) => {
    const tool = (host: string, ...args: string[]) =>
      new Running(lab.spawn(host, [...ours("tools"), ...args], SECRET));
    const startDoctor = (host: string, ...args: string[]) =>
      new Running(lab.spawn(host, [...ours("lab/doctor/doctor"), host, ...args], SECRET));
    /** What it says of a hop, and whether all is well. */
    const finding = async (running: Running, hop: string) => {
      const code = await running.ended;
      return `${code}: ${new RegExp(`^\\S+ +${hop} +.*(\n +fix .*)*`, "m").exec(running.output)?.[0]}`;
    };
    const server = await startServer(lab, ...RAW);
    const dump = tool("server", "dump", "--count", "4");
    await dump.until(/listens to port 5555/);
    const good = tool("client", "ping", SERVER, "--count", "1");
    assert.equal(await good.ended, 0, good.output);
    assert.match(good.output, /^pong from 192\.168\.1\.1:5555: \d+\.\d ms, the same secret\n$/);
    await dump.until(
      /192\.168\.1\.100:\d+ → 192\.168\.1\.1:5555 PA seq \d+ ack \d+ \| ping, message of \d+ bytes/,
    );
    await dump.until(
      /192\.168\.1\.1:5555 → 192\.168\.1\.100:\d+ PA seq \d+ ack \d+ \| pong, message of \d+ bytes/,
    );

    const client = await startClient(lab, "client", ...RAW);
    // iptables' filter comes after the packet socket: nothing to mend
    lab.run("server", "iptables -A INPUT -p tcp --dport 5555 -j DROP");
    const well = await Promise.all([startDoctor("client"), startDoctor("server")]);
    for (const one of well) {
      assert.equal(await one.ended, 0, one.output);
      assert.doesNotMatch(one.output, /^[?✗]/m);
    }
    lab.run("server", "iptables -F INPUT");
    assert.match(well[0]!.output, /^ok server +192\.168\.1\.1:5555 answers over RAW$/m);
    const over = startDoctor("client", "--transport", "udp");
    assert.match(await finding(over, "server"), /^1: .* answers over RAW, and not over UDP: both ends need/);
    const mends = async (host: string) => {
      lab.run(host, "iptables -t raw -F");
      const said = await finding(startDoctor(host), "rules");
      assert.match(said, /^1: ✗ +rules +this host's TCP sees the segments.*(\n +fix .*){2}$/);
      for (const [, command] of said.matchAll(/fix +\w+# (.*)/g)) lab.run(host, command!);
      assert.match(await finding(startDoctor(host), "rules"), /^0: ok/);
    };
    await Promise.all(["client", "server"].map(mends));
    await client.stop();
    await server.stop();
    for (const host of ["client", "server"]) lab.run(host, "iptables -t raw -F"); // typed rules stay

    lab.run("server", "sysctl -qw net.ipv4.ip_forward=1");
    lab.run("internet", "iptables -t raw -A PREROUTING -p tcp -j DROP");
    const far = "203.0.113.8";
    const lost = [tool("client", "ping", far), startDoctor("client", "--server", far, ...RAW)];

    const refused = [tool("client", "ping", SERVER), startDoctor("client", "--server", SERVER, ...RAW)];
    const disabled =
      "segments arrive, and its kernel answers RST: --transport raw is not enabled on the server";
    assert.equal(await refused[0]!.ended, 1);
    assert.match(refused[0]!.output, new RegExp(`ECONNREFUSED\n.*${disabled}`));
    assert.match(
      await finding(refused[1]!, "server"),
      new RegExp(`^1: ✗ .*ECONNREFUSED; ${disabled}\n +fix`),
    );
    const tcp = await startServer(lab, "--transport", "tcp");
    const there = await finding(startDoctor("server", ...RAW), "listening");
    assert.match(
      there,
      /^1: ✗ +listening +no packet socket: --transport raw is not enabled on this server\n +fix/,
    );
    await tcp.stop();

    lab.run("client", `iptables -A OUTPUT -p tcp --dport 5555 -d ${SERVER} -j DROP`);
    const own = await finding(startDoctor("client", "--server", SERVER, ...RAW), "server");
    assert.match(
      own,
      /EPERM: this host's own firewall drops it\n +fix +client# iptables -I OUTPUT -p tcp --dport/,
    );

    assert.equal(await lost[0]!.ended, 1);
    assert.match(
      lost[0]!.output,
      /ETIMEDOUT\nhop 1: 192\.168\.1\.1\nhop 2: no word\n[^]*the last that said a word is 192\.168\.1\.1/,
    );
    assert.match(
      await finding(lost[1]!, "server"),
      /^1: ✗ .*ETIMEDOUT; the last that said a word is 192\.168\.1\.1: look behind it/,
    );
  },
);
