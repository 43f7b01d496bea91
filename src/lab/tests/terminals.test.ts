import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { until } from "./peers.ts";
import { ROOT, spawned } from "../lab.ts";
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
      const [id] = panes[i]!.split(" ");
      assert.match(panes[i]!, new RegExp(`terminal ${i + 1}: ${command} `));
      assert.doesNotMatch(panes[i]!, /make$/, "nothing runs yet");
      // once, behind the prompt
      await until(() => tmux("capture-pane", "-p", "-t", id!).trim() === `ready$ ${command}`);
    }
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
