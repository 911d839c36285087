import { execInRunning } from "../container/exec.ts";
import { isPaused } from "../container/pause.ts";
import { findContainer } from "../container/record.ts";
import { noteOf } from "../container/running.ts";
import { OciboxError } from "../errors.ts";
import { environment } from "./environment.ts";
import { asRoot, type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { checkTerminal, explainerIf, faultOf, planOptions } from "./plan-options.ts";

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
        ...planOptions,
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
      checkTerminal(interactive, tty);
      // The container's own user namespace, as another could do nothing there.
      await asRoot(globals, ({ root, state }) => noteOf(root, findContainer(root, state, word)).pid);
      const { root, state } = places(globals);
      const found = findContainer(root, state, word);
      if (isPaused(found.id))
        throw new OciboxError("INVALID", `the container "${word}" is paused`, {
          hint: `first: ocibox unpause ${word}`,
        });
      return execInRunning(root, found, {
        command: words,
        env: environment(given.all("env-file"), given.all("env")),
        workdir: given.text("workdir"),
        user: given.text("user"),
        tty,
        interactive,
        detach,
        explain: await explainerIf(given.flag("explain")),
        fault: faultOf(given.text("inject")),
      });
    },
  };
}
