/**
 * From a layer's blob to what is mounted: a directory, or an archive with an index over it. All is verified while it is
 * made (digest of the blob, DiffID of the plain tar), and is on the disk when the work is done; only its name it gets
 * later. These functions do not wait for anything but the disk: they run on threads of their own (unpack-worker.ts).
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { direct, SyscallError } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc } from "../../ffi/structs.ts";
import { OciboxError } from "../errors.ts";
import { applyLayer } from "../layer/apply.ts";
import { decompress } from "../layer/decompress.ts";
import { indexLayer } from "../layer/erofs/index-layer.ts";
import { mountErofs } from "../layer/erofs/mount.ts";
import { ByteSource } from "../layer/tar.ts";
import { type Digest, hexOf } from "../spec/digest.ts";
import { Flusher, openForWriting, storeError, writeAll } from "./disk.ts";
import { Abandoned, PullMemory } from "./pull-memory.ts";
import { Ring } from "./ring.ts";
import { type InflateJob, type Layer, leavesHashing, type UnpackJob } from "./unpack-job.ts";

/** A plain layer larger than this and than 500 times its blob is a bomb and nothing else. */
const bombFrom = 1 << 30;
const bombRatio = 500;
const readSize = 1 << 18;
const directoryFlags = O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC;

/** A layer's blob as far as it is there, and as it grows. */
class BlobReader implements Disposable {
  readonly #layer: Layer;
  readonly #path: string;
  readonly #memory: PullMemory;
  readonly #file: OwnedFd;
  readonly #hasher = new Bun.CryptoHasher("sha256");
  readonly #buffer = alloc(readSize);
  #at = 0;
  #there = 0;
  /** The digest, when all has been read. */
  #found: string | undefined;

  constructor(layer: Layer, path: string, memory: PullMemory) {
    this.#layer = layer;
    this.#path = path;
    this.#memory = memory;
    this.#file = new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_NOFOLLOW | O.O_CLOEXEC, 0));
  }

