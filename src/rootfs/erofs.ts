/** The EROFS back end: each layer is mounted by itself, and overlay puts them upon each other. */
import { AT_FDCWD, CLONE, MNT, MOVE_MOUNT, MS, O } from "../../ffi/constants.ts";
import { direct, SyscallError } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { OciboxError } from "../errors.ts";
import { mountErofs } from "../layer/erofs/mount.ts";
import { names, removeTree } from "../layer/remove-tree.ts";
import { type OverlayTree, prepareOverlay, seen } from "./overlay.ts";

function mountAll(layers: readonly string[], owned: DisposableStack): OwnedFd[] {
  try {
    return layers.map((layer) => owned.use(mountErofs(layer)));
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    throw new OciboxError("HOST", `cannot mount a layer as EROFS: ${error.message}`, {
      hint: "it takes Linux 6.12 or newer; ocibox --snapshotter overlay run … unpacks the image",
      cause: error,
    });
  }
}

/** A directory by a descriptor: what is mounted on it later does not hide it. */
function byDescriptor(path: string, owned: DisposableStack): string {
  const { fd } = owned.use(new OwnedFd(direct.openat(AT_FDCWD, path, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0)));
  return `/proc/self/fd/${fd}/.`;
}

/** What an attempt that failed has left would be taken for that of a container that was cut short. */
function emptied(path: string): void {
  using work = new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  for (const name of [...names(work.fd)]) removeTree(work.fd, name);
}

/**
 * Before Linux 6.15 overlay takes no detached mount for a layer: they get places in a mount namespace that this thread
 * takes, and from which init starts.
 * @param tree with the directories above the layers alone
 */
function attach(tree: OverlayTree, mounts: readonly OwnedFd[], place: string, owned: DisposableStack): OverlayTree {
  direct.unshare(CLONE.CLONE_NEWNS);
  direct.mount(null, "/", null, MS.MS_REC | MS.MS_SLAVE, null);
  // Opened in the new namespace: overlay takes no mounts of another one.
  const upper = byDescriptor(tree.upper, owned);
  const work = byDescriptor(tree.work, owned);
  const above = tree.lower.map((path) => byDescriptor(path, owned));
  direct.mount("ocibox", place, "tmpfs", MS.MS_NODEV | MS.MS_NOSUID, "mode=700");
  const lower = mounts.map(({ fd }, index) => {
    const path = `${place}/${index}`;
    direct.mkdirat(AT_FDCWD, path, 0o700);
    direct.move_mount(fd, "", AT_FDCWD, path, MOVE_MOUNT.MOVE_MOUNT_F_EMPTY_PATH);
    return byDescriptor(path, owned);
  });
  return { ...tree, lower: [...above, ...lower], upper, work };
}

/**
 * @param tree whose layers are directories of an index and its data
 * @param above directories as they are, over the layers
 * @throws as prepareOverlay does
 */
export function prepareErofs(tree: OverlayTree, above: readonly string[], place: string): OwnedFd {
  using owned = new DisposableStack();
  const all = mountAll(tree.lower, owned);
  const lower = seen(all.map(({ fd }) => `/proc/self/fd/${fd}/.`));
  const mounts = all.slice(0, lower.length);
  try {
    return prepareOverlay({ ...tree, lower: [...above, ...lower] }, place);
  } catch (error) {
    if (!(error instanceof OciboxError && error.cause instanceof SyscallError && error.cause.code === "EINVAL"))
      throw error;
    emptied(tree.work);
    const attached = attach({ ...tree, lower: above }, mounts, place, owned);
    try {
      return prepareOverlay(attached, place);
    } finally {
      direct.umount2(place, MNT.MNT_DETACH);
    }
  }
}
