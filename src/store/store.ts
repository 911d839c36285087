/**
 * The images on disk. ROOT/image is an OCI image layout (image-spec, image-layout.md), which other tools read in place;
 * unpacked layers lie beside it in ROOT/layers, by ChainID. index.json has one entry a name and platform: the
 * descriptor of the platform's manifest.
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import type { OwnedFd } from "../../ffi/fd.ts";
import { OwnedFd as Fd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn, readText } from "../../ffi/files.ts";
import { lockFile } from "../../ffi/lock.ts";
import { OciboxError } from "../errors.ts";
import { removeTree } from "../layer/remove-tree.ts";
import { type ChainId, chainIds, type DiffId, type Digest, hexOf, isDigest, sha256 } from "../spec/digest.ts";
import type { Descriptor, ImageConfig, Manifest, Platform } from "../spec/image.ts";
import { decodeImageConfig, decodeManifest } from "../spec/image-decode.ts";
import { hostPlatform, platformMatches } from "../spec/platform.ts";
import { exists, hasFile, openForWriting, readFile, renameDurably, replaceFile, writeAll } from "./disk.ts";

/** image-spec, annotations.md: the name an entry of index.json goes by. */
const refName = "org.opencontainers.image.ref.name";
/** Ours: the multi-platform index that a manifest was chosen from. */
const indexAnnotation = "dev.ocibox.index.digest";

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
  readonly indexDigest: Digest | undefined;
}

/** An image that the index knows, not decoded yet. */
export interface ImageChoice {
  /** Of its manifest. */
  readonly digest: Digest;
  load(): StoredImage;
}

interface LayoutIndex {
  schemaVersion: 2;
  mediaType?: string;
  manifests: Descriptor[];
}

/** What keeps a store's things from being collected. */
interface InUse {
  readonly manifestDigest?: Digest;
  readonly layers?: readonly ChainId[];
}

export class Store {
  readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  blobPath(digest: Digest): string {
    return `${this.root}/image/blobs/sha256/${hexOf(digest)}`;
  }

  /** Where an unpacked layer is: a directory whose parent only root may enter. */
  layerPath(chainId: ChainId): string {
    return `${this.root}/layers/${hexOf(chainId)}`;
  }

  /** A name for something unfinished; `pull` takes a directory of its own below it. */
  get temporary(): string {
    return `${this.root}/tmp`;
  }

  /** Makes the layout where there is none. */
  prepare(): void {
    if (exists(`${this.root}/image/index.json`)) return;
    for (const part of ["image/blobs/sha256", "layers", "tmp", "trash", "containers"])
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

  hasLayer(chainId: ChainId): boolean {
    return exists(this.layerPath(chainId));
  }

  /** A small blob. Its digest was verified when it was stored, and is not again. */
  readBlob(digest: Digest, most: number): Uint8Array<ArrayBuffer> {
    const bytes = readFile(this.blobPath(digest), most);
    if (bytes !== undefined) return bytes;
    throw new OciboxError("STORE", `the store has lost the blob ${digest}`, { hint: "pull the image again" });
  }

  /** Stores a small blob that is in memory. */
  putBlob(bytes: Uint8Array): Digest {
    const digest = sha256(bytes);
    if (this.hasBlob(digest, bytes.byteLength)) return digest;
    const temporary = this.temporaryName();
    {
      using file = openForWriting(temporary);
      writeAll(file.fd, bytes);
      direct.fsync(file.fd);
    }
    renameDurably(temporary, this.blobPath(digest));
    return digest;
  }

  /** A lock on the whole store: shared while things are added or begin to be used, exclusive while they are removed. */
  async lockAll(mode: "shared" | "exclusive", wait: number): Promise<OwnedFd | undefined> {
    const until = performance.now() + wait;
    for (;;) {
      const lock = lockFile(`${this.root}/lock`, mode);
      if (lock !== undefined || performance.now() > until) return lock;
      await Bun.sleep(20);
    }
  }

  /** The same without a wait in between, for the hot path: shared locks stand in nobody's way but a collector's. */
  lockShared(): OwnedFd {
    if (attempt("faccessat2", AT_FDCWD, this.root, 0, 0) < 0) this.prepare();
    return this.#lock("lock", "shared");
  }

  #lock(name: string, mode: "shared" | "exclusive"): OwnedFd {
    const start = performance.now();
    for (;;) {
      const lock = lockFile(`${this.root}/${name}`, mode);
      if (lock !== undefined) return lock;
      if (performance.now() - start > 30_000)
        throw new OciboxError("STORE", `another ocibox has held the lock "${this.root}/${name}" for 30 seconds`);
      Bun.sleepSync(5);
    }
  }

