/**
 * Named volumes: directories of their own below ROOT/volumes, which outlive the containers that they are mounted in. One is
 * ROOT/volumes/NAME with `volume.json` and `_data`; it is there as a whole or not at all.
 */
import { copyAttributes } from "../../ffi/attributes.ts";
import { AT_FDCWD, O, RENAME, RESOLVE } from "../../ffi/constants.ts";
import { attempt, direct, tolerate } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn, readText, writeNew } from "../../ffi/files.ts";
import { lockFile } from "../../ffi/lock.ts";
import { struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import { copyContents } from "../layer/copy-tree.ts";
import { names, removeTree } from "../layer/remove-tree.ts";
import { emptyTrash, toTrash } from "../store/collect.ts";
import type { Store } from "../store/store.ts";
import { listRecords, volumeData, volumesDirectory } from "./record.ts";
import type { ContainerId } from "./state.ts";

/** volume.json */
export interface VolumeRecord {
  readonly name: string;
  /** RFC 3339. */
  readonly created: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Made without a name being given. */
  readonly anonymous?: boolean;
}

const directoryFlags = O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC;
const namePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;
/** What is not whole yet, or not any more: no volume's name. */
const unfinished = ".";

/** @throws OciboxError USAGE */
export function checkVolumeName(name: string): void {
  if (namePattern.test(name) && name.length < 256) return;
  throw new OciboxError("USAGE", `the volume "${name}" has a name that is not letters, digits, "_", "." and "-"`);
}

/** Makes a volume. @returns whether it was not there before */
export function createVolume(root: string, name: string, more: Partial<VolumeRecord> = {}): boolean {
  const directory = volumesDirectory(root);
  const path = `${directory}/${name}`;
  if (readVolume(root, name) !== undefined) return false;
  makeDirectories(directory);
  const temporary = `${unfinished}${crypto.getRandomValues(new Uint8Array(8)).toHex()}`;
  direct.mkdirat(AT_FDCWD, `${directory}/${temporary}`, 0o700);
  direct.mkdirat(AT_FDCWD, `${directory}/${temporary}/_data`, 0o755);
  const record: VolumeRecord = { labels: {}, ...more, name, created: new Date().toISOString() };
  writeNew(`${directory}/${temporary}/volume.json`, JSON.stringify(record), 0o600);
  const flags = RENAME.RENAME_NOREPLACE;
  const made = tolerate(["EEXIST"], "renameat2", AT_FDCWD, `${directory}/${temporary}`, AT_FDCWD, path, flags);
  if (made >= 0) return true;
  removeBelow(directory, temporary);
  return false;
}

/** Undefined where there is none of the name. */
export function readVolume(root: string, name: string): VolumeRecord | undefined {
  const text = readText(`${volumesDirectory(root)}/${name}/volume.json`);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as VolumeRecord;
  } catch {
    // The disk was full: its data is there all the same.
    return { name, created: "", labels: {} };
  }
}

/** @throws OciboxError NOT_FOUND */
export function findVolume(root: string, name: string): VolumeRecord {
  const found = name.startsWith(unfinished) || name.includes("/") ? undefined : readVolume(root, name);
  if (found !== undefined) return found;
  throw new OciboxError("NOT_FOUND", `there is no volume "${name}"`, { hint: "see: ocibox volume ls" });
}

/** Every volume, by name. */
export function listVolumes(root: string): VolumeRecord[] {
  return namesIn(volumesDirectory(root))
    .filter((name) => !name.startsWith(unfinished))
    .sort()
    .flatMap((name) => readVolume(root, name) ?? []);
}

/** Names of the containers that a volume is mounted in, running or not, by the volume's. */
export function volumeUsers(root: string): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const { name, mounts = [] } of listRecords(root))
    for (const { volume } of mounts) if (volume !== undefined) found.set(volume, [...(found.get(volume) ?? []), name]);
  return found;
}

function removeBelow(directory: string, name: string): void {
  using parent = new OwnedFd(direct.openat(AT_FDCWD, directory, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  removeTree(parent.fd, name);
}

/** Takes back a volume that was made for a container that could not be; what others have by now, or is in it, stays. */
export function dropVolume(store: Store, name: string, id: ContainerId): void {
  using data = new OwnedFd(direct.openat(AT_FDCWD, volumeData(store.root, name), directoryFlags, 0));
  const others = listRecords(store.root).filter((each) => each.id !== id);
  const taken = others.some(({ mounts = [] }) => mounts.some(({ volume }) => volume === name));
  if (isEmpty(data.fd) && !taken) toTrash(store, `volumes/${name}`);
}

/**
 * Removes volumes that no container has, while none is being made.
 * @param choose of all that nobody has
 * @returns their names
 * @throws OciboxError IN_USE where containers are being made all the time
 */
export async function removeVolumes(
  store: Store,
  choose: (all: readonly VolumeRecord[], users: ReadonlyMap<string, readonly string[]>) => readonly string[],
): Promise<string[]> {
  using lock = await store.lockAlone(10_000);
  if (lock === undefined)
    throw new OciboxError("IN_USE", `containers are being made in "${store.root}" all the time: nothing was removed`, {
      hint: "try again",
    });
  const chosen = [...choose(listVolumes(store.root), volumeUsers(store.root))];
  for (const name of chosen) toTrash(store, `volumes/${name}`);
  emptyTrash(store);
  return chosen;
}

function isEmpty(directory: number): boolean {
  for (const _ of names(directory)) return false;
  return true;
}

/** Nobody else fills the volume meanwhile. */
function lockedAlone(path: string): OwnedFd {
  for (;;) {
    const lock = lockFile(path, "exclusive");
    if (lock !== undefined) return lock;
    Bun.sleepSync(5);
  }
}

/** A directory of a container's tree, symlinks kept inside it. */
function openIn(rootfs: number, path: string): OwnedFd | undefined {
  const resolve = RESOLVE.RESOLVE_IN_ROOT | RESOLVE.RESOLVE_NO_MAGICLINKS;
  const how = struct<number>("open_how", { flags: directoryFlags, resolve });
  const fd = attempt("openat2", rootfs, path, how, 24);
  return fd < 0 ? undefined : new OwnedFd(fd);
}

/**
 * What the image has where an empty volume is mounted becomes the volume's, with the directory's owner and mode, as docker
 * does it. It is copied beside it and moved in then: a copy that is cut short is none.
 * @param folder where the copy is made @param path of the volume's own directory
 * @param rootfs of the container @param destination in it
 */
export function fill(folder: string, path: string, rootfs: number, destination: string): void {
  using data = new OwnedFd(direct.openat(AT_FDCWD, path, directoryFlags, 0));
  if (!isEmpty(data.fd)) return;
  using from = openIn(rootfs, destination);
  // Nothing there, or no directory: it begins empty.
  if (from === undefined) return;
  using lock = lockedAlone(`${folder}/lock`);
  void lock;
  // Somebody else may have filled it meanwhile.
  if (!isEmpty(data.fd)) return;
  removeBelow(folder, "_fill");
  direct.mkdirat(AT_FDCWD, `${folder}/_fill`, 0o700);
  using copy = new OwnedFd(direct.openat(AT_FDCWD, `${folder}/_fill`, directoryFlags, 0));
  copyContents(from.fd, copy.fd);
  for (const each of [...names(copy.fd)]) direct.renameat2(copy.fd, each, data.fd, each, 0);
  copyAttributes(`/proc/self/fd/${from.fd}/.`, path);
  removeBelow(folder, "_fill");
}
