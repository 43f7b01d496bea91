/** Whom a client reaches at the server's end: other clients, unless --isolate is given; and services. */
import assert from "node:assert/strict";
import { type Lab, TARGET, TARGET6 } from "../lab.ts";
import { Running } from "../running.ts";
import { labTest, ping, startClient, startServer } from "./testing.ts";

const reaches = (lab: Lab, host: string, target: string) =>
  lab.try(host, `ping -c 2 -i 0.2 -W 1 ${target}`).stdout.includes("bytes from");

labTest("clients reach each other; with --isolate the server and the internet only", async (lab) => {
  lab.addIPv6();
  const other = lab.addClient(2);
  lab.run(other, "sysctl -qw net.ipv6.conf.default.disable_ipv6=0"); // of its tun0 to come
  for (const args of [[], ["--isolate"]]) {
    const server = await startServer(lab, ...args);
    const clients = [
      await startClient(lab, "client", "--route", `${TARGET6}/128`),
      await startClient(lab, other),
    ];
    const isolated = args.length > 0;
    for (const [host, target] of [
      ["client", "10.8.0.3"],
      ["client", "fd56:504e::a08:3"],
      [other, "10.8.0.2"],
      [other, "fd56:504e::a08:2"],
    ] as const)
      assert.equal(reaches(lab, host, target), !isolated, `${host} reaches ${target}`);
    for (const target of ["10.8.0.1", "fd56:504e::a08:1", TARGET, TARGET6]) ping(lab, "client", target, 2);
    for (const program of clients) await program.stop();
    await server.stop();
    if (isolated)
      assert.match(server.output, /dropped \d+ \(it is for another client, and they are isolated\)/);
  }
});

labTest(
  "of the server's own services clients reach what listens on all addresses or on tun0's",
  async (lab) => {
    await startServer(lab);
    await startClient(lab);
    const hosts = ["0.0.0.0", "10.8.0.1", "127.0.0.1"];
    const script = `const net = require("node:net");
    const serve = (host, i) => net.createServer((s) => s.end("hello")).listen(7000 + i, host);
    ${JSON.stringify(hosts)}.forEach(serve);
    setTimeout(() => console.log("ready"), 200);`;
    await new Running(lab.spawn("server", [process.execPath, "-e", script])).until(/ready/);
    const ask = (port: number) =>
      lab.try("client", [
        process.execPath,
        "-e",
        `const s = require("node:net").connect(${port}, "10.8.0.1").on("error", () => {});
       s.setTimeout(1500, () => s.destroy()).pipe(process.stdout);`,
      ]).stdout;
    assert.deepEqual(
      hosts.map((_, i) => ask(7000 + i)),
      ["hello", "hello", ""],
    );
    lab.run("server", "iptables -I INPUT -i tun0 ! -p icmp -j DROP"); // as draft/options.md says
    assert.equal(ask(7000), "");
    for (const target of ["10.8.0.1", TARGET]) ping(lab, "client", target);
  },
);
