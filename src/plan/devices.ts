/** linux.devices and the default devices of runtime-spec, config-linux.md#default-devices; what tmpcopyup copies. */
import { AT_FDCWD, O, OPEN_TREE, S } from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import type { Slot } from "../../ffi/plan.ts";
import { OciboxError } from "../errors.ts";
import type { Device, IdMapping, Spec } from "../spec/runtime.ts";
import type { Builder } from "./builder.ts";
import { type Namespaces, namespacesOf } from "./namespaces.ts";

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

/** makedev(3), as the kernel's own dev_t of 32 bits has it. */
function makeDevice(major: number, minor: number): number {
  return (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12);
}

/** The host's device under a name in the container: in a user namespace nothing else can be had. mknod(2), EPERM */
function bindDevice(b: Builder, directory: Slot, name: string, source: string): void {
  const { p } = b;
  p.tolerate("EEXIST").mknodat(directory, name, S.S_IFREG | 0o644, 0);
  const target = p.sys.openat(directory, name, O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
  b.attach(p.sys.open_tree(AT_FDCWD, source, OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC), target);
}

/**
 * Fills /dev. A tmpfs of our own is filled before anybody can see it; umask is 0 here.
 * @param fresh whether nothing can be in it yet
 */
export function fillDev(b: Builder, dev: Slot, spec: Spec, inUserNamespace: boolean, fresh: boolean): void {
  const { p } = b;
  p.field("the default devices");
  const sys = () => (fresh ? p.sys : p.tolerate("EEXIST"));
  for (const [name, major, minor] of nodes) {
    if (inUserNamespace && fresh) {
      sys().mknodat(dev, name, S.S_IFREG | 0o666, 0);
    } else if (!inUserNamespace) sys().mknodat(dev, name, S.S_IFCHR | 0o666, makeDevice(major, minor));
  }
  for (const [name, target] of links) sys().symlinkat(target, dev, name);
  const wanted = new Set((spec.mounts ?? []).map(({ destination }) => destination));
  for (const name of fresh ? ["pts", "mqueue", "shm"] : [])
    if (name === "pts" || wanted.has(`/dev/${name}`)) sys().mkdirat(dev, name, 0o755);
  if (spec.process?.terminal === true) sys().mknodat(dev, "console", S.S_IFREG | 0o600, 0);
}

/** In a user namespace the default devices are bound, when /dev is in its place. */
export function bindDefaultDevices(b: Builder): void {
  b.p.field("the default devices");
  const dev = b.ensure("/dev", "directory");
  for (const [name] of nodes) bindDevice(b, dev, name, `/dev/${name}`);
}

const AT_SYMLINK_NOFOLLOW = 0x100;
const STATX_BASIC_STATS = 0x7ff;
/** In struct statx. */
const stxRdevMajor = 128;
const stxRdevMinor = 132;

const kinds: Readonly<Record<string, number>> = { c: S.S_IFCHR, u: S.S_IFCHR, b: S.S_IFBLK, p: S.S_IFIFO };

function refuse(index: number, why: string): never {
  throw new OciboxError("INVALID", `linux.devices[${index}]${why}`);
}

function isDefault(device: Device): boolean {
  return nodes.some(
    ([name, major, minor]) => device.path === `/dev/${name}` && device.major === major && device.minor === minor,
  );
}

/** Fails where what has this name is another device, or none: statx(2). */
function checkNumbers(b: Builder, parent: Slot, name: string, { path, major = 0, minor = 0 }: Device): void {
  const { p } = b;
  const wrong = p.newLabel(`another ${path}`);
  const right = p.newLabel(`the same ${path}`);
  const stat = p.memory("device", 256);
  p.sys.statx(parent, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, stat);
  for (const [offset, number] of [
    [stxRdevMajor, major],
    [stxRdevMinor, minor],
  ] as const) {
    const found = p.slot("device number");
    p.add({ op: "load", memory: stat, offset, slot: found });
    p.branch(found, "!=", number, wrong);
  }
  p.jump(right);
  p.place(wrong);
  const says = `there is something else at ${JSON.stringify(path)}`;
  p.add({ op: "fail", errno: errnoOf("EEXIST"), says, blame: "ocibox" });
  p.place(right);
}

/** linux.devices: nodes with their mode and owner; in a user namespace the host's own are bound. */
export function makeDevices(b: Builder, devices: readonly Device[], inUserNamespace: boolean): void {
  const { p } = b;
  devices.forEach((device, index) => {
    const kind = Object.hasOwn(kinds, device.type) ? kinds[device.type] : undefined;
    if (kind === undefined) refuse(index, `.type is ${JSON.stringify(device.type)}, which is none of c, u, b, p`);
    if (!device.path.startsWith("/")) refuse(index, `.path is ${JSON.stringify(device.path)}, which is not absolute`);
    if (kind !== S.S_IFIFO && (device.major === undefined || device.minor === undefined))
      refuse(index, " has no major and minor number");
    // Those are there already, under the same name; the terminals are the container's own.
    if (isDefault(device) && device.fileMode === undefined) return;
    if (device.path === "/dev/ptmx" || device.path === "/dev/console") return;
    p.field(`linux.devices[${index}], ${device.path}`);
    const path = device.path.replace(/\/+$/, "");
    const slash = path.lastIndexOf("/");
    const parent = b.ensure(path.slice(0, slash) || "/", "directory");
    const name = path.slice(slash + 1);
    if (name === "") refuse(index, `.path is ${JSON.stringify(device.path)}, which names no file`);
    if (inUserNamespace && kind !== S.S_IFIFO) {
      bindDevice(b, parent, name, device.path);
      return;
    }
    const mode = device.fileMode === undefined ? 0o666 : device.fileMode & 0o7777;
    const number = kind === S.S_IFIFO ? 0 : makeDevice(device.major ?? 0, device.minor ?? 0);
    const made = p.newLabel(`made ${device.path}`);
    // config-linux.md#devices: a file that is there already and is no such device is an error; a pipe has no number to
    // tell it by.
    const sys = kind === S.S_IFIFO ? p.sys : p.tolerate("EEXIST");
    const result = sys.mknodat(parent, name, kind | mode, number);
    if (kind !== S.S_IFIFO) {
      p.branch(result, "==", 0, made);
      checkNumbers(b, parent, name, device);
    }
    p.place(made);
    p.sys.fchownat(parent, name, device.uid ?? 0, device.gid ?? 0, 0x100);
    // The mode of a node that was there before; umask is 0, so that of a new one is right already.
    if (isDefault(device)) p.sys.fchmodat(parent, name, mode);
  });
}

/** What lies under a tmpfs with tmpcopyup, directories before what is in them. */
export interface CopyUpEntry {
  /** Relative to the mount. */
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of a regular file. */
  readonly size: number;
  /** Of a symlink. */
  readonly target?: string;
}

/** A number of the host's as the container has it; undefined for one that it does not have. */
function idInside(id: number, mappings: readonly IdMapping[]): number | undefined {
  const mapping = mappings.find(({ hostID, size }) => id >= hostID && id < hostID + size);
  return mapping === undefined ? undefined : mapping.containerID + id - mapping.hostID;
}

/** Whose an entry is in the container. Of a user namespace that is joined nobody knows the mappings here. */
function ownerOf(
  { uid, gid }: CopyUpEntry,
  spec: Spec,
  namespaces: Namespaces,
): readonly [uid: number, gid: number] | undefined {
  if (!namespaces.has("user")) return [uid, gid];
  if (!namespaces.isNew("user")) return undefined;
  const inside = [idInside(uid, spec.linux?.uidMappings ?? []), idInside(gid, spec.linux?.gidMappings ?? [])] as const;
  return inside[0] === undefined || inside[1] === undefined ? undefined : [inside[0], inside[1]];
}

/**
 * Copies what the image has at a tmpfs's place into it, before it covers that. What is nobody's in the container becomes
 * its root's.
 */
export function copyUp(b: Builder, destination: string, tree: Slot, entries: readonly CopyUpEntry[], spec: Spec): void {
  const { p } = b;
  if (entries.length === 0) return;
  const from = b.open(destination, O.O_DIRECTORY);
  const namespaces = namespacesOf(spec);
  for (const entry of entries) {
    const kind = entry.mode & S.S_IFMT;
    if (kind === S.S_IFLNK) p.sys.symlinkat(entry.target ?? "", tree, entry.path);
    else if (kind === S.S_IFDIR) p.tolerate("EEXIST").mkdirat(tree, entry.path, entry.mode & 0o7777);
    else {
      const source = p.sys.openat(from, entry.path, O.O_RDONLY | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
      const flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_CLOEXEC;
      const target = p.sys.openat(tree, entry.path, flags, entry.mode & 0o7777);
      if (entry.size > 0) p.sys.sendfile(target, source, null, entry.size);
      p.sys.close(source);
      p.sys.close(target);
    }
    const owner = ownerOf(entry, spec, namespaces);
    if (owner !== undefined) p.sys.fchownat(tree, entry.path, ...owner, 0x100);
    if (kind !== S.S_IFLNK) p.sys.fchmodat(tree, entry.path, entry.mode & 0o7777);
  }
}
