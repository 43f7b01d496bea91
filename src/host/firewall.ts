/**
 * Which firewall this machine has; and, for the server, firewalls of others in nftables. A packet must pass
 * every one of them. A rule of ours that accepts it does not overrule another table that drops it (nft(8),
 * VERDICT STATEMENT). So the user is told.
 */
import chalk from "chalk";
import { inPath, run } from "./command.ts";
import type { Machine } from "./machine.ts";

interface Chain {
  family: string;
  table: string;
  name: string;
  type?: string; // type, hook and policy: only of a base chain, one that the kernel itself calls (nft(8))
  hook?: string;
  policy?: string;
}
interface Rule {
  family: string;
  table: string;
  chain: string;
  expr: Record<string, unknown>[]; // "match", "counter", "accept" and so on, in their order
}

/** The machine with the firewall that works: the iptables command may be there without its kernel's half. */
export async function withFirewall(machine: Machine, table = "raw"): Promise<Machine> {
  if (machine.firewall === "nft" || !inPath("nft")) return machine;
  const { code } = await run(`iptables -w -t ${table} -S`);
  return code === 0 ? machine : { ...machine, firewall: "nft" };
}

/**
 * Which chains drop what is forwarded for `tun`, and the command that lets it through: one line to print, or
 * "". Where nft is missing, or may not look, none is known.
 */
export async function findWalls(tun: string, { firewall }: Machine): Promise<string> {
  const { chains, rules } = await readRuleset();
  // In iptables' own chain, our rules come first. Only iptables-nft keeps that chain here.
  const isNft = firewall === "iptables" && (await run("iptables -V")).stdout.includes("nf_tables");
  const walls = chains.filter((chain) => {
    const { family, table, name, type, hook } = chain;
    if (type !== "filter" || hook !== "forward" || !["ip", "ip6", "inet"].includes(family)) return false;
    if (isNft && family !== "inet" && table === "filter" && name === "FORWARD") return false;
    return drops(chain, rulesOf(chain, rules)) && !isOpen(tun, chain, rules);
  });
  if (walls.length === 0) return "";
  if (walls.some(({ table }) => table === "firewalld"))
    return chalk.yellow(`${DROPS} (firewalld); ${OPEN} firewall-cmd --zone=trusted --add-interface=${tun}`);
  const names = walls.map(({ family, table, name }) => `${family} ${table} ${name}`);
  const ways = [`iifname "${tun}" accept`, `oifname "${tun}" ct state established,related accept`];
  const lines = names.flatMap((name) => ways.map((way) => `insert rule ${name} ${way}`));
  const chainsOf = `chain ${names.join(", chain ")} of nftables`;
  return chalk.yellow(`${DROPS} (${chainsOf}); ${OPEN} nft '${lines.join("; ")}'`);
}

const DROPS = "this machine's firewall drops what is forwarded, whatever our rules say";
const OPEN = "to let the tunnel through:";

async function readRuleset(): Promise<{ chains: Chain[]; rules: Rule[] }> {
  const { stdout } = await run("nft -j -t list ruleset"); // -t: without the elements of sets, maybe many
  try {
    const { nftables: all }: { nftables: { chain?: Chain; rule?: Rule }[] } = JSON.parse(stdout);
    return { chains: all.flatMap(({ chain }) => chain ?? []), rules: all.flatMap(({ rule }) => rule ?? []) };
  } catch {
    return { chains: [], rules: [] };
  }
}

const rulesOf = ({ family, table, name }: Chain, rules: Rule[]) =>
  rules.filter((rule) => rule.family === family && rule.table === table && rule.chain === name);

/** Is a packet dropped that no rule is about? By the last rule if that is for all, else by the policy. */
function drops({ policy }: Chain, rules: Rule[]): boolean {
  const words = rules.at(-1)?.expr.flatMap((part) => Object.keys(part)) ?? [];
  const isForAll = words.every((word) => ["counter", "log", "accept", "drop", "reject"].includes(word));
  const verdict = isForAll && words.find((word) => ["accept", "drop", "reject"].includes(word));
  return (verdict || policy) !== "accept";
}

/** Do rules accept what comes from `tun` and what goes there, in this chain or in one that it leads to? */
function isOpen(tun: string, chain: Chain, rules: Rule[], seen: string[] = []): boolean {
  const texts = rulesOf(chain, rules).map(({ expr }) => JSON.stringify(expr));
  const accepts = (key: string) =>
    texts.some((text) => text.includes('"accept"') && namesIn(text, key).some((name) => covers(name, tun)));
  if (accepts("iif") && accepts("oif")) return true;
  const targets = texts.flatMap((text) => [...text.matchAll(/"target":"([^"]+)"/g)].map(([, name]) => name!));
  return targets
    .filter((name) => !seen.includes(name))
    .some((name) => isOpen(tun, { ...chain, name }, rules, [...seen, name]));
}

/** The interfaces that a rule's match on "iif" or "iifname" names. */
const namesIn = (text: string, key: string) =>
  [...text.matchAll(new RegExp(`"key":"${key}(?:name)?"}},"right":"([^"]+)"`, "g"))].map(([, name]) => name!);

const covers = (name: string, tun: string) =>
  name === tun || (name.endsWith("*") && tun.startsWith(name.slice(0, -1)));
