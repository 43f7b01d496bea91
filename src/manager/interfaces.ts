/**
 * The interfaces of the manager: created, configured, started, stopped, deleted. An interface lives as long
 * as our fd. However this program ends, the kernel then takes it away, with its addresses and routes.
 */
import { EAGAIN } from "../base/errno.ts";
import { Failure } from "../base/failure.ts";
import { close, IFF_TUN, Memory, read } from "../base/libc.ts";
import { MAX_PACKET } from "../base/packet.ts";
import { notRead } from "../base/tun-failure.ts";
import { type Watch, watch } from "../core/loop.ts";
import { openTun, type Tun, writePacket } from "../core/tun.ts";
import { canCarryIPv6 } from "../host/machine.ts";
import { config } from "./config.ts";
import { answer, describeFrame, ETHERNET, PROTOCOLS, protocolOf } from "./echo.ts";
import { now, present, publish, shows } from "./events.ts";
import { complete, masks, type Settings } from "./fields.ts";
import type { CONFIGURE, CREATE, NAME, START } from "./fields.ts";
import { Refusal, type Values } from "./route.ts";
import { change, type Link, readLinks } from "./system.ts";

const [IFF_TAP, IFF_TUN_EXCL] = [0x0002, 0x8000]; // linux/if_tun.h; the latter: only a new one
const MOST = 64; // interfaces
const QUEUE = 10_000; // packets that may wait in the kernel, at most; it has 500, unless told otherwise
const TURN = 64; // packets between two turns of the event loop
const HEX_BYTES = 32; // shown of a packet

// All interfaces take turns in one buffer: a packet is done with before the next one is read.
const memory = new Memory(MAX_PACKET + ETHERNET + 3);

class Interface {
  readonly tun: Tun;
  settings: Settings;
  mode: "monitor" | "echo" | "" = ""; // "": it is stopped
  readonly counters = {
    read: { packets: 0, bytes: 0 },
    written: { packets: 0, bytes: 0 },
    discarded: 0, // had waited when it was started
    refused: 0, // answers that the kernel did not take
    protocols: Object.fromEntries(PROTOCOLS.map((protocol) => [protocol, 0])),
  };
  private watch: Watch | undefined;

  constructor(settings: Settings) {
    this.settings = settings;
    const kind = settings.type === "tap" ? IFF_TAP : IFF_TUN;
    this.tun = openTun(settings.name, "none", IFF_TUN_EXCL | kind);
  }

  /** Reads from now on what the kernel sends. What has waited since before is no news. */
  start(mode: "monitor" | "echo"): void {
    this.mode = mode;
    if (this.watch) return;
    for (let i = 0; i < QUEUE && read(this.tun.fd, memory, 0, MAX_PACKET) > 0; i++) this.counters.discarded++;
    this.watch = watch(this.tun.fd, { readable: () => this.readable(), error: () => gone(this) });
  }

  stop(): void {
    this.watch?.stop();
    this.watch = undefined;
    this.mode = "";
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

  /** One packet of `size` bytes from the kernel. */
  private take(size: number): void {
    const { counters, tun } = this;
    const at = this.settings.type === "tap" ? ETHERNET : 0;
    const id = shows(tun.name, size) ? `${tun.name}#${counters.read.packets}` : "";
    count(counters.read, size);
    counters.protocols[protocolOf(memory.bytes, at, size)]!++;
    if (id) this.show("read", id, at, size);
    const end = this.mode === "echo" ? answer(memory.bytes, at, size) : 0;
    if (end === 0) return;
    if (writePacket(tun, memory, 0, end) !== undefined) return void counters.refused++;
    count(counters.written, end);
    if (id) this.show("inject", id, at, end);
  }

  private show(step: "read" | "inject", id: string, at: number, end: number): void {
    const hex = memory.bytes.toString("hex", 0, Math.min(end, HEX_BYTES));
    const verb = step === "read" ? "read" : "wrote";
    const text = `${verb} ${end} bytes: ${describeFrame(memory.bytes, at, end)}`;
    publish("packet", { time: now(), host: this.tun.name, step, id, bytes: end, text, hex });
  }
}

function count(counter: { packets: number; bytes: number }, bytes: number): void {
  counter.packets++;
  counter.bytes += bytes;
}

const interfaces = new Map<string, Interface>();
export const all = () => [...interfaces.values()];

let last: Promise<unknown> = Promise.resolve();
/** Changes are made one after the other, in the order in which they were asked for. */
export function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const done = last.then(work);
  last = done.catch(() => {});
  return done;
}

/** The one of that name; without a name, the only one. Errors: a Refusal. */
function pick(name: string | undefined): Interface {
  const several = `name: there are several interfaces, name one of ${[...interfaces.keys()].join(", ")}`;
  if (name === undefined && interfaces.size > 1) throw new Refusal(400, several);
  const found = name === undefined ? all()[0] : interfaces.get(name);
  if (found) return found;
  throw new Refusal(400, `name: there is no interface${name ? ` ${name}` : ""}; create one first`);
}

