/**
 * Where the program starts: argv0 and argv are dispatched, and the only place that prints an error and exits. Loads
 * nothing by itself: `--version` wants nothing, and each command what it needs.
 */
import type { Globals } from "./cli/globals.ts";
import type { Command } from "./cli/options.ts";
import type { ErrorCode } from "./errors.ts";

declare const OCIBOX_VERSION: string;

const commands = [
  "run",
  "pull",
  "lock",
  "push",
  "search",
  "login",
  "logout",
  "images",
  "rmi",
  "tag",
  "manifest annotate",
  "manifest create",
  "manifest remove",
  "manifest inspect",
  "history",
  "unpack",
  "cp",
  "save",
  "load",
  "import",
  "export",
  "diff",
  "check",
  "prune",
  "system df",
  "inspect",
  "ps",
  "exec",
  "logs",
  "wait",
  "port",
  "pause",
  "unpause",
  "rename",
  "top",
  "stats",
  "volume create",
  "volume ls",
  "volume inspect",
  "volume rm",
  "volume prune",
  "create",
  "start",
  "stop",
  "restart",
  "kill",
  "rm",
  "info",
  "version",
] as const;

type CommandName = (typeof commands)[number];

/** One import a command. No table of functions: all of them would be made at every start, which is a fortieth of it. */
function load(name: CommandName): Promise<{ command: (globals: Globals) => Command }> {
  switch (name) {
    case "run":
      return import("./cli/run.ts");
    case "pull":
      return import("./cli/pull.ts");
    case "lock":
      return import("./cli/lock.ts");
    case "push":
      return import("./cli/push.ts");
    case "search":
      return import("./cli/search.ts");
    case "login":
      return import("./cli/login.ts");
    case "logout":
      return import("./cli/logout.ts");
    case "images":
      return import("./cli/images.ts");
    case "rmi":
      return import("./cli/rmi.ts");
    case "tag":
      return import("./cli/tag.ts");
    case "manifest annotate":
      return import("./cli/manifest-annotate.ts");
    case "manifest create":
      return import("./cli/manifest-create.ts");
    case "manifest remove":
      return import("./cli/manifest-remove.ts");
    case "manifest inspect":
      return import("./cli/manifest-inspect.ts");
    case "history":
      return import("./cli/history.ts");
    case "unpack":
      return import("./cli/unpack.ts");
    case "cp":
      return import("./cli/cp.ts");
    case "save":
      return import("./cli/save.ts");
    case "load":
      return import("./cli/load.ts");
    case "import":
      return import("./cli/import.ts");
    case "export":
      return import("./cli/export.ts");
    case "diff":
      return import("./cli/diff.ts");
    case "check":
      return import("./cli/check.ts");
    case "prune":
      return import("./cli/prune.ts");
    case "system df":
      return import("./cli/system-df.ts");
    case "inspect":
      return import("./cli/inspect.ts");
    case "ps":
      return import("./cli/ps.ts");
    case "exec":
      return import("./cli/exec.ts");
    case "logs":
      return import("./cli/logs.ts");
    case "wait":
      return import("./cli/wait.ts");
    case "port":
      return import("./cli/port.ts");
    case "pause":
      return import("./cli/pause.ts");
    case "unpause":
      return import("./cli/unpause.ts");
    case "rename":
      return import("./cli/rename.ts");
    case "top":
      return import("./cli/top.ts");
    case "stats":
      return import("./cli/stats.ts");
    case "volume create":
      return import("./cli/volume-create.ts");
    case "volume ls":
      return import("./cli/volume-ls.ts");
    case "volume inspect":
      return import("./cli/volume-inspect.ts");
    case "volume rm":
      return import("./cli/volume-rm.ts");
    case "volume prune":
      return import("./cli/volume-prune.ts");
    case "create":
      return import("./cli/create.ts");
    case "start":
      return import("./cli/start.ts");
    case "stop":
      return import("./cli/stop.ts");
    case "restart":
      return import("./cli/restart.ts");
    case "kill":
      return import("./cli/kill.ts");
    case "rm":
      return import("./cli/rm.ts");
    case "info":
      return import("./cli/info.ts");
    case "version":
      return import("./cli/version.ts");
  }
}

function isCommand(word: string): word is CommandName {
  return (commands as readonly string[]).includes(word);
}

const help: readonly string[] = ["help", "--help", "-h"];

interface Start {
  readonly globals: Globals;
  readonly rest: readonly string[];
}

/** Flags before the command, and what they are. */
const wants = {
  root: "directory",
  state: "directory",
  snapshotter: "name",
  "store-max": "size",
  "additional-store": "directory",
} as const;

function globalFlag(word: string): RegExpExecArray | null {
  return /^--(root|state|snapshotter|store-max|additional-store)(?:=(.*))?$/s.exec(word);
}

