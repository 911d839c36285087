/**
 * From a layer's blob to what is mounted: a directory, or an archive with an index over it. It is verified while it is
 * made (DiffID of the plain tar), and has its name when all of it is there and on the disk.
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";
import { applyLayer } from "../layer/apply.ts";
import { decompress } from "../layer/decompress.ts";
import { indexLayer } from "../layer/erofs/index-layer.ts";
import { mountErofs } from "../layer/erofs/mount.ts";
import { ByteSource } from "../layer/tar.ts";
import { type ChainId, type DiffId, hexOf } from "../spec/digest.ts";
import type { Descriptor } from "../spec/image.ts";
import { exists, openForWriting, storeError, syncDirectory, writeAll } from "./disk.ts";
import { layerFolders, type Snapshotter } from "./snapshotter.ts";
import type { Store } from "./store.ts";
import { counted, kept } from "./streams.ts";

/** A plain layer larger than this and than 500 times its blob is a bomb and nothing else. */
const bombFrom = 1 << 30;
const bombRatio = 500;
const directoryFlags = O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC;

export interface Layer {
  readonly descriptor: Descriptor;
  readonly diffId: DiffId;
  readonly chainId: ChainId;
  readonly index: number;
}

interface Plain {
  readonly stream: AsyncIterable<Uint8Array>;
  /** @throws OciboxError where the DiffID is not what the image promises; all of the stream has been read */
  verify(): void;
}

/** A layer's plain archive, hashed as it goes by. */
function plainOf({ descriptor, diffId }: Layer, raw: AsyncIterable<Uint8Array>): Plain {
  const hasher = new Bun.CryptoHasher("sha256");
  const onBytes = (total: number): void => {
    if (total > bombFrom && total > descriptor.size * bombRatio)
      throw new OciboxError("INVALID", `the layer ${descriptor.digest} grows to more than ${bombRatio} times its size`);
  };
  return {
    stream: counted(decompress(descriptor.mediaType, raw), hasher, onBytes),
    verify() {
      const found = `sha256:${hasher.digest("hex")}`;
      if (found !== diffId)
        throw new OciboxError(
          "DIGEST_MISMATCH",
          `the layer ${descriptor.digest} has the DiffID ${found}, and the image promises ${diffId}`,
        );
    },
  };
}

function newDirectory(path: string): OwnedFd {
  direct.mkdirat(AT_FDCWD, path, 0o755);
  direct.fchmodat(AT_FDCWD, path, 0o755);
  return new OwnedFd(direct.openat(AT_FDCWD, path, directoryFlags, 0));
}

/** Layers as directories to look into: those that are no directories are mounted, for as long as this is kept. */
export class LayerViews implements Disposable {
  readonly #mounts = new Map<string, OwnedFd>();

  constructor(readonly kind: Snapshotter) {}

  path(layer: string): string {
    if (this.kind !== "erofs") return layer;
    const mount = this.#mounts.get(layer) ?? mountErofs(layer);
    this.#mounts.set(layer, mount);
    return `/proc/self/fd/${mount.fd}/.`;
  }

  [Symbol.dispose](): void {
    for (const mount of this.#mounts.values()) mount[Symbol.dispose]();
    this.#mounts.clear();
  }
}

export interface UnpackRequest {
  readonly layer: Layer;
  /** Its blob. */
  readonly raw: AsyncIterable<Uint8Array>;
  /** A name that nothing has yet, on the store's file system. */
  readonly place: string;
  /** The layers below, as directories to look into, the uppermost first. */
  lowers(): Promise<readonly string[]>;
}

async function toDirectory({ layer, raw, place, lowers }: UnpackRequest): Promise<void> {
  using root = newDirectory(place);
  const plain = plainOf(layer, raw);
  await applyLayer(root.fd, new ByteSource(plain.stream), { lowers });
  plain.verify();
  direct.syncfs(root.fd);
}

async function toErofs({ layer, raw, place, lowers }: UnpackRequest): Promise<void> {
  using root = newDirectory(place);
  const plain = plainOf(layer, raw);
  using data = openForWriting(`${place}/data`);
  const source = new ByteSource(kept(plain.stream, data.fd));
  const uuid = new Uint8Array(Buffer.from(hexOf(layer.chainId).slice(0, 32), "hex"));
  const index = await indexLayer(source, { lowers, uuid, data: data.fd });
  plain.verify();
  using file = openForWriting(`${place}/index`);
  writeAll(file.fd, index);
  direct.fsync(file.fd);
  direct.fsync(data.fd);
  direct.fsync(root.fd);
  checkMount(place);
}

/** What the kernel will not mount is better known now. */
function checkMount(place: string): void {
  try {
    mountErofs(place)[Symbol.dispose]();
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    throw new OciboxError("HOST", `this kernel does not mount a layer as EROFS: ${error.message}`, {
      hint: "it takes Linux 6.12 or newer and a store that is not on tmpfs; use --snapshotter overlay",
      cause: error,
    });
  }
}

/** Unpacks one layer under a name that is not its own yet. @throws OciboxError */
export async function unpackLayer(kind: "overlay" | "erofs", request: UnpackRequest): Promise<void> {
  try {
    await (kind === "erofs" ? toErofs : toDirectory)(request);
  } catch (error) {
    throw storeError(error, `cannot unpack the layer ${request.layer.descriptor.digest}`);
  }
}

/** All layers upon each other in one directory. @param blob streams a layer's blob */
export async function unpackTree(
  layers: readonly Layer[],
  place: string,
  blob: (layer: Layer) => AsyncIterable<Uint8Array>,
): Promise<void> {
  using root = newDirectory(place);
  for (const layer of layers) {
    try {
      const plain = plainOf(layer, blob(layer));
      await applyLayer(root.fd, new ByteSource(plain.stream), { onto: true });
      plain.verify();
    } catch (error) {
      throw storeError(error, `cannot unpack the layer ${layer.descriptor.digest}`);
    }
  }
  direct.syncfs(root.fd);
}

/** Visible from here on, whole. Another process may have been faster. */
export function publish(store: Store, kind: Snapshotter, chainId: ChainId, place: string): void {
  const path = store.newLayerPath(kind, chainId);
  const folder = `${store.root}/${layerFolders[kind]}`;
  const rename = (): number => attempt("renameat2", AT_FDCWD, place, AT_FDCWD, path, 1);
  let renamed = rename();
  if (renamed < 0 && !exists(path)) {
    // A store of an older version has no folder for this kind.
    makeDirectories(folder);
    renamed = rename();
    if (renamed < 0 && !exists(path)) direct.renameat2(AT_FDCWD, place, AT_FDCWD, path, 1);
  }
  syncDirectory(folder);
}
