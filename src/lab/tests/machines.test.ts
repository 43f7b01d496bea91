/** What real machines have and a fresh lab has not: drives without modes, and interfaces made by others. */
import assert from "node:assert/strict";
import { chmodSync, statSync, writeFileSync } from "node:fs";
import { type Lab, SERVER } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, SECRET, standIn } from "./testing.ts";

const PROGRAM = `${process.execPath} --import tsx src/client.ts`;
const CLIENT = `${PROGRAM} ${SERVER}`;
const { SIMPLE_VPN_SECRET, ...WITHOUT_SECRET } = SECRET.env;

/** What a line of shell says on the client's host, once it has ended. */
async function says(lab: Lab, line: string, env: NodeJS.ProcessEnv = SECRET.env): Promise<string> {
  const running = new Running(lab.spawn("client", ["sh", "-c", line], { env }));
  await running.ended;
  return running.output;
}

/** The client has its secret and its TUN: what fails is the next thing, for no server runs in these labs. */
const STARTED = /^error Cannot connect to 192\.168\.1\.1:5555: ECONNREFUSED/m;

labTest("a secret that others can read: chmod, or the environment, as the hint says it", async (lab) => {
  const run = (line: string) => says(lab, line, WITHOUT_SECRET);
  lab.run("lab", "mount -t tmpfs tmpfs /mnt");
  const outside = `/proc/${lab.holder}/root/mnt/the secret`;
  writeFileSync(outside, `${SIMPLE_VPN_SECRET}\n`);
  chmodSync(outside, 0o444);
  const writable = await run(`${CLIENT} --secret '/mnt/the secret'`);
  assert.match(writable, /: other users can read it\. Try: chmod 600 '\/mnt\/the secret'\n$/);
  assert.equal(statSync(outside).mode & 0o777, 0o444, "whether to change it is for its owner to say");

  const hint = /other users can read it\. Try: (SIMPLE_VPN_SECRET=.*) in front of npx or node, instead of --/;
  lab.run("lab", "mount -o remount,bind,ro /mnt"); // as Docker mounts a secret
  const readOnly = await run(`${CLIENT} --secret '/mnt/the secret'`);
  assert.match(readOnly, hint);
  assert.match(await run(`${hint.exec(readOnly)![1]} ${CLIENT}`), STARTED);

  // Here chmod(2) says EPERM, to root, too, as on a drive without modes. A host's name has room for a secret.
  const file = "/proc/sys/kernel/hostname";
  const put = `hostname ${SIMPLE_VPN_SECRET}`;
  const modeless = (line: string) => run(`unshare --uts sh -c '${put}; ${line}'`);
  const refused = await modeless(`${CLIENT} --secret ${file}`);
  assert.match(refused, hint);
  assert.match(await modeless(`${hint.exec(refused)![1]} ${CLIENT}`), STARTED);
});

labTest("a name that is taken: by what is said, and the hint, typed, leads on", async (lab) => {
  const devices: [name: string, make: string, kind: string][] = [
    ["mq0", "tuntap add dev mq0 mode tun multi_queue", "a TUN made with multi_queue"],
    ["tap0", "tuntap add dev tap0 mode tap", "a TAP"],
    ["veth7", "link add veth7 type veth peer name veth8", "what is no TUN"],
  ];
  const [withoutIp] = standIn("ip", "exit 127").env.PATH!.split(":");
  for (const [name, make, kind] of devices) {
    lab.run("client", `ip ${make}`);
    const [what, hint] = (await says(lab, `${CLIENT} --tun ${name}`)).split(" Try: ");
    assert.equal(what, `error Cannot create the interface ${name}: EINVAL, for ${kind} has this name.`);
    const [, removal] = /^choose another name with --tun(?:, or remove this one: (.*))?\n$/.exec(hint!)!;
    assert.equal(removal, name === "veth7" ? undefined : `ip link del ${name}`);
    const unnamed = await says(lab, `PATH=${withoutIp}:$PATH ${CLIENT} --tun ${name}`);
    assert.match(unnamed, /: EINVAL\. Try: choose another name .* no TUN, or was made with multi_queue\n$/);
    if (removal) assert.match(await says(lab, `${removal} && ${CLIENT} --tun ${name}`), STARTED);
  }
});

labTest("a persistent TUN is taken whatever its last user had in front of each packet", async (lab) => {
  lab.run("client", "ip tuntap add dev tun0 mode tun vnet_hdr");
  for (const cipher of ["xor", "xor+aes"])
    assert.match(await says(lab, `${CLIENT} --cipher ${cipher}`), STARTED);
});

labTest(
  "a device that even root may not open, as in a container: the hint says how to pass it",
  async (lab) => {
    const nodev = "mount --bind /dev/net /dev/net && mount -o remount,bind,nodev /dev/net";
    const said = await says(lab, `unshare --mount sh -c '${nodev} && ${CLIENT}'`);
    assert.match(
      said,
      /^error Cannot open \/dev\/net\/tun: EACCES\. Try: run as root.* --device \/dev\/net\/tun\n$/,
    );
  },
);

labTest("a TUN of another user's: the error names the owner", async (lab, t) => {
  if (process.getuid!() !== 0) return (assert.ok(!process.env.CI), t.skip("only root is mapped here"));
  for (const owner of ["user daemon", "group daemon", "user daemon group daemon", "user 4242"]) {
    lab.run("client", `ip tuntap add dev tun0 mode tun ${owner}`);
    const said = await says(lab, `setpriv --bounding-set -net_admin --inh-caps -net_admin ${CLIENT}`);
    const [what, hint] = said.split(" Try: ");
    assert.equal(what, `error Cannot create the interface tun0: EPERM, for it belongs to ${owner}.`);
    assert.match(hint!, new RegExp(`^run as root \\(sudo\\), or as ${owner}; .* --cap-add NET_ADMIN\n$`));
    lab.run("client", "ip link del tun0");
  }
});

labTest("--nat takes what 'ip -br link' shows: a name, an @, and what it is linked to", async (lab) => {
  const shown = lab
    .run("server", "ip -br link")
    .split(/\s+/)
    .find((word) => word.startsWith("eth1"))!;
  assert.match(shown, /^eth1@if\d+$/);
  const server = startProgram(lab, "server", "server", ["--configure", "--nat", shown], SECRET);
  await server.until(/# iptables -t nat .* -o eth1 -j MASQUERADE[^]*listening on/);
});

labTest("a link-local address without its interface: the hint says how to write it", async (lab) => {
  const hint = /: EINVAL\. Try: write a link-local address with this machine's interface: fe80::1%eth0\n$/;
  for (const address of ["fe80::1", "fe80::1%nosuch0"]) {
    assert.match(await says(lab, `${PROGRAM} ${address}`), hint);
    assert.match(await says(lab, `${PROGRAM.replace("client", "server")} --listen ${address}`), hint);
  }
});
