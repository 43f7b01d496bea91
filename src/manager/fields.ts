/** What is known of an interface's fields: how each is read, and what the OpenAPI document says of it. */
import { formatIPv4, formatIPv6, parseIPv4, parseIPv6 } from "../base/address.ts";
import { MAX_PACKET } from "../base/packet.ts";
import { canCarryIPv6 } from "../host/machine.ts";
import { choice, interfaceName, whole } from "../host/options.ts";
import { ETHERNET } from "./echo.ts";
import { integer, Refusal, text, type Values } from "./route.ts";

const name = text(deviceName, "of the interface", { maxLength: 15 });
const type = text(choice("tun", "tap"), "tun: IP packets; tap: Ethernet frames", { enum: ["tun", "tap"] });
const mode = text(choice("monitor", "echo"), "echo: answer pings", { enum: ["monitor", "echo"] });
const settings = {
  address: text(address, "IPv4 address"),
  netmask: text(netmask, "of the IPv4 network, 8 to 32 bits"),
  address6: text(address6, "IPv6 address and prefix, or off"),
  mtu: integer(whole(68, 65535), "bytes", { minimum: 68, maximum: 65535 }),
};

/** What each call takes. */
export const NAME = { name };
export const CREATE = { name, type, ...settings };
export const START = { name, mode };
export const CONFIGURE = { name, ...settings };

/** Of letters that neither `ip -batch` nor a terminal takes for anything else. */
function deviceName(text: string): string {
  if (["all", "default"].includes(text)) throw new Error("is the kernel's word for all interfaces");
  if (/^\w[\w.-]*$/.test(text) || text === "") return interfaceName(text);
  throw new Error("has a character that is no letter, digit, dot, dash or underscore");
}

function address(text: string): string {
  const first = (parseIPv4(text) ?? 0) >>> 24;
  if (first === 0 || first === 127 || first >= 224)
    throw new Error("is no host's IPv4 address, as 10.0.0.1 is");
  return text;
}

function netmask(text: string): string {
  if (masks.indexOf(text) >= 8) return text;
  throw new Error("is no netmask of 8 to 32 bits without a hole, as 255.255.255.0 is");
}
/** By their bits. */
export const masks = Array.from({ length: 33 }, (_, bits) => formatIPv4(2 ** 32 - 2 ** (32 - bits)));

function address6(text: string): string {
  if (text === "off") return "";
  const [, host, prefix] = /^([^/%]+)\/(\d{1,3})$/.exec(text) ?? [];
  const bytes = parseIPv6(host);
  const isHosts = bytes && bytes[0]! > 0 && bytes[0]! < 0xfe; // not ::1, fe80::1, ff02::1 and their kin
  if (isHosts && Number(prefix) >= 8 && Number(prefix) <= 128)
    return `${formatIPv6(bytes)}/${Number(prefix)}`;
  throw new Error("is no host's IPv6 ADDRESS/PREFIX, as fd00::1/64 is");
}

/** What an interface has, or is to have. address6: "fd00::1/64", "" for none. */
export type Settings = Required<Values<typeof CREATE>>;
export type Defaults = Pick<Settings, "name" | "address" | "netmask" | "mtu">;

/** What is asked for; where that says nothing, the defaults. Errors: a Refusal if they do not go together. */
export function complete(defaults: Defaults, asked: Values<typeof CREATE>): Settings {
  const settings: Settings = { type: "tun", address6: "", ...defaults, ...asked };
  const { type, address, netmask, address6, mtu } = settings;
  const refuse = (why: string) => new Refusal(400, why);
  const addresses = 2 ** 32 - parseIPv4(netmask)!; // in its network: the first and the last are no host's
  if (addresses > 2 && [0, addresses - 1].includes(parseIPv4(address)! % addresses))
    throw refuse(`address: ${address} is no host's own where the netmask is ${netmask}`);
  if (type === "tap" && mtu > MAX_PACKET - ETHERNET)
    throw refuse(`mtu: ${mtu} is too much for a TAP: a frame has ${ETHERNET} bytes more`);
  if (address6 && !canCarryIPv6("default", mtu))
    throw refuse(`address6: it needs ${mtu < 1280 ? "an mtu of 1280 bytes" : "a kernel with IPv6"}`);
  return settings;
}
