/**
 * What is known of an OCI container between two calls of the runtime. Each has a directory under the runtime's root:
 *
 *     state.json   what it is made of, from before anything of it exists
 *     config.json  as it was given
 *     process      /proc/PID/stat of its process, put down by rename: with the boot id, no other process ever has the same
 *     exec.fifo    until it is started
 *     lock         held while it is created, and while something of it is changed
 */
import { AT, AT_FDCWD, MNT, O, SIG } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { failedBy } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn, readText, writeNew } from "../../ffi/files.ts";
import { lockFile, tryLock } from "../../ffi/lock.ts";
import { OciboxError } from "../errors.ts";
import type { CgroupPlan } from "../plan/cgroups/plan.ts";
import type { StateText } from "../plan/hooks.ts";
import { isThere, openMarked, type ProcessMark, readMark } from "./process-mark.ts";

export type Status = "creating" | "created" | "running" | "paused" | "stopped";

export interface StateRecord {
  readonly ociVersion: string;
  readonly id: string;
  readonly bundle: string;
  readonly rootfs: string;
  /** RFC 3339. */
  readonly created: string;
  readonly owner: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly bootId: string;
  readonly cgroups: Pick<CgroupPlan, "mode" | "directories">;
  /** The unit that systemd made for it. */
  readonly unit?: string;
  /** Whether its processes end with its first: it has a PID namespace of its own. */
  readonly ownPids: boolean;
  /** Whether its processes share a session keyring of its own. */
  readonly keyring?: boolean;
  /** Kinds of hooks that are still to come. */
  readonly hooks: readonly string[];
}

const idPattern = /^[A-Za-z0-9_+.-]{1,1024}$/;

/** @throws OciboxError NAME_INVALID */
export function checkId(id: string): void {
  if (idPattern.test(id) && id !== "." && id !== "..") return;
  throw new OciboxError("NAME_INVALID", id === "" ? "container id cannot be empty" : "invalid container ID format");
}

export type StateOf = Pick<StateRecord, "ociVersion" | "id" | "bundle" | "annotations">;

/** runtime.md#state, cut where the process id goes. */
export function stateText({ ociVersion, id, bundle, annotations }: StateOf, status: string): StateText {
  const head = JSON.stringify({ ociVersion, id, status });
  const tail = JSON.stringify({ bundle, ...(annotations === undefined ? {} : { annotations }) });
  return [`${head.slice(0, -1)},"pid":`, `,${tail.slice(1)}`];
}

export function stateDirectory(root: string, id: string): string {
  return `${root}/${id}`;
}

/** All that the file has is had by one read. */
const uuidBytes = 36;

export function bootId(): string {
  return (readText("/proc/sys/kernel/random/boot_id", uuidBytes) ?? "").trim();
}

/** A container as the state directory has it. */
export class Container {
  constructor(
    readonly root: string,
    readonly id: string,
    readonly record: StateRecord,
    /** Its process, once there is one. */
    readonly mark: ProcessMark | undefined,
  ) {}

  get directory(): string {
    return stateDirectory(this.root, this.id);
  }

  /** Whether its process is there, and is the one that was noted. */
  get alive(): boolean {
    return this.mark !== undefined && isThere(this.mark) && this.record.bootId === bootId();
  }

  /** Whether somebody is just making it. */
  get creating(): boolean {
    const fd = attempt("openat", AT_FDCWD, `${this.directory}/lock`, O.O_RDWR | O.O_CLOEXEC, 0);
    if (fd < 0) return false;
    using file = new OwnedFd(fd);
    return !tryLock(file.fd, "exclusive");
  }

  status(): Status {
    if (!this.alive) return this.mark === undefined && this.creating ? "creating" : "stopped";
    if (attempt("faccessat2", AT_FDCWD, `${this.directory}/exec.fifo`, 0, 0) >= 0) return "created";
    return this.frozen ? "paused" : "running";
  }

