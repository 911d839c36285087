/**
 * What runs now. Each running container has one file in the state directory, named by its id, locked (an OFD lock,
 * fcntl(2)) from before anything else of it exists until after everything else of it is gone. The lock is inherited by
 * init, which supervises; the kernel frees it when that process ends, however it ends. So a file whose lock can be
 * taken belongs to a container that nobody looks after any more, and whatever is left of it is removed by the next
 * command. A reboot empties the state directory, and nothing in it can be mistaken for a running container.
 */
import { AT_FDCWD, F, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn } from "../../ffi/files.ts";
import { hasName, tryLock } from "../../ffi/lock.ts";

/** 64 hexadecimal digits, as docker's. */
export type ContainerId = string & { readonly containerId: unique symbol };

const idPattern = /^[0-9a-f]{64}$/;

export function isContainerId(text: string): text is ContainerId {
  return idPattern.test(text);
}

function newId(): ContainerId {
  return crypto.getRandomValues(new Uint8Array(32)).toHex() as ContainerId;
}

export interface Claim extends Disposable {
  readonly id: ContainerId;
  /** The locked file; init inherits it. */
  readonly fd: number;
  /** Its path, to be removed last of all. */
  readonly path: string;
  /** Lets the descriptor, and with it the lock, live on in init. */
  inherit(): void;
}

/** Takes a new id and its lock. On the way out of scope the file is removed. */
export function claim(stateDirectory: string): Claim {
  makeDirectories(stateDirectory);
  for (;;) {
    const id = newId();
    const path = `${stateDirectory}/${id}`;
    const file = new OwnedFd(
      direct.openat(AT_FDCWD, path, O.O_RDWR | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC, 0o600),
    );
    // Between the two calls a sweep may have taken the lock and removed the file: then once more.
    if (!tryLock(file.fd, "exclusive") || !hasName(file.fd)) {
      file[Symbol.dispose]();
      continue;
    }
    return {
      id,
      path,
      fd: file.fd,
      inherit() {
        direct.fcntl(file.fd, F.F_SETFD, 0);
      },
      [Symbol.dispose]() {
        attempt("unlinkat", AT_FDCWD, path, 0);
        file[Symbol.dispose]();
      },
    };
  }
}

/** Whether somebody looks after a container. */
export function isRunning(stateDirectory: string, id: ContainerId): boolean {
  const fd = attempt("openat", AT_FDCWD, `${stateDirectory}/${id}`, O.O_RDWR | O.O_CLOEXEC | O.O_NOFOLLOW, 0);
  if (fd < 0) return false;
  using file = new OwnedFd(fd);
  return !tryLock(file.fd, "exclusive");
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
 * Calls `tidy` for each container that nobody looks after any more, with its lock held, and then forgets it.
 * @returns how many there were
 */
export function sweep(stateDirectory: string, tidy: (id: ContainerId) => void): number {
  let found = 0;
  for (const name of namesIn(stateDirectory)) {
    if (!isContainerId(name)) continue;
    const path = `${stateDirectory}/${name}`;
    const fd = attempt("openat", AT_FDCWD, path, O.O_RDWR | O.O_CLOEXEC | O.O_NOFOLLOW, 0);
    if (fd < 0) continue;
    using file = new OwnedFd(fd);
    if (!tryLock(file.fd, "exclusive") || !hasName(file.fd)) continue;
    tidy(name);
    attempt("unlinkat", AT_FDCWD, path, 0);
    found++;
  }
  return found;
}
