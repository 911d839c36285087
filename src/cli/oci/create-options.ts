/** What `create` and `run` have in common. */
import { AT_FDCWD, O } from "../../../ffi/constants.ts";
import { direct } from "../../../ffi/direct.ts";
import type { ErrorSink } from "../../plan/context.ts";
import { absolutePath } from "../../runtime/bundle.ts";
import type { CreateRequest } from "../../runtime/create.ts";
import { inherit } from "../../runtime/handed.ts";
import { faultOf, printPlan } from "../plan-options.ts";
import { logFrame } from "./call.ts";
import type { OciFlags, OciGiven, OciGlobals } from "./options.ts";

/** What every command that makes a process has. */
export const processFlags: OciFlags = {
  "console-socket": {
    value: "text",
    help: "path to an AF_UNIX socket which will receive the master end of the console's pseudoterminal",
  },
  "pidfd-socket": { value: "text", help: "path to an AF_UNIX socket which will receive a pidfd of the process" },
  "pid-file": { value: "text", help: "specify the file to write the process id to" },
  "preserve-fds": { value: "number", help: "pass N additional file descriptors to the container" },
  explain: { help: "print the plan of system calls and run nothing" },
  inject: { value: "text", help: "for tests: let a step of the plan fail" },
};

export const createFlags: OciFlags = {
  bundle: {
    short: "b",
    value: "text",
    help: "path to the root of the bundle directory, defaults to the current directory",
  },
  config: {
    short: "f",
    value: "text",
    help: "the configuration's file, from the bundle (default: config.json), as crun has it",
  },
  ...processFlags,
  "no-pivot": { help: "accepted: the root is always pivoted to, which works on a ramdisk too" },
  "no-new-keyring": { help: "do not create a new session keyring for the container" },
};

/** Where init tells failures: on stderr as text, and in the log as it is asked for. */
function sinkOn(fd: number, format: OciGlobals["logFormat"]): ErrorSink {
  const [prefix, suffix] = logFrame(format);
  return { fd, prefix, warning: logFrame(format, "warning")[0], suffix };
}

export function sinksFor(globals: OciGlobals): ErrorSink[] {
  const sinks = [sinkOn(2, "text")];
  if (globals.log === undefined) return sinks;
  const flags = O.O_WRONLY | O.O_CREAT | O.O_APPEND | O.O_CLOEXEC;
  const fd = inherit(direct.openat(AT_FDCWD, globals.log, flags, 0o644));
  return [...sinks, sinkOn(fd, globals.logFormat)];
}

export function absolute(path: string | undefined): string | undefined {
  return path === undefined ? undefined : absolutePath(path, process.cwd());
}

export function createRequest(given: OciGiven, globals: OciGlobals, mode: CreateRequest["mode"]): CreateRequest {
  const bundle = absolutePath(given.text("bundle") ?? ".", process.cwd());
  return {
    id: given.id,
    bundle,
    config: absolutePath(given.text("config") ?? "config.json", bundle),
    root: globals.root,
    mode,
    keep: given.flag("keep"),
    pidFile: absolute(given.text("pid-file")),
    consoleSocket: absolute(given.text("console-socket")),
    pidfdSocket: absolute(given.text("pidfd-socket")),
    preserveFds: given.number("preserve-fds") ?? 0,
    newKeyring: !given.flag("no-new-keyring"),
    cgroupManager: globals.cgroupManager,
    sinks: () => sinksFor(globals),
    explain: given.flag("explain") ? printPlan : undefined,
    fault: faultOf(given.text("inject")),
  };
}
