import { copyAttributes } from "../../ffi/attributes.ts";
import { AT, AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn } from "../../ffi/files.ts";
import { withTree } from "../container/tree.ts";
import { OciboxError } from "../errors.ts";
import { copyContents } from "../layer/copy-tree.ts";
import { removeTree } from "../layer/remove-tree.ts";
import { absolute, asRoot, type Globals } from "./globals.ts";
import { interruptible } from "./interruptible.ts";
import { mountableImage } from "./load-image.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

/** Makes the directory, or takes one that is empty. @returns whether it is new */
function take(path: string): boolean {
  if (attempt("faccessat2", AT_FDCWD, path, 0, 0) < 0) {
    makeDirectories(path);
    return true;
  }
  if (namesIn(path).length > 0)
    throw new OciboxError("USAGE", `the directory "${path}" is not empty`, {
      hint: "name one that is, or that is not there",
    });
  return false;
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "unpack", description: "Write an image's tree into a directory, without a container" },
      args: {
        IMAGE: {
          type: "positional",
          description: "Name, digest, or beginning of an id in the store; or oci:DIR and the like",
        },
        DIRECTORY: { type: "positional", description: "An empty directory, or one that is to be made" },
      },
    },
    words: [2, 2],
    async run(given) {
      await asRoot(globals);
      const [word = "", target = ""] = given.words;
      const path = absolute(target, "the directory");
      const store = openStoreOf(globals);
      const image = await mountableImage(word, store);
      const isNew = take(path);
      using directory = new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
      try {
        const entries = await interruptible(`unpacking "${word}"`, (signal) =>
          withTree(store, image, (root) => {
            const count = copyContents(root, directory.fd, { signal });
            copyAttributes(`/proc/self/fd/${root}/.`, `/proc/self/fd/${directory.fd}/.`);
            return count;
          }),
        );
        print(`${entries} entries in ${path}`);
      } catch (error) {
        for (const name of namesIn(path)) removeTree(directory.fd, name);
        if (isNew) attempt("unlinkat", AT_FDCWD, path, AT.AT_REMOVEDIR);
        throw error;
      }
      return 0;
    },
  };
}
