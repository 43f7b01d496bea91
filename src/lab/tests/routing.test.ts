/** What a client routes, and how, on machines that have routes, rules and tables of their own. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, SERVER, TARGET } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, ping, retry, SECRET, snapshot, startServer } from "./testing.ts";
import { newFolder } from "./folder.ts";

const FAR = "203.0.113.1"; // the server, by an address that the client reaches through its default route only
const BEYOND = "203.0.113.8"; // the internet host
const ALL = ["--route", "0.0.0.0/0"];
const client = (lab: Lab, ...args: string[]) =>
  startProgram(lab, "client", "client", ["--configure", ...args], SECRET);
/** How the client's kernel would send a packet there. */
const way = (lab: Lab, to: string, host = "client") => lab.run(host, `ip route get ${to}`);

/** A client that must end, with one line of error: its hint. */
async function refuses(running: Running, words: RegExp): Promise<string> {
  assert.equal(await running.ended, 1, running.output);
  assert.match(running.output, words);
  return /^error .* Try: (.*)$/m.exec(running.output)![1]!;
}

/** A configured client, what is true while it runs, and that all is as before at its end. */
async function whileConnected(
  lab: Lab,
  args: string[],
  check: (user: Running) => void | Promise<void>,
): Promise<void> {
  const before = snapshot(lab, "client");
  const user = client(lab, ...args);
  await user.until(/connected to/);
  await check(user);
  assert.equal(await user.stop(), 0, user.output);
  assert.equal(snapshot(lab, "client"), before);
}

labTest("rules and routes of others at our numbers are named, and the hint takes them away", async (lab) => {
  await startServer(lab);
  for (const [taken, words] of [
    ["rule add pref 8700 to 192.0.2.9 lookup 100", /8700 is there already/],
    ["route add 192.0.2.0/24 dev eth0 table 86", /table 86 has a route out of eth0 already/],
  ] as const) {
    lab.run("client", `ip ${taken}`);
    const before = snapshot(lab, "client");
    const said = await refuses(client(lab, FAR, "--route", "0.0.0.0/0"), words);
    assert.equal(snapshot(lab, "client"), before);
    lab.run("client", /ip (rule del pref \d+|route flush table \d+)/.exec(said)![0]);
    const user = client(lab, FAR, "--route", "0.0.0.0/0");
    await user.until(/connected to/);
    await user.stop();
  }
});

// ---- the user's own routing ----

/** On a host: a TCP server whose connections say "tick" every 100 ms. */
async function ticker(lab: Lab, host: string, port: number): Promise<void> {
  const script = `
    require("node:net").createServer((socket) => {
      socket.on("error", () => {});
      setInterval(() => socket.write("tick\\n"), 100).unref();
    }).listen(${port}, () => console.log("ready"));`;
  await new Running(lab.spawn(host, [process.execPath, "-e", script])).until(/ready/);
}

/** A connection to it; `ticks` waits for so many more. */
async function listenTo(lab: Lab, host: string, address: string, port: number) {
  const running = new Running(
    lab.spawn(host, [
      process.execPath,
      "-e",
      `require("node:net").connect(${port}, "${address}").pipe(process.stdout)`,
    ]),
  );
  const ticks = (count: number) =>
    running.until(new RegExp(`(tick\\n){${running.output.split("tick").length - 1 + count}}`));
  await ticks(1);
  return ticks;
}

