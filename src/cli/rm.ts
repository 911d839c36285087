import { SIG } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { endLeftovers } from "../container/cgroups.ts";
import { containerDirectory, findContainer, removeContainer } from "../container/record.ts";
import { untilLeft } from "../container/state.ts";
import { OciboxError } from "../errors.ts";
import { openMarked, readMark } from "../runtime/process-mark.ts";
import { asRoot, type Globals } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";
import { tidied } from "./tidied.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "rm", description: "Remove containers that have ended" },
      args: {
        force: { type: "boolean", alias: "f", description: "End a running container first, with SIGKILL" },
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      await asRoot(globals);
      const { root, state } = tidied(globals);
      for (const word of given.words) {
        const found = findContainer(root, state, word);
        if (found.running) {
          if (!given.flag("force"))
            throw new OciboxError("IN_USE", `the container "${word}" is running`, {
              hint: "end it first, or remove it with: ocibox rm -f",
            });
          const mark = readMark(containerDirectory(root, found.id));
          using process = mark === undefined ? undefined : openMarked(mark);
          if (process !== undefined) attempt("pidfd_send_signal", process.fd, SIG.SIGKILL, null, 0);
          endLeftovers(found.id);
          // Its supervisor sees the end, and takes a moment to tidy up.
          await untilLeft(state, found.id, 5000);
        }
        removeContainer(root, found.id);
        print(word);
      }
      return 0;
    },
  };
}
