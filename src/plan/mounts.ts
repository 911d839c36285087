/** mounts, the default devices, masked and read-only paths as steps. All targets are descriptors inside the root. */
import {
  AT,
  AT_FDCWD,
  FSCONFIG,
  FSMOUNT,
  FSOPEN,
  MOUNT_ATTR,
  MOVE_MOUNT,
  O,
  OPEN_TREE,
  S,
} from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import type { Label, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import type { Mount, Spec } from "../spec/runtime.ts";
import { type Builder, cloneByFd, inRoot, openHowSize } from "./builder.ts";
import { directoryOf, type JoinedCgroup, shownAs } from "./cgroups/paths.ts";
import type { CgroupPlan } from "./cgroups/plan.ts";
import { type MountOptions, readMountOptions } from "./options.ts";

/** Descriptors that later steps need: of mounts that nothing in the container can have changed. */
export interface Mounted {
  proc: Slot | undefined;
  dev: Slot | undefined;
  pts: Slot | undefined;
}

/** What a bind's source is: the plan cannot look. */
export type SourceKinds = ReadonlyMap<string, "directory" | "file">;

const mountAttrSize = 32;

/** A file system of its own, detached: fsopen, its options, fsmount. */
function newMount(b: Builder, type: string, source: string, options: MountOptions): Slot {
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

function bindMount(b: Builder, mount: Mount, options: MountOptions, kinds: SourceKinds): void {
  const source = mount.source ?? "";
  const recursive = options.bind === "rbind" ? AT.AT_RECURSIVE : 0;
  const tree = b.p.sys.open_tree(AT_FDCWD, source, OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC | recursive);
  // A read-only bind is read-only with all that is mounted below it; propagation has its own word for that.
  if (options.set !== 0 || options.clear !== 0) setAttributes(b, tree, options.set, options.clear, 0, recursive);
  if (options.propagation !== 0)
    setAttributes(b, tree, 0, 0, options.propagation, options.recursivePropagation ? AT.AT_RECURSIVE : 0);
  b.attach(tree, b.ensure(mount.destination, kinds.get(source) ?? "directory"));
}

const nodes: readonly (readonly [name: string, major: number, minor: number])[] = [
  ["null", 1, 3],
  ["zero", 1, 5],
  ["full", 1, 7],
  ["random", 1, 8],
  ["urandom", 1, 9],
  ["tty", 5, 0],
];

const links: readonly (readonly [name: string, target: string])[] = [
  ["fd", "/proc/self/fd"],
  ["stdin", "/proc/self/fd/0"],
  ["stdout", "/proc/self/fd/1"],
  ["stderr", "/proc/self/fd/2"],
  ["core", "/proc/kcore"],
  ["ptmx", "pts/ptmx"],
];

/** runtime-spec, config-linux.md#default-devices, made before anybody can see the directory. umask is 0 here. */
function fillDev(b: Builder, dev: Slot, terminal: boolean): void {
  const { p } = b;
  p.field("the default devices");
  for (const [name, major, minor] of nodes) p.sys.mknodat(dev, name, S.S_IFCHR | 0o666, (major << 8) | minor);
  for (const [name, target] of links) p.sys.symlinkat(target, dev, name);
  for (const name of ["pts", "mqueue", "shm"]) p.sys.mkdirat(dev, name, 0o755);
  if (terminal) p.sys.mknodat(dev, "console", S.S_IFREG | 0o600, 0);
}

/** A view of one hierarchy of v1: all of it that the cgroup namespace shows, else the container's own cgroup in it. */
function hierarchyMount(b: Builder, cgroup: JoinedCgroup, options: MountOptions, ownNamespace: boolean): Slot {
  if (ownNamespace) {
    const { data } = shownAs(cgroup);
    return newMount(b, "cgroup", "cgroup", { ...options, data });
  }
  const flags = OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC;
  const tree = b.p.sys.open_tree(AT_FDCWD, directoryOf(cgroup), flags);
  setAttributes(b, tree, options.set, options.clear, 0);
  return tree;
}

/** The hierarchies the container was put in, and no others: v1 as directories of a tmpfs, v2 as it is. */
function cgroupMount(b: Builder, spec: Spec, mount: Mount, options: MountOptions, cgroups: CgroupPlan): void {
  const { p } = b;
  const namespaces = (spec.linux?.namespaces ?? []).map(({ type }) => type);
  const ownNamespace = namespaces.includes("cgroup");
  if (cgroups.mode === "v2") {
    let tree: Slot;
    if (ownNamespace || !namespaces.includes("user")) tree = newMount(b, "cgroup2", "cgroup", options);
    else {
      // A user namespace may mount what its own cgroup namespace shows, and nothing else of v2.
      const flags = OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC | AT.AT_RECURSIVE;
      tree = p.sys.open_tree(AT_FDCWD, "/sys/fs/cgroup", flags);
      setAttributes(b, tree, options.set, options.clear, 0, AT.AT_RECURSIVE);
    }
    b.attach(tree, b.ensure(mount.destination, "directory"));
    return;
  }
  const writable = { ...options, set: options.set & ~MOUNT_ATTR.MOUNT_ATTR_RDONLY, data: [["mode", "755"]] as const };
  const top = newMount(b, "tmpfs", "cgroup", writable);
  const joined = cgroups.joined.filter(({ hierarchy }) => hierarchy !== "");
  for (const cgroup of joined) {
    const { name, links } = shownAs(cgroup);
    p.sys.mkdirat(top, name, 0o755);
    for (const link of links) p.sys.symlinkat(name, top, link);
  }
  b.attach(top, b.ensure(mount.destination, "directory"));
  for (const cgroup of joined) {
    const hierarchy = hierarchyMount(b, cgroup, options, ownNamespace);
    b.attach(hierarchy, p.sys.openat(top, shownAs(cgroup).name, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  }
  if ((options.set & MOUNT_ATTR.MOUNT_ATTR_RDONLY) !== 0) setAttributes(b, top, MOUNT_ATTR.MOUNT_ATTR_RDONLY, 0, 0);
}

const ownTypes = new Set(["proc", "tmpfs", "devpts", "sysfs", "mqueue"]);

/** Every entry of `mounts`, in order. */
export function makeMounts(b: Builder, spec: Spec, cgroups: CgroupPlan, kinds: SourceKinds): Mounted {
  const { p } = b;
  const mounted: Mounted = { proc: undefined, dev: undefined, pts: undefined };
  (spec.mounts ?? []).forEach((mount, index) => {
    const field = `mounts[${index}]`;
    p.field(`${field}, ${mount.destination}`);
    const options = readMountOptions(mount.options ?? [], field);
    if (mount.type === "bind" || options.bind !== "no") {
      bindMount(b, mount, options, kinds);
      return;
    }
    if (mount.type === "cgroup" || mount.type === "cgroup2") {
      cgroupMount(b, spec, mount, options, cgroups);
      return;
    }
    if (mount.type === undefined || !ownTypes.has(mount.type))
      throw new OciboxError("UNSUPPORTED", `${field}: the file system "${mount.type ?? ""}" is not supported yet`);
    const made = newMount(b, mount.type, mount.source ?? mount.type, options);
    const isDev = mount.type === "tmpfs" && mount.destination === "/dev";
    if (isDev) fillDev(b, made, spec.process?.terminal === true);
    p.field(`${field}, ${mount.destination}`);
    b.attach(made, b.ensure(mount.destination, "directory"));
    if (isDev) mounted.dev = made;
    else if (mount.type === "proc" && mount.destination === "/proc") mounted.proc = made;
    else if (mount.type === "devpts") mounted.pts = made;
  });
  return mounted;
}

/**
 * An empty read-only directory to cover others with, for each of which it is cloned. Only a mount that is attached can
 * be cloned (before Linux 6.15), so it lies on the host's side, where it goes when the old root does.
 */
export function coverDirectory(b: Builder, paths: readonly string[], place: string): Slot | undefined {
  if (paths.length === 0) return undefined;
  b.p.field("linux.maskedPaths");
  const options = readMountOptions(["ro", "nosuid", "nodev", "noexec"], "linux.maskedPaths");
  const empty = newMount(b, "tmpfs", "tmpfs", { ...options, data: [["nr_inodes", "2"]] });
  b.p.sys.move_mount(empty, "", AT_FDCWD, place, MOVE_MOUNT.MOVE_MOUNT_F_EMPTY_PATH);
  return empty;
}

/**
 * maskedPaths: a file is covered by our own /dev/null, which nothing in the image can have made, a directory by an
 * empty read-only tmpfs. Paths that are not there need no mask.
 */
export function maskPaths(b: Builder, paths: readonly string[], dev: Slot | undefined, empty: Slot | undefined): void {
  if (empty === undefined) return;
  if (dev === undefined)
    throw new OciboxError("UNSUPPORTED", "linux.maskedPaths without a tmpfs on /dev is not supported yet");
  const { p } = b;
  p.field("linux.maskedPaths");
  const nothing = p.sys.openat(dev, "null", O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
  paths.forEach((path, index) => {
    p.field(`linux.maskedPaths[${index}], ${path}`);
    const next = p.newLabel(`masked ${path}`);
    const kind = kernelPaths.get(path);
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

/** readonlyPaths: each is bound on itself, and that mount is read-only. */
export function makeReadonly(b: Builder, paths: readonly string[]): void {
  const { p } = b;
  paths.forEach((path, index) => {
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

/** root.readonly, when everything that had to be made in it is made. */
export function readonlyRoot(b: Builder): void {
  b.p.field("root.readonly");
  setAttributes(b, b.root, MOUNT_ATTR.MOUNT_ATTR_RDONLY, 0, 0);
}
