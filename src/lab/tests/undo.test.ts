/** Nothing is left behind, however the programs end; and they can end, and begin again, without root. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, ROOT, SERVER, TARGET } from "../lab.ts";
import { type Running, startProgram } from "../running.ts";
import { labTest, ping, retry, SECRET, snapshot, standIn, startClient, startServer } from "./testing.ts";
import { newFolder } from "./folder.ts";

const state = (lab: Lab) => [snapshot(lab, "server"), snapshot(lab, "client"), ...readdirSync(ROOT)];
const FAR = "203.0.113.1"; // the server by an address that the client reaches through its default route only

/** A host whose rules are not a fresh one's, with one that differs from ours in the comment only. */
function furnish(lab: Lab): void {
  for (const rule of [
    "-t nat -A POSTROUTING -s 10.8.0.0/24 -o eth1 -j MASQUERADE",
    "-A FORWARD -i tun0 -j ACCEPT",
  ])
    lab.run("server", `iptables ${rule}`);
}

/**
 * Both programs, each with a process group of its own, as a terminal gives it: a signal to the group is
 * Ctrl-C there.
 */
async function startBoth(lab: Lab, ...args: string[]): Promise<Running[]> {
  const options = { ...SECRET, detached: true };
  const server = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1", ...args], options);
  await server.until(/listening on/);
  const client = startProgram(
    lab,
    "client",
    "client",
    [FAR, "--configure", "--route", "0.0.0.0/0", ...args],
    options,
  );
  await client.until(/connected to/);
  return [client, server];
}

/** The pid of a program's keeper: of its children the shell (tsx may have one, too). */
const keeper = (lab: Lab, { child }: Running) => Number(lab.run("lab", `pgrep -x -P ${child.pid} sh`));

labTest(
  "--configure is undone by the time that the programs have ended: by each signal, and by an exception",
  async (lab) => {
    furnish(lab);
    for (const forwarding of [0, 1]) {
      lab.run("server", `sysctl -w net.ipv4.ip_forward=${forwarding}`);
      const before = state(lab);
      for (const ending of forwarding
        ? ["SIGTERM" as const]
        : (["SIGINT", "SIGTERM", "SIGQUIT", "exception"] as const)) {
        const programs = await startBoth(lab);
        for (const host of [0, 1]) assert.notEqual(state(lab)[host], before[host]);
        for (const [i, { child }] of programs.entries()) {
          const exit = once(child, "exit"); // not its "close", which would wait for the keeper, too
          if (ending === "exception") lab.run(["client", "server"][i]!, "ip link del tun0");
          else process.kill(-child.pid!, ending);
          assert.deepEqual(await exit, [ending === "exception" ? 1 : 0, null], programs[i]!.output);
        }
        assert.deepEqual(state(lab), before, ending);
        assert.match(
          programs[1]!.output,
          /client 10\.8\.0\.2 .*left: it said goodbye/,
          "said while the way to the server was still there",
        );
        assert.match(
          programs[1]!.output,
          /# iptables -t nat -D POSTROUTING.*simple-vpn/,
          "and it says what it undoes",
        );
      }
    }
  },
);

labTest("after SIGKILL, too, without a next start", async (lab) => {
  furnish(lab);
  lab.run("server", "sysctl -w net.ipv4.ip_forward=0");
  const before = state(lab);
  for (const { child } of await startBoth(lab)) process.kill(-child.pid!, "SIGKILL");
  await retry(() => assert.deepEqual(state(lab), before));
});

/**
 * An environment in which iptables, where its arguments fit the pattern, says so, waits, and says so again:
 * files in the folder.
 */
const slowIptables = (folder: string, pattern: string) =>
  standIn(
    "iptables",
    `case "$*" in
      ${pattern}) touch ${folder}/begun; sleep 0.2; real "$@"; touch ${folder}/done ;;
      *) real "$@" ;;
    esac`,
  );

labTest("after SIGKILL in the middle of a command of the set-up", async (lab) => {
  furnish(lab);
  lab.run("server", "sysctl -w net.ipv4.ip_forward=0");
  const before = state(lab);
  const folder = newFolder();
  const server = startProgram(
    lab,
    "server",
    "server",
    ["--configure", "--nat", "eth1"],
    slowIptables(folder, "*-A*"),
  );
  await retry(() => assert.ok(existsSync(join(folder, "begun")), "the command has begun"));
  assert.equal(await server.stop("SIGKILL"), "SIGKILL");
  await retry(() => assert.ok(existsSync(join(folder, "done")), "the command goes on without its parent"));
  await retry(() => assert.deepEqual(state(lab), before));
});

