/**
 * The images on disk. ROOT/image is an OCI image layout (image-spec, image-layout.md), which other tools read in place;
 * unpacked layers lie beside it in ROOT/layers (or ROOT/erofs, ROOT/trees: snapshotter.ts), by ChainID. index.json has one entry a name and platform: the
 * descriptor of the platform's manifest.
 */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import type { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories } from "../../ffi/files.ts";
import { lockFile } from "../../ffi/lock.ts";
import { OciboxError, reason } from "../errors.ts";
import { type ChainId, chainIds, type DiffId, type Digest, hexOf, isDigest, sha256 } from "../spec/digest.ts";
import type { Descriptor, ImageConfig, Manifest, Platform } from "../spec/image.ts";
import { decodeImageConfig, decodeIndex, decodeManifest } from "../spec/image-decode.ts";
import { isIndexType } from "../spec/media-types.ts";
import { hostPlatform, platformMatches, samePlatform } from "../spec/platform.ts";
import { exists, hasFile, openForWriting, readFile, renameDurably, replaceFile, writeAll } from "./disk.ts";
import { layerFolders, needed, type Snapshotter, snapshotters } from "./snapshotter.ts";

/** image-spec, annotations.md: the name an entry of index.json goes by. */
export const refName = "org.opencontainers.image.ref.name";
/** Ours: the multi-platform index that a manifest was chosen from. */
const indexAnnotation = "dev.ocibox.index.digest";

/** Locked by who waits for the lock alone. */
const askedFor = "lock.asked";
/** Milliseconds that those who come then wait. */
const patience = 300;

const mostManifest = 4 << 20;
const mostIndex = 64 << 20;

interface StoredLayer {
  readonly descriptor: Descriptor;
  readonly diffId: DiffId;
  readonly chainId: ChainId;
}

export interface StoredImage {
  /** Canonical names, "docker.io/library/alpine:latest". */
  readonly names: readonly string[];
  readonly manifestDescriptor: Descriptor;
  readonly manifest: Manifest;
  readonly config: ImageConfig;
  readonly configDigest: Digest;
  /** The lowest first. */
  readonly layers: readonly StoredLayer[];
  /** Of the name that it was found by. */
  readonly indexDigest: Digest | undefined;
  /** Of each name that came from an index. */
  readonly indexes: ReadonlyMap<string, Digest>;
}

export function chainsOf(image: StoredImage): ChainId[] {
  return image.layers.map((layer) => layer.chainId);
}

/** An image that the index knows, not decoded yet. */
export interface ImageChoice {
  /** Of its manifest. */
  readonly digest: Digest;
  load(): StoredImage;
}

interface LayoutIndex {
  readonly schemaVersion: 2;
  readonly mediaType?: string;
  readonly manifests: readonly Descriptor[];
}

/** What is said of the index, and what cannot be read of it. */
interface Inventory {
  readonly images: readonly StoredImage[];
  /** Entries whose manifest or configuration is missing or damaged. */
  readonly damaged: readonly { readonly entry: Descriptor; readonly error: unknown }[];
}

export interface StoreOptions {
  readonly additional?: readonly string[];
  readonly snapshotter?: Snapshotter | undefined;
}

export class Store {
  readonly root: string;
  /** Stores that are read and never written: on a shared disk, or part of the machine's image. */
  readonly additional: readonly Store[];
  /** The one way that layers are to lie in; undefined where any will do. */
  readonly snapshotter: Snapshotter | undefined;

  constructor(root: string, { additional = [], snapshotter }: StoreOptions = {}) {
    this.root = root;
    this.snapshotter = snapshotter;
    this.additional = additional.map((each) => new Store(each));
  }

  /** Where a blob is to be put. */
  newBlobPath(digest: Digest): string {
    return `${this.root}/image/blobs/sha256/${hexOf(digest)}`;
  }

  /** Where a blob is, or would be. */
  blobPath(digest: Digest): string {
    const own = this.newBlobPath(digest);
    if (this.additional.length === 0 || exists(own)) return own;
    return this.additional.map((each) => each.newBlobPath(digest)).find(exists) ?? own;
  }

  /** Where a layer is to be put: a directory whose parent only root may enter. */
  newLayerPath(kind: Snapshotter, chainId: ChainId): string {
    return `${this.root}/${layerFolders[kind]}/${hexOf(chainId)}`;
  }

  /** Where a layer is, or would be. */
  layerPath(kind: Snapshotter, chainId: ChainId): string {
    const own = this.newLayerPath(kind, chainId);
    if (this.additional.length === 0 || exists(own)) return own;
    return this.additional.map((each) => each.newLayerPath(kind, chainId)).find(exists) ?? own;
  }

