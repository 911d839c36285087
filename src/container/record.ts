/** A container's folder below ROOT/containers: what it is made of, and what is left of it. */
import { AT, AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, SyscallError, tolerate } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { isThere, makeDirectories, namesIn, readText, writeNew } from "../../ffi/files.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import type { PublishFlag } from "../bundle/publish.ts";
import type { ResolverFlags } from "../bundle/resolver.ts";
import { OciboxError } from "../errors.ts";
import { removeTree } from "../layer/remove-tree.ts";
import type { ChainId, Digest } from "../spec/digest.ts";
import { replaceFile } from "../store/disk.ts";
import type { Snapshotter } from "../store/snapshotter.ts";
import { type ContainerId, isContainerId, isRunning, sweep } from "./state.ts";

export interface MountRecord {
  /** Of a named volume. */
  readonly volume?: string;
  /** On the host. */
  readonly source: string;
  readonly destination: string;
  readonly options: readonly string[];
}

/** container.json: ours, beside the OCI config.json. */
export interface ContainerRecord {
  readonly id: ContainerId;
  readonly name: string;
  /** The image as it was named. */
  readonly image: string;
  readonly manifestDigest: Digest;
  /** What the store must keep while the container is there. */
  readonly layers: readonly ChainId[];
  /** How its tree was made of them. */
  readonly snapshotter: Snapshotter;
  readonly command: readonly string[];
  /** RFC 3339. */
  readonly created: string;
  readonly autoRemove: boolean;
  /** What asks it to end, where that is not SIGTERM. */
  readonly stopSignal?: string;
  /** How long it is waited for then, where that is not ten seconds. */
  readonly stopTimeout?: number;
  readonly labels?: Readonly<Record<string, string>>;
  /** How long it may run, in seconds. */
  readonly timeout?: number;
  /** --network; not there in what was made before there were bridges. */
  readonly network?: string;
  readonly publish?: readonly PublishFlag[];
  /** --ip */
  readonly address?: string;
  /** --pidfile */
  readonly pidFile?: string;
  /** --restart: always, unless-stopped, on-failure, on-failure:N. */
  readonly restart?: string;
  /** What --add-host adds. */
  readonly hosts?: readonly string[];
  /** --dns and its kin. */
  readonly resolver?: ResolverFlags;
  /** What -v, --mount and --volumes-from mount of the host's, and volumes. */
  readonly mounts?: readonly MountRecord[];
  /** Whether it has an init, and a standard input, which config.json does not say. */
  readonly init?: boolean;
  readonly interactive?: boolean;
}

/** Whether something that is mounted is a volume without a name, of this container. */
export function isOwnVolume({ id }: Pick<ContainerRecord, "id">, source: string): boolean {
  // Whichever way to the store was taken then.
  return source.includes(`/containers/${id}/volumes/`);
}

/** Another container that mounts what goes with this one. */
export function dependentOf(root: string, record: Pick<ContainerRecord, "id">): ContainerRecord | undefined {
  return listRecords(root).find(
    ({ id, mounts = [] }) => id !== record.id && mounts.some(({ source }) => isOwnVolume(record, source)),
  );
}

export interface ContainerStatus extends ContainerRecord {
  readonly running: boolean;
  /** Undefined while it runs, where its supervisor was killed, and where the disk was full. */
  readonly exitCode: number | undefined;
  /** When it has ended; undefined while it runs, and where its supervisor was killed. */
  readonly finished: Date | undefined;
}

export function containersDirectory(root: string): string {
  return `${root}/containers`;
}

export function containerDirectory(root: string, id: ContainerId): string {
  return `${root}/containers/${id}`;
}

export function volumesDirectory(root: string): string {
  return `${root}/volumes`;
}

/** What is mounted of a named volume. */
export function volumeData(root: string, name: string): string {
  return `${root}/volumes/${name}/_data`;
}

