/**
 * What a student sees when something is wrong: one line, what to try, the right exit code, and never a stack
 * trace.
 */
import assert from "node:assert/strict";
import { type Lab, LAB_SECRET, SERVER } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, ping, retry, SECRET, standIn, startClient, startServer } from "./testing.ts";

const node = (lab: Lab, host: string, script: string) =>
  new Running(lab.spawn(host, [process.execPath, "-e", script]));

/** `running` must end with `code` and print one line of error that matches, with something to try. */
async function endsWith(running: Running, code: number, message: RegExp): Promise<void> {
  assert.equal(await running.ended, code, running.output);
  const lines = running.output.split("\n").filter((line) => line.startsWith("error"));
  assert.equal(lines.length, 1, running.output);
  assert.match(lines[0]!, message);
  assert.match(lines[0]!, / Try: \S/);
  assert.doesNotMatch(running.output, /^\s+at /m, "no stack trace");
}

labTest("wrong usage: exit code 2, and --help and --version: 0", async (lab) => {
  const wrong: ["client" | "server", string[], RegExp][] = [
    ["client", [], /expected one server/],
    ["client", [SERVER, "--nonsense"], /--nonsense/],
    ["client", [SERVER, "--port", "70000"], /--port 70000 is no whole number from 1 to 65535/],
    ["server", ["--subnet", "10.8.0.0"], /--subnet 10\.8\.0\.0 is not ADDRESS\/PREFIX/],
    ["server", ["--tun", "this-name-is-too-long"], /has 21 bytes, expected 1 to 15/],
    ["server", ["--mtu", "20"], /--mtu 20 is no whole number from 68/],
  ];
  for (const [program, args, message] of wrong)
    await endsWith(startProgram(lab, program, program, args, SECRET), 2, message);
  for (const [option, output] of [
    ["--help", /^Usage: npx tsx src\/client\.ts <server>/],
    ["--version", /^simple-vpn \d+\.\d+\.\d+\n$/],
  ] as const) {
    const running = startProgram(lab, "client", "client", [option]);
    assert.equal(await running.ended, 0);
    assert.match(running.output, output);
  }
});