  hasLayer(kind: Snapshotter, chainId: ChainId): boolean {
    return exists(this.layerPath(kind, chainId));
  }

  /** Where the layers of an image lie, the lowest first. */
  layerPaths(kind: Snapshotter, chains: readonly ChainId[]): string[] {
    return needed(kind, chains).map((each) => this.layerPath(kind, each));
  }

  /** Whether an image's layers lie there to be mounted. @param chains the lowest first */
  isUnpacked(kind: Snapshotter, chains: readonly ChainId[]): boolean {
    for (const each of needed(kind, chains)) if (!this.hasLayer(kind, each)) return false;
    return true;
  }

  /** How an image's layers lie there to be mounted; undefined where some are missing. */
  unpackedAs(chains: readonly ChainId[]): Snapshotter | undefined {
    const ways = this.snapshotter === undefined ? snapshotters : [this.snapshotter];
    return ways.find((kind) => this.isUnpacked(kind, chains));
  }

  /** A name for something unfinished; `pull` takes a directory of its own below it. */
  get temporary(): string {
    return `${this.root}/tmp`;
  }

  /** Makes the layout where there is none. */
  prepare(): void {
    if (exists(`${this.root}/image/index.json`)) return;
    for (const part of ["image/blobs/sha256", ...Object.values(layerFolders), "tmp", "trash", "containers"])
      makeDirectories(`${this.root}/${part}`);
    using lock = this.#lock("index.lock", "exclusive");
    void lock;
    if (exists(`${this.root}/image/index.json`)) return;
    const layout = new TextEncoder().encode('{"imageLayoutVersion":"1.0.0"}');
    replaceFile(`${this.root}/image/oci-layout`, this.temporaryName(), layout);
    this.#writeIndex({ schemaVersion: 2, manifests: [] });
  }

  temporaryName(): string {
    return `${this.temporary}/${crypto.getRandomValues(new Uint8Array(12)).toHex()}`;
  }

  hasBlob(digest: Digest, size: number): boolean {
    return hasFile(this.blobPath(digest), size);
  }

  /** A small blob. Its digest was verified when it was stored, and is not again. */
  readBlob(digest: Digest, most: number): Uint8Array<ArrayBuffer> {
    const bytes = readFile(this.blobPath(digest), most);
    if (bytes !== undefined) return bytes;
    throw new OciboxError("STORE", `the store has lost the blob ${digest}`, { hint: "pull the image again" });
  }

  /** Notes that an image was used now: by the time of its manifest. */
  touch(manifest: Digest): void {
    attempt("utimensat", AT_FDCWD, this.newBlobPath(manifest), null, 0);
  }

  /** Stores a small blob that is in memory. */
  putBlob(bytes: Uint8Array): Digest {
    const digest = sha256(bytes);
    if (this.hasBlob(digest, bytes.byteLength)) return digest;
    const temporary = this.temporaryName();
    using file = openForWriting(temporary);
    writeAll(file.fd, bytes);
    direct.fsync(file.fd);
    renameDurably(temporary, this.newBlobPath(digest));
    return digest;
  }

  /**
   * The lock on the whole store, alone, while things are removed. Where somebody always has it shared nobody would ever
   * have it alone: so it is asked for, and for a moment those who come then wait.
   * @param wait milliseconds
   * @returns undefined where others have had it for all of that time
   */
  async lockAlone(wait: number): Promise<OwnedFd | undefined> {
    const until = performance.now() + wait;
    for (;;) {
      const lock = lockFile(`${this.root}/lock`, "exclusive") ?? (await this.#lockAsked());
      if (lock !== undefined || performance.now() > until) return lock;
      // They have their turn too.
      await Bun.sleep(50 + Math.random() * 200);
    }
  }

  async #lockAsked(): Promise<OwnedFd | undefined> {
    const path = `${this.root}/${askedFor}`;
    using asking = lockFile(path, "exclusive");
    if (asking === undefined) return undefined;
    try {
      for (const end = performance.now() + patience; performance.now() < end; await Bun.sleep(5)) {
        const lock = lockFile(`${this.root}/lock`, "exclusive");
        if (lock !== undefined) return lock;
      }
      return undefined;
    } finally {
      attempt("unlinkat", AT_FDCWD, path, 0);
    }
  }

