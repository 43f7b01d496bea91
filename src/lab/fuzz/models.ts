/**
 * For the fuzzer: what the core reads from text, written a second time from the RFCs and from README.md's
 * table of options, by hand and with other means. It shares no line with the core: a mistake would have to be
 * made twice to pass.
 */

/** One decimal number as it stands in an IPv4 address; NaN if it cannot. */
const octet = (text: string) =>
  (["0", ...Array.from({ length: 255 }, (_, i) => String(i + 1))].indexOf(text) + 1 || NaN) - 1;

/** "10.8.0.2" → 0x0a080002 */
export function ipv4(text: string): number | undefined {
  const octets = text.split(".").map(octet);
  const address = octets.reduce((sum, one) => sum * 256 + one, 0);
  return octets.length === 4 && !Number.isNaN(address) ? address : undefined;
}

/** An IPv6 address as its eight groups (RFC 4291, section 2.2). No scope. */
export function ipv6(text: string): number[] | undefined {
  const halves = text.split("::");
  const groupsOf = (half: string, isLast: boolean) => {
    const parts = half === "" ? [] : half.split(":");
    return parts.flatMap((part, i) => {
      const embedded = isLast && i === parts.length - 1 && part.includes(".") ? ipv4(part) : undefined;
      if (embedded !== undefined) return [Math.floor(embedded / 65536), embedded % 65536];
      return [part.length <= 4 && /^[\da-f]+$/i.test(part) ? Number(`0x${part}`) : NaN];
    });
  };
  const [left, right] = halves.map((half, i) => groupsOf(half, i === halves.length - 1));
  const missing = 8 - left!.length - (right?.length ?? 0);
  if (halves.length > 2 || (right ? missing < 1 : missing !== 0)) return undefined;
  const groups = [...left!, ...Array<number>(missing).fill(0), ...(right ?? [])];
  return groups.includes(NaN) ? undefined : groups;
}

/**
 * Eight groups as RFC 5952, section 4, wants them: the longest run of zeros is "::", the first of equals, and
 * none of a single zero.
 */
export function written(groups: readonly number[]): string {
  let [at, length] = [0, 1];
  for (let from = 0; from < 8; from++) {
    let zeros = 0;
    while (groups[from + zeros] === 0) zeros++;
    if (zeros > length) [at, length] = [from, zeros];
  }
  const text = (part: readonly number[]) => part.map((group) => group.toString(16)).join(":");
  return length > 1 ? `${text(groups.slice(0, at))}::${text(groups.slice(at + length))}` : text(groups);
}

/** The eight groups that stand at `at`. */
export const groupsAt = (bytes: Buffer, at: number) =>
  [0, 2, 4, 6, 8, 10, 12, 14].map((i) => bytes[at + i]! * 256 + bytes[at + i + 1]!);

/** ADDRESS/PREFIX of either family: its bits as text, and how many belong to the network. */
function block(text: string): { bits: string; prefix: number; groups: number[] } | undefined {
  const [address = "", digits = "", ...more] = text.split("/");
  const isSix = address.includes(":");
  const number = isSix ? undefined : ipv4(address);
  const groups = isSix
    ? ipv6(address)
    : number === undefined
      ? undefined
      : [Math.floor(number / 65536), number % 65536];
  const prefix = Number(digits);
  if (
    !groups ||
    more.length > 0 ||
    !(isSix ? /^\d\d?\d?$/ : /^\d\d?$/).test(digits) ||
    prefix > groups.length * 16
  )
    return undefined;
  return { bits: groups.map((group) => group.toString(2).padStart(16, "0")).join(""), prefix, groups };
}

/** The same without host bits, of the family with so many groups. */
function network(text: string, groups: 2 | 8): ReturnType<typeof block> {
  const found = block(text);
  return found?.groups.length === groups && !found.bits.slice(found.prefix).includes("1") ? found : undefined;
}

export const network6 = (text: string) => network(text, 8);

