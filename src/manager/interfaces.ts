/**
 * The interfaces of the manager: created, configured, started, stopped, deleted. Changes run one after the
 * other, in the order in which they were asked for. An interface lives as long as our fd: when this program
 * ends, however it ends, the kernel takes the interface away, with its addresses and routes.
 */
import { formatIPv4, formatIPv6, parseIPv4, parseIPv6 } from "../base/address.ts";
import { EAGAIN } from "../base/errno.ts";
import { Failure } from "../base/failure.ts";
import { close, IFF_TUN, Memory, read } from "../base/libc.ts";
import { MAX_PACKET } from "../base/packet.ts";
import { notRead } from "../base/tun-failure.ts";
import { type Watch, watch } from "../core/loop.ts";
import { openTun, type Tun, writePacket } from "../core/tun.ts";
import { canCarryIPv6 } from "../host/machine.ts";
import { choice, interfaceName, whole } from "../host/options.ts";
import { answer, describeFrame, ETHERNET, PROTOCOLS, protocolOf } from "./echo.ts";
import { now, present, publish, shows } from "./events.ts";
import { integer, Refusal, text, type Values } from "./route.ts";
import { attempt, change, type IpLink, readLinks } from "./system.ts";

const [IFF_TAP, IFF_TUN_EXCL] = [0x0002, 0x8000]; // linux/if_tun.h; the latter: only a new one
const MOST = 64; // interfaces
const TURN = 64; // packets between two turns of the event loop
const HEX_BYTES = 32; // shown of a packet

export const FIELDS = {
  name: text(deviceName, "interface name, at most 15 bytes", { maxLength: 15, examples: ["tun0"] }),
  type: text(choice("tun", "tap"), "tun: IP packets; tap: Ethernet frames", { enum: ["tun", "tap"] }),
  address: text(address4, "its IPv4 address", { examples: ["10.0.0.1"] }),
  netmask: text(netmask, "of its IPv4 network, 8 to 32 bits", { examples: ["255.255.255.0"] }),
  address6: text(address6, "its IPv6 address and the prefix of its network, or off", {
    examples: ["fd00::1/64"],
  }),
  mtu: integer(whole(68, 65535), "bytes", { minimum: 68, maximum: 65535, examples: [1500] }),
  mode: text(choice("monitor", "echo"), "monitor: count and show packets; echo: answer pings, too", {
    enum: ["monitor", "echo"],
  }),
};
const { name, type, address, netmask: mask, address6: address_6, mtu, mode } = FIELDS;
export const CREATE = { name, type, address, netmask: mask, address6: address_6, mtu };
export const START = { name, mode };
export const NAME = { name };
export const CONFIGURE = { name, address, netmask: mask, address6: address_6, mtu };
export type Mode = "monitor" | "echo";

/** What an interface is to have. */
export interface Settings {
  address: string; // "10.0.0.1"
  netmask: number; // bits
  address6?: string; // "fd00::1/64"; "": none
  mtu: number; // bytes
}

// All interfaces take turns in one buffer: a packet is done with before the next is read.
const memory = new Memory(MAX_PACKET + ETHERNET + 3);

class Interface {
  mode: Mode | undefined; // undefined: stopped
  readonly read = { packets: 0, bytes: 0 };
  readonly written = { packets: 0, bytes: 0 };
  readonly lost = { discarded: 0, refused: 0 }; // before the start; by the kernel
  readonly protocols = Object.fromEntries(PROTOCOLS.map((one) => [one, 0]));
  settings: Settings | undefined; // undefined: not yet configured
  readonly tun: Tun;
  readonly type: "tun" | "tap";
  private watch: Watch | undefined;

  constructor(name: string, type: "tun" | "tap") {
    this.type = type;
    this.tun = openTun(name, "none", IFF_TUN_EXCL | (type === "tap" ? IFF_TAP : IFF_TUN));
  }

  /** Reads what the kernel sends from now on. What has waited since before is dropped: it is no news. */
  start(mode: Mode): void {
    this.mode = mode;
    if (this.watch) return;
    while (read(this.tun.fd, memory, 0, MAX_PACKET) > 0) this.lost.discarded++;
    this.watch = watch(this.tun.fd, { readable: () => this.readable(), error: () => gone(this) });
  }

  stop(): void {
    this.watch?.stop();
    this.watch = this.mode = undefined;
  }

  end(): void {
    this.stop();
    close(this.tun.fd);
  }

  private readable(): void {
    for (let i = 0; i < TURN; i++) {
      const size = read(this.tun.fd, memory, 0, MAX_PACKET);
      if (size === -EAGAIN) return;
      if (size < 0) return gone(this, size);
      this.take(size);
    }
  }

