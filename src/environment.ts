/**
 * What a program of ours takes from its caller's environment, put right before anything else is loaded: program.ts imports this first.
 * The programs that we start, `ip` and `ping` among them, get it from us.
 */
const { env } = process;

// su, cron and systemd leave out some of the places where distributions put ip, sysctl and iptables. They go to the end: what stands before
// them was put there on purpose.
const PLACES = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];
const path = env.PATH ? env.PATH.split(":") : [];
env.PATH = [...path, ...PLACES.filter((place) => !path.includes(place))].join(":");

// We read what ip, ping and iptables say, so it must be English. The characters (LC_CTYPE) remain the caller's.
if (env.LC_ALL) env.LC_CTYPE = env.LC_ALL;
delete env.LC_ALL;
env.LC_MESSAGES = env.LC_NUMERIC = "C";

// A folder for temporary files below /run cannot be seen in the lab, which has its own /run: then os.tmpdir() is /tmp.
for (const name of ["TMPDIR", "TMP", "TEMP"]) if (/^(\/var)?\/run\//.test(env[name] ?? "")) delete env[name];

export {};
