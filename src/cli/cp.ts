import { AT, AT_FDCWD, O, RESOLVE, S } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { struct } from "../../ffi/sys.ts";
import { type ContainerStatus, listContainers } from "../container/record.ts";
import { withContainerTree, withTree } from "../container/tree.ts";
import { OciboxError } from "../errors.ts";
import { copyContents, copyEntry } from "../layer/copy-tree.ts";
import type { StoredImage } from "../store/store.ts";
import { absolute, asRoot, type Globals, places } from "./globals.ts";
import { interruptible } from "./interruptible.ts";
import { mountableImage } from "./load-image.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";

/** "alpine:3.20:/etc/passwd": the path begins at the last colon before a slash. @param to where it is to go */
function split(word: string, to: string): readonly [name: string, path: string] {
  const at = word.lastIndexOf(":/");
  if (at < 1 && /^[^/.].*:\//.test(to))
    throw new OciboxError("UNSUPPORTED", `"${to}" cannot be copied to: copying into a container is not there yet`, {
      hint: "bind a directory into it with -v, or send a tar: tar c FILE | ocibox exec -i CONTAINER tar x",
    });
  if (at < 1 || /^(oci|oci-archive|docker-archive|dir)$/.test(word.slice(0, at)))
    throw new OciboxError("USAGE", `"${word}" is not IMAGE:/PATH or CONTAINER:/PATH`, {
      hint: "ocibox cp alpine:/etc/os-release .",
    });
  return [word.slice(0, at), word.slice(at + 1)];
}

/** An id is long enough not to be taken for an image's name. */
const leastId = 12;

function containerOf(globals: Globals, word: string): ContainerStatus | undefined {
  const { root, state } = places(globals);
  const isId = word.length >= leastId && /^[0-9a-f]+$/.test(word);
  return listContainers(root, state).find(({ name, id }) => name === word || (isId && id.startsWith(word)));
}

function isDirectory(path: string): boolean {
  const stat = alloc(256);
  return (
    attempt("statx", AT_FDCWD, path, 0, 1, stat) >= 0 && (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFDIR
  );
}

/** A place in the image, whatever symlinks lead to it: they stay inside. */
function openInside(root: number, path: string, flags: number): OwnedFd | undefined {
  const how = struct<number>("open_how", {
    flags: flags | O.O_CLOEXEC,
    resolve: RESOLVE.RESOLVE_IN_ROOT | RESOLVE.RESOLVE_NO_MAGICLINKS,
  });
  const fd = attempt("openat2", root, path.replace(/^\/+/, "") || ".", how, 24);
  if (fd === -errnoOf("ENOENT") || fd === -errnoOf("ENOTDIR")) return undefined;
  if (fd < 0) throw new SyscallError("openat2", [root, path, how, 24], -fd);
  return new OwnedFd(fd);
}

/** As docker cp has it: into a directory that is there, or under the name that was given; "DIR/." is what is in it. */
function copyOut(root: number, path: string, target: string, of: string, signal: AbortSignal): void {
  const contents = path.endsWith("/.");
  const plain = path.replace(/\/+\.?$/, "") || "/";
  const base = plain.slice(plain.lastIndexOf("/") + 1);
  const into = isDirectory(target);
  const missing = (): never => {
    throw new OciboxError("NOT_FOUND", `there is no "${path}" in the ${of}`);
  };
  if (contents || base === "") {
    using source = openInside(root, plain, O.O_RDONLY | O.O_DIRECTORY) ?? missing();
    if (!into) direct.mkdirat(AT_FDCWD, target, 0o755);
    using directory = new OwnedFd(direct.openat(AT_FDCWD, target, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
    copyContents(source.fd, directory.fd, signal);
    return;
  }
  using parent = openInside(root, plain.slice(0, plain.lastIndexOf("/")) || "/", O.O_PATH | O.O_DIRECTORY) ?? missing();
  if (attempt("faccessat2", parent.fd, base, 0, AT.AT_SYMLINK_NOFOLLOW) < 0) missing();
  const [place, name] = into
    ? [target, base]
    : [target.slice(0, target.lastIndexOf("/")) || "/", target.slice(target.lastIndexOf("/") + 1)];
  const opened = attempt("openat", AT_FDCWD, place, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  if (opened < 0) throw new OciboxError("NOT_FOUND", `there is no directory "${place}" to copy to`);
  using directory = new OwnedFd(opened);
  try {
    copyEntry(parent.fd, base, directory.fd, name, signal);
  } catch (error) {
    if (!(error instanceof SyscallError) || error.code !== "EEXIST") throw error;
    throw new OciboxError("IN_USE", `"${place === "/" ? "" : place}/${name}" is there already`, {
      hint: "remove it first",
    });
  }
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: {
        name: "cp",
        description: "Copy a file or a directory out of a container, or out of an image without one",
      },
      args: {
        "NAME:PATH": { type: "positional", description: "What is copied; with /. behind a directory, what is in it" },
        DESTINATION: { type: "positional", description: "A directory that is there, or a new name" },
      },
    },
    words: [2, 2],
    async run(given) {
      await asRoot(globals);
      const [word = "", destination = ""] = given.words;
      const [name, path] = split(word, destination);
      const target = absolute(destination, "the destination").replace(/(?<=.)\/+$/, "");
      const store = openStoreOf(globals);
      const container = containerOf(globals, name);
      const image = container === undefined ? await mountableImage(name, store) : undefined;
      await interruptible(`the copy of "${word}"`, (signal) => {
        const copy = (root: number): void =>
          copyOut(root, path, target, container === undefined ? "image" : "container", signal);
        if (container !== undefined) return withContainerTree(store, container, copy);
        return withTree(store, image as StoredImage, copy);
      });
      return 0;
    },
  };
}
