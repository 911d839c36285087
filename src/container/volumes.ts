/**
 * Named volumes: directories of their own below ROOT/volumes, which outlive the containers that they are mounted in. One is
 * ROOT/volumes/NAME with `volume.json` and `_data`; it is there as a whole or not at all.
 */
import { copyAttributes, readAttributes, timesOf } from "../../ffi/attributes.ts";
import { AT, AT_FDCWD, O, RENAME } from "../../ffi/constants.ts";
import { attempt, direct, tolerate } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { isThere, makeDirectories, namesIn, readText } from "../../ffi/files.ts";
import { lockFile } from "../../ffi/lock.ts";
import { isName } from "../bundle/values.ts";
import { OciboxError } from "../errors.ts";
import { copyContents } from "../layer/copy-tree.ts";
import { names, removeTree } from "../layer/remove-tree.ts";
import { openInRoot } from "../runtime/read-in-root.ts";
import { emptyTrash, toTrash } from "../store/collect.ts";
import { replaceFile, syncDirectory } from "../store/disk.ts";
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
/** What is not whole yet, or not any more: no volume's name. */
const unfinished = ".";

/** @throws OciboxError USAGE */
export function checkVolumeName(name: string): void {
  if (isName(name)) return;
  throw new OciboxError("USAGE", `the volume "${name}" has a name that is not letters, digits, "_", "." and "-"`);
}

/** Makes a volume. @returns whether it was not there before */
export function createVolume(root: string, name: string, more: Partial<VolumeRecord> = {}): boolean {
  const directory = volumesDirectory(root);
  const path = `${directory}/${name}`;
  if (readVolume(root, name) !== undefined) return false;
  makeDirectories(directory);
  const temporary = `${directory}/${unfinished}${crypto.getRandomValues(new Uint8Array(8)).toHex()}`;
  direct.mkdirat(AT_FDCWD, temporary, 0o700);
  direct.mkdirat(AT_FDCWD, `${temporary}/_data`, 0o755);
  // Whatever the caller's mask is.
  direct.fchmodat(AT_FDCWD, `${temporary}/_data`, 0o755);
  const record: VolumeRecord = { labels: {}, ...more, name, created: new Date().toISOString() };
  const bytes = new TextEncoder().encode(JSON.stringify(record));
  replaceFile(`${temporary}/volume.json`, `${temporary}/volume.json.new`, bytes);
  const made = tolerate(["EEXIST"], "renameat2", AT_FDCWD, temporary, AT_FDCWD, path, RENAME.RENAME_NOREPLACE);
  if (made < 0) removeBelow(directory, temporary.slice(directory.length + 1));
  else syncDirectory(directory);
  return made >= 0;
}

