/**
 * Reading what the kernel was told, on the host that this process is on: interfaces, routes, holders of a
 * TUN, iptables rules.
 */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { type Cidr, parseCidr } from "../../base/address.ts";
import { contains, hostRoute } from "../../base/block.ts";
import { Failure } from "../../base/failure.ts";
import { KILL_SWITCH } from "../../host/machine.ts";
import { CLIENT, parse } from "../../host/options.ts";

/** What a command says. Errors: a Failure with the command's own words. */
export function ask(line: string): string {
  const [program, ...args] = line.split(" ");
  const { error, status, stdout, stderr } = spawnSync(program!, args, { encoding: "utf8" });
  if (error || status !== 0)
    throw new Failure(
      `'${line}' says ${error?.message ?? stderr.trim().split("\n")[0]}`,
      "run it by hand to see what it needs",
    );
  return stdout;
}

/** A number of /proc/sys, such as "ipv4/ip_forward"; 0 if this host has none such. */
export function sysctl(path: string): number {
  try {
    return Number(readFileSync(`/proc/sys/net/${path}`, "utf8"));
  } catch {
    return 0;
  }
}

/** A network interface, as `ip -json address` tells it. */
export interface Link {
  flags: string[];
  mtu: number; // bytes
  linkinfo?: { info_kind: string };
  addr_info: { family: string; local: string; prefixlen: number }[];
}

/** The interface `name`; undefined if there is none. */
export function findLink(name: string): Link | undefined {
  const links: (Link & { ifname: string })[] = JSON.parse(ask("ip -json -details address show"));
  return links.find(({ ifname }) => ifname === name);
}

/** A route, as `ip -json route` tells it. */
export interface Route {
  dst: string;
  dev: string;
  gateway?: string;
}

/**
 * The route that the kernel chooses for a packet to `target`; undefined if it has none. `more`: what else is
 * known of it, "ipproto tcp dport 5555".
 */
export function routeTo(target: string, more = ""): Route | undefined {
  try {
    const [route]: Route[] = JSON.parse(ask(`ip -json route get ${target} ${more}`.trim()));
    return route;
  } catch {
    return undefined; // "Network is unreachable"
  }
}

/** Does a route that --kill-switch has left lead a packet to `target` nowhere? */
export function isBlocked(target: string): boolean {
  const routes: Route[] = JSON.parse(ask(`ip -json route show table all proto ${KILL_SWITCH}`));
  const blocks = routes.map(({ dst }) => (dst === "default" ? "0.0.0.0/0" : dst));
  return blocks.some((block) => contains(block.includes("/") ? block : hostRoute(block), target));
}

/** The route to `target` that would be chosen if `tun` were not there: the longest prefix wins. */
export function routeWithout(tun: string, target: string): Route | undefined {
  // without a prefix, a host's own
  const length = ({ dst }: Route) => (dst === "default" ? 0 : Number(dst.split("/")[1] ?? 128));
  const routes: Route[] = JSON.parse(ask(`ip -json route show match ${target}`));
  return routes.filter(({ dev }) => dev !== tun).sort((a, b) => length(b) - length(a))[0];
}

/** A program that has a TUN open. */
export interface Holder {
  pid: number;
  command: string; // "client.ts"
  words: string[]; // its whole command line
  stopped: boolean;
}

/**
 * The process in this network namespace that has the TUN `name` open (proc(5): fdinfo of a TUN fd has a line
 * "iff: tun0"); or any TUN, if it is the program `command`.
 */
export function findHolder(name: string | undefined, command?: string): Holder | undefined {
  const here = readlinkSync("/proc/self/ns/net");
  for (const pid of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      if (readlinkSync(`/proc/${pid}/ns/net`) !== here) continue;
      const fds = readdirSync(`/proc/${pid}/fdinfo`).map((fd) =>
        readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"),
      );
      if (
        !fds.some((info) =>
          name === undefined ? /^iff:/m.test(info) : info.split("\n").includes(`iff:\t${name}`),
        )
      )
        continue;
      const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      const script = words.find((word) => /\.[jt]s$/.test(word));
      const program = (script ?? readFileSync(`/proc/${pid}/comm`, "utf8").trim())
        .replace(/.*\//, "")
        .replace(/^(client|server)\.js$/, "$1.ts"); // as `make test` has compiled it
      if (program === (command ?? program))
        return {
          pid: Number(pid),
          command: program,
          words,
          stopped: /^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, "utf8")),
        };
    } catch {
      // it has ended, or is another user's
    }
  }
  return undefined;
}

