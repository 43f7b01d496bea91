import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCidr } from "../base/address.ts";
import type { Failure } from "../base/failure.ts";
import { FRESH, type Machine } from "../host/machine.ts";
import { clientChanges } from "./routes.ts";

const CONFIG = { address: parseCidr("10.8.0.2/24")!.address, prefix: 24, mtu: 1400 };

test("a name server that no route can lead to is refused by the name of its option", () => {
  const elsewhere = [{ block: "8.8.8.8/32", dev: "wg0", where: "out of wg0", gateway: undefined }];
  const rules = [{ ip: "ip" as const, preference: 10_000, text: "from all lookup 9" }];
  const tables = new Map([["86", elsewhere]]);
  const cases: [dns: string, has: Partial<Machine>, message: RegExp][] = [
    ["2001:db8::53", {}, /^Cannot ask --dns 2001:db8::53 through the tunnel: it carries no IPv6$/],
    ["203.0.113.1", {}, /^Cannot route the server itself into the tunnel to it: --dns 203\.0\.113\.1$/],
    ["8.8.8.8", { routes: elsewhere }, /^Cannot ask --dns 8\.8\.8\.8 .*: this machine routes it out of wg0/],
    [
      "8.8.8.8",
      { rules, tables },
      /^Cannot ask --dns 8\.8\.8\.8 .*: table 86 has a route out of wg0 already$/,
    ],
  ];
  for (const [dns, has, message] of cases) {
    const machine = { ...FRESH, ...has };
    const ask = (routes: string[], servers: string[]) =>
      clientChanges({ tun: "tun0", port: 5555, routes, dns: servers }, CONFIG, ["203.0.113.1"], machine);
    const refused = (option: string, words: RegExp) => (error: Failure) =>
      words.test(error.message) && error.hint.includes(`leave that ${option} out`);
    assert.throws(() => ask([], [dns]), refused("--dns", message));
    if (!dns.includes(":")) assert.throws(() => ask([`${dns}/32`], ["1.1.1.1"]), refused("--route", /route/));
  }
});
