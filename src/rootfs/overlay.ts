/**
 * The overlay back end: layers and a container's own directory become one tree (Documentation/filesystems/overlayfs).
 * What it makes is a detached mount: nobody sees it until init puts it in the container's own mount namespace, and it
 * is gone when the last descriptor of it is.
 */
import { copyAttributes, opaqueAttribute } from "../../ffi/attributes.ts";
import {
  AT,
  AT_FDCWD,
  CLONE,
  FSCONFIG,
  FSMOUNT,
  FSOPEN,
  MNT,
  MOUNT_ATTR,
  MS,
  O,
  OPEN_TREE,
} from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc } from "../../ffi/structs.ts";
import type { Sys } from "../../ffi/sys.ts";
import { inUserNamespace } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";

export interface OverlayTree {
  /** Unpacked layers, the uppermost first. */
  readonly lower: readonly string[];
  readonly upper: string;
  readonly work: string;
  /**
   * The upper directory goes with the container: nothing of it is synced, neither at fsync nor when the mount ends,
   * where the kernel would else sync the whole file system under it.
   */
  readonly volatile: boolean;
}

/** fsconfig(2) takes strings of up to 255 bytes; a longer path is named by a descriptor of it. */
const longest = 255;

function nameOf(path: string): string {
  if (path.length <= longest / 3 || Buffer.byteLength(path) <= longest) return path;
  return `/proc/self/fd/${direct.openat(AT_FDCWD, path, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0)}`;
}

/**
 * Layers that something is seen of: overlay does not look whether a layer's root hides those below, as other directories
 * may. @param lower the uppermost first
 */
export function seen(lower: readonly string[]): readonly string[] {
  const value = alloc(1);
  const opaque = opaqueAttribute();
  for (let index = 0; index < lower.length; index++)
    if (attempt("lgetxattr", lower[index] as string, opaque, value, 1) === 1) return lower.slice(0, index + 1);
  return lower;
}

/**
 * The overlay as a detached mount without device files: the calls alone, for either back end. Kernel 6.8 or newer. A
 * kernel may be told to note where a directory was before it was renamed, and not to copy what is in a file of which only
 * attributes change: then the upper directory alone would not have all that `diff` shows. redirect_dir=off is off for both.
 */
function mountOverlay<V>(sys: Sys<V>, tree: OverlayTree): V {
  const fs = sys.fsopen("overlay", FSOPEN.FSOPEN_CLOEXEC);
  sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_STRING, "source", "ocibox", 0);
  for (const layer of tree.lower) sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_STRING, "lowerdir+", nameOf(layer), 0);
  sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_STRING, "upperdir", nameOf(tree.upper), 0);
  sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_STRING, "workdir", nameOf(tree.work), 0);
  // With attributes of a user's, redirects are off in any case.
  if (inUserNamespace()) sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_FLAG, "userxattr", null, 0);
  else sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_STRING, "redirect_dir", "off", 0);
  if (tree.volatile) sys.fsconfig(fs, FSCONFIG.FSCONFIG_SET_FLAG, "volatile", null, 0);
  sys.fsconfig(fs, FSCONFIG.FSCONFIG_CMD_CREATE, null, null, 0);
  const mount = sys.fsmount(fs, FSMOUNT.FSMOUNT_CLOEXEC, MOUNT_ATTR.MOUNT_ATTR_NODEV);
  sys.close(fs);
  return mount;
}

/** Opens each directory and names it by its descriptor: 127 layers fit in the one page that mount(2) takes. */
function byDescriptor(path: string, owned: DisposableStack): string {
  const fd = owned.use(new OwnedFd(direct.openat(AT_FDCWD, path, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0)));
  return `/proc/self/fd/${fd.fd}`;
}

/**
 * The same with mount(2), for kernels whose overlay has no `lowerdir+`. The mount needs a place, which must not be
 * seen: this thread takes a mount namespace of its own, from which init starts.
 */
function mountOverlayOld(tree: OverlayTree, place: string): number {
  using owned = new DisposableStack();
  direct.unshare(CLONE.CLONE_NEWNS);
  direct.mount(null, "/", null, MS.MS_REC | MS.MS_SLAVE, null);
  const lower = tree.lower.map((layer) => byDescriptor(layer, owned)).join(":");
  const data = `lowerdir=${lower},upperdir=${byDescriptor(tree.upper, owned)},workdir=${byDescriptor(tree.work, owned)},${inUserNamespace() ? "userxattr" : "redirect_dir=off"}`;
  direct.mount("ocibox", place, "overlay", MS.MS_NODEV, tree.volatile ? `${data},volatile` : data);
  const mount = direct.open_tree(
    AT_FDCWD,
    place,
    OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC | AT.AT_SYMLINK_NOFOLLOW,
  );
  direct.umount2(place, MNT.MNT_DETACH);
  return mount;
}

function hasLowerPlus(): boolean {
  using fs = new OwnedFd(direct.fsopen("overlay", FSOPEN.FSOPEN_CLOEXEC));
  // An unknown key is refused with EINVAL before its value is looked at; a known one with another error or none. Before
  // Linux 6.5 all keys are taken, and looked at when the mount is made.
  const refused = (key: string): boolean =>
    attempt("fsconfig", fs.fd, FSCONFIG.FSCONFIG_SET_STRING, key, "/", 0) === -errnoOf("EINVAL");
  return refused("no such key") && !refused("lowerdir+");
}

/**
 * Mounts a container's tree.
 * @param place an existing directory, only mounted on where the kernel is old
 * @returns a descriptor of a detached mount, owned by the caller
 * @throws OciboxError HOST where the kernel will not, with the reason
 */
export function prepareOverlay(tree: OverlayTree, place: string): OwnedFd {
  // The root's attributes are those of the uppermost directory, which is the container's own.
  const [uppermost] = tree.lower;
  if (uppermost !== undefined) copyAttributes(uppermost, tree.upper);
  try {
    return new OwnedFd(mountOverlay(direct, tree));
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    if (error.code === "EINVAL" && error.call === "fsconfig" && !hasLowerPlus())
      return new OwnedFd(mountOverlayOld(tree, place));
    const hint =
      error.code === "ENODEV"
        ? "this kernel has no overlay file system"
        : error.code === "EINVAL"
          ? `the file system under ${tree.upper} may not be one that overlay can write to: try another --root`
          : error.code === "EPERM"
            ? "mounting is not permitted here: an outer container may forbid it"
            : "see dmesg for the kernel's own words";
    throw new OciboxError("HOST", `cannot mount the container's file system: ${error.message}`, { hint, cause: error });
  }
}
