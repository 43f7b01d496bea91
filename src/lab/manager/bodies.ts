/**
 * For load.ts: requests made to break the manager. A third has only what is right in most places, the others
 * anything, and one in four is changed in its bytes.
 */
import { CONFIGURE, CREATE, NAME, START } from "../../manager/fields.ts";
import type { Random } from "../fuzz/random.ts";

const TAKES = { create: CREATE, start: START, stop: NAME, configure: CONFIGURE, delete: NAME };
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
  const path = any.one("create", ...(Object.keys(TAKES) as (keyof typeof TAKES)[]));
  const isRight = any.below(3) === 0;
  const isThere = (name: string) =>
    name in TAKES[path] ? any.below(3) === 0 : !isRight && any.below(30) === 0;
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
      : `?${any.one("name", "mtu", "x")}=${encodeURIComponent(String(any.one(...WORDS)))}`;
  const types = ["text/plain", "application/jsonp", "", "application/json; charset=utf-8"];
  const type = isRight || any.below(30) ? "application/json" : any.one(...types);
  const method = path === "delete" ? "DELETE" : "POST";
  return [
    method,
    `/api/interface/${path}${query}`,
    any.below(40) ? bytes : undefined,
    { "Content-Type": type },
  ];
}
