/** The transports by their names, as --transport says them. */
import { raw } from "./raw.ts";
import { tcp } from "./tcp.ts";
import type { Transport } from "./transport.ts";
import { udp } from "./udp.ts";

export const transports: Record<"tcp" | "udp" | "raw", Transport> = { tcp, udp, raw };