labTest(
  "a program keeps its rules, though the keeper of its killed predecessor is still at work",
  async (lab) => {
    lab.run("server", "sysctl -w net.ipv4.ip_forward=0");
    const before = state(lab);
    const folder = newFolder();
    const killed = startProgram(
      lab,
      "server",
      "server",
      ["--configure", "--nat", "eth1"],
      slowIptables(folder, "*-D*"),
    );
    await killed.until(/listening on/);
    const busy = keeper(lab, killed);
    const exit = once(killed.child, "exit"); // its "close" would wait for the keeper
    killed.child.kill("SIGKILL");
    await exit;
    const server = await startServer(lab);
    await retry(() => assert.ok(!existsSync(`/proc/${busy}`), "the keeper has ended"));
    const client = await startClient(lab);
    ping(lab, "client", TARGET);
    for (const program of [client, server]) assert.equal(await program.stop(), 0, program.output);
    assert.deepEqual(state(lab), before);
  },
);

labTest(
  "rules that a killed program and its keeper left are used again, and removed at the next end",
  async (lab) => {
    furnish(lab);
    lab.run("server", "sysctl -w net.ipv4.ip_forward=1"); // a setting bears no name: it would stay
    const before = state(lab);
    const rules = () => lab.run("server", "iptables-save").split("--comment simple-vpn").length - 1;
    const server = await startServer(lab);
    process.kill(keeper(lab, server), "SIGKILL");
    await server.stop("SIGKILL");
    assert.equal(rules(), 8);
    const again = await startServer(lab);
    const client = await startClient(lab);
    ping(lab, "client", TARGET, 1);
    assert.equal(rules(), 8, "not twice");
    assert.equal(await client.stop(), 0);
    assert.equal(await again.stop(), 0);
    assert.equal(rules(), 0);
    assert.equal(state(lab)[0], before[0], "the user's own rules are as they were");

    const killed = await startBoth(lab);
    for (const program of killed) process.kill(keeper(lab, program), "SIGKILL");
    for (const program of killed) await program.stop("SIGKILL");
    assert.match(lab.run("client", "ip rule"), /to 203\.0\.113\.1 ipproto tcp dport 5555 goto 8999/);
    for (const program of await startBoth(lab)) assert.equal(await program.stop(), 0);
    assert.deepEqual(state(lab), before);

    const third = await startServer(lab);
    process.kill(keeper(lab, third), "SIGKILL");
    assert.equal(await third.stop(), 1);
    assert.match(
      third.output,
      /error Cannot undo everything that this program did\. Try: by hand, what is left/,
    );
    assert.match(third.output, / Try: .* of these: iptables -D OUTPUT -o tun0 .*; iptables -t nat -D/);
  },
);

