/** mounts, the default devices, masked and read-only paths as steps. All targets are descriptors inside the root. */
import { AT, AT_FDCWD, FSCONFIG, FSMOUNT, FSOPEN, MOUNT_ATTR, O, OPEN_TREE } from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import type { Label, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import type { Mount, Spec } from "../spec/runtime.ts";
import { type Builder, cloneByFd, inRoot, moveToPath, openHowSize } from "./builder.ts";
import { directoryOf, type JoinedCgroup, shownAs } from "./cgroups/paths.ts";
import type { CgroupPlan } from "./cgroups/plan.ts";
import { type CopyUpEntry, copyUp, fillDev } from "./devices.ts";
import { type MountOptions, readMountOptions } from "./options.ts";

/** Descriptors that later steps need: of mounts that nothing in the container can have changed. */
export interface Mounted {
  proc: Slot | undefined;
  /** The tmpfs on /dev. */
  dev: Slot | undefined;
  pts: Slot | undefined;
  /** Those that are made read-only when all in them is made, with what asked for it. */
  readonly readonly: [mount: Slot, field: string][];
}

/** What a bind's source is: the plan cannot look. */
export type SourceKinds = ReadonlyMap<string, "directory" | "file">;

/** What the mounts need to know beside their own entries. */
export interface MountContext {
  readonly cgroups: CgroupPlan;
  readonly sources: SourceKinds;
  /** The container has a user namespace of its own, in which no device can be made. */
  readonly inUserNamespace: boolean;
  /** The container has a cgroup namespace of its own. */
  readonly ownCgroups: boolean;
  /** Sources of binds that the parent has opened, by the index of their mount: bind-sources.ts */
  readonly opened: ReadonlyMap<number, Slot>;
  /** What tmpcopyup finds at a destination, for the plan cannot look. */
  readonly copyUp: ReadonlyMap<string, readonly CopyUpEntry[]>;
}

const mountAttrSize = 32;
/** struct statx: stx_mode is at 28, with two bytes of nothing behind it. */
const statxSize = 256;
const modeAt = 28;
const STATX_MODE = 2;

/** A file system of its own, detached: fsopen, its options, fsmount. */
function newMount(b: Builder, type: string, source: string, options: Pick<MountOptions, "data" | "set">): Slot {
  const { sys } = b.p;
  const fs = sys.fsopen(type, FSOPEN.FSOPEN_CLOEXEC);
  sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_STRING, "source", source, 0);
  for (const [key, value] of options.data) {
    if (value === null) sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_FLAG, key, null, 0);
    else sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_STRING, key, value, 0);
  }
  sys.fsconfig(fs, FSCONFIG.FSCONFIG_CMD_CREATE, null, null, 0);
  return sys.fsmount(fs, FSMOUNT.FSMOUNT_CLOEXEC, options.set);
}

function setAttributes(
  b: Builder,
  mount: Slot | number,
  set: number,
  clear: number,
  propagation: number,
  flags = 0,
): void {
  const attr = struct<Slot>("mount_attr", {
    ...(set === 0 ? {} : { attr_set: set }),
    ...(clear === 0 ? {} : { attr_clr: clear }),
    ...(propagation === 0 ? {} : { propagation }),
  });
  b.p.sys.mount_setattr(mount, "", AT.AT_EMPTY_PATH | flags, attr, mountAttrSize);
}

/** What is set when the mount has its place: attributes of the mounts below it, and its propagation. */
function finish(b: Builder, tree: Slot, options: MountOptions): void {
  if (options.recursiveSet !== 0 || options.recursiveClear !== 0)
    setAttributes(b, tree, options.recursiveSet, options.recursiveClear, 0, AT.AT_RECURSIVE);
  if (options.propagation !== 0)
    setAttributes(b, tree, 0, 0, options.propagation, options.recursivePropagation ? AT.AT_RECURSIVE : 0);
}

function bindMount(b: Builder, mount: Mount, options: MountOptions, context: MountContext, index: number): void {
  const source = mount.source ?? "";
  const flags = OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC;
  const recursive = options.bind === "rbind" ? AT.AT_RECURSIVE : 0;
  const tree = context.opened.get(index) ?? b.p.sys.open_tree(AT_FDCWD, source, flags | recursive);
  if (options.set !== 0 || options.clear !== 0) setAttributes(b, tree, options.set, options.clear, 0);
  b.attach(tree, b.ensure(mount.destination, context.sources.get(source) ?? "directory"));
  finish(b, tree, options);
}

