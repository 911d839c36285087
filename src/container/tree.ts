/** An image's tree to be read, without a container: its layers as one mount that nobody else sees. */
import { O } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories } from "../../ffi/files.ts";
import { prepareOverlay } from "../rootfs/overlay.ts";
import type { Store, StoredImage } from "../store/store.ts";
import { workspace } from "../store/temporary.ts";

/**
 * Calls with a descriptor of the tree's root, which can be read.
 * @throws OciboxError HOST where it cannot be mounted; what the work throws
 */
export async function withTree<T>(
  store: Store,
  image: StoredImage,
  work: (root: number) => Promise<T> | T,
): Promise<T> {
  using owned = new DisposableStack();
  owned.use(store.lockShared());
  const place = workspace(store, owned);
  for (const name of ["upper", "work"]) makeDirectories(`${place}/${name}`);
  const lower = image.layers.map(({ chainId }) => store.layerPath(chainId)).reverse();
  using mount = prepareOverlay({ lower, upper: `${place}/upper`, work: `${place}/work`, volatile: true }, place);
  using root = new OwnedFd(direct.openat(mount.fd, ".", O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  return await work(root.fd);
}