/** Is this so many hex digits, as a session's token is, and its proof? */
export const isHex = (value: unknown, digits: number) =>
  typeof value === "string" &&
  value.length === digits &&
  [...value].every((digit) => "0123456789abcdef".includes(digit));

const between = (least: number, most: number) => (text: string) =>
  text !== "" &&
  [...text].every((char) => char >= "0" && char <= "9") &&
  Number(text) >= least &&
  Number(text) <= most;
const among =
  (...words: string[]) =>
  (text: string) =>
    words.includes(text);
const device = (text: string) =>
  Buffer.byteLength(text) < 16 &&
  text !== "" &&
  text !== "." &&
  text !== ".." &&
  [...text].every((char) => char > " " && char < "\x7f" && !"/:%#\"'\\".includes(char)) &&
  !"+*".includes(text.at(-1)!);
const prefixIn = (found: ReturnType<typeof block>, least: number, most: number) =>
  found !== undefined && found.groups.length === 2 && found.prefix >= least && found.prefix <= most;

/** Another machine's address: not 0.…, 127.…, ::, ::1, nor an IPv4 one as IPv6 (RFC 4291, section 2.5). */
function isFar(text: string): boolean {
  const [four, groups] = [ipv4(text), ipv6(text)];
  if (four !== undefined) return ![0, 127].includes(Math.floor(four / 2 ** 24));
  return groups !== undefined && !/^(0,){7}[01]$|^(0,){5}65535,/.test(groups.join());
}

/** An IPv6 address, perhaps with a scope. */
const isIPv6 = (text: string) => ipv6(text.replace(/%[\da-z.:-]+$/i, "")) !== undefined;

/** The address of "[::1]:9586", "" of a port alone; undefined if it is neither. */
function addressAndPort(text: string): string | undefined {
  const at = text.lastIndexOf(":");
  const [address, port] = [text.slice(0, Math.max(at, 0)), text.slice(at + 1)];
  const inside = address.startsWith("[") && address.endsWith("]") ? address.slice(1, -1) : undefined;
  const isAddress = inside === undefined ? ipv4(address) !== undefined : isIPv6(inside);
  return between(1, 65535)(port) && (at < 0 || isAddress) ? address : undefined;
}

/**
 * Which values each option takes, and on which of the two programs. Not here: --secret and --user, which
 * depend on the machine, and --status, whose white space is Unicode's.
 */
export const OPTIONS: Record<string, { of: "both" | "client" | "server"; takes: (text: string) => boolean }> =
  {
    port: { of: "both", takes: between(1, 65535) },
    tun: { of: "both", takes: device },
    cipher: { of: "both", takes: among("xor", "xor+aes") },
    mtu: { of: "both", takes: between(68, 65535) },
    offload: { of: "both", takes: among("on", "off") },
    trace: { of: "both", takes: among("walk", "summary", "off") },
    "trace-file": { of: "both", takes: () => true },
    metrics: {
      of: "both",
      takes: (text) => addressAndPort(text) !== undefined,
    },
    socks: {
      of: "client",
      takes: (text) => /^(127\..*|\[::1\]|)$/.test(addressAndPort(text) ?? "none"), // without a login
    },
    route: { of: "client", takes: (text) => network(text, 2) !== undefined || network6(text) !== undefined },
    dns: { of: "client", takes: isFar },
    rekey: { of: "client", takes: between(1, 86_400) },
    address: { of: "client", takes: (text) => prefixIn(block(text), 8, 30) },
    listen: {
      of: "server",
      takes: (text) => text === "*" || ipv4(text) !== undefined || isIPv6(text),
    },
    subnet: { of: "server", takes: (text) => prefixIn(network(text, 2), 8, 30) },
    subnet6: { of: "server", takes: (text) => text === "off" || network6(text)?.prefix === 96 },
    "max-clients": { of: "server", takes: between(1, 65534) },
    nat: { of: "server", takes: (text) => device(text.split("@")[0]!) },
  };
