/**
 * Who runs in `make bench`: this project, and what it is compared with. Each is started on the client and the
 * server of a fresh lab, with the defaults of its authors wherever they need not be changed.
 */
import { spawnSync } from "node:child_process";
import { generateKeyPairSync, X509Certificate } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Failure } from "../../base/failure.ts";
import { hasQuic } from "../../host/options.ts";
import { type Lab, LAB_SECRET, SERVER } from "../lab.ts";
import { retry, Running, startProgram } from "../running.ts";
import { compile, PROGRAMS, startSimple } from "./simplevpn.ts";
import { has } from "../tools.ts";
import { wireGuardVersion } from "./wireguard.ts";

export interface Contender {
  name: string; // for --only
  title: string;
  needs: Record<string, string>; // system tools, and the Debian packages that have them
  needsQuic?: true; // of Node's OpenSSL
  version?: () => string;
  address: string; // the server's, as the client reaches it through this tunnel
  /** Starts it; the programs on both hosts, whose CPU time and memory count. `folder` is for its keys. */
  start: (lab: Lab, folder: string) => Promise<Running[]>;
}

const INNER = "10.8.0.1";

export const CONTENDERS: Contender[] = [
  { name: "none", title: "no tunnel", needs: {}, address: SERVER, start: async () => [] },
  { name: "ours", title: "this project, TCP", needs: {}, address: INNER, start: (lab) => startOurs(lab) },
  {
    name: "udp",
    title: "this project, UDP",
    needs: {},
    address: INNER,
    start: (lab) => startOurs(lab, "--transport", "udp"),
  },
  {
    name: "quic",
    title: "this project, QUIC",
    needs: {},
    needsQuic: true,
    address: INNER,
    start: (lab) => startOurs(lab, "--transport", "quic"),
  },
  {
    name: "raw",
    title: "this project, raw",
    needs: {},
    address: INNER,
    start: (lab) => startOurs(lab, "--transport", "raw"),
  },
  {
    name: "no-offload",
    title: "this project, no offload",
    needs: {},
    address: INNER,
    start: (lab) => startOurs(lab, "--offload", "off"),
  },
  {
    name: "openvpn",
    title: "OpenVPN UDP",
    needs: { openvpn: "openvpn", openssl: "openssl" },
    version: () => told("openvpn --version"),
    address: INNER,
    start: (lab, folder) => startOpenVpn(lab, folder, "udp"),
  },
  {
    name: "openvpn-tcp",
    title: "OpenVPN TCP",
    needs: { openvpn: "openvpn", openssl: "openssl" },
    version: () => told("openvpn --version"),
    address: INNER,
    start: (lab, folder) => startOpenVpn(lab, folder, "tcp"),
  },
  {
    name: "wireguard-go",
    title: "wireguard-go",
    needs: { "wireguard-go": "wireguard-go", wg: "wireguard-tools" },
    version: wireGuardVersion,
    address: INNER,
    start: startWireGuard,
  },
  {
    name: "c",
    title: "C, select() + XOR",
    needs: PROGRAMS.simplevpn.needs,
    address: INNER,
    start: (lab, folder) => startC(lab, folder, "simplevpn"),
  },
  {
    name: "c-aes",
    title: "C, the same design",
    needs: PROGRAMS["simplevpn-aes"].needs,
    address: INNER,
    start: (lab, folder) => startC(lab, folder, "simplevpn-aes"),
  },
];

/** What keeps a contender from running here; undefined if nothing does. */
export function lacks({ needs, needsQuic }: Contender): string | undefined {
  if (needsQuic && !hasQuic()) return `not in Node ${process.version}. Try: make bench NODE=24`;
  const missing = Object.keys(needs)
    .filter((tool) => !has(tool))
    .map((tool) => needs[tool]);
  return missing.length > 0
    ? `not installed. Try: sudo apt-get install -y --no-install-recommends ${missing.join(" ")}`
    : undefined;
}

/** The version that a program tells. */
function told(command: string): string {
  const [name, ...args] = command.split(" ");
  const said = spawnSync(name!, args, { encoding: "utf8" }).stdout;
  return /\d+\.\d[\w.]*/.exec(said)?.[0] ?? "of an unknown version";
}

const ENV = { env: { ...process.env, SIMPLE_VPN_SECRET: LAB_SECRET } };