/** Who copies into a container that does not run has this file to itself. */
export function copyLock(root: string, id: ContainerId): string {
  return `${containerDirectory(root, id)}/copy.lock`;
}

/** What a container that was left to itself has written. */
export function logFile(root: string, id: ContainerId): string {
  return `${containerDirectory(root, id)}/log`;
}

function readRecord(root: string, id: ContainerId): ContainerRecord | undefined {
  const text = readText(`${containerDirectory(root, id)}/container.json`);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as ContainerRecord;
  } catch {
    return undefined;
  }
}

/** What is said of a container whose supervisor was killed, and it with it. */
export const killed = 137;

export function exitFile(root: string, id: ContainerId): string {
  return `${containerDirectory(root, id)}/exit`;
}

/** It runs again: what it ended with the last time is of no interest. */
export function forgetExit(root: string, id: ContainerId): void {
  attempt("unlinkat", AT_FDCWD, exitFile(root, id), 0);
}

function readExit(root: string, id: ContainerId): number | undefined {
  const code = Number.parseInt(readText(exitFile(root, id)) ?? "", 10);
  return Number.isNaN(code) ? undefined : code;
}

export function changedAt(path: string): Date | undefined {
  const stat = alloc(256);
  const STATX_MTIME = 0x40;
  if (attempt("statx", AT_FDCWD, path, AT.AT_SYMLINK_NOFOLLOW, STATX_MTIME, stat) < 0) return undefined;
  return new Date(readField("statx", stat, "stx_mtime_sec") * 1000);
}

/** What every container is made of. */
export function listRecords(root: string): ContainerRecord[] {
  return namesIn(containersDirectory(root)).flatMap((id) => (isContainerId(id) ? (readRecord(root, id) ?? []) : []));
}

/** Every container there is, the newest first. */
export function listContainers(root: string, state: string): ContainerStatus[] {
  const found: ContainerStatus[] = [];
  for (const id of namesIn(containersDirectory(root))) {
    if (!isContainerId(id)) continue;
    const record = readRecord(root, id);
    if (record === undefined) continue;
    found.push({
      ...record,
      running: isRunning(state, id),
      exitCode: readExit(root, id),
      finished: changedAt(exitFile(root, id)),
    });
  }
  return found.sort((a, b) => (a.created < b.created ? 1 : -1));
}

/**
 * A container by its name, its id or the first digits of it.
 * @throws OciboxError NOT_FOUND, or INVALID where more than one begins so
 */
export function findContainer(root: string, state: string, word: string): ContainerStatus {
  return found(listContainers(root, state), word);
}

/** The same, whether it runs or not. */
export function findRecord(root: string, word: string): ContainerRecord {
  return found(listRecords(root), word);
}

function found<Each extends ContainerRecord>(all: readonly Each[], word: string): Each {
  const named = all.find((each) => each.name === word);
  if (named !== undefined) return named;
  const begun = word === "" ? [] : all.filter((each) => each.id.startsWith(word));
  const [only] = begun;
  if (only !== undefined && begun.length === 1) return only;
  if (begun.length > 1)
    throw new OciboxError("INVALID", `${begun.length} containers have an id that begins with "${word}"`);
  throw new OciboxError("NOT_FOUND", `there is no container "${word}"`, { hint: "see: ocibox ps -a" });
}

