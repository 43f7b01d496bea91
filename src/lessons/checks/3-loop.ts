/** Lesson 3: the loop. What its checks see. */
import { readFileSync } from "node:fs";
import { type Lesson, Miss, type Program, type Stage } from "../check.ts";
import { answered, send, started, UDP } from "./2-answer.ts";

const MORE = "TODO 1: one wake-up may be for many packets: read until -c.EAGAIN";
const KEYS =
  "TODO 2 and 3: c.watch(tun, onPacket) and c.watch(0, onKey), the names without (); onKey() reads what " +
  "was typed, and prints `answered: ${answered}`";

/** Types a line, and waits for what is printed about it: the number of pings answered. */
async function enter(stage: Stage, program: Program): Promise<number> {
  const before = numbers(program).length;
  program.running.child.stdin!.write("how many?\n");
  await stage.until(
    () => numbers(program).length > before,
    () => new Miss('Enter was typed, and no line "answered: …" came', KEYS),
  );
  return numbers(program).at(-1)!;
}

const IDLE = 5; // calls of read() in half a second: Node's own are fewer
const numbers = (program: Program) =>
  [...program.said.matchAll(/^answered: (\d+)$/gm)].map(([, number]) => Number(number));

/** How often the program has called read(): proc(5)'s /proc/PID/io. Not every kernel counts that. */
function reads({ running }: Program): number | undefined {
  try {
    return Number(/syscr: (\d+)/.exec(readFileSync(`/proc/${running.child.pid}/io`, "utf8"))![1]);
  } catch {
    return undefined;
  }
}

/** Pings once, and waits until the program has called read() twice: the second finds nothing more. */
async function readsOn(stage: Stage): Promise<void> {
  const [program] = stage.programs as [Program];
  const before = reads(program);
  await answered(stage, "-c 1");
  const called = () => (before === undefined ? 2 : reads(program)! - before);
  await stage.until(
    () => called() >= 2,
    () => new Miss(`for one ping your program calls ${called()} read()`, MORE),
  );
}

/** Throws unless the last number is right. */
function expect(number: number, right: number): void {
  if (number !== right)
    throw new Miss(
      `pings answered so far: ${right}; your program says ${number}`,
      "TODO 1: count each answer that was written, and nothing else: answered++",
    );
}

export const lesson: Lesson = {
  file: "3-loop",
  title: "the loop",
  about: [
    "Two file descriptors, one place to sleep: you hear packets and keys at once.",
    "Enter shows how many pings it has answered.",
  ],
  write: [
    "onPacket(): all packets that are there, until EAGAIN",
    "onKey(): what was typed; stop at the end",
    "watch both",
  ],
  read: ["man 2 select", "walkthrough.md, The loop", "src/core/loop.ts"],
  crashes: [
    [
      /EAGAIN/,
      "-EAGAIN is no mistake: there is no packet now. Return before c.check(), the loop calls you again",
    ],
    [/EPERM.*\n.*poll|poll.*EPERM/, "c.watch() wants an fd: `tun`, or 0 for the keyboard"],
  ],
  checks: [
    {
      name: "a ping is answered while nobody types",
      async run(stage) {
        await started(stage);
        return answered(
          stage,
          "-c 1",
          "TODO 3: c.watch(tun, onPacket); nothing may sleep in read() of the keyboard",
        );
      },
    },
    {
      name: "Enter is answered while nobody pings",
      async run(stage) {
        const number = await enter(stage, stage.programs[0]!);
        expect(number, 1);
        return `answered: ${number}`;
      },
    },
    {
      name: "40 pings at once, and 5 times Enter between",
      async run(stage) {
        await send(stage, UDP); // which is not answered, so it does not count
        const pings = answered(stage, "-c 40 -l 40 -q", MORE);
        pings.catch(() => {}); // it is waited for below
        for (let i = 0; i < 5; i++) await enter(stage, stage.programs[0]!);
        const shown = await pings;
        expect(await enter(stage, stage.programs[0]!), 41);
        if (numbers(stage.programs[0]!).length > 7)
          throw new Miss(
            "Enter was typed 7 times, and answered more often",
            "TODO 2: only onKey() prints. What was typed stays until c.read(0, keys) takes all of it out",
          );
        return shown;
      },
    },
    {
      name: "it reads until there is nothing more",
      async run(stage) {
        for (let i = 0; i < 3; i++) await readsOn(stage);
        return "for one ping it calls read() twice: a packet, and -EAGAIN";
      },
    },
    {
      name: "after Ctrl-D it goes on, and sleeps when there is nothing to do",
      async run(stage) {
        const program = stage.programs[0]!;
        program.running.child.stdin!.end();
        await answered(
          stage,
          "-c 2 -i 0.3",
          "read() of the keyboard gives 0 now: stop watching it, return, and go on with tun0",
        );
        const before = reads(program);
        await stage.rest(program);
        const calls = before === undefined ? 0 : reads(program)! - before;
        if (calls > IDLE && !program.spins)
          throw new Miss(
            `nothing came for half a second, and your program has called read() ${calls} times`,
            "no timer: c.watch() calls you when there is something to read",
          );
        if (program.spins)
          throw new Miss(
            "your program is busy all the time now, and never sleeps",
            "read() of the keyboard gives 0: the end. Call the function that c.watch(0, …) has returned",
          );
        return "2 more pings, and no work between them";
      },
    },
  ],
};
