/** The two programs in the lab: real TUNs, real ping, real iptables. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { decode } from "../../base/render.ts";
import { DOWN, STAGES, type Step, UP } from "../../base/walk.ts";
import { LAB_SECRET, OTHER_SECRET, ROOT, SERVER, TARGET } from "../lab.ts";
import { Running, startProgram, TRANSPORT } from "../running.ts";
import { IS_RAW, IS_UDP, labTest, ping, retry, SECRET, startClient, startServer } from "./testing.ts";
import { newFolder } from "./folder.ts";

labTest(
  "ping passes through the tunnel and the NAT, and both traces show each step with the same packet id",
  async (lab) => {
    const folder = newFolder();
    const server = await startServer(lab, "--trace-file", join(folder, "server"));
    const client = await startClient(lab, "client", "--trace-file", join(folder, "client"));
    assert.match(lab.run("client", `ip route get ${TARGET}`), /dev tun0 src 10\.8\.0\.2/);
    const { stdout } = lab.try("client", `ping -c 3 -W 5 ${TARGET}`);
    assert.match(stdout, /3 received, 0% packet loss/);
    assert.deepEqual([await client.stop("SIGINT"), await server.stop("SIGINT")], [0, 0]);

    const events = ["client", "server"].flatMap((name) =>
      readFileSync(join(folder, name), "utf8").trim().split("\n").map(decode),
    );
    events.sort((a, b) => (a.time < b.time ? -1 : 1));
    // Three of each: "up1", "down0" and so on. A keepalive may be a frame between them.
    const read = events.filter(({ step }) => step === "6.read" || step === "R3.read");
    const frames = [...new Set(read.map(({ id }) => id.split(".")[0]!))];
    assert.equal(frames.length, 6);
    for (const frame of frames) {
      const seen = events.filter(({ id }) => id.split(".")[0] === frame).map(({ step }) => step);
      const expected = STAGES.map((stage) => (frame.startsWith("up") ? UP : DOWN)[stage]);
      assert.deepEqual(seen, expected, `${frame}, in the order of their times`);
    }
    const hex = (step: Step) => events.find((event) => event.step === step)!.hex;
    assert.match(hex("6.read"), /^45000054/);
    assert.match(hex("6.xor"), /^07424216/);
    assert.equal(hex("6.write"), hex("8.read"), "the same bytes leave and arrive");
    assert.equal(hex("8.write"), hex("6.read"), "the packet comes out as it went in");
    assert.equal(hex("R6.write"), hex("R3.read"));
  },
);

labTest("what leaves the server is masqueraded", async (lab) => {
  await startServer(lab);
  await startClient(lab);
  assert.match(
    lab.run("server", "iptables -t nat -S POSTROUTING"),
    /-s 10\.8\.0\.0\/24 -o eth1 -m comment --comment simple-vpn -j MASQUERADE/,
  );
  ping(lab, "client", TARGET);
  // The internet host has no route to 10.8.0.0/24: an answer proves the NAT. The rule's counter proves that
  // it was used.
  assert.match(lab.run("server", "iptables -t nat -nvL POSTROUTING"), /^\s*[1-9]\d*\s+\d+\s+MASQUERADE/m);
});

labTest(
  "ten clients at once, each reached at its own address; those who leave free theirs, and the others go on",
  async (lab) => {
    const server = await startServer(lab);
    const hosts = ["client", ...Array.from({ length: 9 }, (_, i) => lab.addClient(i + 2))];
    const clients = [];
    for (const host of hosts) clients.push(await startClient(lab, host));
    const addresses = clients.map((client) => /tunnel is (10\.8\.0\.\d+)/.exec(client.output)![1]!);
    assert.deepEqual(
      addresses,
      hosts.map((_, i) => `10.8.0.${i + 2}`),
    );
    for (const address of addresses) ping(lab, "server", address, 2);
    for (const host of hosts) ping(lab, host, TARGET, 2);
    ping(lab, "client3", "10.8.0.9", 2); // client to client, through the server's kernel

    assert.equal(await clients[3]!.stop(), 0);
    await server.until(/client 10\.8\.0\.5 .*left: it said goodbye \(9 connected\)/);
    await clients[6]!.stop("SIGKILL");
    await server.until(/client 10\.8\.0\.8 .*left: .*\(8 connected\)/);
    ping(lab, "client2", TARGET, 2);
    const again = await startClient(lab, "client4");
    assert.match(again.output, /tunnel is 10\.8\.0\.5/, "the lowest free address");
    ping(lab, "server", "10.8.0.5", 2);
  },
);

labTest(
  "a client that is stuck loses its own packets only: the others are served, and it is, too, when it goes on",
  async (lab) => {
    const server = await startServer(lab);
    await startClient(lab);
    const stuck = await startClient(lab, lab.addClient(2));
    stuck.child.kill("SIGSTOP");
    // 15 MB at once: more than all buffers on the way hold. But what a busy server does not read, its kernel
    // drops.
    const flood = async () => {
      const { stdout } = lab.try("server", "ping -q -c 12000 -l 12000 -s 1300 -W 1 10.8.0.3");
      assert.match(stdout, /100% packet loss/);
      // over UDP the stuck one's own kernel drops them
      if (!IS_UDP) await server.until(/dropped [1-9]/, 2_000);
    };
    await retry(flood);
    ping(lab, "client", TARGET, 5);
    stuck.child.kill("SIGCONT");
    await retry(() => ping(lab, "client2", TARGET, 2));
    await server.stop("SIGINT");
    if (!IS_UDP) assert.match(server.output, /dropped \d+ \(the socket is full\)/);
  },
);

labTest(
  "a packet from another source than the client's own address is dropped, counted and traced",
  async (lab) => {
    const server = await startServer(lab);
    await startClient(lab);
    lab.run("client", "ip addr add 10.8.0.77/32 dev tun0");
    assert.match(
      lab.try("client", `ping -c 3 -i 0.2 -W 1 -I 10.8.0.77 ${TARGET}`).stdout,
      /100% packet loss/,
    );
    await server.until(/drop.*its source is not the client's own address.*10\.8\.0\.77 → 8\.8\.8\.8/);
    ping(lab, "client", TARGET);
    await server.stop("SIGINT");
    assert.match(server.output, /dropped 3 \(its source is not the client's own address\)/);
  },
);

labTest(
  "a wrong secret is refused with a clear message on both ends, and the server goes on",
  async (lab) => {
    const server = await startServer(lab);
    const wrong = startProgram(lab, "client", "client", [SERVER], {
      env: { ...process.env, SIMPLE_VPN_SECRET: OTHER_SECRET },
    });
    assert.equal(await wrong.ended, 1);
    assert.match(
      wrong.output,
      /error Cannot start a session with 192\.168\.1\.1:5555: it refused our secret\. Try: copy the secret/,
    );
    await server.until(/refused 192\.168\.1\.100:\d+: it was made with another secret/);
    await startClient(lab);
    ping(lab, "client", TARGET);
  },
);

labTest("a change of secret: the server takes both, and clients change one by one", async (lab) => {
  const folder = newFolder();
  const [old, fresh, foreign] = [LAB_SECRET, OTHER_SECRET, randomBytes(32).toString("hex")].map((text, i) => {
    const file = join(folder, `${i}.key`);
    writeFileSync(file, text, { mode: 0o600 });
    return file;
  }) as [string, string, string];
  await startServer(lab, "--secret", old, "--secret", fresh);
  const ends = [
    ["client", ["--secret", old]],
    [lab.addClient(2), ["--secret", fresh]],
    [lab.addClient(3), ["--secret", foreign, "--secret", old]], // the first one is refused
  ] as const;
  for (const [host, words] of ends) {
    const client = await startClient(lab, host, ...words, "--rekey", "1");
    await client.until(/fresh keys with/);
    ping(lab, host, TARGET);
  }
});

labTest(
  "a killed server, and one that was stopped, are told apart; with --once the client ends with 1",
  async (lab) => {
    for (const [signal, words] of [
      [
        "SIGKILL",
        {
          tcp: /Lost the server 192\.168\.1\.1:5555: .*(without a goodbye|ECONNRESET)/,
          udp: /Lost the server 192\.168\.1\.1:5555: nobody listens there any more/,
          quic: /Lost the server 192\.168\.1\.1:5555: (nothing comes from it any more|it has not answered)/,
          raw: /Lost the server 192\.168\.1\.1:5555: ECONNRESET/, // the kernel's, once our rules are undone
        }[TRANSPORT],
      ],
      ["SIGTERM", /Lost the server 192\.168\.1\.1:5555: it said goodbye/],
    ] as const) {
      const server = await startServer(lab);
      const client = await startClient(lab, "client", "--once");
      await server.stop(signal);
      assert.equal(await client.ended, 1);
      assert.match(client.output, words);
    }
  },
);

labTest(
  "an interface deleted under the running program ends it with one clear line, on either end",
  async (lab) => {
    for (const host of ["client", "server"]) {
      const server = await startServer(lab);
      const client = await startClient(lab);
      lab.run(host, "ip link del tun0");
      const [victim, other] = host === "client" ? [client, server] : [server, client];
      assert.equal(await victim.ended, 1);
      assert.match(victim.output, /error Cannot read from tun0: .*Try: someone deleted the interface/);
      if (host === "client") await server.until(/client 10\.8\.0\.2 .*left: it said goodbye/);
      await other.stop();
    }
  },
);

/**
 * Sets what a persistent TUN remembers of its last owner (tuntap.rst): a header of 12 bytes, and large
 * packets without checksums.
 */
