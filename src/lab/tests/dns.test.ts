/** `--dns`: names are asked through the tunnel. Whatever ends the client, /etc/resolv.conf is as before. */
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, ours, SERVER, TARGET } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, retry, SECRET, snapshot, standIn, startServer } from "./testing.ts";
import { newFolder } from "./folder.ts";

const FILE = "/etc/resolv.conf";
const THEIRS = "nameserver 192.168.1.1\n";
const OTHERS = "nameserver 192.168.1.7\n"; // the text of another program
const NO_MOUNT = standIn("mount", "echo 'mount: permission denied' >&2; exit 1");
const WAYS = [
  ["mounted", SECRET],
  ["copied", NO_MOUNT],
] as const;

/** Gives the lab an /etc of its own, with this resolv.conf; then a server. */
async function begin(lab: Lab, text = THEIRS): Promise<Running> {
  lab.try("lab", "cp -a /etc /run/etc"); // without root, a few files cannot be read
  lab.run("lab", "mount --bind /run/etc /etc");
  lab.run("lab", `rm -f ${FILE}`);
  write(lab, FILE, text);
  return startServer(lab);
}

function write(lab: Lab, file: string, text: string): void {
  lab.run("lab", ["sh", "-c", `printf %s "$1" > ${file}`, "sh", text]);
}
const read = (lab: Lab) => lab.run("lab", `cat ${FILE}`);
const isOurs = /^# .*simple-vpn-\d+\nnameserver 8\.8\.8\.8\n$/;
const ARGS = [SERVER, "--configure", "--dns", TARGET];

/** A client that is connected. */
async function start(lab: Lab, env: { env: NodeJS.ProcessEnv }, host = "client"): Promise<Running> {
  const server = host === "client" ? SERVER : "192.168.2.1";
  const client = startProgram(lab, host, "client", [server, ...ARGS.slice(1)], env);
  await client.until(/connected to/);
  return client;
}

/** resolv.conf has this text, and no file of ours is left. */
const isBack = (lab: Lab, text = THEIRS) =>
  retry(() => {
    assert.equal(lab.try("lab", "find /run /etc -name *simple-vpn*").stdout, "");
    assert.equal(read(lab), text);
  });

/** Kills a client together with its keeper. */
async function killBoth(lab: Lab, client: Running): Promise<void> {
  process.kill(Number(lab.run("lab", `pgrep -x -P ${client.child.pid} sh`)), "SIGKILL");
  await client.stop("SIGKILL");
}

/** The user's own mount, as a container has one. */
function mountTheirs(lab: Lab): void {
  write(lab, "/run/theirs", OTHERS);
  lab.run("lab", `mount --bind /run/theirs ${FILE}`);
}

labTest("names go through the tunnel; then resolv.conf is as before, after SIGKILL, too", async (lab) => {
  await begin(lab);
  const internet = ours("lab/internet");
  await new Running(lab.spawn("internet", internet)).until(/ready/);
  for (const [way, env] of WAYS) {
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const client = await start(lab, env);
      assert.match(read(lab), isOurs);
      assert.match(lab.run("client", "getent hosts some.name.test"), /^8\.8\.8\.8 +some\.name\.test/);
      assert.equal(await client.stop(signal), signal === "SIGTERM" ? 0 : signal, way + client.output);
      await isBack(lab);
    }
  }
});

labTest("everybody may read the file, whatever the umask; where there was none, too", async (lab) => {
  await begin(lab);
  for (const missing of [false, true]) {
    for (const [way, env] of WAYS) {
      if (missing) lab.run("lab", `rm -f ${FILE}`);
      const words = [...ours("client"), ...ARGS];
      const strict = ["sh", "-c", 'umask 077; exec "$@"', "sh", ...words];
      const client = new Running(lab.spawn("client", strict, env));
      await client.until(/connected to/);
      assert.equal(lab.run("lab", `stat -L -c %a ${FILE}`), "644\n", way);
      assert.equal(await client.stop(), 0, client.output);
    }
  }
});

labTest(
  "resolv.conf behind a symlink of a folder, as resolvconf has it: ours is known all the same",
  async (lab) => {
    await begin(lab);
    lab.run("lab", [
      "sh",
      "-c",
      "mkdir -p /run/resolvconf /etc/resolvconf && ln -s /run/resolvconf /etc/resolvconf/run",
    ]);
    lab.run("lab", `mv ${FILE} /run/resolvconf/resolv.conf`);
    lab.run("lab", `ln -s /etc/resolvconf/run/resolv.conf ${FILE}`);
    const client = await start(lab, SECRET);
    await killBoth(lab, client);
    assert.match(read(lab), isOurs);
    const next = await start(lab, SECRET);
    assert.equal(await next.stop(), 0, next.output);
    await isBack(lab);
  },
);