labTest("a server that cannot be used: refused, unreachable, unknown, foreign, silent", async (lab) => {
  const client = (...args: string[]) =>
    startProgram(lab, "client", "client", [...args, "--trace", "off"], {
      env: { ...SECRET.env, RES_OPTIONS: "timeout:1 attempts:1" },
    }); // resolv.conf(5)
  await endsWith(client(SERVER), 1, /Cannot connect to 192\.168\.1\.1:5555: ECONNREFUSED.*start the server/);
  await endsWith(
    client("192.168.1.77"),
    1,
    /Cannot connect to 192\.168\.1\.77:5555: (EHOSTUNREACH|ETIMEDOUT)/,
  );
  await endsWith(client("no.such.name.invalid"), 1, /Cannot find no\.such\.name\.invalid/);

  const start = async (whatItDoes: string) => {
    const other = node(
      lab,
      "server",
      `
      require("node:net").createServer((socket) => {
        socket.on("error", () => {});
        ${whatItDoes}
      }).listen(5555, () => console.log("listening"));`,
    );
    await other.until(/listening/);
    return other;
  };
  const foreign = await start('socket.end("SSH-2.0-OpenSSH_9.2\\r\\n");');
  await endsWith(
    client(SERVER),
    1,
    /unknown frame type 83 \(not our protocol.*check that it is a Simple VPN server/,
  );
  await foreign.stop("SIGKILL");

  const closing = await start('socket.on("data", () => socket.end());');
  await endsWith(client(SERVER), 1, /it closed the connection during the handshake/);
  await closing.stop("SIGKILL");

  await start("// nothing");
  await endsWith(client(SERVER), 1, /no handshake within 10 s/);
});

labTest("a TUN that cannot be had: no device, no privilege, name in use; a port in use", async (lab) => {
  const inShell = (script: string) =>
    new Running(
      lab.spawn(
        "client",
        ["sh", "-c", script.replace("CLIENT", `${process.execPath} --import tsx src/client.ts ${SERVER}`)],
        SECRET,
      ),
    );
  await endsWith(
    inShell("unshare --mount sh -c 'mount -t tmpfs tmpfs /dev/net && CLIENT'"),
    1,
    /Cannot open \/dev\/net\/tun: ENOENT.*modprobe tun/,
  );
  await endsWith(
    inShell("setpriv --bounding-set -net_admin --inh-caps -net_admin CLIENT"),
    1,
    /Cannot create the interface tun0: EPERM.*run as root/,
  );

  await startServer(lab);
  await endsWith(
    startProgram(lab, "server", "server", ["--port", "6000"], SECRET),
    1,
    /Cannot create the interface tun0: EBUSY.*--tun/,
  );
  await endsWith(
    startProgram(lab, "server", "server", ["--tun", "tun1"], SECRET),
    1,
    /Cannot listen on \*:5555: EADDRINUSE.*--port/,
  );
  await endsWith(
    startProgram(lab, "server", "server", ["--tun", "eth0", "--port", "6000"], SECRET),
    1,
    /Cannot create the interface eth0: EINVAL.*--tun/,
  );
  await endsWith(
    startProgram(
      lab,
      "server",
      "server",
      ["--tun", "tun1", "--port", "6000", "--listen", "10.1.2.3"],
      SECRET,
    ),
    1,
    /EADDRNOTAVAIL.*--listen/,
  );
});

labTest("a --configure that fails says which command failed and why, and undoes what it did", async (lab) => {
  await startServer(lab);
  const ip = standIn(
    "ip",
    `case "$*" in *-batch*) sed 's/9.9.9.9.*/9.9.9.9 dev nosuch0/' | real "$@" ;; *) real "$@" ;; esac`,
  );
  const running = startProgram(lab, "client", "client", [SERVER, "--configure", "--route", "9.9.9.9/32"], ip);
  await endsWith(
    running,
    1,
    /Cannot run 'ip route add 9\.9\.9\.9\/32 dev tun0': Cannot find device "nosuch0"\. Try: run it by hand/,
  );
  assert.equal(lab.try("client", "ip link show tun0").status, 1);
});

labTest("a server that breaks off right after the handshake is lost, not waited for: --once", async (lab) => {
  const script = `
    import { answer } from "./src/session/session.ts";
    import { tcp } from "./src/transport/tcp.ts";
    const secret = Buffer.from("${LAB_SECRET}", "hex");
    const config = { address: 0x0a080002, prefix: 24, mtu: 1400 };
    tcp.open({ listen: "0.0.0.0", port: 5555, handshake: true }).serve({
      onArrival: () => ({ lost() {} }),
      onMissed() {},
      // it says that, and no more
      onHello(caller, message1) {
        const { message2 } = answer([secret], message1, () => true, () => config);
        caller.refuse(message2);
      },
    });
    console.log("listening");`;
  const server = new Running(
    lab.spawn("server", [process.execPath, "--import", "tsx", "--input-type=module", "-e", script]),
  );
  await server.until(/listening/);
  await endsWith(
    startProgram(lab, "client", "client", [SERVER, "--configure", "--once"], SECRET),
    1,
    /Lost the server 192\.168\.1\.1:5555/,
  );
});

labTest(
  "routes and subnets that would send the tunnel into itself, and a --nat that does not exist, are refused",
  async (lab) => {
    await endsWith(
      startProgram(lab, "server", "server", ["--configure", "--nat", "nosuch0"], SECRET),
      1,
      /Cannot use --nat nosuch0: there is no such interface/,
    );
    const server = await startServer(lab);
    const client = (...args: string[]) =>
      startProgram(lab, "client", "client", [...args, "--configure"], SECRET);
    await endsWith(
      client(SERVER, "--route", `${SERVER}/32`),
      1,
      /Cannot route the server itself into the tunnel to it: --route 192\.168\.1\.1\/32/,
    );
    await endsWith(client("::1"), 1, /Cannot connect to \[::1\]:5555: ECONNREFUSED.*nothing listens/);
    await server.stop();
  },
);

labTest("a full disk under the trace file, and nobody reading what is printed, end nothing", async (lab) => {
  const server = await startServer(lab, "--trace-file", "/dev/full");
  await server.until(/the trace file cannot be written any more: ENOSPC/);
  const command = `${process.execPath} --import tsx src/client.ts ${SERVER}`;
  const options = "--once --configure --route 8.8.8.8/32";
  lab.spawn("client", ["sh", "-c", `${command} ${options} | head -n 1`], SECRET);
  await server.until(/client 10\.8\.0\.2 connected/);
  await retry(() => ping(lab, "client", "8.8.8.8", 1)); // its route is the last that is configured
  for (let i = 0; i < 3; i++) ping(lab, "client", "10.8.0.1", 3);
});

labTest("hostile bytes cost only the connection that sent them", async (lab) => {
  const server = await startServer(lab);
  await startClient(lab);
  const attack = (bytes: string) =>
    node(
      lab,
      "internet",
      `
    const socket = require("node:net").connect(5555, "203.0.113.1", () => socket.write(${bytes}));
    socket.on("error", () => {}).on("close", () => process.exit(0)).resume();`,
    );
  const attacks = [
    `Buffer.from("GET / HTTP/1.1\\r\\n\\r\\n")`,
    `Buffer.alloc(100)`,
    `Buffer.from("01ffffff", "hex")`,
    `Buffer.from("01000000", "hex")`,
    `Buffer.concat([Buffer.from("01000030", "hex"), require("node:crypto").randomBytes(48)])`,
    `Buffer.concat([Buffer.from("02000030", "hex"), require("node:crypto").randomBytes(48)])`,
    `require("node:crypto").randomBytes(1 << 20)`,
  ];
  for (const bytes of attacks) {
    const refused = server.output.split("refused").length;
    assert.equal(await attack(bytes).ended, 0);
    await server.until(new RegExp(`(refused[^]*){${refused}}`));
  }
  ping(lab, "client", "8.8.8.8");
  assert.doesNotMatch(server.output, /^\s+at |unexpected/m);
});
