/** A layer of EROFS as a mount: Documentation/filesystems/erofs. From Linux 6.12 on its devices may be plain files. */
import { AT_FDCWD, FSCONFIG, FSMOUNT, FSOPEN, MOUNT_ATTR, O } from "../../../ffi/constants.ts";
import { direct } from "../../../ffi/direct.ts";
import { OwnedFd } from "../../../ffi/fd.ts";

/** fsconfig(2) takes strings of up to 255 bytes: a descriptor's is short. */
function open(path: string, owned: DisposableStack): string {
  const { fd } = owned.use(new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_NOFOLLOW | O.O_CLOEXEC, 0)));
  return `/proc/self/fd/${fd}`;
}

/**
 * @param directory of the layer: "index" is its image, "data" the second device
 * @returns a detached mount, read-only, owned by the caller
 * @throws SyscallError: ENODEV where the kernel has no EROFS, ENOTBLK where it takes block devices alone
 */
export function mountErofs(directory: string): OwnedFd {
  using owned = new DisposableStack();
  using fs = new OwnedFd(direct.fsopen("erofs", FSOPEN.FSOPEN_CLOEXEC));
  direct.fsconfig(fs.fd, FSCONFIG.FSCONFIG_SET_STRING, "source", open(`${directory}/index`, owned), 0);
  direct.fsconfig(fs.fd, FSCONFIG.FSCONFIG_SET_STRING, "device", open(`${directory}/data`, owned), 0);
  direct.fsconfig(fs.fd, FSCONFIG.FSCONFIG_CMD_CREATE, null, null, 0);
  const attributes = MOUNT_ATTR.MOUNT_ATTR_RDONLY | MOUNT_ATTR.MOUNT_ATTR_NODEV;
  return new OwnedFd(direct.fsmount(fs.fd, FSMOUNT.FSMOUNT_CLOEXEC, attributes));
}