labTest("without --configure, what is typed is undone by what is printed beside it", async (lab) => {
  await begin(lab);
  const before = snapshot(lab, "client");
  const args = [SERVER, "--dns", TARGET, "--route", "0.0.0.0/0"];
  const client = startProgram(lab, "client", "client", args, SECRET);
  const [, typed, undone] = await client.until(/as root:\n((?:  .*\n)+).*program has ended:\n((?:  .*\n)+)/);
  const type = (lines: string) => lab.run("client", ["sh", "-ec", lines]);
  type(typed!);
  assert.match(read(lab), isOurs);
  assert.equal(await client.stop(), 0, client.output);
  type(undone!);
  await isBack(lab);
  assert.equal(snapshot(lab, "client"), before);
});

labTest("a name server that a rule of the user's keeps from the tunnel is said", async (lab) => {
  await begin(lab);
  for (const line of [
    "route add default via 192.168.1.1 table 100",
    `rule add to ${TARGET} lookup 100 pref 100`,
  ])
    lab.run("client", `ip ${line}`);
  const client = await start(lab, SECRET);
  assert.match(
    client.output,
    /not into the tunnel: 8\.8\.8\.8 of 8\.8\.8\.8\/32 goes via 192\.168\.1\.1 dev eth0/,
  );
});

labTest("a client that is killed before it mounts its file leaves the user's own mount", async (lab) => {
  await begin(lab);
  mountTheirs(lab);
  const folder = newFolder();
  const wait = `touch ${folder}/begun; until [ -e ${folder}/go ]; do sleep 0.05; done; exit 1`;
  const client = startProgram(lab, "client", "client", ARGS, standIn("mount", wait));
  await retry(() => assert.ok(existsSync(join(folder, "begun")), "the command has begun"));
  client.child.kill("SIGKILL");
  writeFileSync(join(folder, "go"), "");
  await client.ended;
  await isBack(lab, OTHERS);
});

labTest("what others put there meanwhile stays: a mount over ours, and text over our copy", async (lab) => {
  await begin(lab);
  const copied = await start(lab, NO_MOUNT);
  write(lab, FILE, `${OTHERS}# meanwhile\n`);
  assert.equal(await copied.stop(), 0, copied.output);
  assert.equal(read(lab), `${OTHERS}# meanwhile\n`);
  const mounted = await start(lab, SECRET);
  mountTheirs(lab);
  assert.equal(await mounted.stop(), 1, mounted.output);
  assert.equal(read(lab), OTHERS);
  const [, hint] = /Cannot undo everything.*what is left of these: (.*)/.exec(mounted.output)!;
  lab.run("lab", `umount ${FILE}`);
  lab.try("client", ["sh", "-c", hint!]); // some of it is undone already
  assert.equal(read(lab), `${OTHERS}# meanwhile\n`, "what the hint names works");
  assert.equal(lab.run("lab", "find /run -name simple-vpn-*"), "");
});

labTest("a second client with --dns is refused; it works once the first one has ended", async (lab) => {
  await begin(lab);
  lab.addClient(2);
  for (const [, env] of WAYS) {
    const first = await start(lab, env);
    const second = startProgram(lab, "client2", "client", ["192.168.2.1", ...ARGS.slice(1)], env);
    const [, pid] = await second.until(/Cannot use --dns: the client with pid \d+ has .*Try: kill (\d+)/);
    assert.equal(await second.ended, 1, second.output);
    assert.match(read(lab), isOurs);
    process.kill(Number(pid), "SIGTERM");
    assert.equal(await first.ended, 0, first.output);
    const third = await start(lab, env, "client2");
    assert.equal(await third.stop(), 0, third.output);
    await isBack(lab);
  }
});

labTest("what a client left that was killed together with its keeper goes with the next one", async (lab) => {
  await begin(lab);
  for (const [way, env] of WAYS) {
    for (const [next, nextEnv] of WAYS) {
      await killBoth(lab, await start(lab, env));
      assert.match(read(lab), isOurs);
      const client = await start(lab, nextEnv);
      assert.match(read(lab), isOurs);
      assert.equal(await client.stop(), 0, client.output);
      assert.equal(read(lab), THEIRS, `${way}, then ${next}`);
      await isBack(lab);
    }
  }
});

