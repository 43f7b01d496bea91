/** --status and --metrics: the program's state and numbers, for whoever may ask on this machine. */
import { counters } from "../base/counters.ts";
import { render } from "../base/prometheus.ts";
import { encode } from "../base/render.ts";
import { type OwnStatus, type Status, statusOf } from "../base/status.ts";
import { trace } from "../base/trace.ts";
import { measureLoop } from "./loop-delay.ts";
import { familiesOf } from "./metrics.ts";
import { serveMetrics } from "./metrics-server.ts";
import { type Options, version } from "./options.ts";
import type { Setup } from "./setup.ts";
import { StatusSocket } from "./status-socket.ts";

const EACH = 1_000; // ms between two lines

/** Tells what `own` says, and all that is counted, where the options ask for it. Errors: a Failure. */
export async function openStatus(options: Options, setup: Setup, own: () => OwnStatus): Promise<void> {
  const { status: path, metrics } = options;
  if (path === undefined && metrics === undefined) return;
  const look = measureLoop();
  let loop: Status["loop"] = { p50: 0, p99: 0, max: 0 };
  const status = () => statusOf(own(), version, loop);
  const line = () => JSON.stringify(status());

  if (metrics)
    await serveMetrics(metrics, () =>
      render(familiesOf([{ labels: { role: own().role }, status: status() }])),
    );
  const socket = path === undefined ? undefined : await StatusSocket.open(path, line);
  if (path !== undefined) setup.removeAtEnd(path);
  if (socket)
    trace.onEvents = (events) => {
      // a step of the trace, as --trace-file has it
      if (socket.isRead) socket.write(events.map((event) => `{"type":"step",${encode(event).slice(1)}`));
    };
  setInterval(() => {
    loop = look();
    for (const traffic of counters.live) traffic.look(performance.now());
    if (socket?.isRead) socket.write([line()]);
  }, EACH).unref();
}
