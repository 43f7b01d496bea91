/**
 * What a program of ours takes from its caller's environment is put right here, before anything else is
 * loaded: program.ts imports this first. The programs that we start, `ip` and `ping` among them, get it from
 * us.
 */
import { isatty } from "node:tty";
import chalk from "chalk";

const { argv, env } = process;

// su, cron and systemd leave out some of the places where distributions put ip, sysctl and iptables. We add
// them at the end: what stands before them was put there on purpose.
const PLACES = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];
const path = env.PATH ? env.PATH.split(":") : [];
env.PATH = [...path, ...PLACES.filter((place) => !path.includes(place))].join(":");

// We read what ip, ping and iptables say, so it must be English. The characters (LC_CTYPE) stay the caller's.
if (env.LC_ALL) env.LC_CTYPE = env.LC_ALL;
delete env.LC_ALL;
env.LC_MESSAGES = env.LC_NUMERIC = "C";

// The lab has a /run of its own, and cannot see temporary files below the real one. Without these,
// os.tmpdir() is /tmp.
for (const name of ["TMPDIR", "TMP", "TEMP"]) if (/^(\/var)?\/run\//.test(env[name] ?? "")) delete env[name];

/**
 * Colour: what --color or --no-color says, then FORCE_COLOR, then NO_COLOR (no-color.org); then chalk looks
 * for a terminal. Every program takes the two flags, and its children get them as FORCE_COLOR. What follows
 * `on` or --follow is another program's command line.
 */
const end = argv.findIndex((word, i) => i > 1 && (word === "on" || word === "--follow"));
const own = argv.slice(2, end < 0 ? argv.length : end);
const isFlag = (word: string) => word === "--color" || word === "--no-color";
const flag = own.filter(isFlag).at(-1);
argv.splice(2, own.length, ...own.filter((word) => !isFlag(word)));
if (flag) {
  chalk.level = flag === "--no-color" ? 0 : chalk.level || 1;
  env.FORCE_COLOR = `${chalk.level}`;
}
if (env.FORCE_COLOR !== undefined) delete env.NO_COLOR; // Node warns where both are set
if (env.NO_COLOR) chalk.level = 0;

/** Were we started on a terminal? Asked now, for one that was closed is none. */
export const ON_TERMINAL = [0, 1, 2].some((fd) => isatty(fd));
