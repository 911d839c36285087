/** Where the program starts: argv0 and argv are dispatched, and the only place that prints an error and exits. */
import { attempt } from "../ffi/direct.ts";
import type { Globals } from "./cli/globals.ts";
import type { Command } from "./cli/options.ts";
import { OciboxError } from "./errors.ts";

declare const OCIBOX_VERSION: string;

/** One import a command: it is loaded when it is used. */
const commands: Readonly<Record<string, () => Promise<{ command: (globals: Globals) => Command }>>> = {
  run: () => import("./cli/run.ts"),
  pull: () => import("./cli/pull.ts"),
  images: () => import("./cli/images.ts"),
  rmi: () => import("./cli/rmi.ts"),
  inspect: () => import("./cli/inspect.ts"),
  ps: () => import("./cli/ps.ts"),
  rm: () => import("./cli/rm.ts"),
  info: () => import("./cli/info.ts"),
  version: () => import("./cli/version.ts"),
};

const help = new Set(["help", "--help", "-h"]);

interface Start {
  readonly globals: Globals;
  readonly rest: readonly string[];
}

/** Splits off the flags that stand before the command. */
function readGlobals(argv: readonly string[]): Start {
  const globals: { root?: string; state?: string; debug: boolean } = { debug: false };
  let at = 0;
  for (; at < argv.length; at++) {
    const word = argv[at] as string;
    if (word === "--debug" || word === "-D") {
      globals.debug = true;
      continue;
    }
    const match = /^--(root|state)(?:=(.*))?$/s.exec(word);
    if (match === null) break;
    const value = match[2] ?? argv[++at];
    if (value === undefined || value === "") throw new OciboxError("USAGE", `the flag ${word} wants a directory`);
    globals[match[1] as "root" | "state"] = value;
  }
  return { globals: { ...globals, version: OCIBOX_VERSION }, rest: argv.slice(at) };
}

/** A setuid or setgid start would lend its rights to whoever calls: refused (getauxval(3), AT_SECURE). */
function refuseSetuid(): void {
  if (attempt("getuid") !== attempt("geteuid") || attempt("getgid") !== attempt("getegid"))
    throw new OciboxError("PERMISSION", "ocibox must not be installed setuid or setgid", {
      hint: "remove the bit with chmod u-s,g-s and run it as root or as yourself",
    });
}

async function unknownCommand(word: string): Promise<never> {
  const { nearest } = await import("./cli/options.ts");
  const near = nearest(word, Object.keys(commands));
  throw new OciboxError("USAGE", `ocibox has no command "${word}"`, {
    hint: near === undefined ? "see: ocibox --help" : `did you mean "ocibox ${near}"?`,
  });
}

async function main(argv: readonly string[]): Promise<number> {
  const { globals, rest } = readGlobals(argv);
  debug = globals.debug;
  const word = rest[0];
  if (word === "--version" || word === "-v" || word === "-V") {
    console.log(`ocibox version ${OCIBOX_VERSION}`);
    return 0;
  }
  refuseSetuid();
  const called = process.argv0.slice(process.argv0.lastIndexOf("/") + 1);
  if (word === "oci" || /(?:runc|crun|-oci)$/.test(called))
    throw new OciboxError("UNSUPPORTED", "the OCI runtime's command line (ocibox oci) is not there yet");
  if (word === undefined || help.has(word)) {
    const { showOverview } = await import("./cli/overview.ts");
    await showOverview(rest[1], OCIBOX_VERSION, commands, globals);
    return word === undefined ? 125 : 0;
  }
  const load = Object.hasOwn(commands, word) ? commands[word] : undefined;
  if (load === undefined) return unknownCommand(word);
  const command = (await load()).command(globals);
  const { HelpAsked, readOptions } = await import("./cli/options.ts");
  try {
    return await command.run(readOptions(rest.slice(1), command, word));
  } catch (error) {
    if (!(error instanceof HelpAsked)) throw error;
    const { showHelp } = await import("./cli/help.ts");
    await showHelp(command.def, { meta: { name: "ocibox" } });
    return 0;
  }
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
