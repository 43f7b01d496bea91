import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { until } from "./peers.ts";
import { LAB_SECRET, ROOT, spawned } from "../lab.ts";
import { Running } from "../running.ts";
import { labTest } from "./testing.ts";
import { has } from "../tools.ts";
import { newFolder } from "./folder.ts";

const run = (env: Record<string, string>) =>
  spawnSync(...spawned("lab/terminals/terminals"), {
    cwd: ROOT,
    encoding: "utf8",
    env: { ...process.env, ...env },
  });

test("make terminals types each command into a pane of its own, and presses no Enter", async (t) => {
  if (!has("tmux")) {
    assert.ok(!process.env.CI, "tmux is not installed");
    return t.skip("tmux is not installed");
  }
  const session = `simple-vpn-test-${process.pid}`;
  const tmux = (...args: string[]) =>
    spawnSync("tmux", ["-L", session, ...args], { encoding: "utf8" }).stdout;
  const slowShell = join(newFolder(), "sh");
  writeFileSync(slowShell, "#!/bin/sh\nsleep 1\nPS1='ready$ ' exec bash --norc -i\n", { mode: 0o755 });
  try {
    const { status, stdout, stderr } = run({
      SIMPLE_VPN_TMUX: session,
      SHELL: slowShell,
      MAKELEVEL: "1",
      MAKEFLAGS: "w",
    });
    assert.equal(status, 0, stderr);
    assert.match(stdout, /ready: tmux -L \S+ attach/);
    const panes = tmux("list-panes", "-F", "#{pane_id} #{pane_title} #{pane_current_command}")
      .trim()
      .split("\n");
    assert.equal(panes.length, 5);
    const commands = [
      "make server",
      "make configure-server",
      "make client",
      "make configure-client",
      "make ping",
    ];
    for (const [i, command] of commands.entries()) {
      const pane = panes.find((line) => line.includes(` terminal ${i + 1}: ${command} `));
      assert.ok(pane, `terminal ${i + 1} is none of ${panes.join()}`);
      const [id] = pane.split(" ");
      assert.doesNotMatch(pane, /make$/, "nothing runs yet");
      // once, behind the prompt
      await until(() => tmux("capture-pane", "-p", "-t", id!).trim() === `ready$ ${command}`);
    }
    const heights = tmux("list-panes", "-F", "#{pane_height}").trim().split("\n").map(Number);
    assert.ok(heights[0]! > 2 * heights[4]!, `the two programs have most of the height: ${heights.join()}`);
    assert.match(run({ SIMPLE_VPN_TMUX: session }).stdout, /ready: tmux -L \S+ attach/);
    assert.equal(
      tmux("list-panes", "-a").trim().split("\n").length,
      5,
      "a second make terminals shows the same five",
    );
    assert.doesNotMatch(
      tmux("show-environment", "-g"),
      /^MAKE/m,
      "make in a pane is no part of the make that opened it",
    );
  } finally {
    tmux("kill-server");
  }
});

test("make terminals TRANSPORT=udp says so in each command that starts or configures a program", () => {
  const place = newFolder();
  writeFileSync(join(place, "tmux"), "#!/bin/sh\nexit 127\n", { mode: 0o755 });
  const { stdout } = run({ PATH: `${place}:${process.env.PATH}`, TRANSPORT: "udp" });
  const commands = [...stdout.matchAll(/^ +\d +make (.*)$/gm)].map(([, command]) => command);
  assert.deepEqual(commands, [
    "server TRANSPORT=udp",
    "configure-server TRANSPORT=udp",
    "client TRANSPORT=udp",
    "configure-client TRANSPORT=udp",
    "ping",
  ]);
});

labTest(
  "the five terminals over UDP, with make's own variable: both programs get it, and a ping is answered",
  async () => {
    const env = {
      ...process.env,
      SIMPLE_VPN_LAB: newFolder(),
      SIMPLE_VPN_SECRET: LAB_SECRET,
      NO_COLOR: "1",
      TRANSPORT: "udp",
    };
    const terminal = (...args: string[]) =>
      new Running(spawn(...spawned("lab/terminals/terminal", ...args), { cwd: ROOT, env }));
    const done = async (...args: string[]) => {
      const running = terminal(...args);
      assert.equal(await running.ended, 0, running.output);
      return running.output;
    };
    try {
      const server = terminal("server");
      await server.until(/src\/server\.ts --nat eth1 --transport udp\n[^]*listening on/);
      assert.match(await done("configure-server"), /tun0 mtu 1424 up[^]*make client TRANSPORT=udp/);
      const client = terminal("client");
      await client.until(/connected to/);
      await done("configure-client");
      assert.match(await done("ping", "-c", "1", "8.8.8.8"), / 0% packet loss/);
      await client.until(/6\.frame .*, with number \d+: a datagram of 132 bytes/);
      assert.match(
        await done("doctor"),
        /ok server +192\.168\.1\.1:5555 answers over UDP[^]*ok listening +UDP port 5555/,
      );
    } finally {
      await done("down");
    }
  },
);

test("without tmux, or with one that is too old, make terminals says so and shows the five commands", () => {
  const place = newFolder();
  const cases = [
    ["exit 127", /^tmux is not installed/],
    ["echo tmux 1.8", /^tmux 1\.8 is too old/],
  ] as const;
  for (const [script, reason] of cases) {
    writeFileSync(join(place, "tmux"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const { status, stdout } = run({ PATH: `${place}:${process.env.PATH}` });
    assert.equal(status, 0);
    assert.match(stdout, reason);
    const commands = [...stdout.matchAll(/^ +\d +(make .*)$/gm)].map(([, command]) => command);
    const names = commands.map((command) => command!.slice(5)).join();
    assert.equal(names, "server,configure-server,client,configure-client,ping");
  }
});