/** Undefined where there is none of the name. */
export function readVolume(root: string, name: string): VolumeRecord | undefined {
  const text = readText(`${volumesDirectory(root)}/${name}/volume.json`);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as VolumeRecord;
  } catch {
    // Somebody has been at it: its data is there all the same.
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

/**
 * Takes back a volume that was made for a container that could not be. What is in it stays, and so it does where containers
 * are being made: one of them may be about to have it.
 */
export function dropVolume(store: Store, name: string, id: ContainerId): void {
  using lock = lockFile(`${store.root}/lock`, "exclusive");
  const fd = attempt("openat", AT_FDCWD, volumeData(store.root, name), directoryFlags, 0);
  if (lock === undefined || fd < 0) return;
  using data = new OwnedFd(fd);
  const others = listRecords(store.root).filter((each) => each.id !== id);
  const taken = others.some(({ mounts = [] }) => mounts.some(({ volume }) => volume === name));
  if (isEmpty(data.fd) && !taken) toTrash(store, `volumes/${name}`);
}

/**
 * Removes volumes that no container has, while none is being made.
 * @param choose of all that there are
 * @returns their names
 * @throws OciboxError IN_USE where containers are being made all the time, STORE where one could not be removed
 */
export async function removeVolumes(
  store: Store,
  choose: (all: readonly VolumeRecord[], users: ReadonlyMap<string, readonly string[]>) => readonly string[],
): Promise<string[]> {
  store.prepare();
  const chosen = await take(store, choose);
  // Not before others may go on: it may be much.
  emptyTrash(store);
  return chosen;
}

async function take(store: Store, choose: Parameters<typeof removeVolumes>[1]): Promise<string[]> {
  using lock = await store.lockAlone(10_000);
  if (lock === undefined)
    throw new OciboxError("IN_USE", `containers are being made in "${store.root}" all the time: nothing was removed`, {
      hint: "try again",
    });
  const { root } = store;
  // What a killed command has not made whole.
  for (const name of namesIn(volumesDirectory(root)))
    if (name.startsWith(unfinished)) toTrash(store, `volumes/${name}`);
  const chosen = [...choose(listVolumes(root), volumeUsers(root))];
  for (const name of chosen) {
    toTrash(store, `volumes/${name}`);
    if (readVolume(root, name) !== undefined)
      throw new OciboxError("STORE", `the volume "${name}" could not be removed from "${root}"`);
  }
  return chosen;
}

function isEmpty(directory: number): boolean {
  for (const _ of names(directory)) return false;
  return true;
}

/** How long somebody else who fills the volume is waited for, ms. */
const patience = 600_000;

/** Nobody else fills the volume meanwhile. @throws OciboxError IN_USE where somebody does so for very long */
function lockedAlone(path: string): OwnedFd {
  for (const end = performance.now() + patience; performance.now() < end; Bun.sleepSync(5)) {
    const lock = lockFile(path, "exclusive");
    if (lock !== undefined) return lock;
  }
  throw new OciboxError("IN_USE", `somebody else has been filling the volume for ${patience / 1000} s: "${path}"`);
}

/** What is copied, and what is whole and to be moved in. */
const [beginning, whole] = ["_fill", "_ready"];

/** Moves what is whole into the volume; what is there by now stays. */
function moveIn(folder: string, path: string, data: number): void {
  const ready = `${folder}/${whole}`;
  using copy = new OwnedFd(direct.openat(AT_FDCWD, ready, directoryFlags, 0));
  const attributes = readAttributes(ready);
  copyAttributes(ready, path);
  for (const each of [...names(copy.fd)])
    tolerate(["EEXIST"], "renameat2", copy.fd, each, data, each, RENAME.RENAME_NOREPLACE);
  // A change of what is in it changes its time.
  direct.utimensat(AT_FDCWD, path, timesOf(attributes), AT.AT_SYMLINK_NOFOLLOW);
  removeBelow(folder, whole);
}

/**
 * What the image has where an empty volume is mounted becomes the volume's, with the directory's owner and mode, as docker
 * does it. It is copied beside it, and moved in when it is whole: what is cut short before is copied anew, and what is cut
 * short then is moved by the next.
 * @param folder where the copy is made @param path of the volume's own directory
 * @param rootfs of the container @param destination in it
 */
export function fill(folder: string, path: string, rootfs: number, destination: string): void {
  using data = new OwnedFd(direct.openat(AT_FDCWD, path, directoryFlags, 0));
  const begun = (): boolean => isThere(`${folder}/${beginning}`) || isThere(`${folder}/${whole}`);
  if (!isEmpty(data.fd) && !begun()) return;
  using from = openInRoot(rootfs, destination, O.O_RDONLY | O.O_DIRECTORY);
  // Nothing there, or no directory: it begins empty.
  if (from === undefined && !begun()) return;
  using lock = lockedAlone(`${folder}/lock`);
  void lock;
  if (!isThere(`${folder}/${whole}`)) {
    removeBelow(folder, beginning);
    // Somebody else may have filled it meanwhile.
    if (from === undefined || !isEmpty(data.fd)) return;
    direct.mkdirat(AT_FDCWD, `${folder}/${beginning}`, 0o700);
    using copy = new OwnedFd(direct.openat(AT_FDCWD, `${folder}/${beginning}`, directoryFlags, 0));
    copyContents(from.fd, copy.fd);
    copyAttributes(`/proc/self/fd/${from.fd}/.`, `${folder}/${beginning}`);
    direct.renameat2(AT_FDCWD, `${folder}/${beginning}`, AT_FDCWD, `${folder}/${whole}`, 0);
  }
  moveIn(folder, path, data.fd);
}
