import { execInRunning } from "../container/exec.ts";
import { findContainer } from "../container/record.ts";
import { noteOf } from "../container/running.ts";
import { OciboxError } from "../errors.ts";
import { environment } from "./environment.ts";
import { faultOf } from "./fault.ts";
import { asRoot, type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { isTerminal, print } from "./output.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "exec", description: "Run one more command in a container that runs" },
      args: {
        interactive: { type: "boolean", alias: "i", description: "Keep stdin open" },
        tty: { type: "boolean", alias: "t", description: "A terminal for the command" },
        detach: { type: "boolean", alias: "d", description: "Leave the command to itself; its output goes nowhere" },
        env: { type: "string", alias: "e", repeat: true, valueHint: "NAME=VALUE", description: "Set a variable" },
        "env-file": { type: "string", repeat: true, valueHint: "FILE", description: "Variables, one a line" },
        user: {
          type: "string",
          alias: "u",
          valueHint: "USER[:GROUP]",
          description: "User and group, by name or number; the container's own",
        },
        workdir: {
          type: "string",
          alias: "w",
          valueHint: "DIR",
          description: "Working directory; the container's own",
        },
        explain: { type: "boolean", description: "Print every system call that would be made, and make none" },
        inject: {
          type: "string",
          valueHint: "STEP[-LAST][=ERRNO]",
          description: "For tests: let a step of the plan fail",
        },
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id" },
        COMMAND: { type: "positional", description: "The command and its arguments" },
      },
    },
    stopAtFirst: true,
    words: [2, Number.POSITIVE_INFINITY],
    async run(given) {
      const [word = "", ...words] = given.words;
      const [tty, interactive, detach] = [given.flag("tty"), given.flag("interactive"), given.flag("detach")];
      if (detach && (tty || interactive))
        throw new OciboxError("USAGE", "-d leaves the command to itself: -i and -t have nobody to talk to");
      if (interactive && tty && !isTerminal(0))
        throw new OciboxError("USAGE", "the input device is not a TTY", {
          hint: "leave out -t, or run it in a terminal",
        });
      // The container's own user namespace, as another could do nothing there.
      await asRoot(globals, ({ root, state }) => noteOf(root, findContainer(root, state, word)).pid);
      const { root, state } = places(globals);
      return execInRunning(root, findContainer(root, state, word), {
        command: words,
        env: environment(given.all("env-file"), given.all("env")),
        workdir: given.text("workdir"),
        user: given.text("user"),
        tty,
        interactive,
        detach,
        explain: given.flag("explain") ? await explainer() : undefined,
        fault: faultOf(given.text("inject")),
      });
    },
  };
}

async function explainer(): Promise<(steps: Parameters<typeof import("../../ffi/explain.ts").explain>[0]) => void> {
  const { explain } = await import("../../ffi/explain.ts");
  return (steps) => print(explain(steps));
}
