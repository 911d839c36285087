/** Mount options as mount(8) and runtime-spec's config.md#linux-mount-options write them, and what each is to the kernel. */
import { MOUNT_ATTR, MS } from "../../ffi/constants.ts";

const { MOUNT_ATTR__ATIME } = MOUNT_ATTR;

/** Attributes of a mount: set, or cleared. With an "r" before their name they reach all that is mounted below, too. */
const attributes: Readonly<Record<string, readonly [set: number, clear: number]>> = {
  ro: [MOUNT_ATTR.MOUNT_ATTR_RDONLY, 0],
  rw: [0, MOUNT_ATTR.MOUNT_ATTR_RDONLY],
  nosuid: [MOUNT_ATTR.MOUNT_ATTR_NOSUID, 0],
  suid: [0, MOUNT_ATTR.MOUNT_ATTR_NOSUID],
  nodev: [MOUNT_ATTR.MOUNT_ATTR_NODEV, 0],
  dev: [0, MOUNT_ATTR.MOUNT_ATTR_NODEV],
  noexec: [MOUNT_ATTR.MOUNT_ATTR_NOEXEC, 0],
  exec: [0, MOUNT_ATTR.MOUNT_ATTR_NOEXEC],
  atime: [0, MOUNT_ATTR__ATIME],
  noatime: [MOUNT_ATTR.MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME],
  relatime: [0, MOUNT_ATTR__ATIME],
  norelatime: [0, MOUNT_ATTR__ATIME],
  strictatime: [MOUNT_ATTR.MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME],
  nostrictatime: [0, MOUNT_ATTR__ATIME],
  diratime: [0, MOUNT_ATTR.MOUNT_ATTR_NODIRATIME],
  nodiratime: [MOUNT_ATTR.MOUNT_ATTR_NODIRATIME, 0],
  symfollow: [0, MOUNT_ATTR.MOUNT_ATTR_NOSYMFOLLOW],
  nosymfollow: [MOUNT_ATTR.MOUNT_ATTR_NOSYMFOLLOW, 0],
};

const propagations: Readonly<Record<string, number>> = {
  shared: MS.MS_SHARED,
  rshared: MS.MS_SHARED | MS.MS_REC,
  slave: MS.MS_SLAVE,
  rslave: MS.MS_SLAVE | MS.MS_REC,
  private: MS.MS_PRIVATE,
  rprivate: MS.MS_PRIVATE | MS.MS_REC,
  unbindable: MS.MS_UNBINDABLE,
  runbindable: MS.MS_UNBINDABLE | MS.MS_REC,
};

/** Of the file system rather than of the mount; fsconfig(2) takes the same words. The second of a pair is the default. */
const ofSuperblock: ReadonlySet<string> = new Set(["sync", "dirsync", "lazytime", "mand", "iversion"]);
const defaults: ReadonlySet<string> = new Set([
  "async",
  "defaults",
  "loud",
  "noiversion",
  "nolazytime",
  "nomand",
  "silent",
]);

/** Every option that is known here, for `features`; others go to the file system. */
export function mountOptionNames(): string[] {
  const flags = Object.keys(attributes);
  return [
    ...flags,
    ...flags.map((name) => `r${name}`),
    ...Object.keys(propagations),
    ...ofSuperblock,
    ...defaults,
    // acl and noacl are known to the file systems that have such lists.
    ...["acl", "noacl", "bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup"],
  ].sort();
}

export interface MountOptions {
  readonly set: number;
  readonly clear: number;
  /** The same for all that is mounted below as well. */
  readonly recursiveSet: number;
  readonly recursiveClear: number;
  /** MS_PRIVATE and the like, or 0. */
  readonly propagation: number;
  readonly recursivePropagation: boolean;
  readonly bind: "no" | "bind" | "rbind";
  readonly remount: boolean;
  readonly idmap: "no" | "idmap" | "ridmap";
  readonly copyUp: boolean;
  /** What is the file system's own: "size=64m", "newinstance". */
  readonly data: readonly (readonly [key: string, value: string | null])[];
}

class Attributes {
  set = 0;
  clear = 0;

  add([set, clear]: readonly [number, number]): void {
    this.clear = (this.clear & ~set) | clear;
    this.set = (this.set & ~clear) | set;
  }
}

function known(option: string): readonly [number, number] | undefined {
  return Object.hasOwn(attributes, option) ? attributes[option] : undefined;
}

/** What a mount's options ask for; a word that is not known goes to the file system, which may refuse it. */
export function readMountOptions(options: readonly string[]): MountOptions {
  const own = new Attributes();
  const below = new Attributes();
  let propagation = 0;
  let bind: MountOptions["bind"] = "no";
  let idmap: MountOptions["idmap"] = "no";
  let remount = false;
  let copyUp = false;
  const data: (readonly [string, string | null])[] = [];
  for (const option of options) {
    const attribute = known(option);
    const recursive = option.startsWith("r") ? known(option.slice(1)) : undefined;
    if (attribute !== undefined) own.add(attribute);
    else if (recursive !== undefined) below.add(recursive);
    else if (Object.hasOwn(propagations, option)) propagation = propagations[option] ?? 0;
    else if (option === "bind" || option === "rbind") bind = option;
    else if (option === "idmap" || option === "ridmap") idmap = option;
    else if (option === "remount") remount = true;
    else if (option === "tmpcopyup") copyUp = true;
    else if (ofSuperblock.has(option)) data.push([option, null]);
    else if (!defaults.has(option)) {
      const equals = option.indexOf("=");
      data.push(equals < 0 ? [option, null] : [option.slice(0, equals), option.slice(equals + 1)]);
    }
  }
  return {
    set: own.set,
    clear: own.clear,
    recursiveSet: below.set,
    recursiveClear: below.clear,
    propagation: propagation & ~MS.MS_REC,
    recursivePropagation: (propagation & MS.MS_REC) !== 0,
    bind,
    remount,
    idmap,
    copyUp,
    data,
  };
}
