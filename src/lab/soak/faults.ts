/**
 * What goes wrong in `make soak`: with a client, its wire, its address, its tun0; and with the server, under
 * all of them. Each fault has a transfer under way, an end, and a deadline by which a ping through the tunnel
 * must be answered again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Lab, TARGET } from "../lab.ts";
import { Running } from "../running.ts";
import { startClient, startServer, startTransfer } from "../tests/testing.ts";

// s to recover: a client that could not connect for long waits half a minute between two tries
const DEADLINE = 90;
const MEGABYTES = 8; // of each transfer
const TOGETHER = 8; // clients that join at once
const QUIETLY = ["--trace", "summary"];

/** A client on a host of its own: connected, but between the begin and the end of a fault. */
export class Client {
  readonly host: string;
  readonly programs: Running[] = []; // all that ever ran
  private readonly lab: Lab;
  private readonly number: number; // of its host
  private outer = 100; // last byte of its outer address

  constructor(lab: Lab, number: number) {
    this.lab = lab;
    this.number = number;
    this.host = lab.addClient(number);
  }

  get program(): Running {
    return this.programs.at(-1)!;
  }

  async join(): Promise<void> {
    this.programs.push(await startClient(this.lab, this.host, ...QUIETLY, "--rekey", "5"));
  }

  /** The server's end of its wire. */
  wire(state: "up" | "down"): void {
    this.lab.run("server", `ip link set lan${this.number} ${state}`);
  }

  loseAddress(): void {
    this.lab.run(this.host, `ip addr del 192.168.${this.number}.${this.outer}/24 dev eth0`);
  }

  /** Another one than before, .100 or .101. */
  takeAddress(): void {
    this.outer = 201 - this.outer;
    this.lab.run(this.host, `ip addr replace 192.168.${this.number}.${this.outer}/24 dev eth0`);
    this.lab.run(this.host, `ip route replace default via 192.168.${this.number}.1`);
  }

  goHome(): void {
    if (this.outer === 100) return;
    this.loseAddress();
    this.takeAddress();
  }

  async loseTun(): Promise<void> {
    this.lab.run(this.host, "ip link del tun0");
    await this.program.ended;
  }
}

interface Fault {
  name: string;
  survived: boolean; // by TCP connections inside the tunnel
  begin: (client: Client) => unknown;
  end: (client: Client) => unknown;
}
const leaving = (signal: NodeJS.Signals): Fault => ({
  name: `client: ${signal}`,
  survived: false,
  begin: ({ program }) => program.stop(signal),
  end: (client) => client.join(),
});

export const CLIENT_FAULTS: Fault[] = [
  leaving("SIGTERM"),
  leaving("SIGINT"),
  leaving("SIGKILL"),
  {
    name: "client: tun0 deleted",
    survived: false,
    begin: (client) => client.loseTun(),
    end: (client) => client.join(),
  },
  {
    name: "client: SIGSTOP, SIGCONT",
    survived: true,
    begin: ({ program }) => program.child.kill("SIGSTOP"),
    end: ({ program }) => program.child.kill("SIGCONT"),
  },
  {
    name: "client: wire down, up",
    survived: true,
    begin: (client) => client.wire("down"),
    end: (client) => client.wire("up"),
  },
  {
    name: "client: another outer address",
    survived: true,
    begin: (client) => client.loseAddress(),
    end: (client) => client.takeAddress(),
  },
];
export const SERVER_FAULTS: NodeJS.Signals[] = ["SIGKILL", "SIGTERM", "SIGKILL", "SIGINT"];

const lastWords = (...programs: Running[]) =>
  programs
    .map(({ output }) => `\nlast words of ${/server|client/.exec(output)}:\n${output.slice(-1500)}`)
    .join("");

/** One server and its clients in a lab; what happens to them, and what has become of it so far. */
export class Stage {
  readonly clients: Client[];
  readonly servers: Running[] = []; // all that ever ran
  readonly recoveries: Record<string, number[]> = {}; // by fault: s from its end until a ping was answered
  transfers = 0; // that arrived with the right hash
  private readonly lab: Lab;
  private readonly say: (line: string) => void;

  constructor(lab: Lab, clients: number, say: (line: string) => void) {
    this.lab = lab;
    this.say = say;
    // The user's own, as in the five terminals: with it, a connection through the NAT survives the end of a
    // server with --nat.
    lab.run("server", "iptables -t nat -A POSTROUTING -s 10.8.0.0/24 -o eth1 -j MASQUERADE");
    this.clients = Array.from({ length: clients }, (_, i) => new Client(lab, i + 2));
    // so that the server has rules and settings of both families to undo; on the clients' links there is none
    lab.addIPv6();
  }