/**
 * The server of a running client: the other end of its TCP connection. A UDP socket has none,
 * so it is the one that the client was started with.
 */
export function serverOf({ pid, words }: Holder): string | undefined {
  const connection = ask("ss -tnpH state established")
    .split("\n")
    .find((line) => line.includes(`pid=${pid},`));
  if (connection)
    return connection
      .trim()
      .split(/\s+/)[3]!
      .replace(/^\[?(.*?)\]?:\d+$/, "$1");
  const script = words.findIndex((word) => /\bclient\.[jt]s$/.test(word));
  try {
    return parse(words.slice(script + 1).filter(Boolean), CLIENT, "").positionals[0];
  } catch {
    return undefined;
  }
}

/**
 * What a chain (`iptables -S FORWARD`) does with a packet of which this is known: "-i tun0 -o eth1". `drops`:
 * the rule that drops it, if one does; `maybe`: the rules before that may decide otherwise: with conditions,
 * or chains of their own.
 */
export function filter(chain: string, packet: string): { drops?: string; maybe: string[] } {
  const maybe: string[] = [];
  const known = [...packet.matchAll(/(-\S+) (\S+)/g)].map(([, flag, value]) => ({
    flag: new RegExp(`(?<!! |\\S)${flag} (\\S+)`),
    value,
  }));
  for (const rule of chain.split("\n").filter((line) => line.startsWith("-A"))) {
    if (known.some(({ flag, value }) => (flag.exec(rule)?.[1] ?? value) !== value)) continue;
    const conditions = known.reduce((rest, { flag }) => rest.replace(flag, ""), rule);
    const verdict = /-j (\S+)/.exec(rule)?.[1] ?? "";
    const certain =
      conditions
        .replace(
          /-A \S+|-j \S+|--reject-with \S+|-m (tcp|udp|comment|conntrack)|--comment ("[^"]*"|\S+)/g,
          "",
        )
        .trim() === "";
    if (certain && verdict === "ACCEPT") return { maybe };
    if (certain && /^(DROP|REJECT)$/.test(verdict)) return { drops: rule, maybe };
    maybe.push(rule);
  }
  const policy = /^-P .*/m.exec(chain)?.[0] ?? "";
  return policy.endsWith(" DROP") ? { drops: policy, maybe } : { maybe };
}

/**
 * The rule of `iptables -t nat -S POSTROUTING` that rewrites the source of `subnet`'s packets when they leave
 * by `dev`.
 */
export function findNat(chain: string, subnet: Cidr, dev: string): string | undefined {
  return chain.split("\n").find((rule) => {
    const source = parseCidr(/ -s (\S+)/.exec(rule)?.[1] ?? "0.0.0.0/0");
    const covers =
      source !== undefined &&
      source.network <= subnet.network &&
      subnet.network + subnet.size <= source.network + source.size;
    return (
      /-j (MASQUERADE|SNAT)/.test(rule) &&
      covers &&
      !rule.includes(" ! ") &&
      (/ -o (\S+)/.exec(rule)?.[1] ?? dev) === dev
    );
  });
}

/**
 * nftables' tables that may hold IPv4 rules, "inet firewalld", but iptables' own; none where nft is not
 * installed or may not look.
 */
export function nftTables(): string[] {
  const { stdout } = spawnSync("nft", ["list", "tables"], { encoding: "utf8" });
  return (stdout ?? "")
    .split("\n")
    .map((line) => line.replace(/^table /, ""))
    .filter((name) => /^(inet|ip) /.test(name) && !/^ip (filter|nat|mangle|raw|security)$/.test(name));
}
