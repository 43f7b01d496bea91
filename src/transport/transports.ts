/** The transports by their names, as --transport says them. */
import { quic } from "./quic.ts";
import { raw } from "./raw.ts";
import { tcp } from "./tcp.ts";
import type { Transport } from "./transport.ts";
import { udp } from "./udp.ts";

export const transports: Record<"tcp" | "udp" | "quic" | "raw", Transport> = { tcp, udp, quic, raw };
