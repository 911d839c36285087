/** What a caller hands to the runtime for a process, and what init inherits of it: sockets, descriptors, a terminal. */
import { F, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OciboxError } from "../errors.ts";
import type { Spec } from "../spec/runtime.ts";

/** Lets a descriptor live on in init. */
export function inherit(fd: number): number {
  direct.fcntl(fd, F.F_SETFD, 0);
  return fd;
}

/** What hooks without an environment of their own get, by init. */
export function callersEnvironment(): string[] {
  return Object.entries(Bun.env).map(([name, value]) => `${name}=${value}`);
}

/** A connection to a unix socket that somebody waits at. @throws OciboxError HOST */
export function connectTo(path: string, what: string): number {
  const name = new TextEncoder().encode(path);
  if (name.byteLength > 107) throw new OciboxError("USAGE", `${what}: the path "${path}" has more than 107 bytes`);
  const address = new Uint8Array(new ArrayBuffer(name.byteLength + 3));
  address[0] = 1;
  address.set(name, 2);
  const socket = direct.socket(1, 1 | O.O_CLOEXEC, 0);
  const connected = attempt("connect", socket, address, address.byteLength);
  if (connected < 0) {
    direct.close(socket);
    throw new OciboxError("HOST", `${what}: cannot connect to "${path}" (error ${-connected})`);
  }
  return inherit(socket);
}

/** A connection to whoever is asked by the filter. @throws OciboxError INVALID, HOST */
export async function listenerSocket({ linux }: Spec): Promise<number | undefined> {
  const path = linux?.seccomp?.listenerPath;
  if (path === undefined) return undefined;
  const { asksListener } = await import("../plan/seccomp/listener.ts");
  return asksListener(linux?.seccomp) ? connectTo(path, "linux.seccomp.listenerPath") : undefined;
}

/** --preserve-fds: descriptors from 3 on live on in init. @throws OciboxError USAGE for one that is not open */
export function keepOpen(count: number): void {
  for (let fd = 3; fd < 3 + count; fd++) {
    if (attempt("fcntl", fd, F.F_SETFD, 0) < 0)
      throw new OciboxError("USAGE", `--preserve-fds: the descriptor ${fd} is not open`);
  }
}

/** @throws OciboxError USAGE in runc's words, where there is a terminal and nobody to have it, or the other way round */
export function checkTerminal(terminal: boolean, detached: boolean, consoleSocket: string | undefined): void {
  if (terminal && detached && consoleSocket === undefined)
    throw new OciboxError("USAGE", "cannot allocate tty if runc will detach without setting console socket");
  if (consoleSocket !== undefined && !(terminal && detached))
    throw new OciboxError("USAGE", "cannot use console socket if runc will not detach or allocate tty");
}
