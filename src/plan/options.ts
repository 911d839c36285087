/** Mount options as mount(8) and runtime-spec write them, and what each is to the kernel. */
import { MOUNT_ATTR, MS } from "../../ffi/constants.ts";
import { OciboxError } from "../errors.ts";

/** Attributes of a mount: set, or cleared. mount_setattr(2). */
const attributes: Readonly<Record<string, readonly [set: number, clear: number]>> = {
  ro: [MOUNT_ATTR.MOUNT_ATTR_RDONLY, 0],
  rw: [0, MOUNT_ATTR.MOUNT_ATTR_RDONLY],
  nosuid: [MOUNT_ATTR.MOUNT_ATTR_NOSUID, 0],
  suid: [0, MOUNT_ATTR.MOUNT_ATTR_NOSUID],
  nodev: [MOUNT_ATTR.MOUNT_ATTR_NODEV, 0],
  dev: [0, MOUNT_ATTR.MOUNT_ATTR_NODEV],
  noexec: [MOUNT_ATTR.MOUNT_ATTR_NOEXEC, 0],
  exec: [0, MOUNT_ATTR.MOUNT_ATTR_NOEXEC],
  noatime: [MOUNT_ATTR.MOUNT_ATTR_NOATIME, MOUNT_ATTR.MOUNT_ATTR__ATIME],
  relatime: [0, MOUNT_ATTR.MOUNT_ATTR__ATIME],
  strictatime: [MOUNT_ATTR.MOUNT_ATTR_STRICTATIME, MOUNT_ATTR.MOUNT_ATTR__ATIME],
  nodiratime: [MOUNT_ATTR.MOUNT_ATTR_NODIRATIME, 0],
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

export interface MountOptions {
  readonly set: number;
  readonly clear: number;
  /** MS_PRIVATE and the like, or 0. */
  readonly propagation: number;
  readonly recursivePropagation: boolean;
  readonly bind: "no" | "bind" | "rbind";
  /** What is the file system's own: "size=64m", "newinstance". */
  readonly data: readonly (readonly [key: string, value: string | null])[];
}

/** @throws OciboxError UNSUPPORTED for the options that later issues bring */
export function readMountOptions(options: readonly string[], field: string): MountOptions {
  let set = 0;
  let clear = 0;
  let propagation = 0;
  let bind: MountOptions["bind"] = "no";
  const data: (readonly [string, string | null])[] = [];
  for (const option of options) {
    const attribute = Object.hasOwn(attributes, option) ? attributes[option] : undefined;
    if (attribute !== undefined) {
      set = (set & ~attribute[1]) | attribute[0];
      clear = (clear & ~attribute[0]) | attribute[1];
    } else if (Object.hasOwn(propagations, option)) propagation = propagations[option] ?? 0;
    else if (option === "bind" || option === "rbind") bind = option;
    else if (option === "defaults") continue;
    else if (
      /^(?:r(?:ro|rw|nosuid|suid|nodev|dev|noexec|exec|noatime|relatime|strictatime)|r?idmap|tmpcopyup|sync|async|dirsync|mand|nomand|remount|silent|loud)$/.test(
        option,
      )
    )
      throw new OciboxError("UNSUPPORTED", `${field}: the mount option "${option}" is not supported yet`);
    else {
      const equals = option.indexOf("=");
      data.push(equals < 0 ? [option, null] : [option.slice(0, equals), option.slice(equals + 1)]);
    }
  }
  const recursivePropagation = (propagation & MS.MS_REC) !== 0;
  return { set, clear, propagation: propagation & ~MS.MS_REC, recursivePropagation, bind, data };
}