labTest("a copy that cannot be written back is not lost", async (lab) => {
  await begin(lab);
  const full = `echo "cp: No space left on device" >&2; exit 1`;
  const { env } = standIn("cp", `case "$1" in *before*) ${full} ;; *) real "$@" ;; esac`);
  const noMount = NO_MOUNT.env.PATH!.split(":")[0];
  const client = await start(lab, { env: { ...env, PATH: `${noMount}:${env.PATH}` } });
  assert.equal(await client.stop(), 1);
  assert.match(client.output, /Cannot undo everything/);
  assert.equal(lab.run("lab", ["sh", "-c", `cat ${FILE}.before*`]), THEIRS);
});

labTest("systemd-resolved is told, for this interface alone, where resolv.conf leads to it", async (lab) => {
  await begin(lab);
  const log = join(newFolder(), "log");
  const resolvectl = standIn("resolvectl", `echo "$@" >> ${log}`);
  lab.run("lab", "mkdir -p /run/systemd/resolve");
  const plain = await start(lab, resolvectl);
  assert.match(read(lab), isOurs, "it runs, but programs do not ask it");
  await plain.stop();
  assert.ok(!existsSync(log));

  const stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\n";
  const link = () => {
    write(lab, "/run/systemd/resolve/resolv.conf", THEIRS);
    lab.run("lab", `ln -sf ../run/systemd/resolve/resolv.conf ${FILE}`);
  };
  const places = [
    [stub, () => write(lab, FILE, stub)],
    [THEIRS, link],
  ] as const;
  for (const [text, set] of places) {
    set();
    writeFileSync(log, "");
    const client = await start(lab, resolvectl);
    assert.equal(lab.run("lab", `cat ${log}`), `dns tun0 ${TARGET}\ndomain tun0 ~.\n`);
    assert.match(lab.run("client", `ip route get ${TARGET}`), /dev tun0/);
    assert.equal(read(lab), text);
    assert.equal(await client.stop(), 0, client.output);
    await isBack(lab, text);
  }
});

labTest("a systemd-resolved that refuses is left alone, and the file is used instead", async (lab) => {
  const stub = "nameserver 127.0.0.53\n";
  let server = await begin(lab, stub);
  for (const [refused, subnet] of [
    ["dns", "172.16.5"],
    ["domain", "172.16.6"],
  ] as const) {
    const fails = `[ $1 != ${refused} ] || { echo "Failed to set it" >&2; exit 1; }`;
    const client = await start(lab, standIn("resolvectl", fails));
    assert.match(client.output, new RegExp(`'resolvectl ${refused} .*Failed to set it; so, instead:`));
    await server.stop();
    server = await startServer(lab, "--subnet", `${subnet}.0/24`);
    await client.until(new RegExp(`now ${subnet}.2/24`));
    assert.match(read(lab), isOurs);
    assert.equal(client.output.split("# mount").length, 2, "once, whatever the inner address");
    assert.equal(await client.stop(), 0, client.output);
    await isBack(lab, stub);
  }
});

labTest("no resolv.conf, or one that leads nowhere: it is made, and goes at the end", async (lab) => {
  await begin(lab);
  for (const link of [undefined, "../run/none/of/these/resolv.conf"]) {
    lab.run("lab", `rm -f ${FILE}`);
    if (link) lab.run("lab", `ln -s ${link} ${FILE}`);
    for (const [way, env] of WAYS) {
      for (const signal of ["SIGTERM", "SIGKILL"] as const) {
        const client = await start(lab, env);
        assert.match(read(lab), isOurs);
        assert.equal(await client.stop(signal), signal === "SIGTERM" ? 0 : signal, way + client.output);
        const left = ["sh", "-c", `ls -d ${FILE}* /run/none /run/simple-vpn*`];
        await retry(() => assert.equal(lab.try("lab", left).stdout, link ? `${FILE}\n` : "", way));
      }
    }
  }
});

labTest("no resolv.conf, and none can be made: a Failure that names --dns", async (lab) => {
  await begin(lab);
  lab.run("lab", `rm -f ${FILE}`);
  lab.run("lab", "mount -o remount,ro,bind /etc");
  const client = startProgram(lab, "client", "client", ARGS, SECRET);
  assert.equal(await client.ended, 1, client.output);
  const said = /^error Cannot run '.*\/etc\/resolv\.conf': .*Read-only file system\. Try: .*leave --dns out/m;
  assert.match(client.output, said);
  lab.run("lab", "mount -o remount,rw,bind /etc");
  write(lab, FILE, THEIRS);
  lab.run("lab", "mount -o remount,ro,bind /etc");
  const mounted = await start(lab, SECRET);
  assert.match(read(lab), isOurs, "over a file that cannot be written");
  assert.equal(await mounted.stop(), 0, mounted.output);
  await isBack(lab);
  const copied = startProgram(lab, "client", "client", ARGS, NO_MOUNT);
  assert.equal(await copied.ended, 1, copied.output);
  await isBack(lab);
});