  /** The same lock shared, while things are added or begin to be used. */
  lockShared(): OwnedFd {
    if (attempt("faccessat2", AT_FDCWD, this.root, 0, 0) < 0) this.prepare();
    this.#giveWay();
    return this.#lock("lock", "shared");
  }

  /** Waits for a moment where somebody asks for the lock alone. */
  #giveWay(): void {
    const path = `${this.root}/${askedFor}`;
    const end = performance.now() + patience;
    while (exists(path) && performance.now() < end) {
      using left = lockFile(path, "exclusive");
      // Whoever has asked was killed.
      if (left !== undefined) attempt("unlinkat", AT_FDCWD, path, 0);
      else Bun.sleepSync(5);
    }
  }

  #tryLock(name: string, mode: "shared" | "exclusive"): OwnedFd | undefined {
    try {
      return lockFile(`${this.root}/${name}`, mode);
    } catch (error) {
      const code = error instanceof SyscallError ? error.code : undefined;
      if (code !== "EACCES" && code !== "EROFS") throw error;
      throw new OciboxError("PERMISSION", `cannot write to the store "${this.root}": ${reason(error)}`, {
        hint: "choose another place with --root; images of one that is only read can be used with --additional-store",
        cause: error,
      });
    }
  }

  #lock(name: string, mode: "shared" | "exclusive"): OwnedFd {
    const start = performance.now();
    for (;;) {
      const lock = this.#tryLock(name, mode);
      if (lock !== undefined) return lock;
      if (performance.now() - start > 30_000)
        throw new OciboxError("STORE", `another ocibox has held the lock "${this.root}/${name}" for 30 seconds`);
      Bun.sleepSync(5);
    }
  }

  /** index.json as it is. @throws OciboxError STORE where it is damaged */
  readIndex(): LayoutIndex {
    const bytes = readFile(`${this.root}/image/index.json`, mostIndex);
    if (bytes === undefined) return { schemaVersion: 2, manifests: [] };
    try {
      const index = JSON.parse(new TextDecoder().decode(bytes)) as LayoutIndex;
      if (Array.isArray(index.manifests) && index.manifests.every((each) => isDigest(each?.digest))) return index;
    } catch {
      // said below
    }
    throw new OciboxError("STORE", `"${this.root}/image/index.json" is damaged`, {
      hint: "move the directory away and pull again",
    });
  }

  #writeIndex(index: LayoutIndex): void {
    const bytes = new TextEncoder().encode(JSON.stringify(index));
    replaceFile(`${this.root}/image/index.json`, this.temporaryName(), bytes);
  }

  /** Replaces what index.json lists, nobody else changing it meanwhile. @returns what it lists then */
  changeIndex(change: (manifests: readonly Descriptor[]) => readonly Descriptor[]): readonly Descriptor[] {
    using lock = this.#lock("index.lock", "exclusive");
    void lock;
    const index = this.readIndex();
    const manifests = change(index.manifests);
    // Unchanged it stays the file that it is.
    if (JSON.stringify(manifests) !== JSON.stringify(index.manifests)) this.#writeIndex({ ...index, manifests });
    return manifests;
  }

  /**
   * Gives a manifest names; whatever had one of them for this platform loses it, and stays as an image without a name.
   * @param names canonical ones; none for an image that goes by its digest alone
   * @returns what loads the image as it is called now, whoever takes its names away in the meantime; its blobs are there
   *   as long as the store is locked
   */
  tag(names: readonly string[], descriptor: Descriptor, indexDigest: Digest | undefined): () => StoredImage {
    const bare = withoutAnnotations(descriptor);
    const entryFor = (name: string | undefined): Descriptor => entryOf(bare, name, indexDigest);
    this.touch(bare.digest);
    const manifests = this.changeIndex((manifests) => {
      const others = manifests.flatMap((each) => {
        const name = each.annotations?.[refName];
        if (name === undefined || !names.includes(name) || !samePlatform(each.platform, bare.platform)) return [each];
        const orphan =
          each.digest !== bare.digest && !manifests.some((one) => one !== each && one.digest === each.digest);
        return orphan ? [withoutName(each)] : [];
      });
      if (names.length > 0) {
        const named = others.filter((each) => each.digest !== bare.digest || each.annotations?.[refName] !== undefined);
        return [...named, ...names.map(entryFor)];
      }
      return others.some((each) => each.digest === bare.digest) ? others : [...others, entryFor(undefined)];
    });
    return () => this.#image(leading(manifests, bare.digest, ({ annotations }) => annotations?.[refName] === names[0]));
  }

  #image(entries: readonly Descriptor[]): StoredImage {
    const [descriptor] = entries as [Descriptor];
    const manifest = decodeManifest(this.readBlob(descriptor.digest, mostManifest), descriptor.mediaType, {
      trusted: true,
    });
    const config = decodeImageConfig(this.readBlob(manifest.config.digest, mostManifest), {
      trusted: true,
      layers: manifest.layers.length,
    });
    const chains = chainIds(config.rootfs.diff_ids);
    return {
      names: entries.flatMap((each) => each.annotations?.[refName] ?? []),
      manifestDescriptor: descriptor,
      manifest,
      config,
      configDigest: manifest.config.digest,
      layers: manifest.layers.map((layer, at) => ({
        descriptor: layer,
        diffId: config.rootfs.diff_ids[at] as DiffId,
        chainId: chains[at] as ChainId,
      })),
      indexDigest: indexOf(descriptor),
      indexes: new Map(
        entries.flatMap((each) => {
          const [name, index] = [each.annotations?.[refName], indexOf(each)];
          return name === undefined || index === undefined ? [] : [[name, index] as const];
        }),
      ),
    };
  }

  /** Indexes that images were chosen from, those of every name. */
  indexDigests(): Set<Digest> {
    return new Set(this.entries().flatMap((each) => indexOf(each) ?? []));
  }

  /**
   * Makes a name stand for the images of an index, and for nothing else: what had it stays as an image without a name.
   * @param descriptors with their platforms
   * @param isStill whether what has the name now is what the caller goes by: nothing is changed where it is not
   * @returns whether the name stands for it now
   */
  nameIndex(
    name: string,
    descriptors: readonly Descriptor[],
    index: Digest,
    isStill: (named: readonly Descriptor[]) => boolean,
  ): boolean {
    const digests = new Set(descriptors.map((each) => each.digest));
    let isNamed = false;
    this.changeIndex((manifests) => {
      isNamed = isStill(manifests.filter((each) => each.annotations?.[refName] === name));
      if (!isNamed) return manifests;
      const others = manifests.flatMap((each) => {
        const own = each.annotations?.[refName];
        if (own === undefined) return digests.has(each.digest) ? [] : [each];
        if (own !== name) return [each];
        const elsewhere = manifests.some((one) => one !== each && one.digest === each.digest);
        return elsewhere || digests.has(each.digest) ? [] : [withoutName(each)];
      });
      return [...others, ...descriptors.map((each) => entryOf(each, name, index))];
    });
    return isNamed;
  }

  /**
   * An image by its canonical name, a digest (of its manifest, index or configuration), or the first digits of its id.
   * Without a platform: this machine's, or the only one there is.
   */
  find(word: string, platform?: Platform): StoredImage | undefined {
    return this.lookUp(word, platform)?.load();
  }

  /** The images that a word means: those of every platform, of a name or of an index; else one or none. */
  findAll(word: string): StoredImage[] {
    const entries = this.entries();
    const isMeant = (each: Descriptor): boolean => [each.annotations?.[refName], indexOf(each)].includes(word);
    const digests = [...new Set(entries.filter(isMeant).map((each) => each.digest))];
    if (digests.length > 0) return digests.map((digest) => this.#image(leading(entries, digest, isMeant)));
    const image = this.find(word);
    return image === undefined ? [] : [image];
  }

  /** The same without a look at anything but the index: `load` decodes the image. */
  lookUp(word: string, platform?: Platform): ImageChoice | undefined {
    const manifests = this.entries();
    const named = manifests.filter((each) => each.annotations?.[refName] === word);
    if (named.length > 0) return this.#choose(named, manifests, platform);
    const digest = isDigest(word) ? word : word.slice(word.indexOf("@") + 1);
    if (isDigest(digest)) {
      const at = manifests.filter((each) => each.digest === digest || each.annotations?.[indexAnnotation] === digest);
      if (at.length > 0 && (isDigest(word) || at.some((each) => sameRepository(each.annotations?.[refName], word))))
        return this.#choose(at, manifests, platform);
    }
    if (!isDigest(word) && !/^[0-9a-f]{6,64}$/.test(word)) return undefined;
    const image = this.#byId(word);
    return image === undefined ? undefined : { digest: image.manifestDescriptor.digest, load: () => image };
  }

  /**
   * The index's entries, one a manifest and name, those of additional stores behind our own. Other tools may have put a
   * multi-platform index there: it stands for those of its manifests that are in the store.
   */
  entries(): readonly Descriptor[] {
    let { manifests } = this.readIndex();
    if (manifests.some((each) => isIndexType(each.mediaType)))
      manifests = manifests.flatMap((each) => (isIndexType(each.mediaType) ? this.#within(each) : [each]));
    if (this.additional.length === 0) return manifests;
    const names = new Set(manifests.map((each) => each.annotations?.[refName]));
    const others = this.additional.flatMap((each) => each.entries());
    // A name of our own hides the same name elsewhere.
    return [...manifests, ...others.filter((each) => !names.has(each.annotations?.[refName] ?? each.digest))];
  }

  #within(entry: Descriptor): Descriptor[] {
    const bytes = readFile(this.blobPath(entry.digest), mostManifest);
    if (bytes === undefined) return [];
    const annotations = { ...entry.annotations, [indexAnnotation]: entry.digest };
    return decodeIndex(bytes, entry.mediaType)
      .manifests.filter((each) => !isIndexType(each.mediaType) && this.hasBlob(each.digest, each.size))
      .map((each) => ({ ...each, annotations }));
  }

  #choose(
    candidates: readonly Descriptor[],
    all: readonly Descriptor[],
    platform: Platform | undefined,
  ): ImageChoice | undefined {
    const wanted = platform ?? hostPlatform();
    const match =
      candidates.find((each) => each.platform === undefined || platformMatches(each.platform, wanted)) ??
      (platform === undefined && candidates.length === 1 ? candidates[0] : undefined);
    if (match === undefined) return undefined;
    let image: StoredImage | undefined;
    const load = (): StoredImage => {
      image ??= this.#image([match, ...all.filter((each) => each !== match && each.digest === match.digest)]);
      return image;
    };
    return { digest: match.digest, load };
  }

  #byId(word: string): StoredImage | undefined {
    const hex = word.startsWith("sha256:") ? word.slice(7) : word;
    const found = this.list().filter((image) => hexOf(image.configDigest).startsWith(hex));
    if (found.length > 1)
      throw new OciboxError("INVALID", `${found.length} images have an id that begins with "${word}"`);
    return found[0];
  }

  /** Every image there is that can be read. */
  list(): readonly StoredImage[] {
    return this.inventory().images;
  }

  /** Every image there is, and what of the index leads nowhere. */
  inventory(): Inventory {
    const groups = new Map<Digest, Descriptor[]>();
    for (const each of this.entries()) groups.set(each.digest, [...(groups.get(each.digest) ?? []), each]);
    const images: StoredImage[] = [];
    const damaged: Inventory["damaged"][number][] = [];
    for (const group of groups.values()) {
      try {
        images.push(this.#image(group));
      } catch (error) {
        const [entry] = group as [Descriptor];
        // Somebody may have removed it since the index was read.
        if (this.entries().some((each) => each.digest === entry.digest)) damaged.push({ entry, error });
      }
    }
    return { images, damaged };
  }
}

