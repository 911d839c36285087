import { SIG } from "../../ffi/constants.ts";
import { SyscallError } from "../../ffi/direct.ts";
import { lockFile } from "../../ffi/lock.ts";
import { endLeftovers } from "../container/cgroups.ts";
import { type ContainerStatus, copyLock, dependentOf, findContainer, removeContainer } from "../container/record.ts";
import { holdBack } from "../container/restart.ts";
import { Signalled } from "../container/signal.ts";
import { claimId, isRunning, untilLeft } from "../container/state.ts";
import { OciboxError } from "../errors.ts";
import { asRoot, type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";
import { tidied } from "./tidied.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "rm", description: "Remove containers that have ended" },
      args: {
        force: {
          type: "boolean",
          alias: "f",
          description: "End a running container first, with SIGKILL; one that is not there is no error",
        },
        volumes: { type: "boolean", alias: "v", description: "As docker's; volumes without a name always go with it" },
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      // Here a user has a right to whatever is in a container of theirs; in another namespace it is somebody else's.
      const force = given.flag("force");
      checkDependents(globals, given.words);
      if (force) for (const word of given.words) await end(globals, word);
      await asRoot(globals);
      const { root, state } = tidied(globals);
      for (const word of given.words) {
        const found = force ? lookFor(root, state, word) : findContainer(root, state, word);
        if (found === undefined) continue;
        if (found.running)
          throw new OciboxError("IN_USE", `the container "${word}" is running`, {
            hint: "end it first, or remove it with: ocibox rm -f",
          });
        // Nobody starts it meanwhile.
        using claimed = claimId(state, found.id);
        if (claimed === undefined)
          throw new OciboxError("IN_USE", `the container "${word}" is just being started`, { hint: "try again" });
        using copied = lockFile(copyLock(root, found.id), "exclusive");
        if (copied === undefined)
          throw new OciboxError("IN_USE", `the container "${word}" is being copied to`, { hint: "try again" });
        removeContainer(root, found.id);
        print(word);
      }
      return 0;
    },
  };
}

/** Nobody else mounts what goes with them: looked at before any of them is ended. @throws OciboxError IN_USE */
function checkDependents(globals: Globals, words: readonly string[]): void {
  const { root, state } = places(globals);
  const found = words.flatMap((word) => lookFor(root, state, word) ?? []);
  for (const each of found) {
    const user = dependentOf(root, each);
    if (user === undefined || found.some(({ id }) => id === user.id)) continue;
    throw new OciboxError(
      "IN_USE",
      `the container "${user.name}" mounts a volume of "${each.name}", which goes with it`,
      {
        hint: `remove that first, with: ocibox rm ${user.name}`,
      },
    );
  }
}

/** With -f one that is not there is as good as removed. */
function lookFor(root: string, state: string, word: string): ContainerStatus | undefined {
  try {
    return findContainer(root, state, word);
  } catch (error) {
    if (error instanceof OciboxError && error.code === "NOT_FOUND") return undefined;
    throw error;
  }
}

/** Ends a container that runs, at once; one that is removed with its end is told of. */
async function end(globals: Globals, word: string): Promise<void> {
  const { root, state } = places(globals);
  const found = lookFor(root, state, word);
  if (found === undefined) return;
  try {
    holdBack(root, found);
  } catch (error) {
    // The disk is full, or somebody else has removed it: it is removed all the same.
    if (!(error instanceof SyscallError)) throw error;
  }
  using process = await Signalled.find(root, state, found, SIG.SIGKILL);
  if (process === undefined && !isRunning(state, found.id)) return;
  process?.send(SIG.SIGKILL);
  endLeftovers(found.id);
  // Its supervisor sees the end, and takes a moment to tidy up.
  await untilLeft(state, found.id, 5000);
  if (found.autoRemove) print(word);
}
