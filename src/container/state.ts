/**
 * What runs now. Each running container has one file in the state directory, named by its id, locked (an OFD lock,
 * fcntl(2)) from before anything else of it exists until after everything else of it is gone. The lock is inherited by
 * init, which supervises; the kernel frees it when that process ends, however it ends. So a file whose lock can be
 * taken belongs to a container that nobody looks after any more, and whatever is left of it is removed by the next
 * command. Before it goes its supervisor writes the exit code into it, for those who wait and have it open. A reboot empties the state directory, and nothing in it can be mistaken for a running container.
 */
import { AT_FDCWD, F, O } from "../../ffi/constants.ts";
import { attempt, direct, tolerate } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn, readRest } from "../../ffi/files.ts";
import { hasName, tryLock, waitForLock } from "../../ffi/lock.ts";
import { OciboxError } from "../errors.ts";

/** 64 hexadecimal digits, as docker's. */
export type ContainerId = string & { readonly containerId: unique symbol };

const idPattern = /^[0-9a-f]{64}$/;

/** An exit code and blanks. */
const mostCode = 16;

/**
 * The numbers that init inherits a container's tree and its lock by: a plan that is kept names them. So it does the network
 * namespace that it joins; behind it come the sockets of published ports.
 */
export const inherited = { rootfs: 64, lock: 65, network: 66 } as const;

/** A copy of a descriptor that init inherits. @throws OciboxError HOST where its number is in use */
export function inheritAs(fd: number, number: number): OwnedFd {
  const copy = new OwnedFd(direct.fcntl(fd, F.F_DUPFD, number));
  if (copy.fd === number) return copy;
  copy[Symbol.dispose]();
  throw new OciboxError("HOST", `the descriptor ${number} is in use already`);
}

export function isContainerId(text: string): text is ContainerId {
  return idPattern.test(text);
}

function newId(): ContainerId {
  return crypto.getRandomValues(new Uint8Array(32)).toHex() as ContainerId;
}

export interface Claim extends Disposable {
  readonly id: ContainerId;
  /** Its path, to be removed last of all. */
  readonly path: string;
  /** Lets the lock live on in init, as `inherited.lock`. @throws OciboxError HOST */
  inherit(): void;
}

/** Takes an id and its lock. On the way out of scope the file is removed. @returns undefined where somebody has it */
export function claimId(stateDirectory: string, id: ContainerId): Claim | undefined {
  makeDirectories(stateDirectory);
  const path = `${stateDirectory}/${id}`;
  for (;;) {
    const flags = O.O_RDWR | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
    const fd = tolerate(["EEXIST"], "openat", AT_FDCWD, path, flags, 0o600);
    if (fd < 0) return undefined;
    const file = new OwnedFd(fd);
    // Between the two calls a sweep may have taken the lock and removed the file: then once more.
    if (!tryLock(file.fd, "exclusive") || !hasName(file.fd)) {
      file[Symbol.dispose]();
      continue;
    }
    return {
      id,
      path,
      inherit() {
        inheritAs(file.fd, inherited.lock);
      },
      [Symbol.dispose]() {
        attempt("unlinkat", AT_FDCWD, path, 0);
        file[Symbol.dispose]();
      },
    };
  }
}

/** The same for a new id. */
export function claim(stateDirectory: string): Claim {
  for (;;) {
    const claimed = claimId(stateDirectory, newId());
    if (claimed !== undefined) return claimed;
  }
}

/** Whether somebody looks after a container. */
export function isRunning(stateDirectory: string, id: ContainerId): boolean {
  const fd = attempt("openat", AT_FDCWD, `${stateDirectory}/${id}`, O.O_RDWR | O.O_CLOEXEC | O.O_NOFOLLOW, 0);
  if (fd < 0) return false;
  using file = new OwnedFd(fd);
  return !tryLock(file.fd, "exclusive");
}

/**
 * Waits until nobody looks after a container any more, however long that takes.
 * @returns what it has ended with; undefined where it had ended before, or its supervisor was killed
 */
export function awaitEnd(stateDirectory: string, id: ContainerId): number | undefined {
  const fd = attempt("openat", AT_FDCWD, `${stateDirectory}/${id}`, O.O_RDWR | O.O_CLOEXEC | O.O_NOFOLLOW, 0);
  if (fd < 0) return undefined;
  using file = new OwnedFd(fd);
  waitForLock(file.fd);
  return codeIn(file.fd);
}

/** What a container's supervisor has said of its end; undefined where it has not come to that. */
function codeIn(fd: number): number | undefined {
  const text = new TextDecoder().decode(readRest(fd, mostCode)).trim();
  return text === "" ? undefined : Number.parseInt(text, 10);
}

/** Waits until nobody looks after a container any more: all of it that goes with its end is gone then. @param within ms */
export async function untilLeft(stateDirectory: string, id: ContainerId, within: number): Promise<boolean> {
  const end = performance.now() + within;
  while (isRunning(stateDirectory, id)) {
    if (performance.now() > end) return false;
    await Bun.sleep(5);
  }
  return true;
}

/**
 * Calls `tidy` for each container that nobody looks after any more, with its lock held and its exit code if that is
 * known, and then forgets it.
 * @returns how many there were
 */
export function sweep(stateDirectory: string, tidy: (id: ContainerId, code: number | undefined) => void): number {
  let found = 0;
  for (const name of namesIn(stateDirectory)) {
    if (!isContainerId(name)) continue;
    const path = `${stateDirectory}/${name}`;
    const fd = attempt("openat", AT_FDCWD, path, O.O_RDWR | O.O_CLOEXEC | O.O_NOFOLLOW, 0);
    if (fd < 0) continue;
    using file = new OwnedFd(fd);
    if (!tryLock(file.fd, "exclusive") || !hasName(file.fd)) continue;
    tidy(name, codeIn(file.fd));
    attempt("unlinkat", AT_FDCWD, path, 0);
    found++;
  }
  return found;
}
