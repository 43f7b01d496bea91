/**
 * The two kinds of error that are expected: one that the user can mend, and one that costs a peer its
 * session.
 */
/** A failure that the user can mend: what happened ("Cannot <action>: <state>"), and what to try. */
export class Failure extends Error {
  readonly hint: string;
  readonly exitCode: number;
  readonly code: string; // the errno's name, where somebody asks: "EBUSY"

  /** @param exitCode 2 for wrong usage, 1 for the rest */
  constructor(message: string, hint: string, exitCode = 1, code = "") {
    super(printable(message));
    this.hint = printable(hint);
    this.exitCode = exitCode;
    this.code = code;
  }
}

/** They may repeat what was typed or received: one line, and no orders to the terminal. */
const printable = (text: string) => text.replace(/[\x00-\x1f\x7f-\x9f]/g, "?");

/**
 * What a peer sent makes no sense, or is not its own: it costs that peer its session, and nobody else
 * anything.
 */
export class BrokenStream extends Error {}