  get frozen(): boolean {
    const { mode, directories } = this.record.cgroups;
    if (mode === "v2") return (readText(`${directories[0] ?? ""}/cgroup.freeze`) ?? "").trim() === "1";
    const freezer = directories.find((each) => each.startsWith("/sys/fs/cgroup/freezer/"));
    return freezer !== undefined && (readText(`${freezer}/freezer.state`) ?? "THAWED").trim() !== "THAWED";
  }

  /**
   * A descriptor of its process; undefined where that has ended, whoever has its number now.
   * @throws SyscallError
   */
  openProcess(): OwnedFd | undefined {
    return this.mark === undefined ? undefined : openMarked(this.mark, () => this.alive);
  }

  /** Sends a signal to its process. @returns whether there was one */
  signal(number: number): boolean {
    using process = this.openProcess();
    if (process === undefined) return false;
    return attempt("pidfd_send_signal", process.fd, number, null, 0) >= 0;
  }

  /** The state as the specification has it: runtime.md#state. */
  stateJson(status: Status): object {
    const { record, mark } = this;
    return {
      ociVersion: record.ociVersion,
      id: record.id,
      pid: status === "stopped" || mark === undefined ? 0 : mark.pid,
      status,
      bundle: record.bundle,
      rootfs: record.rootfs,
      created: record.created,
      ...(record.annotations === undefined ? {} : { annotations: record.annotations }),
      owner: record.owner,
    };
  }

  /** config.json as it was given; undefined where the container is being forgotten. */
  configText(): string | undefined {
    return readText(`${this.directory}/config.json`, 16 << 20);
  }

  readConfig(): string {
    const text = this.configText();
    if (text !== undefined) return text;
    throw new OciboxError("STORE", `the state of the container "${this.id}" has lost its config.json`);
  }
}

/** @returns undefined where there is no such container */
export function readContainer(root: string, id: string): Container | undefined {
  const directory = stateDirectory(root, id);
  const text = readText(`${directory}/state.json`);
  if (text === undefined) return undefined;
  let record: StateRecord;
  try {
    record = JSON.parse(text) as StateRecord;
  } catch {
    return undefined;
  }
  return new Container(root, id, record, readMark(directory));
}

/** @throws OciboxError NOT_FOUND in the words that other programs look for */
export function needContainer(root: string, id: string): Container {
  checkId(id);
  const found = readContainer(root, id);
  if (found !== undefined) return found;
  // Empty, it is what is left where forgetting it was cut off.
  attempt("unlinkat", AT_FDCWD, stateDirectory(root, id), AT.AT_REMOVEDIR);
  throw new OciboxError("NOT_FOUND", "container does not exist");
}

export function listIds(root: string): string[] {
  return namesIn(root)
    .filter((name) => idPattern.test(name) && !name.startsWith("."))
    .sort();
}

