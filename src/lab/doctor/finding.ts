/** What the doctor finds at a hop. */

/** `fixes`: the commands to type, in this order; "server# …" on the other host. */
export interface Finding {
  state: "ok" | "✗" | "?";
  text: string;
  fixes: string[];
}
export const ok = (text: string): Finding => ({ state: "ok", text, fixes: [] });
export const problem = (text: string, ...fixes: string[]): Finding => ({ state: "✗", text, fixes });
export const unknown = (text: string, ...fixes: string[]): Finding => ({ state: "?", text, fixes });
