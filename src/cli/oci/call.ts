/**
 * The OCI runtime's command line: `ocibox oci …`, and any name that ends in runc, crun or -oci. There is no standard for
 * it; what runc says and how it ends is what other programs go by.
 */
import { AT_FDCWD, O } from "../../../ffi/constants.ts";
import { attempt, SyscallError } from "../../../ffi/direct.ts";
import { writeFully } from "../../../ffi/files.ts";
import { effectiveUid, inUserNamespace } from "../../../ffi/user.ts";
import { OciboxError, reason } from "../../errors.ts";
import { runtimeSpecVersion } from "../../spec/version.ts";
import { print } from "../output.ts";
import {
  type OciCommand,
  type OciFlags,
  OciGiven,
  type OciGlobals,
  OciHelpAsked,
  readOciFlags,
  UsageError,
} from "./options.ts";

const summaries = {
  checkpoint: "not supported",
  create: "create a container",
  delete: "delete any resources held by the container",
  events: "display container events such as OOM notifications and usage statistics",
  exec: "execute new process inside the container",
  features: "show the enabled features",
  kill: "send a signal to the container's init process",
  list: "list containers with the given root",
  pause: "suspend all processes inside the container",
  ps: "display the processes running inside a container",
  restore: "not supported",
  resume: "resume all processes that have been previously paused",
  run: "create and run a container",
  spec: "create a new specification file",
  start: "execute the user defined process in a created container",
  state: "output the state of a container",
  update: "update container resource constraints",
} as const;

type CommandName = keyof typeof summaries;

/** One import a command: it is loaded when it is used. No table of functions, as in main.ts. */
function load(name: CommandName): Promise<{ command: OciCommand }> {
  switch (name) {
    case "checkpoint":
    case "restore":
      return import("./checkpoint.ts");
    case "create":
      return import("./create.ts");
    case "delete":
      return import("./delete.ts");
    case "events":
      return import("./events.ts");
    case "exec":
      return import("./exec.ts");
    case "features":
      return import("./features.ts");
    case "kill":
      return import("./kill.ts");
    case "list":
      return import("./list.ts");
    case "pause":
      return import("./pause.ts");
    case "ps":
      return import("./ps.ts");
    case "resume":
      return import("./resume.ts");
    case "run":
      return import("./run.ts");
    case "spec":
      return import("./spec.ts");
    case "start":
      return import("./start.ts");
    case "state":
      return import("./state.ts");
    case "update":
      return import("./update.ts");
  }
}

function isCommand(word: string | undefined): word is CommandName {
  return word !== undefined && Object.hasOwn(summaries, word);
}

const globalFlags: OciFlags = {
  debug: { help: "enable debug logging" },
  log: { value: "text", help: "file to write logs to (default: standard error alone)" },
  "log-format": { value: "text", help: 'log format, "text" or "json" (default: "text")' },
  root: { value: "text", help: "root directory for storage of container state" },
  "systemd-cgroup": { help: 'use systemd for cgroups; cgroupsPath is then "slice:prefix:name"' },
  "cgroup-manager": { value: "text", help: '"cgroupfs", "systemd" or "disabled" (default: "cgroupfs")' },
  rootless: { value: "text", help: '"true", "false" or "auto": accepted, and found out by itself' },
  criu: { value: "text", help: "accepted for older callers" },
  version: { short: "v", help: "print the version" },
};

/** As runc has it: a user's is in his XDG_RUNTIME_DIR, also where he is root of a namespace of his. */
function defaultRoot(): string {
  const own = Bun.env.XDG_RUNTIME_DIR ?? "";
  const uid = effectiveUid();
  if (own === "") return uid === 0 ? "/run/ocibox/oci" : `/tmp/ocibox-${uid}/ocibox/oci`;
  if (uid !== 0) return `${own}/ocibox/oci`;
  return inUserNamespace() && Bun.env.USER !== "root" ? `${own}/ocibox/oci` : "/run/ocibox/oci";
}

function readGlobals(values: ReadonlyMap<string, readonly string[]>, name: string, version: string): OciGlobals {
  const given = new OciGiven([], values);
  const logFormat = given.text("log-format") ?? "text";
  if (logFormat !== "text" && logFormat !== "json") throw new OciboxError("USAGE", `invalid log-format: ${logFormat}`);
  const cgroupManager = given.text("cgroup-manager") ?? (given.flag("systemd-cgroup") ? "systemd" : "cgroupfs");
  if (cgroupManager !== "cgroupfs" && cgroupManager !== "systemd" && cgroupManager !== "disabled")
    throw new OciboxError("USAGE", `unknown cgroup manager "${cgroupManager}": it is cgroupfs, systemd or disabled`);
  const root = given.text("root") ?? defaultRoot();
  return {
    root: root.startsWith("/") ? root : `${process.cwd()}/${root}`,
    log: given.text("log"),
    logFormat,
    systemdCgroup: cgroupManager === "systemd",
    cgroupManager,
    debug: given.flag("debug"),
    name,
    version,
  };
}

/** What stands around a message in a log, so that init can write the same. */
export function logFrame(format: "text" | "json", level = "error"): readonly [prefix: string, suffix: string] {
  const time = `${new Date().toISOString().slice(0, 19)}Z`;
  if (format === "json") return [`{"level":"${level}","msg":"`, `","time":"${time}"}\n`];
  return [`time="${time}" level=${level} msg="`, '"\n'];
}

function logLine(format: "text" | "json", message: string): string {
  const [prefix, suffix] = logFrame(format);
  return `${prefix}${JSON.stringify(message).slice(1, -1)}${suffix}`;
}

