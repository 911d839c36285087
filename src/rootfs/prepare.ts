/** From an image's layers to a container's tree: a detached mount, whichever way the layers are kept in. */
import { copyAttributes } from "../../ffi/attributes.ts";
import { AT, AT_FDCWD, MOUNT_ATTR, O, OPEN_TREE } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { struct } from "../../ffi/sys.ts";
import { copyContents } from "../layer/copy-tree.ts";
import { prepareErofs } from "./erofs.ts";
import { prepareOverlay, seen } from "./overlay.ts";

/** What a tree is made of, and where its changes go. */
export interface TreeParts {
  readonly kind: "overlay" | "erofs" | "copy";
  /** Layers, the lowest first; of a copy the one tree that there is. */
  readonly layers: readonly string[];
  /** Of overlay's alone: a directory that another tree has its changes in, over the layers. */
  readonly above?: string | undefined;
  /** An empty directory: what the container changes; of a copy, all of it. */
  readonly upper: string;
  readonly work: string;
  /** The container's own directory goes with it: nothing of it need be synced. */
  readonly volatile: boolean;
}

/** A tree of one's own, as a mount without device files. */
function prepareCopy({ layers: [tree], upper }: TreeParts): OwnedFd {
  const flags = O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC;
  if (tree !== undefined) {
    using from = new OwnedFd(direct.openat(AT_FDCWD, tree, flags, 0));
    using to = new OwnedFd(direct.openat(AT_FDCWD, upper, flags, 0));
    copyContents(from.fd, to.fd);
    copyAttributes(tree, upper);
  }
  const mount = new OwnedFd(
    direct.open_tree(AT_FDCWD, upper, OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC | AT.AT_SYMLINK_NOFOLLOW),
  );
  const how = struct<number>("mount_attr", { attr_set: MOUNT_ATTR.MOUNT_ATTR_NODEV });
  direct.mount_setattr(mount.fd, "", AT.AT_EMPTY_PATH, how, 32);
  return mount;
}

/**
 * Mounts a container's tree.
 * @param place an existing directory, only mounted on where the kernel is old
 * @returns a descriptor of a detached mount, owned by the caller
 * @throws OciboxError HOST where the kernel will not, with the reason
 */
export function prepareTree(parts: TreeParts, place: string): OwnedFd {
  if (parts.kind === "copy") return prepareCopy(parts);
  const { upper, work, volatile, above } = parts;
  const own = above === undefined ? [] : [above];
  const lower = [...parts.layers].reverse();
  if (parts.kind === "erofs") return prepareErofs({ lower, upper, work, volatile }, own, place);
  return prepareOverlay({ lower: [...own, ...seen(lower)], upper, work, volatile }, place);
}
