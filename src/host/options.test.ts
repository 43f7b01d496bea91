import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import fs, { chmodSync, chownSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { Failure } from "../base/failure.ts";
import { clientOptions, hasQuic, serverOptions } from "./options.ts";
import { newFolder } from "../lab/tests/folder.ts";

const folder = newFolder();
function secretFile(text: string, mode = 0o600): string {
  const path = join(folder, `${Math.random()}`);
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}
const [GOOD, OTHER] = ["one", "other"].map((text) => createHash("sha256").update(text).digest("hex"));
const SECRET = secretFile(`${GOOD}\n`);
const hexOf = (secrets: Buffer[] | undefined) => secrets?.map((secret) => secret.toString("hex"));
const client = (...args: string[]) => clientOptions(["192.168.1.1", "--secret", SECRET, ...args]);
const server = (...args: string[]) => serverOptions(["--secret", SECRET, ...args]);

/** The failure must be one line, have a hint, and the exit code given. */
function refuses(run: () => unknown, message: RegExp, exitCode = 2, hint = /./): void {
  assert.throws(run, (error) => {
    assert.ok(error instanceof Failure, String(error));
    assert.match(error.message, message);
    assert.ok(!error.message.includes("\n") && error.hint.length > 0);
    assert.match(error.hint, hint);
    assert.equal(error.exitCode, exitCode);
    return true;
  });
}

test("the defaults are those of the README", () => {
  const { secrets, ...rest } = client();
  assert.deepEqual(hexOf(secrets), [GOOD]);
  assert.deepEqual(rest, {
    server: "192.168.1.1",
    routes: [],
    dns: [],
    socks: undefined,
    address: { address: 0x0a080002, prefix: 24, network: 0x0a080000, size: 256 },
    transport: "tcp",
    tcpFlags: [0x18],
    kcp: "fast",
    port: 5555,
    tun: "tun0",
    mtu: 1400,
    offload: "on",
    trace: "walk",
    traceFile: undefined,
    status: undefined,
    metrics: undefined,
    configure: false,
    user: undefined,
    killSwitch: false,
    once: false,
    rekey: 120,
  });
  const { listen, subnet, subnet6, nat, maxClients } = server();
  assert.deepEqual(
    [listen, subnet.network, subnet.prefix, subnet6, nat, maxClients],
    ["*", 0x0a080000, 24, [0xfd56504e, 0, 0], undefined, 253],
  );
});

test("every option is read", () => {
  const options = client(
    "--port",
    "65535",
    "--tun",
    "vpn-long-name15",
    "--mtu",
    "68",
    "--trace",
    "off",
    "--trace-file",
    "t",
    "--configure",
    "--route",
    "8.8.8.8/32",
    "--route",
    "0.0.0.0/0",
  );
  assert.deepEqual(
    [
      options.port,
      options.tun,
      options.mtu,
      options.trace,
      options.traceFile,
      options.configure,
      options.routes,
    ],
    [65535, "vpn-long-name15", 68, "off", "t", true, ["8.8.8.8/32", "0.0.0.0/0"]],
  );
  assert.equal(clientOptions(["s", "--cipher", "xor"]).secrets, undefined, "xor has no secret");
  for (const nat of ["eth1", "eth1@if2", "eth1@long-name.10"]) assert.equal(server("--nat", nat).nat, "eth1");
  assert.deepEqual(
    [server("--subnet6", "off").subnet6, server("--subnet6", "fd00:1:2::/96").subnet6],
    [undefined, [0xfd000001, 0x00020000, 0]],
  );
  for (const address of ["10.1.2.3", "::", "2001:db8::1"])
    assert.equal(server("--listen", address).listen, address);
  assert.deepEqual(client("--route", "::/0", "--route", "2001:DB8::/32").routes, ["::/0", "2001:db8::/32"]);
  const { dns } = client("--dns", "8.8.8.8", "--dns", "2001:4860:4860:0::8888");
  assert.deepEqual(dns, ["8.8.8.8", "2001:4860:4860::8888"]);
  for (const [text, host, port] of [
    ["9586", "127.0.0.1", 9586],
    ["0.0.0.0:1", "0.0.0.0", 1],
    ["[::1]:65535", "::1", 65535],
  ] as const)
    assert.deepEqual(server("--metrics", text).metrics, { host, port });
  for (const path of ["/run/vpn.sock", "vpn.sock", "/tmp/tén", "/".padEnd(107, "x")])
    assert.equal(server("--status", path).status, path);
  const { transport, tcpFlags, kcp, mtu } = client(
    "--transport",
    "raw",
    "--tcp-flags",
    "PA,A",
    "--kcp",
    "fast3",
  );
  assert.deepEqual([transport, tcpFlags, kcp, mtu], ["raw", [0x18, 0x10], "fast3", 1400]);
  assert.deepEqual([client("--once").once, client("--rekey", "1").rekey], [true, 1]);
});

test("wrong usage is one line that says what was wrong and what to try, exit code 2", () => {
  refuses(() => clientOptions([]), /expected one server, got 0/);
  for (const dns of ["127.0.0.53", "0.0.0.0", "::1", "::", "0:0::0.0.0.1"])
    refuses(() => client("--dns", dns), /--dns \S+ is this machine itself: name one that the server reaches/);
  for (const dns of ["dns.test", "fe80::1%eth0", "8.8.8", "::ffff:127.0.0.1"])
    refuses(() => client("--dns", dns), /--dns \S+ is no IP address/);
  for (const flags of ["", "P", "PA,", "SA", "PAR", "FA", "pa", "PA A"])
    refuses(() => client("--tcp-flags", flags), /--tcp-flags .* is no list such as PA,A/);
  refuses(() => server("--kcp", "slow"), /--kcp slow is not one of normal, fast, fast2, fast3/);
  refuses(() => server("--transport", "raw", "--cipher", "xor"), /for TCP/);
  for (const metrics of [
    "",
    "0",
    "65536",
    "::1:9586",
    "[127.0.0.1]:9586",
    "localhost:9586",
    "127.0.0.1:",
    "1e3",
  ])
    refuses(() => server("--metrics", metrics), /--metrics/);
  for (const path of [
    "",
    "/tmp/a b",
    "/tmp/a\tb",
    "/tmp/a\nb",
    "/tmp/\u00a0",
    "/".padEnd(108, "x"),
    "/é".padEnd(107, "x"),
  ])
    refuses(() => client("--status", path), /--status/);
  refuses(() => client("another"), /expected one server, got 2/);
  refuses(() => server("stray"), /unexpected argument stray/);
  refuses(() => client("--nonsense"), /--nonsense/);
  refuses(() => client("--port"), /--port/);
  for (const port of ["0", "65536", "x", "5.5", "", "1e3"]) refuses(() => client("--port", port), /--port/);
  refuses(() => client("--port", "-1"), /--port/);
  for (const mtu of ["67", "65536", "big"]) refuses(() => client("--mtu", mtu), /--mtu/);
  for (const name of ["sixteen-bytes-ab", "a/b", "", "..", "a b", "tun%d", "tünl"])
    refuses(() => client("--tun", name), /--tun/);
  for (const subnet of ["10.8.0.0", "10.8.0.0/31", "10.8.0.0/7", "10.8.0.256/24", "nonsense"])
    refuses(() => server("--subnet", subnet), /--subnet/);
  refuses(() => server("--subnet", "10.8.0.5/24"), /host bits/);
  refuses(() => server("--listen", "localhost"), /--listen/);
  for (const nat of ["a/b", "@if2", "sixteen-bytes-ab@if2"]) refuses(() => server("--nat", nat), /--nat/);
  for (const most of ["0", "x", "65535"]) refuses(() => server("--max-clients", most), /--max-clients/);
  refuses(() => client("--route", "8.8.8.8"), /--route/);
  refuses(() => client("--route", "8.8.8.8/24"), /host bits/);
  for (const route of ["::", "2001:db8::1/32", "::/129", "fe80::%eth0/64"])
    refuses(() => client("--route", route), /--route .*is no ADDRESS\/PREFIX/);
  for (const subnet6 of ["on", "fd00::/64", "fd00::1/96", "10.8.0.0/24"])
    refuses(() => server("--subnet6", subnet6), /--subnet6/);
  refuses(() => client("--address", "10.8.0.2"), /--address/);
  refuses(() => client("--cipher", "rot13"), /--cipher/);
  for (const seconds of ["0", "86401", "often"]) refuses(() => client("--rekey", seconds), /--rekey/);
  refuses(() => client("--trace", "loud"), /--trace/);
  for (const user of ["nosuch", "", "-G", "root", "0"]) refuses(() => client("--user", user), /--user/);
});

test("--transport quic needs a Node that has it: one that has not says so, and which one has", () => {
  if (hasQuic()) assert.equal(client("--transport", "quic").transport, "quic");
  else
    refuses(() => client("--transport", "quic"), /needs OpenSSL 3\.5 or later, and Node \d/, 2, /^Node 24/);
  refuses(() => client("--transport", "quic", "--cipher", "xor"), /--cipher xor|--transport quic needs/);
  refuses(() => client("--transport", "sctp"), /--transport sctp is not one of tcp, udp, quic/);
});

test("--user is for root: whoever is not cannot become another", (t) => {
  let uid = 1000; // one mock: a second one of the same would never be taken back
  t.mock.method(process as { getuid(): number }, "getuid", () => uid);
  refuses(() => client("--user", "nobody"), /--user nobody is for root/);
  uid = 0;
  assert.deepEqual(Object.keys(client("--user", "nobody").user!), ["name", "uid", "gid"]);
});

test("--user: a user of root's group is refused", (t) => {
  t.mock.method(process as { getuid(): number }, "getuid", () => 0);
  const { PATH } = process.env;
  t.after(() => (process.env.PATH = PATH));
  writeFileSync(join(folder, "id"), `#!/bin/sh\n[ $1 = -u ] && echo 1000 || echo 0\n`, { mode: 0o755 });
  process.env.PATH = `${folder}:${PATH}`;
  refuses(() => client("--user", "operator"), /--user operator is of root's group/);
});

test("an interface name that iptables or nft takes for a pattern is refused", () => {
  for (const name of ["tun+", "+", "tun*"]) {
    refuses(() => client("--tun", name), /--tun \S+ ends in a character that makes it a pattern/);
    refuses(() => server("--nat", name), /--nat/);
  }
  assert.equal(client("--tun", "tun+0").tun, "tun+0");
});

test("what was typed is repeated in one line, without control characters that a terminal would obey", () => {
  refuses(() => client("--tun", "a\nb"), /--tun a\?b has a character/);
  refuses(() => client("--tun", "\u001b[2J\u009b2J"), /--tun \?\[2J\?2J has/);
});

test("a secret that is missing, malformed or readable by others is refused", () => {
  refuses(() => client("--secret", join(folder, "none")), /ENOENT/, 1);
  for (const text of ["", "abc", "0".repeat(63), "0".repeat(65), "g".repeat(64)])
    refuses(() => client("--secret", secretFile(text)), /expected 64 hex digits/, 1, /move it away, then/);
  for (const mode of [0o640, 0o604, 0o620]) {
    const path = secretFile("0".repeat(64), mode);
    refuses(() => client("--secret", path), /other users/, 1, new RegExp(`^chmod 600 ${path}$`));
    assert.equal(statSync(path).mode & 0o777, mode, "its owner's to change");
  }
});

/** Runs it while a function of node:fs is another one. */
function instead(
  t: TestContext,
  name: "fchmodSync" | "statfsSync" | "openSync",
  other: () => unknown,
  run: () => void,
): void {
  const { mock } = t.mock.method(fs, name, other as never);
  syncBuiltinESMExports();
  try {
    run();
  } finally {
    mock.restore();
    syncBuiltinESMExports();
  }
}
const failing = (code: string) => () => {
  throw Object.assign(new Error(), { code });
};

test("a secret that others can read, where chmod cannot help: the environment is the hint", (t) => {
  const path = secretFile("0".repeat(64), 0o644);
  const hint = /^SIMPLE_VPN_SECRET=\$\(cat .*\) in front of npx or node, instead of --secret$/;
  const told = () => refuses(() => client("--secret", path), /other users/, 1, hint);
  instead(t, "fchmodSync", failing("EPERM"), told);
  instead(t, "statfsSync", () => ({ type: 0x4d44 }), told);
});

test("a secret that this user may not read: the hint says who may", (t) => {
  const hint = /^start as root \(sudo\), or as a user who may read it: 'namei -l /;
  instead(t, "openSync", failing("EACCES"), () => refuses(client, /: EACCES/, 1, hint));
});

test("a secret must be in a regular file: a folder is none, and a FIFO would wait, deaf to Ctrl-C", () => {
  const fifo = join(folder, "fifo");
  spawnSync("mkfifo", ["-m", "600", fifo]);
  const open = join(folder, "open");
  mkdirSync(open, 0o755);
  for (const path of [folder, open]) refuses(() => client("--secret", path), /it is a folder/, 1, /name a f/);
  refuses(() => client("--secret", fifo), /: it is no regular file/, 1, /^SIMPLE_VPN_SECRET=\$\(cat /);
  refuses(() => client("--secret", join(SECRET, "below-a-file")), /ENOTDIR/, 1, /check the path/);
});

test("a secret written on Windows is taken: with a byte order mark, with CR and LF", () => {
  const path = secretFile(`\ufeff${GOOD!.toUpperCase()}\r\n`);
  assert.deepEqual(hexOf(clientOptions(["s", "--secret", path]).secrets), [GOOD]);
});

test("a secret that can be guessed is refused, with a hint to make secret", () => {
  const row = Array.from({ length: 32 }, (_, i) => (3 * i + 250) % 256);
  for (const bytes of [row, [...row.slice(0, 16), ...row.slice(0, 16)].map((byte) => byte ^ 0x5a)])
    refuses(
      () => client("--secret", secretFile(Buffer.from(bytes).toString("hex"))),
      /a pattern/,
      1,
      /make sec/,
    );
  const weak = [
    "00".repeat(32),
    "5e".repeat(32),
    "0123456789abcdef".repeat(4),
    "00112233445566778899aabbccddee".repeat(3),
  ];
  for (const text of weak.map((digits) => digits.slice(0, 64))) {
    const words = [/can be guessed: too few different bytes/, 1, /make secret/] as const;
    refuses(() => client("--secret", secretFile(text)), ...words);
    process.env.SIMPLE_VPN_SECRET = text;
    refuses(() => clientOptions(["s"]), ...words);
  }
});

test("a secret file of another user's, who could change it, is refused; not that of sudo's user", (t) => {
  const path = secretFile(GOOD!);
  if (process.getuid!() !== 0) return t.skip("only root can give a file away");
  chownSync(path, 12345, 12345);
  const hint = new RegExp(`^chown root ${path}; or SIMPLE_VPN_SECRET=`);
  refuses(() => client("--secret", path), /belongs to user 12345, who can change it/, 1, hint);
  const before = process.env.SUDO_UID;
  process.env.SUDO_UID = "12345";
  t.after(() => (before === undefined ? delete process.env.SUDO_UID : (process.env.SUDO_UID = before)));
  assert.deepEqual(hexOf(clientOptions(["s", "--secret", path]).secrets), [GOOD]);
});

test("--secret twice: both are valid, in this order", () => {
  const path = secretFile(OTHER!);
  assert.deepEqual(hexOf(server("--secret", path).secrets), [GOOD, OTHER]);
  assert.deepEqual(hexOf(client("--secret", path).secrets), [GOOD, OTHER]);
});

test("the environment's secret is used unless --secret names a file; no command of ours gets it", (t) => {
  process.env.SIMPLE_VPN_SECRET = OTHER;
  assert.deepEqual(hexOf(client().secrets), [GOOD]);
  assert.equal(process.env.SIMPLE_VPN_SECRET, undefined);
  process.env.SIMPLE_VPN_SECRET = OTHER;
  assert.deepEqual(hexOf(clientOptions(["s"]).secrets), [OTHER]);
  for (const text of ["short", ""]) {
    process.env.SIMPLE_VPN_SECRET = text;
    const message = new RegExp(`SIMPLE_VPN_SECRET: expected 64 hex digits, got ${text.length}`);
    refuses(() => clientOptions(["s"]), message, 1, /unset SIMPLE_VPN_SECRET/);
  }
  const log = join(newFolder(), "environment");
  const { PATH } = process.env;
  t.after(() => (process.env.PATH = PATH));
  process.env.PATH = `${join(log, "..")}:${PATH}`; // --user asks id(1)
  writeFileSync(join(log, "../id"), `#!/bin/sh\nenv >> ${log}\necho 12345\n`, { mode: 0o755 });
  process.env.SIMPLE_VPN_SECRET = OTHER;
  if (process.getuid!() === 0) clientOptions(["s", "--user", "somebody"]);
  else refuses(() => clientOptions(["s", "--user", "somebody"]), /is for root/);
  const seen = readFileSync(log, "utf8");
  assert.ok(seen.includes("PATH=") && !seen.includes(OTHER!), "id's environment");
});

test("--socks is for this machine; for others it needs a login, out of a file or the environment", () => {
  const here = { host: "127.0.0.1", port: 1080, login: undefined, dns: [] };
  assert.deepEqual(client("--socks", "1080").socks, here);
  assert.deepEqual(client("--socks", "[::1]:1080").socks, { ...here, host: "::1" });
  assert.deepEqual(client("--socks", "1080", "--dns", "9.9.9.9").socks, { ...here, dns: ["9.9.9.9"] });
  const both = ["--dns", "9.9.9.9", "--socks-dns", "8.8.8.8", "--socks-dns", "10.8.0.1"];
  assert.deepEqual(client("--socks", "1080", ...both).socks, { ...here, dns: ["8.8.8.8", "10.8.0.1"] });
  for (const host of ["192.168.1.100", "0.0.0.0"])
    refuses(
      () => client("--socks", `${host}:1080`),
      /for other machines, too, and needs a login/,
      2,
      /--socks-l/,
    );
  for (const name of ["--socks-dns", "--socks-login"])
    refuses(() => client(name, "8.8.8.8"), /is for --socks/, 2, /add --socks 1080/);
  for (const text of ["", "0", "localhost:1080", "::1:1080"])
    refuses(() => client("--socks", text), /--socks .*is no/);

  const login = (...args: string[]) => client("--socks", "0.0.0.0:1080", ...args).socks?.login;
  const file = (text: string, mode?: number) => ["--socks-login", secretFile(text, mode)];
  assert.equal(login(...file("user:pass:word\n")), "user:pass:word");
  process.env.SIMPLE_VPN_SOCKS_LOGIN = "a:b";
  assert.equal(login(), "a:b");
  assert.equal(process.env.SIMPLE_VPN_SOCKS_LOGIN, undefined, "no command of ours gets it");
  for (const text of ["user", ":word", "user:", `${"u".repeat(256)}:word`, "a:b\nc:d", ""])
    refuses(() => login(...file(text)), /login for --socks .*is not USER:PASSWORD/, 1, /one line/);
  refuses(() => login(...file("a:b", 0o644)), /the login .*: other users can read it/, 1, /^chmod 600/);
  refuses(() => login("--socks-login", "/no/such"), /Cannot read the login .*ENOENT/, 1, /USER:PASSWORD/);
});
