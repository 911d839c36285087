import { findContainer } from "../container/record.ts";
import { withContainerTree } from "../container/tree.ts";
import { OciboxError } from "../errors.ts";
import { tarTree } from "../layer/tar-tree.ts";
import { intoFile, writeAll } from "../store/disk.ts";
import { openStore } from "../store/store.ts";
import { absolute, asRoot, type Globals } from "./globals.ts";
import { interruptible } from "./interruptible.ts";
import type { Command } from "./options.ts";
import { isTerminal } from "./output.ts";
import { tidied } from "./tidied.ts";

/** Piece by piece, so that a signal is heard in between. */
async function write(root: number, fd: number, signal: AbortSignal): Promise<void> {
  for (const piece of tarTree(root)) {
    signal.throwIfAborted();
    writeAll(fd, piece);
    await new Promise(setImmediate);
  }
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "export", description: "Write a container's tree as a tar; what is mounted in it is left out" },
      args: {
        output: { type: "string", alias: "o", valueHint: "FILE", description: "File; stdout without" },
        CONTAINER: { type: "positional", description: "Name, id or the beginning of it" },
      },
    },
    words: [1, 1],
    async run(given) {
      await asRoot(globals);
      const output = given.text("output");
      if (output === undefined && isTerminal(1))
        throw new OciboxError("USAGE", "ocibox export writes an archive to stdout, which is a terminal", {
          hint: "name a file with -o, or redirect stdout",
        });
      const [word = ""] = given.words;
      const { root, state, storeOptions } = tidied(globals);
      const container = findContainer(root, state, word);
      await interruptible(`the export of "${word}"`, (signal) =>
        withContainerTree(openStore(root, storeOptions), container, (tree) =>
          output === undefined || output === "-"
            ? write(tree, 1, signal)
            : intoFile(absolute(output, "the output"), (fd) => write(tree, fd, signal)),
        ),
      );
      return 0;
    },
  };
}
