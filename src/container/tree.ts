/** An image's tree to be read, without a container: its layers as one mount that nobody else sees. */
import { O } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";
import { prepareTree } from "../rootfs/prepare.ts";
import { chainsOf, type Store, type StoredImage } from "../store/store.ts";
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
  const chains = chainsOf(image);
  const kind = store.unpackedAs(chains);
  if (kind === undefined)
    throw new OciboxError("STORE", "the image's layers are not there to be mounted", {
      hint: "pull it again, by its name",
    });
  const layers = store.layerPaths(kind, chains);
  const parts = { kind, layers, upper: `${place}/upper`, work: `${place}/work`, volatile: true };
  using mount = prepareTree(parts, place);
  using root = new OwnedFd(direct.openat(mount.fd, ".", O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  return await work(root.fd);
}
