/**
 * SCMP_ACT_NOTIFY: the kernel asks whoever holds the filter's listener what a system call is to do; seccomp_unotify(2).
 * The container's process gets the listener with its filter, and can do little any more; so it only says that it is
 * there, and the parent, which knows its number, takes it out (pidfd_getfd(2)) and hands it to linux.seccomp.listenerPath
 * with the state that config-linux.md#containerprocessstate tells of.
 */
import { MFD } from "../../../ffi/constants.ts";
import { errnoOf } from "../../../ffi/errno.ts";
import type { Recorder, Slot } from "../../../ffi/plan.ts";
import { struct } from "../../../ffi/sys.ts";
import { OciboxError } from "../../errors.ts";
import type { LinuxSeccomp } from "../../spec/runtime.ts";
import type { StateText } from "../hooks.ts";
import { descriptorAt } from "../sync.ts";

const notify = "SCMP_ACT_NOTIFY";
/** What the process itself calls before the listener is in other hands, for whom it then waits by read(2). */
const own = ["write"];
/** Digits of a process id, and the blanks that JSON allows behind them. */
const pidWidth = 12;
const controlSize = 24;
const controlHead = new Uint8Array([20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);

/** @throws OciboxError INVALID where it would wait for itself, or for nobody */
export function asksListener(seccomp: LinuxSeccomp | undefined): boolean {
  if (seccomp === undefined) return false;
  if (seccomp.defaultAction === notify)
    throw new OciboxError("INVALID", "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY is for single system calls", {
      hint: "by default it would ask about those, too, that the listener is handed over by",
    });
  let asks = false;
  (seccomp.syscalls ?? []).forEach(({ action, names }, index) => {
    if (action !== notify) return;
    asks = true;
    const wrong = names.find((name) => own.includes(name));
    if (wrong !== undefined)
      throw new OciboxError(
        "INVALID",
        `linux.seccomp.syscalls[${index}]: SCMP_ACT_NOTIFY cannot be used for ${wrong}, which the listener is handed over by`,
      );
  });
  if (asks && (seccomp.listenerPath ?? "") === "")
    throw new OciboxError("INVALID", "linux.seccomp.listenerPath is empty, and SCMP_ACT_NOTIFY wants somebody to ask");
  return asks;
}

/** What the parent hands over. */
export interface ListenerOffer {
  /** A connected socket. */
  readonly socket: number;
  readonly metadata: string;
  readonly ociVersion: string;
  readonly state: StateText;
}

/** The child, with the filter loaded. @param number that the listener has, being the first that was free */
export function offerListener(p: Recorder, report: number, listener: Slot, number: number): void {
  p.field("linux.seccomp.listenerPath");
  const right = p.newLabel("the listener's number");
  p.branch(listener, "==", number, right);
  p.add({ op: "fail", errno: errnoOf("EBADF"), says: "the filter's listener has another number", blame: "ocibox" });
  p.place(right);
  p.sys.write(report, "n", 1);
  p.sys.read(report, p.memory("taken", 8), 1);
}

/** The parent: takes it, hands it over, and lets the child go on. */
export function handListenerOver(
  p: Recorder,
  report: Slot,
  pid: Slot,
  pidfd: Slot,
  number: number,
  { socket, metadata, ociVersion, state: [before, after] }: ListenerOffer,
): void {
  p.field("linux.seccomp.listenerPath");
  p.add({ op: "await", socket: report, byte: true });
  const listener = p.sys.pidfd_getfd(pidfd, number, 0);
  const head = JSON.stringify({ ociVersion, fds: ["seccompFd"] });
  const texts = [
    `${head.slice(0, -1)},"pid":`,
    `,"metadata":${JSON.stringify(metadata)},"state":${before}`,
    `${after}}`,
  ];
  const size = texts.reduce((sum, each) => sum + Buffer.byteLength(each), 2 * pidWidth);
  const file = p.sys.memfd_create("state", MFD.MFD_CLOEXEC);
  texts.forEach((each, index) => {
    p.sys.write(file, each, Buffer.byteLength(each));
    if (index < 2) p.sys.write(file, p.text`${pid}            `, pidWidth);
  });
  const text = p.memory("listener.state", size);
  p.sys.pread64(file, text, size, 0);
  p.sys.close(file);
  const control = p.memory("listener.control", controlSize, controlHead);
  p.add({ op: "store", memory: control, offset: descriptorAt, slot: listener });
  p.sys.sendmsg(
    socket,
    struct<Slot>("msghdr", {
      msg_iov: struct<Slot>("iovec", { iov_base: text, iov_len: size }),
      msg_iovlen: 1,
      msg_control: control,
      msg_controllen: controlSize,
    }),
    0,
  );
  p.sys.close(listener);
  p.sys.close(socket);
  p.sys.write(report, "g", 1);
}