/** The index that an image's name came by. */
export function indexOf(entry: Descriptor): Digest | undefined {
  return entry.annotations?.[indexAnnotation] as Digest | undefined;
}

/** The entries of one manifest, those that are meant first. */
function leading(
  entries: readonly Descriptor[],
  digest: Digest,
  isMeant: (entry: Descriptor) => boolean,
): Descriptor[] {
  const own = entries.filter((each) => each.digest === digest);
  return [...own.filter(isMeant), ...own.filter((each) => !isMeant(each))];
}

function withoutAnnotations({ annotations: _, ...bare }: Descriptor): Descriptor {
  return bare;
}

function entryOf(descriptor: Descriptor, name: string | undefined, index: Digest | undefined): Descriptor {
  const annotations = {
    ...(name === undefined ? {} : { [refName]: name }),
    ...(index === undefined ? {} : { [indexAnnotation]: index }),
  };
  const bare = withoutAnnotations(descriptor);
  return Object.keys(annotations).length === 0 ? bare : { ...bare, annotations };
}

function withoutName(entry: Descriptor): Descriptor {
  const { annotations, ...bare } = entry;
  const { [refName]: _, ...others } = annotations ?? {};
  return Object.keys(others).length === 0 ? bare : { ...bare, annotations: others };
}

function sameRepository(name: string | undefined, word: string): boolean {
  if (name === undefined) return false;
  const bare = name.includes("@") ? name.slice(0, name.indexOf("@")) : name.slice(0, name.lastIndexOf(":"));
  const asked = word.slice(0, word.indexOf("@"));
  return bare === asked || asked.startsWith(`${bare}:`) || name === asked;
}

/** A store below a root directory; nothing is made until something is put in it. */
export function openStore(root: string, options: StoreOptions = {}): Store {
  return new Store(root, options);
}
