/**
 * For load.ts: requests made to break the manager. A third has only what is right in most places, the others
 * anything, and one in four is changed in its bytes.
 */
import { CONFIGURE, CREATE, NAME, START } from "../../manager/fields.ts";
import { PROGRESS } from "../../manager/progress.ts";
import type { Fields } from "../../manager/route.ts";
import { CLIENT_FIELDS, SERVER_FIELDS } from "../../manager/vpn-fields.ts";
import type { Random } from "../fuzz/random.ts";

const TAKES: Record<string, Fields> = {
  "interface/create": CREATE,
  "interface/start": START,
  "interface/stop": NAME,
  "interface/configure": CONFIGURE,
  "interface/delete": NAME,
  progress: PROGRESS,
  "vpn/server": SERVER_FIELDS,
  "vpn/client": CLIENT_FIELDS,
};
const PATHS = Object.keys(TAKES);
const ADDRESSES = [
  "0.0.0.0",
  "10.0.0.255",
  "127.0.0.1",
  "224.0.0.1",
  "256.1.1.1",
  "010.0.0.1",
  "::",
  "fe80::1/64",
];

/** By field: what is right, what is not. */
const FIELDS: Record<string, unknown[][]> = {
  name: [
    ["tun0", "tun1", "tap0", "x-1.y_2", "x".repeat(15)],
    ["lo", "eth0", "", "..", "all", "x".repeat(16), "a b", "tun%d", "ü", "$(id)", "a;b", "a/b"],
  ],
  type: [
    ["tun", "tap"],
    ["TUN", ""],
  ],
  address: [["10.0.0.1", "10.0.1.1", "172.16.0.9"], ADDRESSES],
  netmask: [
    ["255.255.255.0", "255.0.0.0", "255.255.255.252"],
    ["255.255.255.255", "0.0.0.0", "255.0.255.0", "255.255.255.254", "24", "128.0.0.0"],
  ],
  address6: [["fd00::1/64", "off"], ADDRESSES],
  mtu: [
    [1280, 1500, 9000, 65521],
    [67, 68, 1279, 65522, 65535, 65536, 1e9, -1, 1.5, "1500"],
  ],
  mode: [
    ["echo", "monitor"],
    ["both", ""],
  ],
  student: [
    ["Ada", "José 🙂 王"],
    ["", "x".repeat(65), "a\nb", "\ud800", 7],
  ],
  lesson: [["xor", "NAT"], [""]],
  passed: [
    [0, 3],
    [-1, 6, 1001, "3"],
  ],
  total: [
    [5, 1000],
    [0, 1001, 1.5],
  ],
  port: [[5555], [0, 65536]],
  transport: [["tcp", "udp"], ["quic"]],
  subnet: [["10.8.0.0/24"], ["10.8.0.1/24"]],
  route: [[["8.8.8.8/32"]], [["8.8.8.8/1"], "8.8.8.8/32", [[]]]],
  secret: [[["/run/secret"]], [["0".repeat(64)], ["a\0b"]]],
  constructor: [[], [{}]],
  ["__proto__"]: [[], [{ name: "tun0" }]],
};
const WORDS = Object.values(FIELDS).flat(2);

/** Any JSON value, so deep at most. */
function value(any: Random, depth = 3): unknown {
  const many = Array.from({ length: any.below(4) });
  const kind = any.below(depth > 0 ? 8 : 6);
  if (kind === 7) return many.map(() => value(any, depth - 1));
  if (kind === 6) return Object.fromEntries(many.map(() => [any.one(...WORDS), value(any, depth - 1)]));
  const text = any.bytes(any.below(40)).toString("utf8");
  return [any.edge(), -any.edge(), any.edge() / 7, any.one(true, null), any.one(...WORDS), text][kind];
}

/** Method, path, body, headers. */
export function body(any: Random): [string, string, Buffer | undefined, Record<string, string>] {
  const path = any.one("interface/create", ...PATHS);
  if (path.startsWith("vpn/")) return vpnBody(any, path);
  const isRight = any.below(3) === 0;
  const isThere = (name: string) => {
    const field = TAKES[path]![name];
    return field ? any.below(3) === 0 || field.required === true : !isRight && any.below(99) === 0;
  };
  const names = Object.keys(FIELDS).filter(isThere);
  const one = (name: string) => {
    const [right = [], wrong = []] = FIELDS[name]!;
    return isRight ? any.one(...right) : any.below(12) ? any.one(...right, ...wrong) : value(any);
  };
  const json = Object.fromEntries(names.map((name) => [name, one(name)]));
  const text = Buffer.from(JSON.stringify(isRight || any.below(20) ? json : value(any)));
  const bytes = isRight || any.below(4) ? text : any.mutate(text);
  const query =
    isRight || any.below(9)
      ? ""
      : `?${new URLSearchParams([[any.one("name", "mtu", "x"), String(any.one(...WORDS))]])}`;
  const types = ["text/plain", "application/jsonp", "", "application/json; charset=utf-8"];
  const type = isRight || any.below(30) ? "application/json" : any.one(...types);
  const method = path === "interface/delete" ? "DELETE" : "POST";
  return [method, `/api/${path}${query}`, any.below(40) ? bytes : undefined, { "Content-Type": type }];
}

/** Any options of a program; and one that the manager keeps for itself, so that it never starts one. */
function vpnBody(any: Random, path: string): [string, string, Buffer, Record<string, string>] {
  const names = Object.keys(TAKES[path]!).filter(() => any.below(6) === 0);
  const one = (name: string) => any.one(...(FIELDS[name]?.flat() ?? [true]), value(any));
  const options = Object.fromEntries(names.map((name) => [name, one(name)]));
  const text = Buffer.from(JSON.stringify(options).slice(1, -1)); // without its braces
  const bytes = any.below(2) ? any.mutate(text) : text;
  const all = Buffer.concat([
    Buffer.from("{"),
    bytes,
    Buffer.from(`${bytes.length ? "," : ""}"status":"/x"}`),
  ]);
  return ["POST", `/api/${path}`, all, { "Content-Type": "application/json" }];
}