/** The lock of a container's directory; undefined where that is gone. @throws SyscallError */
function lockIn(directory: string): OwnedFd | "taken" | undefined {
  try {
    return lockFile(`${directory}/lock`, "exclusive") ?? "taken";
  } catch (error) {
    if (error instanceof SyscallError && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/**
 * Takes the lock of a container's directory, waiting for whoever is at work.
 * @returns undefined where the container has gone meanwhile
 * @throws OciboxError IN_USE after 10 s
 */
export function lockContainer(directory: string): OwnedFd | undefined {
  const start = performance.now();
  for (;;) {
    const lock = lockIn(directory);
    if (lock !== "taken") return lock;
    if (performance.now() - start > 10_000)
      throw new OciboxError("IN_USE", `another call has been at work on "${directory}" for 10 seconds`);
    Bun.sleepSync(2);
  }
}

/** Writes what is known of a container anew, by rename. Its lock is held. */
export function updateRecord(root: string, record: StateRecord): void {
  const directory = stateDirectory(root, record.id);
  attempt("unlinkat", AT_FDCWD, `${directory}/.state.json`, 0);
  writeNew(`${directory}/.state.json`, JSON.stringify(record), 0o600);
  direct.renameat2(AT_FDCWD, `${directory}/.state.json`, AT_FDCWD, `${directory}/state.json`, 0);
}

/**
 * Makes a container's directory with its lock; undefined where, empty for a moment, it was taken for what somebody has
 * left. @throws OciboxError IN_USE where there is one
 */
function lockNew(root: string, directory: string): OwnedFd | undefined {
  let made = attempt("mkdirat", AT_FDCWD, directory, 0o700);
  if (failedBy(made, "ENOENT")) {
    makeDirectories(root);
    made = attempt("mkdirat", AT_FDCWD, directory, 0o700);
  }
  if (failedBy(made, "EEXIST")) throw new OciboxError("IN_USE", "container with given ID already exists");
  if (made < 0) throw new SyscallError("mkdirat", [AT_FDCWD, directory, 0o700], -made);
  const lock = lockIn(directory);
  if (lock === "taken") throw new OciboxError("IN_USE", "container with given ID already exists");
  return lock;
}

/** Takes an id: its directory, its lock and its record, before anything else of it exists. */
export function claimContainer(root: string, record: StateRecord, config: string): OwnedFd {
  const directory = stateDirectory(root, record.id);
  let lock = lockNew(root, directory);
  while (lock === undefined) lock = lockNew(root, directory);
  writeNew(`${directory}/config.json`, config, 0o600);
  writeNew(`${directory}/state.json`, JSON.stringify(record), 0o600);
  return lock;
}

const files = [
  ".state.json",
  "exec.fifo",
  "process",
  ".process",
  "config.json",
  ".config.json",
  "lock",
  "state.json",
] as const;

/** Where the root of a container without a mount namespace of its own is mounted: nobody but its owner comes there. */
export function rootPlace(directory: string): string {
  return `${directory}/root`;
}

/** Under the root lies what directories are masked with. */
export const mountsOnPlace = 2;

/** Another that is about to forget it, too, makes its lock anew in between. */
const mostTries = 20;

/** Forgets a container. What it is known by goes last. @throws SyscallError where something in it is nobody's */
export function forgetContainer(directory: string): void {
  const place = rootPlace(directory);
  for (let tries = 0; ; tries++) {
    for (const name of files) attempt("unlinkat", AT_FDCWD, `${directory}/${name}`, 0);
    const removed = attempt("unlinkat", AT_FDCWD, directory, AT.AT_REMOVEDIR);
    // Whoever else forgets it may have been quicker.
    if (removed >= 0 || failedBy(removed, "ENOENT")) return;
    if (tries === mostTries) throw new SyscallError("unlinkat", [AT_FDCWD, directory, AT.AT_REMOVEDIR], -removed);
    for (let each = 0; each < mountsOnPlace; each++) attempt("umount2", place, MNT.MNT_DETACH | MNT.UMOUNT_NOFOLLOW);
    attempt("unlinkat", AT_FDCWD, place, AT.AT_REMOVEDIR);
  }
}

/** Names of the files, for the plan that forgets a container by itself. */
export const stateFiles: readonly string[] = files;

/** A signal by name or number: "TERM", "SIGTERM", "15". @throws OciboxError USAGE */
export function parseSignal(text: string): number {
  if (/^\d+$/.test(text)) {
    const number = Number(text);
    if (number <= 64) return number;
  }
  const name = text.toUpperCase();
  const full = name.startsWith("SIG") ? name : `SIG${name}`;
  if (Object.hasOwn(SIG, full)) return SIG[full as keyof typeof SIG];
  const realtime = /^SIGRT(MIN|MAX)(?:([+-])(\d+))?$/.exec(full);
  if (realtime !== null) {
    const base = realtime[1] === "MIN" ? 34 : 64;
    const number = base + Number(`${realtime[2] ?? "+"}${realtime[3] ?? 0}`);
    if (number >= 34 && number <= 64) return number;
  }
  throw new OciboxError("USAGE", `unknown signal ${JSON.stringify(text)}`);
}