/** Our server alone, on its defaults. */
export async function startOurServer(lab: Lab, ...options: string[]): Promise<Running> {
  const server = startProgram(lab, "server", "server", ["--configure", ...options], ENV);
  await server.until(/listening on/);
  return server;
}

/** One of our clients; `server`: its address on the link to that host. */
export async function startOurClient(
  lab: Lab,
  host: string,
  server: string,
  ...options: string[]
): Promise<Running> {
  const client = startProgram(lab, host, "client", [server, "--configure", ...options], ENV);
  await client.until(/connected to/);
  return client;
}

async function startOurs(lab: Lab, ...options: string[]): Promise<Running[]> {
  return [await startOurServer(lab, ...options), await startOurClient(lab, "client", SERVER, ...options)];
}

async function startC(lab: Lab, folder: string, name: keyof typeof PROGRAMS): Promise<Running[]> {
  const path = compile(folder, name);
  return [await startSimple(lab, "server", path), await startSimple(lab, "client", path)];
}

/**
 * TLS with a certificate for each end, known to the other by its fingerprint (OpenVPN 2.6 or later); data
 * in AES-256-GCM.
 */
async function startOpenVpn(lab: Lab, folder: string, proto: "tcp" | "udp"): Promise<Running[]> {
  const certificate = (host: string) => join(folder, `${host}.crt`);
  const key = (host: string) => join(folder, `${host}.key`);
  for (const host of ["server", "client"]) {
    const { status, stderr } = spawnSync(
      "openssl",
      [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        `/CN=${host}`,
        "-keyout",
        key(host),
        "-out",
        certificate(host),
      ],
      { encoding: "utf8" },
    );
    if (status !== 0) throw new Failure(`Cannot make a certificate: ${stderr.trim()}`, "openssl version");
  }
  const start = async (host: string, peer: string, role: string) => {
    const fingerprint = new X509Certificate(readFileSync(certificate(peer))).fingerprint256;
    const cipher = `--data-ciphers AES-256-GCM --peer-fingerprint ${fingerprint}`;
    const files = ["--cert", certificate(host), "--key", key(host)]; // their names may have spaces
    const end = proto === "tcp" ? `tcp-${host}` : proto;
    const words = `openvpn ${role} --dev tun0 --proto ${end} --disable-dco ${cipher}`.split(" ");
    const running = new Running(lab.spawn(host, [...words, ...files]));
    await running.until(/Initialization Sequence Completed/);
    return running;
  };
  return [
    await start("server", "client", `--server 10.8.0.0 255.255.255.0 --topology subnet --dh none`),
    await start("client", "server", `--client --remote ${SERVER} --nobind`),
  ];
}

/**
 * Its control sockets are named for the interfaces and lie in /run, which the hosts share: so each has a name
 * of its own.
 */
async function startWireGuard(lab: Lab, folder: string): Promise<Running[]> {
  const hosts = {
    server: { device: "wgs", inner: INNER, peer: "client" },
    client: { device: "wgc", inner: "10.8.0.2", peer: "server" },
  } as const;
  const keys = { server: generateKeyPairSync("x25519"), client: generateKeyPairSync("x25519") };
  const base64 = (text: string) => Buffer.from(text, "base64url").toString("base64");
  const env = {
    ...process.env,
    WG_PROCESS_FOREGROUND: "1",
    WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD: "1",
  };
  const programs = [];
  for (const host of ["server", "client"] as const) {
    const { device, inner, peer } = hosts[host];
    const file = join(folder, `${device}.key`);
    writeFileSync(file, base64(keys[host].privateKey.export({ format: "jwk" }).d!), { mode: 0o600 });
    const running = new Running(lab.spawn(host, ["wireguard-go", device], { env }));
    programs.push(running);
    await retry(
      () => lab.run(host, `wg show ${device}`),
      () => `wireguard-go said: ${running.output}`,
    );
    const where = host === "server" ? ["listen-port", "51820"] : [];
    const endpoint = host === "client" ? ["endpoint", `${SERVER}:51820`] : [];
    const key = base64(keys[peer].publicKey.export({ format: "jwk" }).x!);
    const allowed = ["allowed-ips", `${hosts[peer].inner}/32`];
    lab.run(host, ["wg", "set", device, "private-key", file, ...where, "peer", key, ...endpoint, ...allowed]);
    lab.run(host, `ip addr add ${inner}/24 dev ${device}`);
    lab.run(host, `ip link set ${device} up`);
  }
  return programs;
}