  /** One packet of `size` bytes, from the kernel. */
  private take(size: number): void {
    const { tun, read, written, protocols } = this;
    const { bytes } = memory;
    const at = this.type === "tap" ? ETHERNET : 0;
    read.packets++;
    read.bytes += size;
    protocols[protocolOf(bytes, at, size)]!++;
    const id = shows(tun.name, size) ? `${tun.name}#${read.packets}` : undefined;
    if (id) this.show("read", id, at, size);
    const end = this.mode === "echo" ? answer(bytes, at, size) : 0;
    if (end === 0) return;
    if (writePacket(tun, memory, 0, end) !== undefined) return void this.lost.refused++;
    written.packets++;
    written.bytes += end;
    if (id) this.show("inject", id, at, end);
  }

  private show(step: "read" | "inject", id: string, at: number, end: number): void {
    const hex = memory.bytes.toString("hex", 0, Math.min(end, HEX_BYTES));
    const text = `${step === "read" ? "read" : "wrote"} ${end} bytes: ${describeFrame(memory.bytes, at, end)}`;
    publish("packet", { time: now(), host: this.tun.name, step, id, bytes: end, text, hex });
  }
}

const interfaces = new Map<string, Interface>();
export const all = () => [...interfaces.values()];

let last: Promise<unknown> = Promise.resolve();
/** Runs `work` when all that was asked for before is done. */
export function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const done = last.then(work);
  last = done.catch(() => {});
  return done;
}

/** The one of that name; without a name, the only one. Errors: a Refusal. */
function pick(name: string | undefined): Interface {
  const names = [...interfaces.keys()];
  if (name === undefined && names.length > 1)
    throw new Refusal(400, `name: there are several interfaces, name one of ${names.join(", ")}`);
  const found = interfaces.get(name ?? names[0] ?? "");
  if (!found)
    throw new Refusal(400, `name: there is no interface${name ? ` ${name}` : ""}; create one first`);
  return found;
}

/** Errors: a Refusal, 409 if the name is taken; a Failure of the system's. Then nothing is left. */
export async function create(asked: Settings & { name: string; type?: "tun" | "tap" }): Promise<void> {
  const { name, type = "tun" } = asked;
  const settings = checked(type, asked);
  if (interfaces.has(name)) throw new Refusal(409, `name: there is an interface ${name} already`);
  if (interfaces.size >= MOST)
    throw new Refusal(409, `name: there are ${MOST} interfaces, the most there can be`);
  const one = open(name, type);
  try {
    await change(lines(one, settings));
  } catch (error) {
    one.end();
    throw error;
  }
  one.settings = settings;
  interfaces.set(name, one);
  await tell(one);
}

function open(name: string, type: "tun" | "tap"): Interface {
  try {
    return new Interface(name, type);
  } catch (error) {
    if (error instanceof Failure && error.message.endsWith("EBUSY"))
      throw new Refusal(409, `name: this machine has an interface ${name} already`);
    throw error;
  }
}

export async function configure({ name, ...asked }: Values<typeof CONFIGURE>): Promise<string> {
  const one = pick(name);
  const before = one.settings!;
  const settings = checked(one.type, { ...before, ...asked });
  try {
    await change(lines(one, settings, before));
  } catch (error) {
    await attempt(lines(one, before, settings));
    throw error;
  }
  one.settings = settings;
  await tell(one);
  return one.tun.name;
}

/** What it now has. */
export async function start({ name, mode = "monitor" }: Values<typeof START>): Promise<string> {
  const one = pick(name);
  const before = one.mode;
  one.start(mode);
  await tell(one);
  const told = `Interface ${one.tun.name} is already running`;
  if (before) return before === mode ? told : `${told}: its mode is ${mode} from now on`;
  return `Interface ${one.tun.name} started, mode ${mode}`;
}

export async function stop({ name }: Values<typeof NAME>): Promise<string> {
  const one = pick(name);
  if (!one.mode) return `Interface ${one.tun.name} is not running`;
  one.stop();
  await tell(one);
  return `Interface ${one.tun.name} stopped`;
}

export function remove({ name }: Values<typeof NAME>): string {
  const one = pick(name);
  drop(one);
  return `Interface ${one.tun.name} deleted successfully`;
}

function drop(one: Interface): void {
  const { name } = one.tun;
  if (interfaces.get(name) !== one) return; // it was faster
  interfaces.delete(name);
  one.end();
  publish("interface", { name, status: "deleted" });
}

/** Somebody else deleted it: `ip link del`. */
function gone(one: Interface, errno?: number): void {
  console.log(notRead(one.tun.name, errno).message);
  drop(one);
}

async function tell(one: Interface): Promise<void> {
  for (const now of await look([one])) publish("interface", now);
}
present(async () => (await list()).map((one) => ["interface", one]));

/** GET /api/interface/status. */
export async function status(name: string | undefined): Promise<object> {
  const none = { status: "no_interface", message: `There is no interface${name ? ` ${name}` : ""}` };
  if (name === undefined ? interfaces.size === 0 : !interfaces.has(name)) return none;
  return (await look([pick(name)]))[0] ?? none;
}