  /** What has not been read yet, in pieces that are valid until the next. @throws Abandoned */
  *pieces(): Generator<Uint8Array> {
    const { size } = this.#layer.descriptor;
    while (this.#at < size) {
      // The decompressors take longer over small pieces, and want the first to be larger than its magic number.
      const want = Math.min(readSize, size - this.#at);
      while (this.#there - this.#at < want) this.#there = this.#memory.more(this.#layer.index, this.#there);
      this.#memory.check(this.#layer.index);
      for (let filled = 0; filled < want; ) {
        const room = filled === 0 ? this.#buffer : this.#buffer.subarray(filled);
        const got = direct.read(this.#file.fd, room, want - filled);
        if (got === 0) throw new OciboxError("STORE", `"${this.#path}" became shorter while it was read`);
        filled += got;
      }
      this.#at += want;
      const piece = this.#buffer.subarray(0, want);
      this.#hasher.update(piece);
      yield piece;
    }
  }

  /** Reads what is left. @throws OciboxError DIGEST_MISMATCH where all of it is not what the manifest promises */
  verify(): void {
    for (const _ of this.pieces());
    const { digest } = this.#layer.descriptor;
    this.#found ??= `sha256:${this.#hasher.digest("hex")}`;
    const found = this.#found;
    if (found !== digest)
      throw new OciboxError("DIGEST_MISMATCH", `the layer ${digest} has the digest ${found}`, {
        hint: "the registry, the disk or something on the way is at fault; pull again",
      });
    direct.fsync(this.#file.fd);
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

/** A layer's plain archive from its blob. @throws OciboxError INVALID for a bomb, DIGEST_MISMATCH at its end */
function* inflated({ descriptor }: Layer, blob: BlobReader): Generator<Uint8Array> {
  let total = 0;
  for (const piece of decompress(descriptor.mediaType, blob.pieces())) {
    total += piece.byteLength;
    if (total > bombFrom && total > descriptor.size * bombRatio)
      throw new OciboxError("INVALID", `the layer ${descriptor.digest} grows to more than ${bombRatio} times its size`);
    yield piece;
  }
  blob.verify();
}

/**
 * Work on a blob. Where something is wrong with what is in it, all of it is read before anybody is told: that it is
 * another blob than the one that was promised says more.
 */
function withBlob(layer: Layer, path: string, memory: PullMemory, work: (plain: Iterable<Uint8Array>) => void): void {
  using blob = new BlobReader(layer, path, memory);
  try {
    work(inflated(layer, blob));
  } catch (error) {
    if (error instanceof Abandoned || (error instanceof OciboxError && error.code === "INVALID")) blob.verify();
    throw error;
  }
}

/** The same archive, its DiffID checked at its end. @throws OciboxError DIGEST_MISMATCH */
function* verified({ descriptor, diffId }: Layer, plain: Iterable<Uint8Array>): Generator<Uint8Array> {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const piece of plain) {
    hasher.update(piece);
    yield piece;
  }
  const found = `sha256:${hasher.digest("hex")}`;
  if (found !== diffId)
    throw new OciboxError(
      "DIGEST_MISMATCH",
      `the layer ${descriptor.digest} has the DiffID ${found}, and the image promises ${diffId}`,
    );
}

function newDirectory(path: string): OwnedFd {
  direct.mkdirat(AT_FDCWD, path, 0o755);
  direct.fchmodat(AT_FDCWD, path, 0o755);
  return new OwnedFd(direct.openat(AT_FDCWD, path, directoryFlags, 0));
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

type Lowers = () => readonly string[];

function toErofs(layer: Layer, place: string, plain: Iterable<Uint8Array>, lowers: Lowers): void {
  using data = openForWriting(`${place}/data`);
  function* kept(): Generator<Uint8Array> {
    const flusher = new Flusher(data.fd);
    let size = 0;
    for (const piece of plain) {
      writeAll(data.fd, piece);
      size += piece.byteLength;
      flusher.written(size);
      yield piece;
    }
  }
  const uuid = new Uint8Array(Buffer.from(hexOf(layer.chainId).slice(0, 32), "hex"));
  const index = indexLayer(new ByteSource(kept()), { lowers, uuid, data: data.fd });
  using file = openForWriting(`${place}/index`);
  writeAll(file.fd, index);
  direct.fsync(file.fd);
  direct.fsync(data.fd);
}

/** @param lowers the layers below as directories to look into, the uppermost first, when they are there */
function unpackOne(job: UnpackJob, memory: PullMemory, root: OwnedFd, lowers: Lowers): void {
  const [layer] = job.layers as readonly [Layer];
  const [blob] = job.blobs as readonly [string];
  const work = (archive: Iterable<Uint8Array>): void => {
    const plain = leavesHashing(job) ? archive : verified(layer, archive);
    if (job.kind === "erofs") toErofs(layer, job.place, plain, lowers);
    else applyLayer(root.fd, new ByteSource(plain), { lowers });
  };
  if (job.ring === undefined) withBlob(layer, blob, memory, work);
  else work(new Ring(job.ring).taken());
  if (job.kind === "erofs") {
    direct.fsync(root.fd);
    checkMount(job.place);
  } else direct.syncfs(root.fd);
}

/** Layers as directories to look into: those that are no directories are mounted, for as long as this is kept. */
function viewsOf(job: UnpackJob, owned: DisposableStack): string[] {
  const paths = job.lowers.map((lower) =>
    job.kind === "erofs" ? `/proc/self/fd/${owned.use(mountErofs(lower)).fd}/.` : lower,
  );
  return paths.reverse();
}

/**
 * Does a job to its end.
 * @param waiting called before and after a sleep until layers below are there
 * @throws OciboxError; Abandoned where the pull has ended meanwhile
 */
export function unpack(job: UnpackJob, waiting: (asleep: boolean) => void): void {
  const memory = new PullMemory(job.count, job.memory);
  using owned = new DisposableStack();
  let views: readonly string[] | undefined;
  const lowers = (): readonly string[] => {
    if (views !== undefined) return views;
    const below = Array.from({ length: job.layers[0]?.index ?? 0 }, (_, layer) => layer);
    if (!below.every((layer) => memory.isDone(layer))) {
      waiting(true);
      for (const layer of below) memory.whole(layer);
      waiting(false);
    }
    views = viewsOf(job, owned);
    return views;
  };
  let digest: Digest | undefined;
  try {
    using root = newDirectory(job.place);
    if (job.kind !== "copy") {
      digest = job.layers[0]?.descriptor.digest;
      unpackOne(job, memory, root, lowers);
      return;
    }
    job.layers.forEach((layer, at) => {
      digest = layer.descriptor.digest;
      withBlob(layer, job.blobs[at] as string, memory, (archive) => {
        applyLayer(root.fd, new ByteSource(verified(layer, archive)), { onto: true });
      });
    });
    direct.syncfs(root.fd);
  } catch (error) {
    if (job.ring !== undefined) new Ring(job.ring).break();
    throw storeError(error, `cannot unpack the layer ${digest}`);
  }
}

/** Does the other part of a job to its end. @throws OciboxError; Abandoned where nobody wants it any more */
export function inflate(job: InflateJob): void {
  const ring = new Ring(job.ring);
  const [layer] = job.layers as readonly [Layer];
  try {
    withBlob(layer, job.blobs[0] as string, new PullMemory(job.count, job.memory), (archive) => {
      for (const piece of job.hashes ? verified(layer, archive) : archive) ring.put(piece);
    });
    ring.end();
  } catch (error) {
    ring.break();
    throw storeError(error, `cannot unpack the layer ${layer.descriptor.digest}`);
  }
}