  #readIndex(): LayoutIndex {
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

  #changeIndex(change: (manifests: Descriptor[]) => Descriptor[]): void {
    using lock = this.#lock("index.lock", "exclusive");
    void lock;
    const index = this.#readIndex();
    this.#writeIndex({ ...index, manifests: change(index.manifests) });
  }

  /** Gives a manifest a name; whatever had the name for this platform loses it. */
  tag(name: string, descriptor: Descriptor, indexDigest: Digest | undefined): void {
    const annotations = { [refName]: name, ...(indexDigest === undefined ? {} : { [indexAnnotation]: indexDigest }) };
    const entry: Descriptor = { ...descriptor, annotations };
    this.#changeIndex((manifests) => [
      ...manifests.filter(
        (each) => each.annotations?.[refName] !== name || !samePlatform(each.platform, entry.platform),
      ),
      entry,
    ]);
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
      indexDigest: descriptor.annotations?.[indexAnnotation] as Digest | undefined,
    };
  }

  /**
   * An image by its canonical name, a digest (of its manifest, index or configuration), or the first digits of its id.
   * Without a platform: this machine's, or the only one there is.
   */
  find(word: string, platform?: Platform): StoredImage | undefined {
    return this.lookUp(word, platform)?.load();
  }

  /** The same without a look at anything but the index: `load` decodes the image. */
  lookUp(word: string, platform?: Platform): ImageChoice | undefined {
    const { manifests } = this.#readIndex();
    const named = manifests.filter((each) => each.annotations?.[refName] === word);
    if (named.length > 0) return this.#choose(named, manifests, platform);
    const digest = isDigest(word) ? word : word.slice(word.indexOf("@") + 1);
    if (isDigest(digest)) {
      const at = manifests.filter((each) => each.digest === digest || each.annotations?.[indexAnnotation] === digest);
      if (at.length > 0 && (isDigest(word) || at.some((each) => sameRepository(each.annotations?.[refName], word))))
        return this.#choose(at, manifests, platform);
    }
    if (!isDigest(word) && !/^[0-9a-f]{6,64}$/.test(word)) return undefined;
    const image = this.#byId(word, manifests);
    return image === undefined ? undefined : { digest: image.manifestDescriptor.digest, load: () => image };
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

  #byId(word: string, manifests: readonly Descriptor[]): StoredImage | undefined {
    const hex = word.startsWith("sha256:") ? word.slice(7) : word;
    const found = this.#grouped(manifests).filter((image) => hexOf(image.configDigest).startsWith(hex));
    if (found.length > 1)
      throw new OciboxError("INVALID", `${found.length} images have an id that begins with "${word}"`);
    return found[0];
  }

  #grouped(manifests: readonly Descriptor[]): StoredImage[] {
    const groups = new Map<Digest, Descriptor[]>();
    for (const each of manifests) groups.set(each.digest, [...(groups.get(each.digest) ?? []), each]);
    return [...groups.values()].map((entries) => this.#image(entries));
  }

  /** Every image there is. */
  list(): StoredImage[] {
    return this.#grouped(this.#readIndex().manifests);
  }

  #containersUsing(): (InUse & { id: string })[] {
    const found: (InUse & { id: string })[] = [];
    for (const id of namesIn(`${this.root}/containers`)) {
      const text = readText(`${this.root}/containers/${id}/container.json`);
      if (text === undefined) continue;
      try {
        found.push({ ...(JSON.parse(text) as InUse), id });
      } catch {
        // a folder that a killed command has left unfinished
      }
    }
    return found;
  }

  /**
   * Takes a name from an image, and with the last name the image; then what nothing needs any more.
   * @returns lines to print, as docker's: "Untagged: …", "Deleted: …"
   * @throws OciboxError NOT_FOUND; IN_USE where a container was made of it
   */
  async remove(word: string, options: { readonly force: boolean }): Promise<string[]> {
    const image = this.find(word);
    if (image === undefined)
      throw new OciboxError("NOT_FOUND", `there is no image "${word}"`, { hint: "see: ocibox images" });
    const { digest } = image.manifestDescriptor;
    const byName = image.names.includes(word) && image.names.length > 1;
    const user = this.#containersUsing().find((each) => each.manifestDigest === digest);
    if (!byName && user !== undefined && !options.force)
      throw new OciboxError("IN_USE", `the image "${word}" is used by the container ${user.id.slice(0, 12)}`, {
        hint: `remove that first, with: ocibox rm ${user.id.slice(0, 12)}`,
      });
    const names = byName ? [word] : image.names;
    this.#changeIndex((manifests) =>
      manifests.filter((each) => each.digest !== digest || (byName && each.annotations?.[refName] !== word)),
    );
    const lines = names.map((name) => `Untagged: ${name}`);
    if (!byName) lines.push(`Deleted: ${image.configDigest}`);
    await this.collect();
    return lines;
  }

  /**
   * Removes blobs and layers that no name and no container needs. Where something is just being pulled or started it is
   * left to another time.
   */
  async collect(): Promise<void> {
    using lock = await this.lockAll("exclusive", 5_000);
    if (lock === undefined) return;
    const blobs = new Set<string>();
    const layers = new Set<string>();
    const keep = (image: StoredImage): void => {
      blobs.add(hexOf(image.manifestDescriptor.digest));
      blobs.add(hexOf(image.configDigest));
      if (image.indexDigest !== undefined) blobs.add(hexOf(image.indexDigest));
      for (const layer of image.layers) {
        blobs.add(hexOf(layer.descriptor.digest));
        layers.add(hexOf(layer.chainId));
      }
    };
    for (const image of this.list()) keep(image);
    for (const user of this.#containersUsing()) for (const chainId of user.layers ?? []) layers.add(hexOf(chainId));
    this.#discard("image/blobs/sha256", blobs);
    this.#discard("layers", layers);
    // Plans of images that may be gone: they are compiled again.
    this.#discard("plans", new Set());
    this.emptyTrash();
  }

  /** Into the trash by a rename, so that no half of it is ever found where it was. */
  #discard(directory: string, keep: ReadonlySet<string>): void {
    for (const name of namesIn(`${this.root}/${directory}`)) {
      if (keep.has(name)) continue;
      const trash = `${this.root}/trash/${crypto.getRandomValues(new Uint8Array(12)).toHex()}`;
      attempt("renameat2", AT_FDCWD, `${this.root}/${directory}/${name}`, AT_FDCWD, trash, 0);
    }
  }

  /** Anybody may, at any time. */
  emptyTrash(): void {
    const fd = attempt("openat", AT_FDCWD, `${this.root}/trash`, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
    if (fd < 0) return;
    using trash = new Fd(fd);
    for (const name of namesIn(`${this.root}/trash`)) removeTree(trash.fd, name);
  }
}

function samePlatform(a: Platform | undefined, b: Platform | undefined): boolean {
  return a?.os === b?.os && a?.architecture === b?.architecture && (a?.variant ?? "") === (b?.variant ?? "");
}

function sameRepository(name: string | undefined, word: string): boolean {
  if (name === undefined) return false;
  const bare = name.includes("@") ? name.slice(0, name.indexOf("@")) : name.slice(0, name.lastIndexOf(":"));
  const asked = word.slice(0, word.indexOf("@"));
  return bare === asked || asked.startsWith(`${bare}:`) || name === asked;
}

/** A store below a root directory; nothing is made until something is put in it. */
export function openStore(root: string): Store {
  return new Store(root);
}