/** Each of these returns what was done. Errors: a Refusal, or a Failure; then nothing has changed. */
export async function create(asked: Values<typeof CREATE>): Promise<string> {
  const settings = complete(config.create, asked);
  const { name } = settings;
  if (interfaces.has(name)) throw new Refusal(409, `name: there is an interface ${name} already`);
  if (interfaces.size >= MOST) throw new Refusal(409, `name: there are ${MOST} interfaces already`);
  let one: Interface | undefined;
  try {
    one = new Interface(settings);
    await change(lines(settings));
  } catch (error) {
    one?.end();
    const isTaken = error instanceof Failure && error.code === "EBUSY";
    throw isTaken ? new Refusal(409, `name: this machine has an interface ${name} already`) : error;
  }
  interfaces.set(name, one);
  tell(one);
  return `Interface ${name} created successfully`;
}

export async function configure({ name, ...asked }: Values<typeof CONFIGURE>): Promise<string> {
  const one = pick(name);
  const before = one.settings;
  const after = complete(before, asked);
  try {
    await change(lines(after, before));
  } catch (error) {
    await change(lines(before, after), true).catch(() => {}); // what was not done cannot be taken back
    throw error;
  }
  one.settings = after;
  tell(one);
  return `Interface ${one.tun.name} configured successfully`;
}

export async function start({ name, mode }: Values<typeof START>): Promise<string> {
  const one = pick(name);
  const before = one.mode;
  one.start(mode ?? (before || "monitor"));
  tell(one);
  const changed = before === one.mode ? "" : `: its mode is ${one.mode} from now on`;
  return `Interface ${one.tun.name} ${before ? `is already running${changed}` : `started, mode ${one.mode}`}`;
}

export async function stop({ name }: Values<typeof NAME>): Promise<string> {
  const one = pick(name);
  const before = one.mode;
  one.stop();
  tell(one);
  return `Interface ${one.tun.name} ${before ? "stopped" : "is not running"}`;
}

export async function remove({ name }: Values<typeof NAME>): Promise<string> {
  const one = pick(name);
  drop(one);
  return `Interface ${one.tun.name} deleted successfully`;
}

function drop(one: Interface): void {
  const { name } = one.tun;
  interfaces.delete(name);
  one.end();
  publish("interface", { name, status: "deleted" });
}

/** Somebody else deleted it: `ip link del`. */
function gone(one: Interface, errno?: number): void {
  console.log(notRead(one.tun.name, errno).message);
  drop(one);
}

let telling: Promise<void> = Promise.resolve();
/** Tells the listeners what it is now, one after the other, so that the last word is the newest. */
function tell(one: Interface): void {
  telling = telling
    .then(async () => (await look([one])).forEach((state) => publish("interface", state)))
    .catch(({ message }) => console.error(message));
}
present(async () => (await look(all())).map((one) => ["interface", one]));

export const list = async () => ({ interfaces: await look(all()) });

/** What an interface has, and has seen. Errors: a Refusal. */
export async function status({ name }: Values<typeof NAME>): Promise<object> {
  const none = { status: "no_interface", message: `There is no interface${name ? ` ${name}` : ""}` };
  if (name === undefined ? interfaces.size === 0 : !interfaces.has(name)) return none;
  return (await look([pick(name)]))[0] ?? none;
}

/** What the kernel has of them. One that it does not have any more is gone. */
async function look(ones: Interface[]): Promise<object[]> {
  const links = ones.length > 0 ? await readLinks() : new Map<string, Link>();
  const there = ones.filter((one) => interfaces.get(one.tun.name) === one); // still
  return there.flatMap((one) => {
    const link = links.get(one.tun.name);
    if (!link) return (gone(one), []);
    const held = (family: string) => link.addr_info.find((info) => info.family === family);
    const [inet, inet6] = [held("inet"), held("inet6")];
    return {
      status: one.mode ? "running" : "stopped",
      name: link.ifname,
      type: one.settings.type,
      mtu: link.mtu,
      address: inet?.local ?? "",
      netmask: inet ? masks[inet.prefixlen] : "",
      address6: inet6 ? `${inet6.local}/${inet6.prefixlen}` : "",
      active: one.mode !== "",
      mode: one.mode,
      index: link.ifindex,
      flags: link.flags,
      hardware_addr: link.address ?? "", // of a TAP
      counters: { ...one.counters, kernel: link.stats64 },
    };
  });
}

/** What `ip -batch` is told to get from `before` to `after`. */
function lines(after: Settings, before?: Settings): string[] {
  const { name, type } = after;
  const isNew = (...fields: (keyof Settings)[]) => fields.some((field) => before?.[field] !== after[field]);
  const [moved, moved6, resized] = [isNew("address", "netmask"), isNew("address6"), isNew("mtu")];
  // Else the kernel sends router solicitations and the like into it.
  const quiet = type === "tun" ? "addrgenmode none multicast off" : "addrgenmode none";
  const address6 = before?.address6.replace(/\/.*/, "");
  return [
    before && moved && `address flush dev ${name} to ${before.address}/32`,
    address6 && moved6 && `address flush dev ${name} to ${address6}/128`,
    resized && `link set dev ${name} mtu ${after.mtu}`,
    resized && canCarryIPv6(name, after.mtu) && `link set dev ${name} ${quiet}`,
    moved && `address add ${after.address}/${after.netmask} dev ${name}`,
    after.address6 && moved6 && `address add ${after.address6} dev ${name} nodad`,
    !before && `link set dev ${name} up`,
  ].filter(Boolean) as string[];
}