  get server(): Running {
    return this.servers.at(-1)!;
  }

  get programs(): Running[] {
    return [...this.servers, ...this.clients.flatMap(({ programs }) => programs)];
  }

  async startServer(): Promise<void> {
    this.servers.push(await startServer(this.lab, ...QUIETLY));
  }

  /** All clients join, a few at a time. */
  async joinAll(): Promise<void> {
    for (let i = 0; i < this.clients.length; i += TOGETHER) {
      const some = this.clients.slice(i, i + TOGETHER);
      await Promise.all(some.map(async (client) => (await client.join(), await this.answered(client))));
      this.say(`${i + some.length} clients have joined`);
    }
  }

  /** All clients end, in one of three ways by turns. */
  async leaveAll(): Promise<void> {
    await Promise.all(
      this.clients.map(({ program }, i) => program.stop((["SIGTERM", "SIGINT", "SIGKILL"] as const)[i % 3])),
    );
    for (const client of this.clients) client.goHome();
  }

  /**
   * A fault of `seconds` with one client; a transfer through it, or after it where it ends the program. `up`:
   * to the server, else from there.
   */
  async clientFault(
    client: Client,
    { name, survived, begin, end }: Fault,
    seconds: number,
    up: boolean,
  ): Promise<void> {
    const through = survived ? await this.startTransfer(client, up) : undefined;
    await begin(client);
    const whole = through?.();
    await sleep(seconds * 1000);
    const recover = async () => {
      const since = performance.now();
      await Promise.resolve(end(client)).catch(({ message }) =>
        Promise.reject(new Error(`${name} (${client.host}): ${message}${lastWords(this.server)}`)),
      );
      await this.answered(client);
      this.recovered(name, client.host, since);
    };
    await Promise.all([recover(), whole]);
    if (!through) await (await this.startTransfer(client, up))();
  }

  /**
   * The server ends by `signal` and is away for `seconds`; transfers of the clients `busy` go on where they
   * were.
   */
  async serverFault(signal: NodeJS.Signals, busy: Client[], seconds: number): Promise<void> {
    const transfers = await Promise.all(busy.map((client, i) => this.startTransfer(client, i % 2 === 0)));
    await this.server.stop(signal);
    const whole = transfers.map((rest) => rest());
    await sleep(seconds * 1000);
    const since = performance.now();
    await this.startServer();
    const recover = async (client: Client) => (
      await this.answered(client),
      (performance.now() - since) / 1000
    );
    const [all] = await Promise.all([Promise.all(this.clients.map(recover)), ...whole]);
    (this.recoveries[`server: ${signal}, each client`] ??= []).push(...all);
    const [least, most] = [Math.min(...all), Math.max(...all)].map((seconds) => seconds.toFixed(1));
    this.say(`server: ${signal}: each of ${all.length} clients is back after ${least} to ${most} s`);
  }

  private recovered(name: string, host: string, since: number): void {
    const seconds = (performance.now() - since) / 1000;
    (this.recoveries[name] ??= []).push(seconds);
    this.say(`${name} (${host}): back after ${seconds.toFixed(1)} s`);
  }

  /** A quarter of a transfer; what does the rest, and counts it. */
  private async startTransfer({ host, program }: Client, up: boolean): Promise<() => Promise<void>> {
    const [from, to] = up ? [host, "internet"] : ["internet", host];
    const rest = await startTransfer(this.lab, from, to, MEGABYTES);
    return async () => {
      await rest().catch(({ message }) =>
        Promise.reject(new Error(`${from} to ${to}: ${message}${lastWords(program, this.server)}`)),
      );
      this.transfers++;
    };
  }

  /**
   * Waits for the answer to a ping through the tunnel. Without it, nothing that leaves the host is answered
   * from there.
   */
  private async answered({ host, program }: Client): Promise<void> {
    for (const deadline = Date.now() + DEADLINE * 1000; ; await sleep(100)) {
      const ping = new Running(this.lab.spawn(host, `ping -c 1 -i 0.2 -w 5 ${TARGET}`.split(" ")));
      if ((await ping.ended) === 0) return;
      if (Date.now() > deadline)
        throw new Error(`${host}: no ping was answered for ${DEADLINE} s${lastWords(program, this.server)}`);
    }
  }
}