function appendTo(path: string, text: string): void {
  const fd = attempt("openat", AT_FDCWD, path, O.O_WRONLY | O.O_CREAT | O.O_APPEND | O.O_CLOEXEC, 0o644);
  if (fd < 0) return;
  writeFully(fd, text);
  attempt("close", fd);
}

function messageOf(error: unknown): string {
  if (error instanceof OciboxError) return error.hint === undefined ? error.message : `${error.message}; ${error.hint}`;
  if (error instanceof SyscallError) return error.message;
  return `this should not happen: ${reason(error)}`;
}

function tell(globals: Pick<OciGlobals, "log" | "logFormat"> | undefined, message: string): void {
  // On stderr as well, always as text: whoever called may look only there.
  try {
    writeFully(2, logLine("text", message));
  } catch {
    // nobody reads it
  }
  if (globals?.log !== undefined) appendTo(globals.log, logLine(globals.logFormat, message));
}

/** With --debug. */
function tellStart(globals: OciGlobals, words: readonly string[]): void {
  tellDebug(globals, `ocibox ${globals.version}, process ${process.pid}: ${words.join(" ")}`);
  tellDebug(globals, `containers of "${globals.root}", cgroups by ${globals.cgroupManager}`);
}

/** To the log, or where there is none to stderr. */
function tellDebug(globals: OciGlobals, message: string): void {
  const [prefix, suffix] = logFrame(globals.log === undefined ? "text" : globals.logFormat, "debug");
  const line = `${prefix}${JSON.stringify(message).slice(1, -1)}${suffix}`;
  if (globals.log === undefined) writeFully(2, line);
  else appendTo(globals.log, line);
}

async function showVersion(name: string, version: string): Promise<number> {
  print(`${name} version ${version}\ncommit: ocibox-${version}\nspec: ${runtimeSpecVersion}`);
  return 0;
}

async function showOverview(name: string, version: string): Promise<number> {
  const { overview, showText } = await import("./help.ts");
  showText(overview(name, version, Object.entries(summaries), globalFlags));
  return 0;
}

async function showCommandHelp(name: string, word: string, command: OciCommand): Promise<void> {
  const { commandHelp, showText } = await import("./help.ts");
  showText(commandHelp(name, word, command));
}

/**
 * @param name what it was called by
 * @param loaded commands that are there already
 * @returns the exit code; errors are told here, as runc tells them
 */
export async function callOci(
  name: string,
  argv: readonly string[],
  version: string,
  loaded: Partial<Record<CommandName, OciCommand>> = {},
): Promise<number> {
  let globals: OciGlobals | undefined;
  let command: OciCommand | undefined;
  try {
    const { words, values } = readOciFlags(argv, globalFlags, true);
    if (values.has("version")) return await showVersion(name, version);
    globals = readGlobals(values, name, version);
    const [word, ...rest] = words;
    if (!isCommand(word)) return await answer(word, rest, globals);
    if (globals.debug) tellStart(globals, words);
    command = loaded[word] ?? (await load(word)).command;
    return await callCommand(command, word, rest, globals);
  } catch (error) {
    return failed(error, command, globals, name, version);
  }
}

/** What is no command: a word about one, or a wrong one. */
async function answer(word: string | undefined, rest: readonly string[], globals: OciGlobals): Promise<number> {
  if (word !== undefined && word !== "help" && word !== "h") {
    tell(globals, `No help topic for '${word}'`);
    return 3;
  }
  const [about] = rest;
  if (!isCommand(about)) return showOverview(globals.name, globals.version);
  await showCommandHelp(globals.name, about, (await load(about)).command);
  return 0;
}

async function failed(
  error: unknown,
  command: OciCommand | undefined,
  globals: OciGlobals | undefined,
  name: string,
  version: string,
): Promise<number> {
  if (error instanceof OciHelpAsked) return showOverview(name, version);
  tell(globals, `${command?.errorPrefix ?? ""}${messageOf(error)}`);
  return command?.errorCode ?? 1;
}

async function callCommand(
  command: OciCommand,
  word: string,
  rest: readonly string[],
  globals: OciGlobals,
): Promise<number> {
  try {
    if (command.anyFlags === true && (rest.includes("-h") || rest.includes("--help"))) throw new OciHelpAsked();
    if (command.anyFlags === true) return await command.run(new OciGiven(rest, new Map()), globals);
    const { words, values } = readOciFlags(rest, command.flags, command.stopAtFirst === true);
    const [least, most] = command.words;
    if (words.length < least || words.length > most) refuseWords(command, word, globals);
    return await command.run(new OciGiven(words, values), globals);
  } catch (error) {
    return explainUsage(error, command, word, globals);
  }
}

function refuseWords({ words: [least, most] }: OciCommand, word: string, { name }: OciGlobals): never {
  const wanted = least === most ? `exactly ${least}` : `a minimum of ${least}`;
  throw new UsageError(`${name}: "${word}" requires ${wanted} argument(s)`);
}

/** @throws the error, where it is one */
async function explainUsage(error: unknown, command: OciCommand, word: string, globals: OciGlobals): Promise<number> {
  if (error instanceof OciHelpAsked) {
    await showCommandHelp(globals.name, word, command);
    return 0;
  }
  if (error instanceof UsageError) {
    print(`Incorrect Usage${error.detail === undefined ? "." : `: ${error.detail}`}\n`);
    await showCommandHelp(globals.name, word, command);
  }
  throw error;
}
