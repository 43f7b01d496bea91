/**
 * Runs on the lab's router, started by emulator.ts. What goes from client to server is routed into the TUN
 * "up0", what goes back into "down0". It is read there, waits in a DelayLine, and is written back: the router
 * forwards it as if it had just come in by that interface.
 */
import { type Memory, read } from "../../base/libc.ts";
import { watch } from "../../core/loop.ts";
import { openTun, writePacket } from "../../core/tun.ts";
import { Failure } from "../../base/failure.ts";
import { atExit, fail, program } from "../../host/program.ts";
import { DelayLine } from "./delay-line.ts";

const AT_ONCE = 64; // packets of one way, before it is the other's turn
const TICK = 1; // ms

/** What the router's kernel tells its neighbours by IPv6 on every interface; on this one there are none. */
const isMulticast = (bytes: Buffer, at: number) => bytes[at]! >> 4 === 6 && bytes[at + 24] === 0xff;

program(() => {
  const [seed, delay, loss, reorder, late] = process.argv.slice(2).map(Number);
  const way = { delay: delay!, loss: loss!, reorder: reorder!, late: late! };
  const ways = ["up", "down"].map((name, i) => {
    const tun = openTun(`${name}0`, "none");
    const line = new DelayLine(way, seed! + i);
    const write = (...packet: [Memory, number, number]) => writePacket(tun, ...packet) === undefined;
    const forward = () => line.give(performance.now(), write);
    const next = (memory: Memory, at: number, room: number): number => {
      const length = read(tun.fd, memory, at, room);
      return length > 0 && isMulticast(memory.bytes, at) ? next(memory, at, room) : length;
    };
    const readable = () => {
      const take = () => line.take(performance.now(), next);
      for (let count = 0; count < AT_ONCE && take(); count++);
      forward();
    };
    const gone = () => fail(new Failure(`Cannot read ${tun.name}: it is gone`, "start it again"));
    watch(tun.fd, { readable, error: gone });
    return { name, line, forward };
  });
  setInterval(() => ways.forEach(({ forward }) => forward()), TICK);
  atExit(() => {
    for (const { name, line } of ways) console.log(`${name} ${JSON.stringify(line.counts)}`);
  });
  console.log(`ready: seed ${seed}`);
});