labTest(
  "who reaches the client from outside still does when everything goes into the tunnel",
  async (lab) => {
    lab.addIPv6();
    lab.run("server", "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    // as many distributions set it
    lab.run("client", "sysctl -w net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1");
    for (const route of ["192.168.1.0/24 via 203.0.113.1", "2001:db8:1::/64 via 2001:db8:2::1"])
      lab.run("internet", `ip route add ${route}`);
    const before = snapshot(lab, "client");
    await ticker(lab, "client", 2222);
    const addresses = ["192.168.1.100", "2001:db8:1::100"];
    const open = await Promise.all(addresses.map((address) => listenTo(lab, "internet", address, 2222)));
    await startServer(lab);
    const user = client(lab, FAR, "--route", "0.0.0.0/0", "--route", "::/0");
    await user.until(/connected to/);
    for (const ticks of open) await ticks(5); // as an ssh session that is open
    for (const address of addresses) await (await listenTo(lab, "internet", address, 2222))(5);
    assert.match(lab.run("client", `ip route get ${BEYOND}`), /dev tun0/);
    await user.stop();
    assert.equal(snapshot(lab, "client"), before);
  },
);

labTest(
  "a server that only the user's own rules lead to is reached; packets that they mark go their way",
  async (lab) => {
    await startServer(lab);
    lab.run("client", "ip route del default");
    for (const line of [
      "route add default via 192.168.1.1 table 100",
      `rule add to ${FAR} lookup 100 pref 20000`,
      "rule add fwmark 0xcafe lookup 100 pref 20001",
    ])
      lab.run("client", `ip ${line}`);
    const before = snapshot(lab, "client");
    const user = client(lab, FAR, "--route", "0.0.0.0/0");
    await user.until(/connected to/);
    ping(lab, "client", BEYOND);
    assert.match(
      lab.run("client", `ip route get ${BEYOND} mark 0xcafe`),
      /via 192\.168\.1\.1 dev eth0 table 100/,
    );
    assert.match(lab.run("client", `ip route get ${BEYOND} mark 1`), /dev tun0/);
    await user.stop();
    assert.equal(snapshot(lab, "client"), before);
  },
);

labTest("a way to the server that cannot be kept is said, and everything undone", async (lab) => {
  await startServer(lab);
  lab.run("client", "ip rule add goto 8698 pref 50"); // past the rules that spare the server
  const before = snapshot(lab, "client");
  await refuses(
    client(lab, FAR, "--route", "0.0.0.0/0"),
    /Cannot keep the way .*: it was 'via 192\.168\.1\.1 dev eth0', and with these routes it is 'dev tun0'/,
  );
  assert.equal(snapshot(lab, "client"), before);
});

labTest(
  "a way to the server that is lost later is said at each try, until it is there again",
  async (lab) => {
    const server = await startServer(lab);
    await whileConnected(lab, [FAR, ...ALL], async (user) => {
      lab.run("client", "ip rule add goto 8698 pref 50");
      await server.stop();
      await startServer(lab);
      await user.until(/(Cannot keep the way to the server: with these routes it is 'dev tun0'[^]*){2}/);
      lab.run("client", "ip rule del goto 8698 pref 50");
      await user.until(/connected again/);
    });
  },
);

labTest("who reaches the client from outside still does with two halves in place of all", async (lab) => {
  lab.run("server", "sysctl -w net.ipv4.ip_forward=1");
  lab.run("internet", "ip route add 192.168.1.0/24 via 203.0.113.1");
  await ticker(lab, "client", 2222);
  await startServer(lab);
  await whileConnected(lab, [FAR, "--route", "0.0.0.0/1", "--route", "128.0.0.0/1"], async () => {
    await (
      await listenTo(lab, "internet", "192.168.1.100", 2222)
    )(5);
    for (const address of [TARGET, BEYOND]) assert.match(way(lab, address), /dev tun0/);
  });
});

labTest("a --route that is the client's own network is refused with the server in it, too", async (lab) => {
  await startServer(lab);
  const own = client(lab, SERVER, "--route", "192.168.1.0/24");
  assert.match(await refuses(own, /it is this machine's own network, on eth0/), /halves of it/);
});

labTest("--cipher xor: the hint about a block in use says what is changed on each end", async (lab) => {
  lab.run("client", "ip addr add 10.8.0.77/24 dev eth0");
  const server = startProgram(lab, "server", "server", ["--cipher", "xor", "--configure"]);
  await server.until(/listening on/);
  const xor = ["--cipher", "xor"];
  const said = await refuses(client(lab, SERVER, ...xor), /Cannot use 10\.8\.0\.0\/24 inside the tunnel/);
  const [, block] = /^another --address here, and --subnet (\S+)\.0\/24 on the server/.exec(said)!;
  await server.stop();
  const next = startProgram(lab, "server", "server", [...xor, "--configure", "--subnet", `${block}.0/24`]);
  await next.until(/listening on/);
  await whileConnected(lab, [SERVER, ...xor, "--address", `${block}.2/24`], () =>
    ping(lab, "client", `${block}.1`),
  );
});

labTest("a user's rule for a block yields to a --route inside it, and to nothing else", async (lab) => {
  await startServer(lab);
  for (const line of [
    "route add default via 192.168.1.1 table 100",
    "rule add to 8.0.0.0/8 lookup 100 pref 20000",
  ])
    lab.run("client", `ip ${line}`);
  for (const routes of [[], ALL]) {
    await whileConnected(lab, [FAR, ...routes, "--route", `${TARGET}/32`], () => {
      assert.match(way(lab, TARGET), /dev tun0/);
      assert.match(way(lab, "8.1.2.3"), /dev eth0 table 100/);
    });
  }
});

labTest(
  "a user's rule for all packets, before main, takes neither the inner subnet nor a --route",
  async (lab) => {
    lab.addIPv6();
    for (const [host, router] of [
      ["client", "192.168.1.1"],
      ["server", BEYOND],
    ] as const) {
      lab.run(host, "ip route add 192.168.1.0/24 dev eth0 table 100");
      for (const line of [
        `ip route add default via ${router} table 100`,
        "ip rule add lookup 100 pref 20000",
      ])
        lab.run(host, line);
    }
    const before = snapshot(lab, "server");
    const server = await startServer(lab);
    await whileConnected(lab, [SERVER, "--route", `${TARGET}/32`], () => {
      for (const target of ["10.8.0.1", TARGET]) ping(lab, "client", target);
      assert.match(way(lab, "10.8.0.2", "server"), /dev tun0/);
    });
    assert.equal(await server.stop(), 0, server.output);
    assert.equal(snapshot(lab, "server"), before);
  },
);

labTest("a --route that a rule in front of ours takes away is said", async (lab) => {
  await startServer(lab);
  for (const line of [
    "route add default via 192.168.1.1 table 100",
    `rule add to ${TARGET} lookup 100 pref 100`,
  ])
    lab.run("client", `ip ${line}`);
  await whileConnected(
    lab,
    [SERVER, "--route", `${TARGET}/32`, "--route", "203.0.113.0/24"],
    ({ output }) => {
      assert.match(
        output,
        /not into the tunnel: 8\.8\.8\.8 of 8\.8\.8\.8\/32 goes via 192\.168\.1\.1 dev eth0, for a rule/,
      );
      assert.doesNotMatch(output, /of 203|more/);
    },
  );
});

labTest("a route that leads nowhere, or two ways, is named, and the hint takes it away", async (lab) => {
  await startServer(lab);
  for (const [route, words] of [
    [`blackhole ${TARGET}`, /this machine routes it nowhere \(blackhole\) already/],
    [
      `${TARGET} nexthop via 192.168.1.1 nexthop via 192.168.1.7`,
      /this machine routes it out of eth0 and eth0 already/,
    ],
  ] as const) {
    lab.run("client", `ip route add ${route}`);
    const said = await refuses(client(lab, SERVER, "--route", `${TARGET}/32`), words);
    lab.run("client", /ip route del \S+( dev \S+)?/.exec(said)![0]!.replace(/,$/, ""));
    await whileConnected(lab, [SERVER, "--route", `${TARGET}/32`], () => ping(lab, "client", TARGET));
  }
});

labTest(
  "a second client runs beside the first where the user's rules name only some packets",
  async (lab) => {
    await startServer(lab);
    lab.run("client", "ip rule add fwmark 0xcafe lookup 100 pref 20000");
    const other = startProgram(
      lab,
      "server",
      "server",
      [
        "--configure",
        "--subnet",
        "10.9.0.0/24",
        "--subnet6",
        "fd00:9::/96",
        "--tun",
        "tun1",
        "--port",
        "5556",
      ],
      SECRET,
    );
    await other.until(/listening on/);
    await whileConnected(lab, [SERVER, "--route", `${TARGET}/32`], async () => {
      await whileConnected(lab, [SERVER, "--port", "5556", "--tun", "tun1", "--route", "10.77.0.0/16"], () =>
        ping(lab, "client", "10.9.0.1"),
      );
      ping(lab, "client", TARGET);
    });
  },
);

labTest(
  "what the machine has is read anew before each connection: a new address is left out, too",
  async (lab) => {
    const server = await startServer(lab);
    await whileConnected(lab, [FAR, ...ALL], async (user) => {
      lab.run("client", "ip addr add 192.168.1.150/24 dev eth0"); // as DHCP in another network would
      await server.stop();
      const again = await startServer(lab);
      await user.until(/connected again/);
      assert.match(lab.run("client", "ip rule"), /^8601:\s+from 192\.168\.1\.150 goto 8999$/m);
      await again.stop();
      lab.run("client", "ip addr add 10.8.0.77/24 dev eth0"); // and in this one there is the tunnel's block
      await startServer(lab);
      await user.until(
        /Cannot use 10\.8\.0\.0\/24 .*: on this machine eth0 has 10\.8\.0\.77\/24.*trying again/,
      );
      for (const address of ["10.8.0.77/24", "192.168.1.150/24"])
        lab.run("client", `ip addr del ${address} dev eth0`);
      await user.until(/10\.8\.0\.77[^]*connected again/);
      ping(lab, "client", BEYOND);
    });
  },
);

labTest("a client that has given up root says how its user undoes what it asks him to type", async (lab) => {
  const hosts = join(newFolder(), "hosts");
  writeFileSync(hosts, `${FAR} vpn.test\n`);
  lab.run("lab", `mount --bind ${hosts} /etc/hosts`);
  const server = await startServer(lab);
  const before = snapshot(lab, "client");
  const user = client(lab, "vpn.test", ...ALL, "--user", "nobody");
  await user.until(/connected to/);
  writeFileSync(hosts, `${SERVER} vpn.test\n`);
  await server.stop();
  const [, typed, undone] = await user.until(
    /may be at 192\.168\.1\.1 now[^]*as root:\n  (ip .*)\n.*and, when this program has ended:\n  (ip .*)\n/,
  );
  lab.run("client", typed!);
  await startServer(lab);
  await user.until(/connected again/);
  await user.stop();
  lab.run("client", undone!);
  await retry(() => assert.equal(snapshot(lab, "client"), before));
});