/** A mount that is there gets other attributes. */
function remount(b: Builder, mount: Mount, options: MountOptions): void {
  const target = b.open(mount.destination, 0);
  if (options.set !== 0 || options.clear !== 0) setAttributes(b, target, options.set, options.clear, 0);
  finish(b, target, options);
}

/** A view of one hierarchy of v1: all of it that the cgroup namespace shows, else the container's own cgroup in it. */
function hierarchyMount(b: Builder, cgroup: JoinedCgroup, options: MountOptions, ownNamespace: boolean): Slot {
  if (ownNamespace) {
    const { data } = shownAs(cgroup);
    return newMount(b, "cgroup", "cgroup", { set: options.set, data });
  }
  const flags = OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC;
  const tree = b.p.sys.open_tree(AT_FDCWD, directoryOf(cgroup), flags);
  setAttributes(b, tree, options.set, options.clear, 0);
  return tree;
}

/** The hierarchies the container was put in, and no others: v1 as directories of a tmpfs, v2 as it is. */
function cgroupMount(b: Builder, mount: Mount, options: MountOptions, context: MountContext): void {
  const { p } = b;
  const { cgroups, ownCgroups, inUserNamespace } = context;
  if (cgroups.mode === "v2") {
    let tree: Slot;
    if (ownCgroups || !inUserNamespace) tree = newMount(b, "cgroup2", "cgroup", options);
    else {
      // A user namespace may mount what its own cgroup namespace shows, and nothing else of v2.
      const flags = OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC | AT.AT_RECURSIVE;
      tree = p.sys.open_tree(AT_FDCWD, "/sys/fs/cgroup", flags);
      setAttributes(b, tree, options.set, options.clear, 0, AT.AT_RECURSIVE);
    }
    b.attach(tree, b.ensure(mount.destination, "directory"));
    finish(b, tree, options);
    return;
  }
  const top = newMount(b, "tmpfs", "cgroup", {
    set: options.set & ~MOUNT_ATTR.MOUNT_ATTR_RDONLY,
    data: [["mode", "755"]],
  });
  const joined = cgroups.joined.filter(({ hierarchy }) => hierarchy !== "");
  for (const cgroup of joined) {
    const { name, links } = shownAs(cgroup);
    p.sys.mkdirat(top, name, 0o755);
    for (const link of links) p.sys.symlinkat(name, top, link);
  }
  b.attach(top, b.ensure(mount.destination, "directory"));
  for (const cgroup of joined) {
    const hierarchy = hierarchyMount(b, cgroup, options, ownCgroups);
    b.attach(hierarchy, p.sys.openat(top, shownAs(cgroup).name, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  }
  if ((options.set & MOUNT_ATTR.MOUNT_ATTR_RDONLY) !== 0) setAttributes(b, top, MOUNT_ATTR.MOUNT_ATTR_RDONLY, 0, 0);
  finish(b, top, options);
}

/** A tmpfs that is given no mode has that of the directory it covers, where there is one, as those of runc and crun. */
function inheritMode(b: Builder, destination: string, made: Slot): void {
  const { p } = b;
  const none = p.newLabel(`no ${destination} so far`);
  const there = p.slot("covered");
  b.open(destination, O.O_DIRECTORY, there, "ENOENT", "ENOTDIR");
  p.branch(there, "<", 0, none);
  const stat = p.memory("covered.stat", statxSize);
  p.sys.statx(there, "", AT.AT_EMPTY_PATH, STATX_MODE, stat);
  b.close(there);
  const mode = p.slot("covered.mode");
  p.add({ op: "load", memory: stat, offset: modeAt, slot: mode });
  p.sys.fchmodat(made, ".", mode);
  p.place(none);
}

/** Where a link of the image's would lead the masks that lie in proc and sysfs away from what they are to cover. */
function placeFor(b: Builder, type: string, destination: string): Slot {
  if (type !== "proc" && type !== "sysfs") return b.ensure(destination, "directory");
  return b.ensurePlain(destination, `"${destination}" in the root: ${type} must be mounted on ordinary directory`);
}

/** A file system that is made for the container. */
function makeMount(
  b: Builder,
  spec: Spec,
  mount: Mount,
  options: MountOptions,
  context: MountContext,
  mounted: Mounted,
  field: string,
): void {
  const type = mount.type as string;
  // What is to lie in it is still to be made: devices, places for other mounts.
  const later = type === "tmpfs" ? options.set & MOUNT_ATTR.MOUNT_ATTR_RDONLY : 0;
  const made = newMount(b, type, mount.source ?? type, { ...options, set: options.set & ~later });
  if (type === "tmpfs" && !options.data.some(([key]) => key === "mode")) inheritMode(b, mount.destination, made);
  const isDev = type === "tmpfs" && mount.destination === "/dev";
  if (isDev) fillDev(b, made, spec, context.inUserNamespace, true);
  if (options.copyUp) copyUp(b, mount.destination, made, context.copyUp.get(mount.destination) ?? [], spec);
  b.p.field(field);
  b.attach(made, placeFor(b, type, mount.destination));
  finish(b, made, options);
  if (later !== 0) mounted.readonly.push([made, field]);
  if (isDev) mounted.dev = made;
  else if (type === "proc" && mount.destination === "/proc") mounted.proc = made;
  else if (type === "devpts") mounted.pts = made;
}

/** Every entry of `mounts`, in order. */
export function makeMounts(b: Builder, spec: Spec, context: MountContext): Mounted {
  const mounted: Mounted = { proc: undefined, dev: undefined, pts: undefined, readonly: [] };
  let devIsBound = false;
  (spec.mounts ?? []).forEach((mount, index) => {
    const field = `mounts[${index}], ${mount.destination}`;
    b.p.field(field);
    const options = readMountOptions(mount.options ?? []);
    if (options.remount) remount(b, mount, options);
    else if (mount.type === "bind" || options.bind !== "no") {
      if (mount.destination === "/dev") devIsBound = true;
      bindMount(b, mount, options, context, index);
    } else if (mount.type === "cgroup" || mount.type === "cgroup2") cgroupMount(b, mount, options, context);
    else if (mount.type === undefined)
      throw new OciboxError("INVALID", `mounts[${index}] has neither a type nor the option "bind"`);
    else makeMount(b, spec, mount, options, context, mounted, field);
  });
  // A /dev of the image's own is filled like one of ours; one that was bound in is somebody else's.
  if (mounted.dev === undefined && !devIsBound)
    fillDev(b, b.ensure("/dev", "directory"), spec, context.inUserNamespace, false);
  return mounted;
}

/**
 * An empty read-only directory to cover others with, for each of which it is cloned. Only a mount that is attached can
 * be cloned (before Linux 6.15), so it lies on the host's side, where it goes when the old root does.
 */
export function coverDirectory(b: Builder, paths: readonly string[], place: string): Slot | undefined {
  if (paths.length === 0) return undefined;
  b.p.field("linux.maskedPaths");
  const options = readMountOptions(["ro", "nosuid", "nodev", "noexec"]);
  const empty = newMount(b, "tmpfs", "tmpfs", { ...options, data: [["nr_inodes", "2"]] });
  b.p.sys.move_mount(empty, "", AT_FDCWD, place, moveToPath);
  return empty;
}

/**
 * maskedPaths: a file is covered by our own /dev/null, which nothing in the image can have made, a directory by an
 * empty read-only tmpfs. Paths that are not there need no mask.
 */
export function maskPaths(
  b: Builder,
  spec: Spec,
  mounted: Mounted,
  empty: Slot | undefined,
  inUserNamespace: boolean,
): void {
  if (empty === undefined) return;
  const { p } = b;
  p.field("linux.maskedPaths");
  const own = mounted.dev !== undefined && !inUserNamespace;
  const nothing = own
    ? p.sys.openat(mounted.dev as Slot, "null", O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC, 0)
    : p.sys.openat(AT_FDCWD, "/dev/null", O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
  const sysIsOurs = (spec.mounts ?? []).some((mount) => mount.destination === "/sys" && mount.type === "sysfs");
  (spec.linux?.maskedPaths ?? []).forEach((path, index) => {
    if (isRoot(path)) throw new OciboxError("INVALID", `linux.maskedPaths[${index}] is the root itself`);
    p.field(`linux.maskedPaths[${index}], ${path}`);
    const next = p.newLabel(`masked ${path}`);
    const ours = path.startsWith("/sys/") ? sysIsOurs : mounted.proc !== undefined;
    const kind = ours ? kernelPaths.get(path) : undefined;
    if (kind !== undefined) {
      const flags = kind === "directory" ? O.O_DIRECTORY : 0;
      const target = p.orElse(next, "ENOENT", "EACCES").openat2(b.root, path.slice(1), inRoot(flags), openHowSize);
      b.attach(p.sys.open_tree(kind === "directory" ? empty : nothing, "", cloneByFd), target);
    } else maskUnknown(b, path, nothing, empty, next);
    p.place(next);
  });
}

/** A path whose kind only the container's tree knows. */
function maskUnknown(b: Builder, path: string, nothing: Slot, empty: Slot, next: Label): void {
  const { p } = b;
  const isFile = p.newLabel(`file ${path}`);
  const target = p.slot("masked");
  b.open(path, O.O_DIRECTORY, target, "ENOENT", "ENOTDIR", "EACCES");
  p.branch(target, "==", -errnoOf("ENOTDIR"), isFile);
  p.branch(target, "<", 0, next);
  b.attach(p.sys.open_tree(empty, "", cloneByFd), target);
  p.jump(next);
  p.place(isFile);
  b.open(path, 0, target);
  b.attach(p.sys.open_tree(nothing, "", cloneByFd), target);
}

/** What the kernel has at the paths that are usually masked: they lie in proc and sysfs, which we mounted. */
const kernelPaths: ReadonlyMap<string, "directory" | "file"> = new Map([
  ["/proc/acpi", "directory"],
  ["/proc/asound", "directory"],
  ["/proc/interrupts", "file"],
  ["/proc/kcore", "file"],
  ["/proc/keys", "file"],
  ["/proc/latency_stats", "file"],
  ["/proc/sched_debug", "file"],
  ["/proc/scsi", "directory"],
  ["/proc/timer_list", "file"],
  ["/proc/timer_stats", "file"],
  ["/sys/dev/block", "directory"],
  ["/sys/devices/virtual/powercap", "directory"],
  ["/sys/firmware", "directory"],
  ["/sys/fs/selinux", "directory"],
]);

/** Whether a path is the root's own, however it is written. */
function isRoot(path: string): boolean {
  let depth = 0;
  for (const part of path.split("/"))
    if (part === "..") depth = Math.max(0, depth - 1);
    else if (part !== "" && part !== ".") depth++;
  return depth === 0;
}

/** What asks for a root that is read-only, by its field; what has it among its paths means its mount. */
export function readonlyRoot({ root, linux }: Spec): string | undefined {
  if (root?.readonly === true) return "root.readonly";
  const index = (linux?.readonlyPaths ?? []).findIndex(isRoot);
  return index < 0 ? undefined : `linux.readonlyPaths[${index}]`;
}

/** readonlyPaths: each is bound on itself, and that mount is read-only; the root is when all is done in it. */
export function makeReadonly(b: Builder, paths: readonly string[]): void {
  const { p } = b;
  paths.forEach((path, index) => {
    if (isRoot(path)) return;
    p.field(`linux.readonlyPaths[${index}], ${path}`);
    const next = p.newLabel(`read-only ${path}`);
    const relative = path.replace(/^\/+/, "");
    const target = p.orElse(next, "ENOENT", "EACCES").openat2(b.root, relative, inRoot(0), openHowSize);
    const bind = p.sys.open_tree(target, "", cloneByFd | AT.AT_RECURSIVE);
    setAttributes(b, bind, MOUNT_ATTR.MOUNT_ATTR_RDONLY, 0, 0, AT.AT_RECURSIVE);
    b.attach(bind, target);
    p.place(next);
  });
}

/** Mounts of tmpfs, and where a field asks for it the root, when everything that had to be made in them is made. */
export function sealMounts(b: Builder, mounted: Mounted, rootBy: string | undefined): void {
  for (const [mount, field] of mounted.readonly) {
    b.p.field(field);
    setAttributes(b, mount, MOUNT_ATTR.MOUNT_ATTR_RDONLY, 0, 0);
  }
  if (rootBy === undefined) return;
  b.p.field(rootBy);
  setAttributes(b, b.root, MOUNT_ATTR.MOUNT_ATTR_RDONLY, 0, 0);
}
