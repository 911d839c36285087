/**
 * Images out of the store into files: an OCI layout with docker's manifest.json beside it, which every tool reads and
 * which keeps every digest; as a tar or a directory. Blobs are hashed once more on their way out.
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";
import { removeTree } from "../layer/remove-tree.ts";
import { plainEntry, tarEnd, tarHeader, tarPadding } from "../layer/tar-write.ts";
import { type Digest, hexOf } from "../spec/digest.ts";
import type { Descriptor } from "../spec/image.ts";
import { decodeIndex } from "../spec/image-decode.ts";
import { type Companion, companionOf } from "./companions.ts";
import { beside, intoFile, streamFile, syncDirectory, writeAll } from "./disk.ts";
import { containerdName } from "./sources/formats.ts";
import { refName, type Store, type StoredImage } from "./store.ts";

export type SaveFormat = "docker-archive" | "oci-archive" | "oci-dir" | "docker-dir";

export interface SaveItem {
  readonly image: StoredImage;
  /** Canonical; none where the image was named by its digest or id. */
  readonly name: string | undefined;
  /** Without the others of its multi-platform index, where they are in the store too. */
  readonly alone: boolean;
}

/** A file of the result: small contents, or a blob of the store's. */
interface Member {
  readonly path: string;
  readonly content: Uint8Array | { readonly digest: Digest; readonly size: number };
}

const mostIndex = 4 << 20;

/** An index with all that it lists. */
interface WholeIndex {
  readonly descriptor: Descriptor;
  readonly images: readonly StoredImage[];
  readonly companions: readonly Companion[];
}

/** The index that an image was chosen from, where all that it lists is in the store. */
export function wholeIndex(store: Store, image: StoredImage): WholeIndex | undefined {
  const { indexDigest } = image;
  if (indexDigest === undefined) return undefined;
  const bytes = store.readBlob(indexDigest, mostIndex);
  const { mediaType, manifests } = decodeIndex(bytes, "", { trusted: true });
  const images: StoredImage[] = [];
  const companions: Companion[] = [];
  const there = store.list();
  for (const entry of manifests) {
    const found = there.find((each) => each.manifestDescriptor.digest === entry.digest);
    const companion = found === undefined ? companionOf(store, entry) : undefined;
    if (found !== undefined) images.push(found);
    else if (companion?.whole === true) companions.push(companion);
    // A platform that is not here: what is saved must be whole.
    else return undefined;
  }
  return { descriptor: { mediaType, digest: indexDigest, size: bytes.byteLength }, images, companions };
}

function blobsOf(image: StoredImage): { digest: Digest; size: number }[] {
  const { digest, size } = image.manifestDescriptor;
  return [{ digest, size }, image.manifest.config, ...image.layers.map((layer) => layer.descriptor)];
}