labTest(
  "what the kernel changes along with forwarding is undone, too: redirects, single interfaces",
  async (lab) => {
    lab.addIPv6();
    lab.run("server", "sysctl -w net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
    for (const setting of [
      "net.ipv4.conf.all.accept_redirects=0",
      "net.ipv4.conf.eth0.forwarding=1",
      "net.ipv6.conf.eth1.forwarding=1",
      "net.ipv4.conf.default.forwarding=1",
    ])
      lab.run("server", `sysctl -w ${setting}`);
    state(lab);
    const before = state(lab);
    const [client, server] = await startBoth(lab);
    assert.match(state(lab)[0]!, /net\.ipv4\.conf\.eth1\.forwarding = 1/);
    assert.equal(await client!.stop(), 0);
    assert.equal(await server!.stop(), 0);
    assert.deepEqual(state(lab), before);
  },
);

labTest(
  "a persistent tun0 has its own address, MTU, state and routes back, after SIGKILL, too, and again",
  async (lab) => {
    lab.addIPv6();
    lab.run("server", "sysctl -w net.ipv4.ip_forward=0");
    for (const host of ["server", "client"]) lab.run(host, "ip tuntap add dev tun0 mode tun");
    lab.run("client", "ip addr add 10.8.0.2/24 dev tun0"); // the address that it will get
    for (const host of ["server", "client"]) lab.run(host, "ip link set tun0 mtu 1280 addrgenmode none up");
    for (const command of ["addr add 10.9.0.7/24 dev tun0", "route add 10.77.0.0/16 dev tun0"])
      lab.run("server", `ip ${command}`);
    // the kernel's, the first time that a program opens the TUN
    const settled = () => state(lab).map((text) => text.replace(/qdisc \w+|^multicast ff00.*\n/gm, ""));
    settled();
    const before = settled();
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const programs = await startBoth(lab, "--mtu", "1380");
      ping(lab, "client", TARGET);
      for (const program of programs) await program.stop(signal);
      await retry(() => assert.deepEqual(settled(), before, signal));
    }

    // Another address meanwhile: the one that was there before stays.
    const [client, server] = await startBoth(lab);
    await server!.stop();
    const again = await startServer(lab, "--subnet", "172.16.5.0/24");
    await client!.until(/now 172\.16\.5\.2\/24/);
    for (const program of [client!, again]) assert.equal(await program.stop(), 0, program.output);
    await retry(() => assert.deepEqual(settled(), before));

    // Both the program and its keeper killed: what they left does not stand in the way.
    const [killed, far] = await startBoth(lab);
    process.kill(keeper(lab, killed!), "SIGKILL");
    await killed!.stop("SIGKILL");
    await far!.stop();
    await startBoth(lab);
    ping(lab, "client", "203.0.113.8");
  },
);

labTest(
  "--user drops root once all is set up: the tunnel goes on, --configure is undone, by SIGKILL too",
  async (lab, t) => {
    if (process.getuid!() !== 0)
      return (
        assert.ok(!process.env.CI),
        t.skip("no other user than root is mapped into this user namespace")
      );
    furnish(lab);
    lab.run("server", "sysctl -w net.ipv4.ip_forward=0");
    const before = state(lab);
    // for root only: what is opened there was opened before
    const folder = newFolder();
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const programs = await startBoth(lab, "--user", "nobody", "--trace-file", join(folder, signal));
      for (const { child } of programs) {
        const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
        assert.match(status, /^Uid:(\s+65534){4}\nGid:(\s+65534){4}$/m);
        assert.match(status, /^Groups:\s*$/m);
        for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
          assert.match(status, new RegExp(`^${set}:\\s+0+$`, "m"));
      }
      for (const program of programs) {
        // Whoever breaks into it finds the keeper's pipe, but no root shell behind it.
        const pipe = readlinkSync(`/proc/${keeper(lab, program)}/fd/0`);
        const fds = `/proc/${program.child.pid}/fd`;
        writeFileSync(
          join(
            fds,
            readdirSync(fds).find((fd) => readlinkSync(join(fds, fd)) === pipe)!,
          ),
          `touch ${folder}/root\n`,
        );
      }
      ping(lab, "client", TARGET);
      for (const program of programs)
        assert.equal(await program.stop(signal), signal === "SIGTERM" ? 0 : "SIGKILL", program.output);
      await retry(() => assert.deepEqual(state(lab), before, signal));
      assert.ok(!existsSync(join(folder, "root")));
    }
    for (const [user, words] of [
      ["nosuch", "is no user of this system"],
      ["root", "is root itself"],
    ] as const) {
      const running = startProgram(lab, "client", "client", [SERVER, "--user", user], SECRET);
      assert.equal(await running.ended, 2, running.output);
      assert.match(
        running.output,
        new RegExp(`^error Cannot start: --user ${user} ${words}.*\\. Try: .*\n$`),
      );
    }
  },
);

labTest(
  "a firewall that drops what is forwarded, as Docker's, lets clients' packets and answers through",
  async (lab) => {
    lab.run("server", "iptables -P FORWARD DROP");
    lab.run("server", "iptables -A FORWARD -j DROP");
    lab.run("internet", "ip route add 10.8.0.0/24 via 203.0.113.1");
    await startServer(lab);
    await startClient(lab);
    ping(lab, "client", TARGET);
    assert.match(lab.try("internet", `ping -c 1 -W 1 -I ${TARGET} 10.8.0.2`).stdout, /100% packet loss/);
  },
);
