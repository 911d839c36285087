/**
 * Verifying a store: every blob by its digest, every image by what it names, every unpacked layer by unpacking it again
 * beside it. And mending one: what is damaged goes, and what is missing is fetched by the name that an image has.
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { namesIn } from "../../ffi/files.ts";
import { OciboxError, reason } from "../errors.ts";
import { applyLayer } from "../layer/apply.ts";
import { firstDifference } from "../layer/compare.ts";
import { decompress } from "../layer/decompress.ts";
import { ByteSource } from "../layer/tar.ts";
import { type Digest, hexOf } from "../spec/digest.ts";
import { emptyTrash, toTrash } from "./collect.ts";
import { streamFile } from "./disk.ts";
import { refName, type Store, type StoredImage } from "./store.ts";
import { workspace } from "./temporary.ts";

export interface Problem {
  /** "blob", "image" or "layer" */
  readonly kind: string;
  /** What it is of: digits, or a name. */
  readonly of: string;
  readonly what: string;
  /** Images that it spoils: their manifests' digests. */
  readonly images: readonly Digest[];
}

export interface CheckOptions {
  /** Without unpacking layers again. */
  readonly quick: boolean;
  readonly signal: AbortSignal;
  /** Called before each blob and layer. */
  readonly looking?: (what: string) => void;
}

const mostRatio = Number.MAX_SAFE_INTEGER;

async function digestOf(path: string, signal: AbortSignal): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const piece of streamFile(path)) {
    signal.throwIfAborted();
    hasher.update(piece);
  }
  return hasher.digest("hex");
}

function blobsOf(image: StoredImage): { digest: Digest; size: number }[] {
  const { digest, size } = image.manifestDescriptor;
  return [{ digest, size }, image.manifest.config, ...image.layers.map((layer) => layer.descriptor)];
}

function shownName(image: StoredImage): string {
  return image.names[0] ?? image.configDigest.slice(7, 19);
}

class Check {
  readonly problems: Problem[] = [];
  readonly #damaged = new Set<string>();
  #layers = new Set<string>();

  constructor(
    readonly store: Store,
    readonly options: CheckOptions,
  ) {}

  async all(): Promise<Problem[]> {
    const { images, damaged } = this.store.inventory();
    await this.#blobs(images);
    for (const { entry, error } of damaged)
      this.problems.push({
        kind: "image",
        of: entry.annotations?.[refName] ?? entry.digest,
        what: reason(error),
        images: [entry.digest],
      });
    for (const image of images) this.#image(image);
    if (!this.options.quick) for (const image of images) await this.#unpacked(image);
    return this.problems;
  }

  async #blobs(images: readonly StoredImage[]): Promise<void> {
    for (const name of namesIn(`${this.store.root}/image/blobs/sha256`)) {
      this.options.looking?.(`blob ${name.slice(0, 12)}`);
      const found = await digestOf(`${this.store.root}/image/blobs/sha256/${name}`, this.options.signal);
      if (found === name) continue;
      this.#damaged.add(name);
      const users = images.filter((image) => blobsOf(image).some(({ digest }) => hexOf(digest) === name));
      this.problems.push({
        kind: "blob",
        of: name,
        what: `its contents have the digest ${found.slice(0, 12)}`,
        images: users.map((image) => image.manifestDescriptor.digest),
      });
    }
  }

  #image(image: StoredImage): void {
    const spoiled = [image.manifestDescriptor.digest];
    for (const { digest, size } of blobsOf(image))
      if (!this.store.hasBlob(digest, size) && !this.#damaged.has(hexOf(digest)))
        this.problems.push({
          kind: "image",
          of: shownName(image),
          what: `the blob ${digest} is missing or cut short`,
          images: spoiled,
        });
    for (const { chainId } of image.layers)
      if (!this.store.hasLayer(chainId))
        this.problems.push({ kind: "layer", of: hexOf(chainId), what: "it is not unpacked", images: spoiled });
  }

  /** Each layer of the image once more, in a directory of its own, and compared with what is there. */
  async #unpacked(image: StoredImage): Promise<void> {
    for (const [index, layer] of image.layers.entries()) {
      const name = hexOf(layer.chainId);
      const path = `${this.store.root}/layers/${name}`;
      const there = attempt("faccessat2", AT_FDCWD, path, 0, 0) >= 0;
      if (this.#layers.has(name) || !there || this.#damaged.has(hexOf(layer.descriptor.digest))) continue;
      this.#layers.add(name);
      this.options.looking?.(`layer ${name.slice(0, 12)}`);
      const what = await this.#difference(image, index, path);
      if (what !== undefined)
        this.problems.push({ kind: "layer", of: name, what, images: [image.manifestDescriptor.digest] });
    }
  }

  async #difference(image: StoredImage, index: number, path: string): Promise<string | undefined> {
    using owned = new DisposableStack();
    const fresh = `${workspace(this.store, owned)}/layer`;
    direct.mkdirat(AT_FDCWD, fresh, 0o755);
    const flags = O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC;
    using root = new OwnedFd(direct.openat(AT_FDCWD, fresh, flags, 0));
    const layer = image.layers[index] as StoredImage["layers"][number];
    const lowers = image.layers
      .slice(0, index)
      .map(({ chainId }) => this.store.layerPath(chainId))
      .reverse();
    try {
      const raw = streamFile(this.store.blobPath(layer.descriptor.digest));
      const plain = decompress(layer.descriptor.mediaType, raw);
      await applyLayer(root.fd, new ByteSource(plain), { lowers: () => Promise.resolve(lowers), most: mostRatio });
    } catch (error) {
      return `it cannot be unpacked again: ${reason(error)}`;
    }
    using there = new OwnedFd(direct.openat(AT_FDCWD, path, flags, 0));
    return firstDifference(root.fd, there.fd, this.options.signal);
  }
}

/** @returns what is wrong; nothing where all is well */
export async function checkStore(store: Store, options: CheckOptions): Promise<Problem[]> {
  using lock = store.lockShared();
  void lock;
  return await new Check(store, options).all();
}

/**
 * Takes away what is damaged, so that it is fetched or unpacked anew.
 * @returns images that are to be fetched: their names, by the digest of their manifest
 */
export async function discardDamaged(
  store: Store,
  problems: readonly Problem[],
): Promise<Map<Digest, readonly string[]>> {
  const spoiled = new Map<Digest, readonly string[]>();
  {
    using lock = await store.lockAll("exclusive", 30_000);
    if (lock === undefined)
      throw new OciboxError("IN_USE", "the store is in use", {
        hint: "try again when no pull and no container is just starting",
      });
    const names = new Map<Digest, readonly string[]>();
    for (const entry of store.entries()) {
      const name = entry.annotations?.[refName];
      if (name !== undefined) names.set(entry.digest, [...(names.get(entry.digest) ?? []), name]);
    }
    for (const { kind, of, images } of problems) {
      if (kind === "blob") toTrash(store, `image/blobs/sha256/${of}`);
      if (kind === "layer") toTrash(store, `layers/${of}`);
      for (const digest of images) spoiled.set(digest, names.get(digest) ?? []);
    }
  }
  emptyTrash(store);
  return spoiled;
}
