/** process.args and process.env: the end of a plan's child, apart from all that leads there. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { Recorder, type Slot } from "../../ffi/plan.ts";

const X_OK = 1;
const AT_EACCESS = 0x200;
/** What a filter of the container's answers: then execve will tell. */
const forbidden = ["EPERM", "ENOSYS"] as const;

function searchPath(env: readonly string[]): string[] {
  let path = "";
  for (const item of env) if (item.startsWith("PATH=")) path = item.slice(5);
  return path.split(":").map((each) => (each === "" ? "." : each));
}

/** The end of a search that found nothing: whether somewhere there was something that may not be executed. */
function notFound(p: Recorder, denied: Slot, says: string): void {
  const nowhere = p.newLabel("not found");
  p.branch(denied, "==", 0, nowhere);
  p.add({ op: "fail", errno: errnoOf("EACCES"), says: `${says}: permission denied`, blame: "command" });
  p.place(nowhere);
  p.add({
    op: "fail",
    errno: errnoOf("ENOENT"),
    says: `${says}: executable file not found in $PATH`,
    blame: "command",
  });
}

function wordsFor(command: string): string {
  return `cannot exec ${JSON.stringify(command)}`;
}

/** execve, through PATH where the command's name has no slash. 127 where it is not found, 126 where it may not run. */
export function execute(p: Recorder, args: readonly string[], env: readonly string[]): void {
  const command = args[0] as string;
  const says = wordsFor(command);
  p.field("");
  p.add({ op: "giveSignals" });
  p.field("process.args");
  if (command.includes("/")) {
    p.with({ says, blame: "command" }).sys.execve(command, args, env);
    return;
  }
  const denied = p.slot("denied");
  p.add({ op: "set", slot: denied, value: 0 });
  for (const directory of searchPath(env)) {
    const next = p.newLabel(`not in ${directory}`);
    const result = p
      .with({ says, blame: "command" })
      .tolerate("ENOENT", "ENOTDIR", "EACCES", "ENAMETOOLONG", "ELOOP")
      .execve(`${directory}/${command}`, args, env);
    p.branch(result, "!=", -errnoOf("EACCES"), next);
    p.add({ op: "set", slot: denied, value: 1 });
    p.place(next);
  }
  notFound(p, denied, says);
}

/** Looks whether the command can be executed, without doing it: a container that is only created says so at once. */
export function lookUp(p: Recorder, args: readonly string[], env: readonly string[]): void {
  const command = args[0] as string;
  const says = wordsFor(command);
  p.field("process.args");
  if (command.includes("/")) {
    p.with({ says, blame: "command" })
      .tolerate(...forbidden)
      .faccessat2(AT_FDCWD, command, X_OK, AT_EACCESS);
    notDirectory(p, command, says);
    return;
  }
  const denied = p.slot("denied");
  const found = p.newLabel("found");
  p.add({ op: "set", slot: denied, value: 0 });
  for (const directory of searchPath(env)) {
    const next = p.newLabel(`not in ${directory}`);
    const result = p
      .with({ says, blame: "command" })
      .tolerate("ENOENT", "ENOTDIR", "EACCES", "ENAMETOOLONG", "ELOOP", ...forbidden)
      .faccessat2(AT_FDCWD, `${directory}/${command}`, X_OK, AT_EACCESS);
    p.branch(result, "==", 0, found);
    for (const errno of forbidden) p.branch(result, "==", -errnoOf(errno), found);
    p.branch(result, "!=", -errnoOf("EACCES"), next);
    p.add({ op: "set", slot: denied, value: 1 });
    p.place(next);
  }
  notFound(p, denied, says);
  p.place(found);
}

function notDirectory(p: Recorder, path: string, says: string): void {
  const well = p.newLabel("no directory");
  const fd = p
    .tolerate("ENOTDIR", "ENOENT", "EACCES", "ELOOP", "EMFILE", ...forbidden)
    .openat(AT_FDCWD, `${path}/.`, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  p.branch(fd, "<", 0, well);
  p.add({ op: "fail", errno: errnoOf("EACCES"), says: `${says}: is a directory: permission denied`, blame: "command" });
  p.place(well);
}

/** The rest: the child executes the command. */
export function compileCommand(args: readonly string[], env: readonly string[]): Recorder {
  const p = new Recorder();
  execute(p, args, env);
  return p;
}