function json(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

function layoutMembers(store: Store, items: readonly SaveItem[], docker: boolean): Member[] {
  const blobs = new Map<Digest, number>();
  const manifests: Descriptor[] = [];
  const forDocker = new Map<Digest, { Config: string; RepoTags: string[]; Layers: string[] }>();
  const path = (digest: Digest): string => `blobs/sha256/${hexOf(digest)}`;
  for (const { image, name, alone } of items) {
    const whole = alone ? undefined : wholeIndex(store, image);
    const { annotations: _, ...own } = image.manifestDescriptor;
    const annotations = name === undefined ? {} : { annotations: { [refName]: name, [containerdName]: name } };
    manifests.push({ ...(whole?.descriptor ?? own), ...annotations });
    if (whole !== undefined) blobs.set(whole.descriptor.digest, whole.descriptor.size);
    for (const { manifest, blobs: own } of whole?.companions ?? [])
      for (const { digest, size } of [manifest, ...own]) blobs.set(digest, size);
    for (const each of whole?.images ?? [image]) for (const { digest, size } of blobsOf(each)) blobs.set(digest, size);
    const entry = forDocker.get(image.configDigest) ?? {
      Config: path(image.configDigest),
      RepoTags: [],
      Layers: image.layers.map((layer) => path(layer.descriptor.digest)),
    };
    // In full: what "alpine" is, podman would ask its own configuration.
    if (name !== undefined && !name.includes("@")) entry.RepoTags.push(name);
    forDocker.set(image.configDigest, entry);
  }
  return [
    { path: "oci-layout", content: json({ imageLayoutVersion: "1.0.0" }) },
    {
      path: "index.json",
      content: json({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests }),
    },
    ...(docker ? [{ path: "manifest.json", content: json([...forDocker.values()]) }] : []),
    ...[...blobs].map(([digest, size]) => ({ path: path(digest), content: { digest, size } })),
  ];
}

/** containers-transports(5), "dir". */
function dirMembers(store: Store, [item, ...others]: readonly SaveItem[]): Member[] {
  if (item === undefined || others.length > 0)
    throw new OciboxError("USAGE", "a directory of the form docker-dir holds one image", {
      hint: "use --format oci-dir",
    });
  const { image } = item;
  const [manifest, ...blobs] = blobsOf(image);
  return [
    { path: "version", content: new TextEncoder().encode("Directory Transport Version: 1.1\n") },
    { path: "manifest.json", content: store.readBlob((manifest as { digest: Digest }).digest, mostIndex) },
    ...blobs.map((blob) => ({ path: hexOf(blob.digest), content: blob })),
  ];
}

/** A blob's bytes, believed only at their end. @throws OciboxError STORE for a damaged one */
async function* verified(store: Store, digest: Digest, size: number): AsyncGenerator<Uint8Array> {
  const hasher = new Bun.CryptoHasher("sha256");
  let total = 0;
  for await (const piece of streamFile(store.blobPath(digest))) {
    hasher.update(piece);
    total += piece.byteLength;
    if (total > size) break;
    yield piece;
  }
  if (total !== size || `sha256:${hasher.digest("hex")}` !== digest)
    throw new OciboxError("STORE", `the store's blob ${digest} is damaged`, { hint: "mend it with: ocibox repair" });
}

function checkBlobs(store: Store, members: readonly Member[]): void {
  for (const { content } of members)
    if (!(content instanceof Uint8Array) && !store.hasBlob(content.digest, content.size))
      throw new OciboxError("STORE", `the store has lost the blob ${content.digest}`, {
        hint: "mend it with: ocibox repair",
      });
}

/**
 * Writes an archive to a descriptor.
 * @throws OciboxError STORE for a damaged blob, before its last bytes are written
 */
async function writeArchive(store: Store, members: readonly Member[], fd: number): Promise<void> {
  for (const folder of members.some((each) => each.path.startsWith("blobs/")) ? ["blobs/", "blobs/sha256/"] : [])
    writeAll(fd, tarHeader(plainEntry("directory", folder, 0, 0o755)));
  for (const { path, content } of members) {
    const small = content instanceof Uint8Array;
    const size = small ? content.byteLength : content.size;
    writeAll(fd, tarHeader(plainEntry("file", path, size)));
    if (small) writeAll(fd, content);
    else for await (const piece of verified(store, content.digest, content.size)) writeAll(fd, piece);
    writeAll(fd, tarPadding(size));
  }
  writeAll(fd, tarEnd());
}

async function writeDirectory(store: Store, members: readonly Member[], directory: string): Promise<void> {
  makeDirectories(directory);
  direct.fchmodat(AT_FDCWD, directory, 0o755);
  const folders = new Set([directory]);
  for (const { path, content } of members) {
    const full = `${directory}/${path}`;
    for (let cut = path.indexOf("/"); cut >= 0; cut = path.indexOf("/", cut + 1)) {
      const folder = `${directory}/${path.slice(0, cut)}`;
      if (folders.has(folder)) continue;
      direct.mkdirat(AT_FDCWD, folder, 0o755);
      folders.add(folder);
    }
    const flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
    using file = new OwnedFd(direct.openat(AT_FDCWD, full, flags, 0o644));
    if (content instanceof Uint8Array) writeAll(file.fd, content);
    else for await (const piece of verified(store, content.digest, content.size)) writeAll(file.fd, piece);
    direct.fsync(file.fd);
  }
  for (const folder of folders) syncDirectory(folder);
}

/**
 * Saves images.
 * @param output absolute; undefined: an archive to stdout
 * @throws OciboxError; a file or directory that was there is as it was then
 */
export async function saveImages(
  store: Store,
  items: readonly SaveItem[],
  format: SaveFormat,
  output: string | undefined,
): Promise<void> {
  using lock = store.lockShared();
  void lock;
  const members =
    format === "docker-dir" ? dirMembers(store, items) : layoutMembers(store, items, format === "docker-archive");
  checkBlobs(store, members);
  if (format === "oci-dir" || format === "docker-dir") {
    if (output === undefined) throw new OciboxError("USAGE", `--format ${format} wants a directory: name one with -o`);
    return saveDirectory(store, members, output);
  }
  if (output === undefined) return writeArchive(store, members, 1);
  await intoFile(output, (fd) => writeArchive(store, members, fd));
}

async function saveDirectory(store: Store, members: readonly Member[], output: string): Promise<void> {
  if (namesIn(output).length > 0)
    throw new OciboxError("USAGE", `cannot save to "${output}": the directory is not empty`);
  const { parent, temporary } = beside(output);
  using undo = new DisposableStack();
  undo.defer(() => {
    using above = new OwnedFd(direct.openat(AT_FDCWD, parent, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
    removeTree(above.fd, temporary);
  });
  await writeDirectory(store, members, `${parent}/${temporary}`);
  // Over an empty directory too; rename(2).
  direct.renameat2(AT_FDCWD, `${parent}/${temporary}`, AT_FDCWD, output, 0);
  syncDirectory(parent);
}