const SPOIL = `
  const libc = await import("${ROOT}src/base/libc.ts"), { openTun } = await import("${ROOT}src/core/tun.ts");
  const { fd } = openTun("tun0", "on");
  const result = libc.ioctl(fd, libc.TUNSETVNETHDRSZ, Buffer.from([12, 0, 0, 0]));
  if (result < 0) throw new Error("TUNSETVNETHDRSZ");`;

labTest(
  "a persistent tun0 that remembers another owner's settings works all the same, with both ciphers",
  async (lab) => {
    lab.run("client", "ip tuntap add dev tun0 mode tun");
    for (const args of [[], ["--cipher", "xor"]]) {
      lab.run("client", "ip route flush dev tun0"); // it keeps its routes, too
      const spoiled = new Running(
        lab.spawn("client", [process.execPath, "--import", "tsx", "--input-type=module", "-e", SPOIL]),
      );
      assert.equal(await spoiled.ended, 0, spoiled.output);
      const server = await startServer(lab, ...args);
      const client = await startClient(lab, "client", ...args);
      ping(lab, "client", TARGET);
      const listener = new Running(
        lab.spawn("server", [
          process.execPath,
          "-e",
          'require("net").createServer((s) => s.end("hello")).listen(9000, () => console.log("ready"))',
        ]),
      );
      await listener.until(/ready/);
      const caller = new Running(
        lab.spawn("client", [
          process.execPath,
          "-e",
          'require("net").connect(9000, "10.8.0.1").pipe(process.stdout)',
        ]),
      );
      await caller.until(/hello/);
      await listener.stop("SIGKILL");
      for (const program of [client, server]) await program.stop("SIGINT");
    }
  },
);

