import { appendLine } from "../container/log.ts";
import { findContainer } from "../container/record.ts";
import { restartedVariable } from "../container/restart.ts";
import { startContainer } from "../container/start.ts";
import { OciboxError, reason } from "../errors.ts";
import { asRoot, type Globals } from "./globals.ts";
import { connectFor } from "./network-for.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";
import { explainerIf, faultOf, planOptions } from "./plan-options.ts";
import { startEach } from "./start-each.ts";
import { tidied } from "./tidied.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "start", description: "Start a container that has ended once more, with what it has changed" },
      args: {
        attach: { type: "boolean", alias: "a", description: "In the foreground, as run without -d" },
        ...planOptions,
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      const [word = "", ...others] = given.words;
      if (others.length > 0) {
        for (const flag of ["attach", "explain", "inject"])
          if (given.text(flag) !== undefined) throw new OciboxError("USAGE", `--${flag} is for one container`);
        return startEach(globals, given.words);
      }
      await asRoot(globals);
      const { root, state } = tidied(globals);
      const found = findContainer(root, state, word);
      const attach = given.flag("attach");
      if (found.running && !attach && !given.flag("explain")) {
        // docker's and podman's: what is wanted is so.
        print(word);
        return 0;
      }
      const again = Bun.env[restartedVariable];
      try {
        return startContainer(openStoreOf(globals), state, found, {
          attach,
          says: word,
          again,
          explain: await explainerIf(given.flag("explain")),
          fault: faultOf(given.text("inject")),
          connect: given.flag("explain") ? undefined : await connectFor(found.network ?? "none", { root, state }),
        });
      } catch (error) {
        // Nobody hears of it otherwise.
        if (again !== undefined) appendLine(root, found.id, `ocibox: it is not started again: ${reason(error)}`);
        throw error;
      }
    },
  };
}
