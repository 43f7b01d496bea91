/** A manager on a host of the lab, behind a unix socket, with the lab's secret in its environment. */
import { join } from "node:path";
import { type Lab, ours } from "../lab.ts";
import { type Answer, ask } from "../manager/ask.ts";
import { fits } from "../manager/schema.ts";
import { Running } from "../running.ts";
import { newFolder } from "./folder.ts";
import { SECRET } from "./testing.ts";

export interface Manager {
  running: Running;
  socketPath: string;
  /** One request; a body is sent as JSON. Its answer is held against the OpenAPI document. */
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
}

export async function startManager(
  lab: Lab,
  host: string,
  args: string[] = [],
  env = SECRET.env,
): Promise<Manager> {
  const socketPath = join(newFolder(), "manager.sock");
  const command = [...ours("manager/main"), "--host", socketPath, ...args];
  const running = new Running(lab.spawn(host, command, { env }));
  await running.until(/the interface manager: /);
  const document = (await ask({ socketPath }, "GET", "/openapi.json")).json;
  const call: Manager["call"] = async (method, path, body, headers) => {
    const answer = await ask({ socketPath }, method, path, body, headers);
    const [plain = ""] = path.split("?");
    const row = plain in document.paths ? plain : plain.replace(/(?<=^\/api\/vpn\/)\w+$/, "{name}");
    fits(document, method, row, answer);
    return answer;
  };
  return { running, socketPath, call };
}
