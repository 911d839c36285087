/** linux.namespaces, uidMappings, gidMappings, timeOffsets as steps. namespaces(7), user_namespaces(7), time_namespaces(7) */
import { AT_FDCWD, CLONE, O } from "../../ffi/constants.ts";
import type { Slot } from "../../ffi/plan.ts";
import { OciboxError } from "../errors.ts";
import type { IdMapping, Linux, Namespace, NamespaceType, Process, Spec } from "../spec/runtime.ts";
import type { Builder } from "./builder.ts";
import type { PlanContext } from "./context.ts";

/** What clone(2), unshare(2) and setns(2) call them. */
export const cloneFlags: Readonly<Record<NamespaceType, number>> = {
  pid: CLONE.CLONE_NEWPID,
  network: CLONE.CLONE_NEWNET,
  mount: CLONE.CLONE_NEWNS,
  ipc: CLONE.CLONE_NEWIPC,
  uts: CLONE.CLONE_NEWUTS,
  user: CLONE.CLONE_NEWUSER,
  cgroup: CLONE.CLONE_NEWCGROUP,
  time: CLONE.CLONE_NEWTIME,
};

/** A container's namespaces, by how it comes into them. */
export class Namespaces {
  readonly #all: readonly Namespace[];

  /** @throws OciboxError INVALID for one that is named twice, or that contradicts another field */
  constructor(readonly linux: Linux) {
    this.#all = linux.namespaces ?? [];
    const seen = new Set<NamespaceType>();
    for (const { type } of this.#all) {
      if (seen.has(type)) throw new OciboxError("INVALID", `linux.namespaces has the type "${type}" twice`);
      seen.add(type);
    }
    if (!seen.has("mount") && seen.has("user"))
      throw new OciboxError(
        "INVALID",
        "linux.namespaces has a user namespace and no mount namespace: nothing can be mounted from it",
      );
    if (!seen.has("mount") && (linux.rootfsPropagation ?? "") !== "")
      throw new OciboxError("INVALID", "linux.rootfsPropagation wants a mount namespace in linux.namespaces");
    const mapped = (linux.uidMappings ?? []).length > 0 || (linux.gidMappings ?? []).length > 0;
    if (mapped && !seen.has("user"))
      throw new OciboxError("INVALID", "linux.uidMappings and gidMappings want a user namespace in linux.namespaces");
    if (this.isNew("user") && !mapped)
      throw new OciboxError("INVALID", "a new user namespace wants linux.uidMappings and linux.gidMappings");
    if (linux.timeOffsets !== undefined && Object.keys(linux.timeOffsets).length > 0 && !this.isNew("time"))
      throw new OciboxError("INVALID", "linux.timeOffsets wants a new time namespace in linux.namespaces");
  }

  /** Whether the container has this namespace apart from the runtime's own. */
  has(type: NamespaceType): boolean {
    return this.#all.some((each) => each.type === type);
  }

  isNew(type: NamespaceType): boolean {
    return this.#all.some((each) => each.type === type && (each.path ?? "") === "");
  }

  pathOf(type: NamespaceType): string | undefined {
    return this.#all.find((each) => each.type === type)?.path || undefined;
  }

