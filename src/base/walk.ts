/** The walk: the one vocabulary of steps that the code, its trace, the tests and walkthrough.md share. */

/**
 * The steps of the walk that are our own code's, as stages of the two pumps, outbound() and received(). The
 * same code runs both ways: the request goes up from client to server, the reply comes down. Steps 1–4, 7, 9,
 * 10, R1, R2 and R7–R9 are the kernel's and ping's.
 */
const WALK = [
  // stage, request, reply, what happens
  ["wake", "5", "R3.wake", "the loop wakes: the TUN is readable"],
  ["read", "6.read", "R3.read", "read() takes the IP packet out of the TUN"],
  ["xor", "6.xor", "R4.xor", "every byte XOR 0x42"],
  ["seal", "6.seal", "R4.seal", "AES-256-GCM"],
  ["frame", "6.frame", "R4.frame", "a header in front"],
  ["write", "6.write", "R4.write", "write() into the socket; over UDP, sendmsg()"],
  ["receive", "8.read", "R5.read", "read() from the socket; over UDP, recvmsg()"],
  [
    "deframe",
    "8.deframe",
    "R5.deframe",
    "the frame found again in TCP's stream; over UDP, it is the datagram",
  ],
  ["open", "8.open", "R6.open", "tag checked, AES undone"],
  ["unxor", "8.xor", "R6.xor", "XOR undone"],
  ["inject", "8.write", "R6.write", "write() into the TUN: the kernel takes over"],
] as const;
export const STAGES = WALK.map(([stage]) => stage);
export type Stage = (typeof WALK)[number][0];
export type Step = (typeof WALK)[number][1 | 2];

/** The names of one way's steps, by stage. */
export type Direction = { name: "up" | "down" } & Record<Stage, Step>;
export const UP = { name: "up", ...Object.fromEntries(WALK.map(([stage, up]) => [stage, up])) } as Direction;
export const DOWN = {
  name: "down",
  ...Object.fromEntries(WALK.map(([stage, , down]) => [stage, down])),
} as Direction;