labTest("an interface that is down ends nothing", async (lab) => {
  const server = await startServer(lab);
  await startClient(lab);
  lab.run("server", "ip link set tun0 down");
  assert.match(lab.try("client", `ping -c 2 -i 0.2 -W 1 ${TARGET}`).stdout, /100% packet loss/);
  await server.until(/drop.*tun0 is down/);
  lab.run("server", "ip link set tun0 up");
  ping(lab, "client", TARGET);
});

labTest("--route 0.0.0.0/0 sends everything into the tunnel but the tunnel itself", async (lab) => {
  await startServer(lab);
  await startClient(lab, "client", "--route", "0.0.0.0/0");
  assert.match(lab.run("client", "ip route get 203.0.113.8"), /dev tun0/);
  assert.match(lab.run("client", `ip route get ${SERVER}`), /dev eth0/);
  ping(lab, "client", "203.0.113.8");
});

labTest(
  "without --configure the programs print the commands, and they work when typed as printed",
  async (lab) => {
    const printed = (running: Running) =>
      running.output
        .split("\n")
        .filter((line) => line.startsWith("  "))
        .map((line) => line.trim());
    const server = startProgram(lab, "server", "server", ["--nat", "eth1"], SECRET);
    await server.until(/listening on/);
    for (const command of printed(server)) lab.run("server", command);
    const client = startProgram(lab, "client", "client", [SERVER, "--route", `${TARGET}/32`], SECRET);
    await client.until(/connected to/);
    assert.equal(printed(client).length, IS_RAW ? 5 : 3);
    for (const command of printed(client)) lab.run("client", command);
    ping(lab, "client", TARGET);
  },
);

labTest("the server told --subnet and --mtu tells its clients", async (lab) => {
  await startServer(lab, "--subnet", "172.16.5.0/29", "--mtu", "1280", "--port", "7000", "--tun", "vpn0");
  const client = await startClient(lab, "client", "--port", "7000", "--tun", "vpn1");
  assert.match(client.output, /tunnel is 172\.16\.5\.2\/29, MTU 1280/);
  assert.match(lab.run("client", "ip link show vpn1"), /mtu 1280/);
  ping(lab, "client", TARGET);
});

labTest(
  "a subnet that is used up refuses the next client by name, and serves it when one has left",
  async (lab) => {
    const server = await startServer(lab, "--subnet", "10.8.0.0/30");
    const first = await startClient(lab);
    const host = lab.addClient(2);
    const second = startProgram(lab, host, "client", ["192.168.2.1"], SECRET);
    assert.equal(await second.ended, 1);
    assert.match(second.output, /all inner addresses are taken/);
    await first.stop();
    await server.until(/left: it said goodbye/);
    await startClient(lab, host);
    ping(lab, host, TARGET);
  },
);

labTest(
  "a vanished peer is noticed within 15 s on both ends; when it is back, the client connects again",
  async (lab) => {
    const server = await startServer(lab);
    const client = await startClient(lab);
    const since = Date.now();
    lab.run("lab", "ip -n server link set eth0 down"); // the cable is pulled
    await server.until(
      /client 10\.8\.0\.2 .*left: (ETIMEDOUT|it has not answered for 12 s|nothing comes)/,
      30_000,
    );
    const why = "(ETIMEDOUT|EHOSTUNREACH|it has not answered .*|nothing comes .*)";
    await client.until(new RegExp(`Lost the server 192\\.168\\.1\\.1:5555: ${why}; trying again in`), 30_000);
    assert.ok(
      Date.now() - since < 20_000,
      "15 s, and what timers and a busy machine add; not one probe more",
    );
    lab.run("lab", "ip -n server link set eth0 up");
    await client.until(
      /connected again after \d+\.\d s: this end of the tunnel is still 10\.8\.0\.2\/24/,
      60_000,
    );
    ping(lab, "client", TARGET);
  },
);
