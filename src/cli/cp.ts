import { realpathSync } from "node:fs";
import { copyAttributes } from "../../ffi/attributes.ts";
import { AT, AT_FDCWD, O, S } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { cleanPath } from "../bundle/values.ts";
import { copyInto, isDirectory, mountedAt, type Source, withMounted, withWritablePlace } from "../container/copy-in.ts";
import { type ContainerStatus, containerDirectory, findContainer, listContainers } from "../container/record.ts";
import { noteOf } from "../container/running.ts";
import { withContainerTree, withTree } from "../container/tree.ts";
import { OciboxError } from "../errors.ts";
import { copyContents, copyEntry } from "../layer/copy-tree.ts";
import { openInRoot } from "../runtime/read-in-root.ts";
import { openStore, type StoredImage } from "../store/store.ts";
import { absolute, asRoot, type Globals, places } from "./globals.ts";
import { interruptible } from "./interruptible.ts";
import { mountableImage } from "./load-image.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command, Given } from "./options.ts";
import { tidied } from "./tidied.ts";

/** "alpine:3.20:/etc/passwd": the path begins at the last colon before a slash. @returns undefined for another word */
function split(word: string): readonly [name: string, path: string] | undefined {
  const at = word.lastIndexOf(":/");
  if (at < 1 || /^[./]/.test(word) || /^(oci|oci-archive|docker-archive|dir)$/.test(word.slice(0, at)))
    return undefined;
  return [word.slice(0, at), word.slice(at + 1)];
}

/** An id is long enough not to be taken for an image's name. */
const leastId = 12;

function containerOf(globals: Globals, word: string): ContainerStatus | undefined {
  const { root, state } = places(globals);
  const isId = word.length >= leastId && /^[0-9a-f]+$/.test(word);
  return listContainers(root, state).find(({ name, id }) => name === word || (isId && id.startsWith(word)));
}

/** What is copied out of a tree. */
interface Inside {
  /** In the tree. */
  readonly path: string;
  /** As it was given: what the copy is called by, in a directory. */
  readonly word: string;
  /** For an error: "image". */
  readonly of: string;
}

function openTarget(place: string): OwnedFd {
  const opened = attempt("openat", AT_FDCWD, place, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  if (opened < 0) throw new OciboxError("NOT_FOUND", `there is no directory "${place}" to copy to`);
  return new OwnedFd(opened);
}

/** As docker cp has it: into a directory that is there, or under the name that was given; "DIR/." is what is in it. */
function copyOut(root: number, { path, word, of }: Inside, target: string, signal: AbortSignal): void {
  const plain = cleanPath(path, "the source");
  const called = cleanPath(word, "the source");
  const base = called.slice(called.lastIndexOf("/") + 1);
  const missing = (): never => {
    throw new OciboxError("NOT_FOUND", `there is no "${word}" in the ${of}`);
  };
  const how = { signal, replace: true };
  const contents = word.endsWith("/.") || base === "";
  if (contents || plain === "/") {
    using source = openInRoot(root, plain, O.O_RDONLY | O.O_DIRECTORY) ?? missing();
    // Of what is mounted it is the top that has no name in the tree.
    const into = contents || !isDirectory(target) ? target : `${target}/${base}`;
    if (!isDirectory(into)) direct.mkdirat(AT_FDCWD, into, 0o755);
    using directory = openTarget(into);
    copyContents(source.fd, directory.fd, how);
    if (!contents) copyAttributes(`/proc/self/fd/${source.fd}/.`, `/proc/self/fd/${directory.fd}/.`);
    return;
  }
  const name = plain.slice(plain.lastIndexOf("/") + 1);
  using parent = openInRoot(root, plain.slice(0, plain.lastIndexOf("/")) || "/", O.O_PATH | O.O_DIRECTORY) ?? missing();
  if (attempt("faccessat2", parent.fd, name, 0, AT.AT_SYMLINK_NOFOLLOW) < 0) missing();
  const [place, as] = isDirectory(target)
    ? [target, base]
    : [target.slice(0, target.lastIndexOf("/")) || "/", target.slice(target.lastIndexOf("/") + 1)];
  using directory = openTarget(place);
  copyEntry(parent.fd, name, directory.fd, as, how);
}

/** What of the host's is to be copied. @param follow whether a symlink stands for what it leads to */
function sourceOf(word: string, follow: boolean): Source {
  const path = absolute(word, "the source");
  const contents = /(?:^|\/)\.$/.test(word) || path === "/";
  // As cp(1): "link/" is what the link leads to.
  const real = follow || contents || word.endsWith("/") ? realpath(path) : path;
  const stat = alloc(256);
  if (attempt("statx", AT_FDCWD, real, AT.AT_SYMLINK_NOFOLLOW, 1, stat) < 0)
    throw new OciboxError("NOT_FOUND", `there is no "${word}" to be copied`);
  const isDirectory = (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFDIR;
  // Under the name that it was called by.
  return { path: real, name: path.slice(path.lastIndexOf("/") + 1), isDirectory, contents: isDirectory && contents };
}

function realpath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    throw new OciboxError("NOT_FOUND", `there is no "${path}" to be copied`);
  }
}

