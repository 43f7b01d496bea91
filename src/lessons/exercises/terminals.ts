/** The five terminals, as one program sees them: what is typed on the client, and what 1 and 3 show of it. */
import { stripVTControlCharacters } from "node:util";
import chalk from "chalk";
import { note, startClient, startServer, type, up } from "../../lab/experiments/stage.ts";
import type { Lab } from "../../lab/lab.ts";
import type { Running } from "../../lab/running.ts";
import { until } from "../../lab/tests/peers.ts";

/** What a command said, and what terminals 1 and 3 showed meanwhile, without colours. */
export interface Shown {
  said: string;
  server: string; // terminal 1
  client: string; // terminal 3
}

export class Terminals {
  readonly lab: Lab;
  readonly server: Running;
  readonly client: Running;

  private constructor(lab: Lab, server: Running, client: Running) {
    this.lab = lab;
    this.server = server;
    this.client = client;
  }

  /** A lab of its own, with both programs in it, configured. */
  static async up(transport: "tcp" | "udp"): Promise<Terminals> {
    const lab = await up();
    const args = ["--transport", transport];
    const server = await startServer(lab, "xor+aes", ...args);
    const client = await startClient(lab, "xor+aes", 5555, ...args);
    await server.until(/10\.8\.0\.2 connected/);
    return new Terminals(lab, server, client);
  }

  /**
   * Types a command on the client, and waits for its end, and then until `enough`, which must come. Shows the
   * terminals' lines that match `lines`.
   */
  async type(command: string, lines: RegExp, enough: (shown: Shown) => boolean): Promise<Shown> {
    const [server, client] = [this.server.output.length, this.client.output.length];
    const said = await type(this.lab, "client", command);
    const shown = () => ({
      said,
      server: stripVTControlCharacters(this.server.output.slice(server)),
      client: stripVTControlCharacters(this.client.output.slice(client)),
    });
    await until(() => enough(shown()), 10_000);
    const then = shown();
    for (const [name, text] of [
      ["terminal 1", then.server],
      ["terminal 3", then.client],
    ] as const)
      for (const line of text.split("\n").filter((one) => lines.test(one)))
        note(`${chalk.bold(name)} ${line.trim().replace(/^\+\d+ µs /, "")}`, " ".repeat(11));
    return then;
  }
}
