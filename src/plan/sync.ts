/** What passes between the parent and the child of a plan: a socket pair, and descriptors sent over one. unix(7) */
import { O } from "../../ffi/constants.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { type Memory, struct } from "../../ffi/sys.ts";

/** struct cmsghdr with one descriptor: length 20, SOL_SOCKET, SCM_RIGHTS, and the descriptor at 16. */
const controlSize = 24;
const controlHead = new Uint8Array([20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
export const descriptorAt = 16;

export type Pair = readonly [parent: Slot, child: Slot];

/** A connected pair of sockets: each end in a slot of its own. */
export function socketPair(p: Recorder, name: string): Pair {
  const memory = p.memory(name, 8);
  p.sys.socketpair(1, 5 | O.O_CLOEXEC, 0, memory);
  const parent = p.slot(`${name}.parent`);
  const child = p.slot(`${name}.child`);
  p.add({ op: "load", memory, offset: 0, slot: parent });
  p.add({ op: "load", memory, offset: 4, slot: child });
  return [parent, child];
}

/** A message that carries a descriptor. @param text what goes with it, a byte by default */
export function descriptorMessage(
  p: Recorder,
  name: string,
  text?: string,
): { message: ReturnType<typeof struct<Slot>>; control: Memory } {
  const control = p.memory(`${name}.control`, controlSize, controlHead);
  const iov = struct<Slot>("iovec", {
    iov_base: text ?? p.memory(`${name}.byte`, 8),
    iov_len: text === undefined ? 1 : Buffer.byteLength(text),
  });
  const message = struct<Slot>("msghdr", {
    msg_iov: iov,
    msg_iovlen: 1,
    msg_control: control,
    msg_controllen: controlSize,
  });
  return { message, control };
}

/** Sends a descriptor over a connected socket. */
export function sendDescriptor(p: Recorder, socket: Slot | number, fd: Slot, name: string, text?: string): void {
  const { message, control } = descriptorMessage(p, name, text);
  p.add({ op: "store", memory: control, offset: descriptorAt, slot: fd });
  p.sys.sendmsg(socket, message, 0);
}

/** From here on failures go to this descriptor; -1: to stderr. */
export function reportTo(p: Recorder, fd: number): void {
  const slot = p.slot("report");
  p.add({ op: "set", slot, value: fd });
  p.add({ op: "reportTo", socket: slot });
}