/** Into a container. */
async function copyIn(
  globals: Globals,
  given: Given,
  word: string,
  [name, path]: readonly [name: string, path: string],
): Promise<number> {
  // Of one that runs it is done as root of the user namespace that it is in.
  await asRoot(globals, ({ root, state }) => {
    const found = findContainer(root, state, name);
    return found.running ? noteOf(root, found).pid : undefined;
  });
  const { root, state, storeOptions } = tidied(globals);
  const container = findContainer(root, state, name);
  const source = sourceOf(word, given.flag("follow-link"));
  const own = containerDirectory(root, container.id);
  if (source.isDirectory && `${own}/`.startsWith(`${source.path}/`.replace("//", "/")))
    throw new OciboxError("INVALID", `"${word}" has the container in it, and cannot be copied into it`);
  const owner = given.flag("archive") ? {} : { owner: { uid: 0, gid: 0 } };
  withWritablePlace(openStore(root, storeOptions), state, container, path, (place) => {
    copyInto(place, source, owner);
  });
  return 0;
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: {
        name: "cp",
        description: "Copy a file or a directory out of a container or an image, or into a container",
      },
      args: {
        archive: { type: "boolean", alias: "a", description: "Into a container: owners as they are; else root's" },
        "follow-link": { type: "boolean", alias: "L", description: "Of a SOURCE that is a symlink what it leads to" },
        SOURCE: {
          type: "positional",
          description: "NAME:/PATH, or a path of the host's; with /. behind a directory, what is in it",
        },
        DESTINATION: { type: "positional", description: "A path, or CONTAINER:/PATH: a directory, or a new name" },
      },
    },
    words: [2, 2],
    async run(given) {
      const [word = "", destination = ""] = given.words;
      const from = split(word);
      const into = split(destination);
      if (from === undefined && into !== undefined) return copyIn(globals, given, word, into);
      if (from === undefined || into !== undefined)
        throw new OciboxError(
          "USAGE",
          from === undefined
            ? `neither "${word}" nor "${destination}" is NAME:/PATH`
            : `"${word}" and "${destination}" are both NAME:/PATH: one of them is to be a path of the host's`,
          { hint: "ocibox cp alpine:/etc/os-release . · ocibox cp ./file CONTAINER:/tmp" },
        );
      await asRoot(globals);
      const [name, path] = from;
      const target = absolute(destination, "the destination").replace(/(?<=.)\/+$/, "");
      const store = openStoreOf(globals);
      const container = containerOf(globals, name);
      const image = container === undefined ? await mountableImage(name, store) : undefined;
      await interruptible(`the copy of "${word}"`, async (signal) => {
        const of = container === undefined ? "image" : "container";
        const copy = (root: number, inside = path): void =>
          copyOut(root, { path: inside, word: path, of }, target, signal);
        const mounted = container && mountedAt(container, path);
        if (mounted !== undefined) return withMounted(mounted, copy);
        if (container !== undefined) return withContainerTree(store, container, copy);
        return withTree(store, image as StoredImage, copy);
      });
      return 0;
    },
  };
}
