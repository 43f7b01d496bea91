/** What real machines have and a fresh lab has not: drives without modes, and interfaces made by others. */
import assert from "node:assert/strict";
import { chmodSync, statSync, writeFileSync } from "node:fs";
import { type Lab, SERVER } from "./lab.ts";
import { Running } from "./running.ts";
import { labTest, SECRET } from "./testing.ts";

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
  lab.run("lab", "mount -o remount,ro /mnt"); // as Docker mounts a secret
  const readOnly = await run(`${CLIENT} --secret '/mnt/the secret'`);
  assert.match(readOnly, hint);
  assert.match(await run(`${hint.exec(readOnly)![1]} ${CLIENT}`), STARTED);

  // Here chmod(2) says EPERM, to root, too, as on a drive without modes. A host's name has room for a secret.
  const file = "/proc/sys/kernel/hostname";
  const put = `echo ${SIMPLE_VPN_SECRET} > ${file}`;
  const modeless = (line: string) => run(`unshare --uts sh -c '${put}; ${line}'`);
  const refused = await modeless(`${CLIENT} --secret ${file}`);
  assert.match(refused, hint);
  assert.match(await modeless(`${hint.exec(refused)![1]} ${CLIENT}`), STARTED);
});
