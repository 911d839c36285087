/**
 * A user namespace that is there already: linux.namespaces[user].path. The namespaces that are made belong to it, so that
 * they can only be made by somebody in it, and the runtime, once in it, could not come back. So there is a process
 * between: it joins, makes the container's process as its own sibling, tells its number, and ends.
 *
 *     parent                         between                       child
 *       │ clone3 (into the cgroup) ──▶ joins cgroups, setns(user)
 *       │                              clone3 (CLONE_PARENT) ─────▶ waits for its go
 *       │ ◀── its number and a pidfd ──│ ends
 *       │ waits for its end
 */
import { AT_FDCWD, CLONE, IOCTL, O, P_PIDFD, WEXITED } from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { type Memory, struct } from "../../ffi/sys.ts";
import { type Builder, cloneArgsSize } from "./builder.ts";
import { type CgroupPlan, joinCgroups } from "./cgroups/plan.ts";
import { joinForChildren, joinForeign, type Namespaces } from "./namespaces.ts";
import { descriptorAt, type Pair } from "./sync.ts";

const MSG_CMSG_CLOEXEC = 0x40000000;
const controlSize = 24;
const controlHead = new Uint8Array([20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);

/** A message of a process's number with a pidfd of it. */
function message(
  p: Recorder,
  name: string,
): { header: ReturnType<typeof struct<Slot>>; number: Memory; control: Memory } {
  const number = p.memory(`${name}.pid`, 8);
  const control = p.memory(`${name}.pidfd`, controlSize, controlHead);
  const header = struct<Slot>("msghdr", {
    msg_iov: struct<Slot>("iovec", { iov_base: number, iov_len: 4 }),
    msg_iovlen: 1,
    msg_control: control,
    msg_controllen: controlSize,
  });
  return { header, number, control };
}

/**
 * In the process between, which has the parent's end of `told` closed: on behind this is the child alone.
 * @param path of the user namespace
 * @param first whether what the user namespace may have no right to is joined before it
 */
export function goBetween(
  b: Builder,
  cgroups: CgroupPlan,
  told: Slot,
  path: string,
  namespaces: Namespaces,
  first: boolean,
): void {
  const { p } = b;
  const child = p.newLabel("in the user namespace");
  joinCgroups(b, cgroups);
  if (first) {
    joinForChildren(b, namespaces);
    joinForeign(b, namespaces);
  }
  p.field("linux.namespaces[user].path");
  const fd = p.sys.openat(AT_FDCWD, path, O.O_RDONLY | O.O_CLOEXEC, 0);
  // setns(2) has one errno for a namespace of another type, for what is none, and for the one that it is in already; only
  // the last is as good as joined.
  const says = `cannot join linux.namespaces[user].path, as ${JSON.stringify(path)} is no user namespace`;
  const type = p.with({ says }).sys.ioctl(fd, IOCTL.NS_GET_NSTYPE, 0);
  const isOne = p.newLabel("a user namespace");
  p.branch(type, "==", CLONE.CLONE_NEWUSER, isOne);
  p.add({ op: "fail", errno: errnoOf("EINVAL"), says: `${says}: invalid argument`, blame: "ocibox" });
  p.place(isOne);
  p.tolerate("EINVAL").setns(fd, CLONE.CLONE_NEWUSER);
  p.sys.close(fd);
  if (!first) joinForChildren(b, namespaces);
  p.field("linux.namespaces");
  const { header, number, control } = message(p, "between");
  const memory = p.memory("between.made", 8);
  const pid = p.sys.clone3(
    struct<Slot>("clone_args", {
      flags: BigInt(namespaces.cloneFlags | CLONE.CLONE_PIDFD | CLONE.CLONE_PARENT),
      pidfd: memory,
    }),
    cloneArgsSize,
  );
  p.branch(pid, "==", 0, child);
  const pidfd = p.slot("between.pidfd");
  p.add({ op: "load", memory, offset: 0, slot: pidfd });
  p.add({ op: "store", memory: number, offset: 0, slot: pid });
  p.add({ op: "store", memory: control, offset: descriptorAt, slot: pidfd });
  p.sys.sendmsg(told, header, 0);
  p.add({ op: "exit", code: 0 });
  p.place(child);
  p.sys.close(told);
}

/** In the parent: `pid` and `pidfd` become the child's; where there is none, what came over `report` says why. */
export function hearOfChild(p: Recorder, told: Pair, report: Slot, pid: Slot, pidfd: Slot): void {
  p.field("linux.namespaces[user].path");
  const made = p.newLabel("there is a child");
  const { header, number, control } = message(p, "heard");
  p.sys.close(told[1]);
  const got = p.sys.recvmsg(told[0], header, MSG_CMSG_CLOEXEC);
  p.branch(got, ">", 3, made);
  p.add({ op: "await", socket: report, byte: true });
  p.place(made);
  p.add({ op: "load", memory: number, offset: 0, slot: pid });
  p.tolerate("ECHILD").waitid(P_PIDFD, pidfd, null, WEXITED, null);
  p.sys.close(pidfd);
  p.add({ op: "load", memory: control, offset: descriptorAt, slot: pidfd });
  p.sys.close(told[0]);
}