  /**
   * What clone3 makes. The cgroup namespace is entered from inside the cgroup; for the time namespace see makeTime. In a
   * user namespace message queues belong to whoever makes their IPC namespace: that is to be its root. mq_overview(7)
   */
  get cloneFlags(): number {
    const later: readonly NamespaceType[] = ["cgroup", "time", ...(this.has("user") ? (["ipc"] as const) : [])];
    let flags = 0;
    for (const { type } of this.#all) if (this.isNew(type) && !later.includes(type)) flags += cloneFlags[type];
    return flags;
  }

  /** Those that are joined by the child itself; the user namespace is joined before there is a child (joined-user.ts). */
  get joined(): readonly { type: NamespaceType; path: string; flag: number }[] {
    const order: readonly NamespaceType[] = ["ipc", "uts", "network", "cgroup", "mount"];
    return order.flatMap((type) => {
      const path = this.pathOf(type);
      return path === undefined ? [] : [{ type, path, flag: cloneFlags[type] }];
    });
  }
}

export function namespacesOf(spec: Spec): Namespaces {
  return new Namespaces(spec.linux ?? {});
}

/**
 * What only the process that makes the child can join for it: setns(2) of a PID or time namespace is for the children to
 * come. Whoever is made by a process that has joined a PID namespace is in it, and would see others by their numbers in it.
 */
export function joinForChildren(b: Builder, namespaces: Namespaces): void {
  const { p } = b;
  for (const type of ["pid", "time"] as const) {
    const path = namespaces.pathOf(type);
    if (path === undefined) continue;
    p.field(`linux.namespaces[${type}].path`);
    const fd = p.sys.openat(AT_FDCWD, path, O.O_RDONLY | O.O_CLOEXEC, 0);
    p.sys.setns(fd, cloneFlags[type]);
    b.close(fd);
  }
}

/**
 * A time namespace for the children to come, with its offsets, which are set while nobody is in it.
 * @param enters whether this process goes there itself: one that is in a user namespace already, to which it belongs then
 */
export function makeTime(b: Builder, namespaces: Namespaces, linux: Linux, enters: boolean): void {
  if (!namespaces.isNew("time")) return;
  const { p } = b;
  p.field("linux.namespaces[time]");
  p.sys.unshare(CLONE.CLONE_NEWTIME);
  for (const clock in linux.timeOffsets ?? {}) {
    p.field(`linux.timeOffsets[${clock}]`);
    if (clock !== "monotonic" && clock !== "boottime")
      throw new OciboxError("INVALID", `linux.timeOffsets has no clock ${JSON.stringify(clock)}`);
    const { secs = 0, nanosecs = 0 } = linux.timeOffsets?.[clock] ?? {};
    b.write(AT_FDCWD, "/proc/self/timens_offsets", `${clock} ${secs} ${nanosecs}`);
  }
  if (!enters) return;
  p.field("linux.namespaces[time]");
  const fd = p.sys.openat(AT_FDCWD, "/proc/self/ns/time_for_children", O.O_RDONLY | O.O_CLOEXEC, 0);
  p.sys.setns(fd, cloneFlags.time);
  b.close(fd);
}

/**
 * Those that the root of a user namespace may have no right to: where it is root that joins, it joins them before it, or
 * its child, is in the user namespace. The mount namespace is not among them, for it would lead away from what is mounted.
 */
const foreign: readonly NamespaceType[] = ["ipc", "uts", "network"];

/** Whether it is root that makes a container in a user namespace: then it does for it what only root may. */
export function madeByRoot(namespaces: Namespaces, { oci }: PlanContext): boolean {
  return namespaces.has("user") && oci?.privileged === true;
}

/** For children that are made in a user namespace. @returns what takes the parent back to its own */
export function joinForeign(b: Builder, namespaces: Namespaces): () => void {
  const { p } = b;
  const joined = namespaces.joined.filter(({ type }) => foreign.includes(type));
  const back = joined.map(({ type, path, flag }) => {
    p.field(`linux.namespaces[${type}].path`);
    const own = p.sys.openat(
      AT_FDCWD,
      `/proc/self/ns/${type === "network" ? "net" : type}`,
      O.O_RDONLY | O.O_CLOEXEC,
      0,
    );
    const fd = p.sys.openat(AT_FDCWD, path, O.O_RDONLY | O.O_CLOEXEC, 0);
    p.sys.setns(fd, flag);
    b.close(fd);
    return { type, own, flag };
  });
  return () => {
    for (const { type, own, flag } of back) {
      p.field(`linux.namespaces[${type}].path`);
      p.sys.setns(own, flag);
      b.close(own);
    }
  };
}

/**
 * Opened before the child changes anything, joined in the order that the kernel's rights ask for.
 * @param already whether joinForeign has been at work
 */
export function joinByPath(b: Builder, namespaces: Namespaces, already: boolean): void {
  const { p } = b;
  const left = namespaces.joined.filter(({ type }) => !already || !foreign.includes(type));
  const opened = left.map(({ type, path, flag }) => {
    p.field(`linux.namespaces[${type}].path`);
    return { type, flag, fd: p.sys.openat(AT_FDCWD, path, O.O_RDONLY | O.O_CLOEXEC, 0) };
  });
  for (const { type, flag, fd } of opened) {
    p.field(`linux.namespaces[${type}].path`);
    p.sys.setns(fd, flag);
    p.sys.close(fd);
  }
}

function mappingText(mappings: readonly IdMapping[]): string {
  return mappings.map(({ containerID, hostID, size }) => `${containerID} ${hostID} ${size}\n`).join("");
}

/** Parent: the maps of a new user namespace, in one write each; user_namespaces(7), "Defining user and group ID mappings". */
export function writeMaps(
  b: Builder,
  pid: Slot,
  maps: { readonly uidMappings?: readonly IdMapping[]; readonly gidMappings?: readonly IdMapping[] },
  privileged: boolean,
): void {
  b.p.field("linux.uidMappings");
  writeOf(b, pid, "uid_map", mappingText(maps.uidMappings ?? []));
  b.p.field("linux.gidMappings");
  if (!privileged) writeOf(b, pid, "setgroups", "deny");
  writeOf(b, pid, "gid_map", mappingText(maps.gidMappings ?? []));
}

/** Writes a process's file in /proc. */
function writeOf(b: Builder, pid: Slot, file: string, text: string): void {
  const { p } = b;
  const fd = p.sys.openat(AT_FDCWD, { format: ["/proc/", pid, `/${file}`] }, O.O_WRONLY | O.O_CLOEXEC, 0);
  p.sys.write(fd, text, text.length);
  b.close(fd);
}

/**
 * In the parent, of a child that waits: what root has made in a user namespace may not write its own file, for that is
 * root's, and a score below the runtime's own wants a right of the first user namespace. proc(5)
 */
export function setScoreOf(b: Builder, pid: Slot, { oomScoreAdj }: Process): void {
  if (oomScoreAdj === undefined) return;
  b.p.field("process.oomScoreAdj");
  writeOf(b, pid, "oom_score_adj", String(oomScoreAdj));
}
