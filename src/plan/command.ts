/** process.args and process.env: the end of a plan's child, apart from all that leads there. */
import { errnoOf } from "../../ffi/errno.ts";
import { Recorder } from "../../ffi/plan.ts";

function searchPath(env: readonly string[]): string[] {
  let path = "";
  for (const item of env) if (item.startsWith("PATH=")) path = item.slice(5);
  return path.split(":").map((each) => (each === "" ? "." : each));
}

/** execve, through PATH where the command's name has no slash. 127 where it is not found, 126 where it may not run. */
export function execute(p: Recorder, args: readonly string[], env: readonly string[]): void {
  const command = args[0] as string;
  const says = `cannot run ${JSON.stringify(command)}`;
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
  const notFound = p.newLabel("not found");
  p.branch(denied, "==", 0, notFound);
  p.add({ op: "fail", errno: errnoOf("EACCES"), says: `${says}: permission denied`, blame: "command" });
  p.place(notFound);
  p.add({
    op: "fail",
    errno: errnoOf("ENOENT"),
    says: `${says}: executable file not found in $PATH`,
    blame: "command",
  });
}

/** The rest: the child executes the command. */
export function compileCommand(args: readonly string[], env: readonly string[]): Recorder {
  const p = new Recorder();
  execute(p, args, env);
  return p;
}