/** Removes a container's folder and its name. */
export function removeContainer(root: string, id: ContainerId): void {
  releaseName(root, id, readRecord(root, id)?.name);
  const fd = attempt("openat", AT_FDCWD, containersDirectory(root), O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  if (fd < 0) return;
  using containers = new OwnedFd(fd);
  removeTree(containers.fd, id);
}

const idLength = 64;
/** ms */
const longestRename = 10_000;

/** Names are links to ids: making one is what takes the name. */
function nameLink(root: string, name: string): string {
  return `${root}/names/${name}`;
}

/** @throws OciboxError IN_USE where another container has the name */
export function takeName(root: string, id: ContainerId, name: string): void {
  const made = tolerate(["EEXIST"], "symlinkat", id, AT_FDCWD, nameLink(root, name));
  if (made >= 0) return;
  const owner = ownerOf(root, name);
  if (owner === id) return;
  if (owner !== undefined && isFree(root, owner as ContainerId, name)) {
    releaseName(root, owner as ContainerId, name);
    takeName(root, id, name);
    return;
  }
  throw new OciboxError("IN_USE", `a container with the name "${name}" exists already`, {
    hint: `remove it with: ocibox rm ${name}, or choose another name`,
  });
}

/**
 * Whether a name that leads to a container is nobody's: the container is gone, or was renamed by a command that was killed.
 * One of --rm keeps the name that it began with until its end, which takes that away.
 */
function isFree(root: string, owner: ContainerId, name: string): boolean {
  const record = readRecord(root, owner);
  if (record === undefined) return !isThere(containerDirectory(root, owner));
  const taken = changedAt(nameLink(root, name));
  // What was taken just now may be by a rename that is going on.
  const old = taken === undefined || Date.now() - taken.getTime() > longestRename;
  return record.name !== name && !record.autoRemove && old;
}

/** The id that a name leads to. */
function ownerOf(root: string, name: string): string | undefined {
  const target = new Uint8Array(new ArrayBuffer(128));
  const length = attempt("readlinkat", AT_FDCWD, nameLink(root, name), target, 128);
  return length === idLength ? new TextDecoder().decode(target.subarray(0, length)) : undefined;
}

/**
 * Calls a container otherwise.
 * @throws OciboxError IN_USE where another container has the name
 */
export function renameContainer(root: string, { id, name, autoRemove }: ContainerRecord, to: string): void {
  const record = readRecord(root, id);
  if (record === undefined) return;
  makeDirectories(`${root}/names`);
  takeName(root, id, to);
  const path = `${containerDirectory(root, id)}/container.json`;
  const bytes = new TextEncoder().encode(JSON.stringify({ ...record, name: to }));
  if (to !== name) replaceFile(path, `${path}.new`, bytes);
  if (to !== name && !autoRemove) releaseName(root, id, name);
}

function releaseName(root: string, id: ContainerId, name: string | undefined): void {
  if (name === undefined || name.includes("/") || name === id) return;
  if (ownerOf(root, name) === id) attempt("unlinkat", AT_FDCWD, nameLink(root, name), 0);
}

/**
 * Removes what killed commands have left: processes and cgroups of containers whose supervisor is gone, and the
 * folders of those that were to be removed at their end.
 */
export function tidyUp(root: string, state: string, endProcesses: (id: ContainerId) => void): void {
  sweep(state, (id, code) => {
    endProcesses(id);
    const record = readRecord(root, id);
    if (record === undefined || record.autoRemove) removeContainer(root, id);
    else if (readExit(root, id) === undefined) writeExit(root, id, code ?? killed);
  });
}

/** A disk that is full may have kept the supervisor from writing it; it is no reason for the next command to fail. */
function writeExit(root: string, id: ContainerId, code: number): void {
  const file = exitFile(root, id);
  attempt("unlinkat", AT_FDCWD, file, 0);
  try {
    writeNew(file, `${code}\n`, 0o600);
  } catch (error) {
    if (!(error instanceof SyscallError && error.code === "ENOSPC")) throw error;
  }
}

/** After a reboot the state directory is empty: folders that were to go with their container are found by themselves. */
export function tidyAfterReboot(root: string, state: string): void {
  for (const id of namesIn(containersDirectory(root))) {
    if (!isContainerId(id) || isRunning(state, id)) continue;
    if (attempt("faccessat2", AT_FDCWD, `${state}/${id}`, 0, AT.AT_SYMLINK_NOFOLLOW) >= 0) continue;
    const record = readRecord(root, id);
    if (record === undefined || record.autoRemove) removeContainer(root, id);
  }
}