export const list = () => look([...interfaces.values()]);

/** What the kernel has of them. */
async function look(ones: Interface[]): Promise<object[]> {
  const links = ones.length > 0 ? await readLinks() : new Map<string, IpLink>();
  return ones.flatMap((one) => {
    const link = links.get(one.tun.name);
    if (!link) gone(one);
    return link ? [describe(one, link)] : [];
  });
}

function describe(one: Interface, link: IpLink): object {
  const { read, written, lost, protocols, mode } = one;
  const held = (family: string) => link.addr_info.find((info) => info.family === family);
  const [inet, inet6] = [held("inet"), held("inet6")];
  return {
    status: mode ? "running" : "stopped",
    name: link.ifname,
    type: one.type,
    mtu: link.mtu,
    address: inet?.local ?? "",
    netmask: inet ? formatIPv4(maskOf(inet.prefixlen)) : "",
    address6: inet6 ? `${inet6.local}/${inet6.prefixlen}` : "",
    active: mode !== undefined,
    mode: mode ?? "",
    index: link.ifindex,
    flags: link.flags,
    hardware_addr: link.address ?? "",
    counters: { read, written, ...lost, protocols, kernel: link.stats64 },
  };
}

/** What `ip -batch` is told to get from `before` to `after`. */
function lines({ tun, type }: Interface, after: Settings, before?: Settings): string[] {
  const dev = `dev ${tun.name}`;
  const block = ({ address, netmask }: Settings) => `${address}/${netmask}`;
  const moved = !before || block(before) !== block(after);
  const moved6 = before?.address6 !== after.address6;
  // The kernel must not send router solicitations and the like of its own into it.
  const quiet = type === "tun" ? "addrgenmode none multicast off" : "addrgenmode none";
  return [
    ...(before && moved ? [`address flush ${dev} to ${before.address}/32`] : []),
    ...(before?.address6 && moved6
      ? [`address flush ${dev} to ${before.address6.replace(/\/.*/, "/128")}`]
      : []),
    ...(before?.mtu === after.mtu ? [] : [`link set ${dev} mtu ${after.mtu}`]),
    ...(canCarryIPv6(tun.name, after.mtu) ? [`link set ${dev} ${quiet}`] : []),
    ...(moved ? [`address add ${block(after)} ${dev}`] : []),
    ...(after.address6 && moved6 ? [`address add ${after.address6} ${dev} nodad`] : []),
    ...(before ? [] : [`link set ${dev} up`]),
  ];
}

const maskOf = (prefix: number) => (prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0);

/** What fields can only say together. Errors: a Refusal. */
function checked(type: "tun" | "tap", { address, netmask, address6, mtu }: Settings): Settings {
  const value = parseIPv4(address)!;
  const host = value % 2 ** (32 - netmask);
  if (netmask <= 30 && (host === 0 || host === 2 ** (32 - netmask) - 1))
    throw new Refusal(
      400,
      `address: ${address} is the ${host ? "last" : "first"} of its network, no host's own`,
    );
  if (type === "tap" && mtu > MAX_PACKET - ETHERNET)
    throw new Refusal(400, `mtu: ${mtu} is too much for a TAP, whose frames have ${ETHERNET} bytes more`);
  if (address6 && !canCarryIPv6("default", mtu))
    throw new Refusal(
      400,
      `address6: ${mtu < 1280 ? "an mtu of 1280 or more" : "IPv6 on this machine"} is needed`,
    );
  return { address, netmask, address6, mtu };
}

// ---- readers: text → value, or what is wrong with the text ----

function deviceName(text: string): string {
  if (text === "all" || text === "default") throw new Error("is the kernel's name for all interfaces");
  return interfaceName(text);
}

function address4(text: string): string {
  const value = parseIPv4(text);
  if (value === undefined) throw new Error("is no IPv4 address, such as 10.0.0.1");
  const first = value >>> 24;
  if (first === 0 || first === 127 || first >= 224)
    throw new Error("is no address that an interface can have");
  return text;
}

function netmask(text: string): number {
  const value = parseIPv4(text);
  const prefix = Array.from({ length: 25 }, (_, i) => i + 8).find((bits) => maskOf(bits) === value);
  if (prefix === undefined)
    throw new Error("is no netmask of 8 to 32 bits without holes, such as 255.255.255.0");
  return prefix;
}

function address6(text: string): string {
  if (text === "off") return "";
  const [, host, prefix = ""] = /^([^/%]+)\/(\d{1,3})$/.exec(text) ?? [];
  const bytes = parseIPv6(host);
  if (!bytes || Number(prefix) < 8 || Number(prefix) > 128)
    throw new Error("is no IPv6 ADDRESS/PREFIX, such as fd00::1/64");
  if (bytes[0] === 0 || bytes[0]! >= 0xfe)
    throw new Error("is no address that is its own, such as fd00::1/64");
  return `${formatIPv6(bytes)}/${Number(prefix)}`;
}