/** Splits off the flags that stand before the command. @returns what is wrong, where something is */
function readGlobals(argv: readonly string[]): Start | string {
  const globals: { -readonly [K in keyof Globals]?: Globals[K] } = {};
  const additional: string[] = [];
  let at = 0;
  for (; at < argv.length; at++) {
    const word = argv[at] as string;
    if (word === "--debug" || word === "-D") {
      globals.debug = true;
      continue;
    }
    // Before the expression: a first one takes a start longer than all that is looked at here.
    if (!word.startsWith("--")) break;
    const match = globalFlag(word);
    if (match === null) break;
    const value = match[2] ?? argv[++at];
    const name = match[1] as keyof typeof wants;
    if (value === undefined || value === "") return `the flag ${word} wants a ${wants[name]}`;
    if (name === "additional-store") additional.push(value);
    else globals[name] = value;
  }
  const stores = additional.length === 0 ? {} : { "additional-store": additional };
  return { globals: { debug: false, ...globals, ...stores, version: OCIBOX_VERSION }, rest: argv.slice(at) };
}

async function refuse(code: ErrorCode, message: string, hint?: string): Promise<never> {
  const { OciboxError } = await import("./errors.ts");
  throw new OciboxError(code, message, hint === undefined ? {} : { hint });
}

async function unknownCommand(word: string): Promise<never> {
  const { nearest } = await import("./cli/options.ts");
  const near = nearest(word, commands);
  const hint = near === undefined ? "see: ocibox --help" : `did you mean "ocibox ${near}"?`;
  return refuse("USAGE", `ocibox has no command "${word}"`, hint);
}

/** A setuid or setgid start would lend its rights to whoever calls: getauxval(3), AT_SECURE. */
function isSetuid(): boolean {
  return process.getuid?.() !== process.geteuid?.() || process.getgid?.() !== process.getegid?.();
}

/** A link to the program under a name with such an end is an OCI runtime. */
const ociEnds = ["runc", "crun", "-oci"] as const;

async function main(argv: readonly string[]): Promise<number> {
  if (isSetuid())
    return refuse(
      "PERMISSION",
      "ocibox must not be installed setuid or setgid",
      "remove the bit with chmod u-s,g-s and run it as root or as yourself",
    );
  const called = process.argv0.slice(process.argv0.lastIndexOf("/") + 1);
  for (const end of ociEnds) if (called.endsWith(end)) return callRuntime(called, argv);
  const [first] = argv;
  if (first === "oci") return callRuntime("ocibox oci", argv.slice(1));
  return callAny(argv);
}

/** All but the runtime, which is apart: a function takes as long to begin as there is in it, used or not. */
async function callAny(argv: readonly string[]): Promise<number> {
  const [first] = argv;
  if (first === "--version" || first === "-v" || first === "-V") {
    console.log(`ocibox version ${OCIBOX_VERSION}`);
    return 0;
  }
  const start = readGlobals(argv);
  if (typeof start === "string") return refuse("USAGE", start);
  const { globals, rest } = start;
  debug = globals.debug;
  const word = rest[0];
  if (word === "oci") return callRuntime("ocibox oci", rest.slice(1));
  if (word === undefined || help.includes(word)) {
    const { showOverview } = await import("./cli/overview.ts");
    await showOverview(rest[1], OCIBOX_VERSION, commands, load, globals);
    return word === undefined ? 125 : 0;
  }
  if (!isCommand(word)) {
    const { expandGroup } = await import("./cli/groups.ts");
    const expanded = expandGroup(rest, commands);
    return expanded === undefined ? unknownCommand(word) : call(expanded, globals);
  }
  return call(rest, globals);
}

/** What stands on the command line says which command it may be, not which it is. */
async function callRuntime(name: string, argv: readonly string[]): Promise<number> {
  if (argv.includes("run") || argv.includes("create"))
    return (await import("./cli/oci/call-create.ts")).callCreate(name, argv, OCIBOX_VERSION);
  return (await import("./cli/oci/call.ts")).callOci(name, argv, OCIBOX_VERSION);
}

async function call([word = "", ...words]: readonly string[], globals: Globals): Promise<number> {
  // Together, as this is the way that has to be short: each import() by itself costs a tenth of a millisecond.
  if (word === "run") return (await import("./cli/call-run.ts")).callRun(globals, words);
  const { callCommand } = await import("./cli/call.ts");
  if (!isCommand(word)) return unknownCommand(word);
  return callCommand((await load(word)).command(globals), word, words);
}

let debug = false;

/** One line on stderr, and under --debug what led to it. */
async function report(error: unknown): Promise<number> {
  const { say } = await import("./cli/output.ts");
  const { oneLine } = await import("./cli/explain-error.ts");
  const { text, exitCode } = oneLine(error);
  say(text);
  if (debug && error instanceof Error) {
    const { createConsola } = await import("consola");
    // What process.stderr has not written yet is lost when the process ends: the lines go there by themselves.
    const reporter = { log: ({ args }: { args: unknown[] }) => say(args.map((each) => Bun.inspect(each)).join(" ")) };
    createConsola({ reporters: [reporter] }).error(error);
  }
  return exitCode;
}

// What is printed is written before a call returns (cli/output.ts). Without process.exit a download that was given up
// could keep the process for as long as the registry likes.
main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  async (error: unknown) => process.exit(await report(error)),
);
