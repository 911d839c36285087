import { OciboxError } from "../../errors.ts";
import { type ExecChanges, execInContainer } from "../../runtime/exec.ts";
import { explainerIf, faultOf } from "../plan-options.ts";
import { absolute, processFlags, sinksFor } from "./create-options.ts";
import { type OciCommand, type OciGiven, UsageError } from "./options.ts";

/** "1000", "1000:100" */
function userOf(text: string | undefined): ExecChanges["user"] {
  if (text === undefined || text === "") return undefined;
  const match = /^(\d{1,10})(?::(\d{1,10}))?$/.exec(text);
  if (match === null)
    throw new OciboxError("USAGE", `--user is ${JSON.stringify(text)}, not UID or UID:GID`, {
      hint: "names are known to the container alone, and a runtime looks up none",
    });
  return { uid: Number(match[1]), gid: match[2] === undefined ? undefined : Number(match[2]) };
}

/** "/below" for all hierarchies, or "cpu:/below" and "cpu,memory:/below" for some of them. */
function cgroupsOf(texts: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const text of texts) {
    const colon = text.indexOf(":");
    if (colon < 0) {
      if (texts.length > 1)
        throw new OciboxError("USAGE", `--cgroup: invalid argument "${text}": no controllers named`);
      found.set("", text);
      continue;
    }
    for (const controller of text.slice(0, colon).split(",")) {
      if (controller === "") throw new OciboxError("USAGE", `--cgroup: invalid argument "${text}"`);
      found.set(controller, text.slice(colon + 1));
    }
  }
  return found;
}

/** `exec ID COMMAND…`: the container's own process, with what was changed. */
function changesOf(given: OciGiven): ExecChanges {
  const gids = given.all("additional-gids").map(Number);
  return {
    args: given.words.slice(1),
    env: given.all("env"),
    capabilities: given.all("cap"),
    additionalGids: gids,
    user: userOf(given.text("user")),
    cwd: given.text("cwd"),
    terminal: given.flag("tty"),
    noNewPrivileges: given.has("no-new-privs") ? given.flag("no-new-privs") : undefined,
    apparmorProfile: given.text("apparmor"),
    selinuxLabel: given.text("process-label"),
  };
}

export const command: OciCommand = {
  usage: "[command options] <container-id> <command> [command options]  || -p process.json <container-id>",
  summary: "execute new process inside the container",
  description:
    "Where <container-id> is the name for the instance of the container and <command> is the command to run in it.",
  flags: {
    ...processFlags,
    cwd: { value: "text", help: "current working directory in the container" },
    env: { short: "e", value: "list", help: "set environment variables" },
    tty: { short: "t", help: "allocate a pseudo-TTY" },
    user: { short: "u", value: "text", help: "UID (format: <uid>[:<gid>])" },
    "additional-gids": { short: "g", value: "number", help: "additional gids" },
    process: { short: "p", value: "text", help: "path to the process.json" },
    detach: { short: "d", help: "detach from the container's process" },
    "process-label": { value: "text", help: "set the asm process label for the process, as SELinux has it" },
    apparmor: { value: "text", help: "set the apparmor profile for the process" },
    "no-new-privs": { help: "set the no new privileges value for the process" },
    cap: { short: "c", value: "list", help: "add a capability to the bounding set for the process" },
    cgroup: { value: "list", help: "run the process in an (existing) sub-cgroup(s): [<controller>:]<cgroup>" },
    "ignore-paused": { help: "allow exec in a paused container" },
  },
  words: [1, Number.POSITIVE_INFINITY],
  stopAtFirst: true,
  errorCode: 255,
  errorPrefix: "exec failed: ",
  async run(given, globals) {
    const file = given.text("process");
    if (file === undefined && given.words.length < 2)
      throw new UsageError(`${globals.name}: "exec" requires a minimum of 2 argument(s), or --process`);
    return execInContainer({
      id: given.id,
      root: globals.root,
      process: file === undefined ? changesOf(given) : (absolute(file) as string),
      detach: given.flag("detach"),
      ignorePaused: given.flag("ignore-paused"),
      pidFile: absolute(given.text("pid-file")),
      consoleSocket: absolute(given.text("console-socket")),
      pidfdSocket: absolute(given.text("pidfd-socket")),
      preserveFds: given.number("preserve-fds") ?? 0,
      cgroups: cgroupsOf(given.all("cgroup")),
      sinks: () => sinksFor(globals),
      explain: await explainerIf(given.flag("explain")),
      fault: faultOf(given.text("inject")),
    });
  },
};
