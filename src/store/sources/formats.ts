/** The forms images in files have: OCI layouts, archives of docker save, skopeo's directories. */
import { OciboxError } from "../../errors.ts";
import { canonical, parseReference } from "../../reference/reference.ts";
import { isTable } from "../../registry/files.ts";
import { type Digest, hexOf, sha256 } from "../../spec/digest.ts";
import type { Descriptor } from "../../spec/image.ts";
import { decodeImageConfig, decodeIndex, decodeManifestOrIndex, manifestLimit } from "../../spec/image-decode.ts";
import { ociConfig, ociIndex, ociManifest } from "../../spec/media-types.ts";
import { parseStrictJson } from "../../spec/strict-json.ts";
import { refName } from "../store.ts";
import type { SourceFiles } from "./files.ts";
import type { BlobPlace, LocalImage, LocalSource } from "./local.ts";
import { layerType, packingOf } from "./spool.ts";

export type Form = "oci" | "docker-archive" | "dir";

/** containerd's and docker's: the name in full, where the OCI annotation has the tag alone. */
export const containerdName = "io.containerd.image.name";

function nameOf(text: string | undefined): string[] {
  // A tag alone names no image.
  if (text === undefined || !/[/:@]/.test(text)) return [];
  try {
    return [canonical(parseReference(text))];
  } catch {
    return [];
  }
}

function read(files: SourceFiles, name: string): Uint8Array {
  const bytes = files.read(name, manifestLimit);
  if (bytes === undefined) throw new OciboxError("INVALID", `"${files.path}" is no image: it has no "${name}"`);
  return bytes;
}

function placeOf(files: SourceFiles, nameFor: (digest: Digest) => string): BlobPlace {
  return {
    read: (digest, most) => files.read(nameFor(digest), most),
    stream: (digest) => files.stream(nameFor(digest)),
  };
}

/** image-spec, image-layout.md. */
function layout(files: SourceFiles, name: string): LocalSource {
  const what = `the index.json of "${name}"`;
  const index = decodeIndex(read(files, "index.json"), ociIndex, { what });
  const images = index.manifests.map((descriptor): LocalImage => {
    const { annotations } = descriptor;
    const label = annotations?.[refName];
    const full = nameOf(annotations?.[containerdName]);
    return { names: full.length > 0 ? full : nameOf(label), label: label ?? full[0], descriptor };
  });
  const place = placeOf(files, (digest) => `blobs/sha256/${hexOf(digest)}`);
  return { name, images, place, [Symbol.dispose]: () => files[Symbol.dispose]() };
}

function strings(value: unknown): string[] | undefined {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) return undefined;
  return value.every((each) => typeof each === "string") ? value : undefined;
}

async function digestOf(stream: AsyncIterable<Uint8Array>): Promise<Digest> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const piece of stream) hasher.update(piece);
  return `sha256:${hasher.digest("hex")}` as Digest;
}

/**
 * docker save's own form: manifest.json lists configurations and layers by their names in the archive, and there is no
 * manifest. One is made; the image's id, which is the configuration's digest, stays.
 */
async function dockerArchive(files: SourceFiles, name: string): Promise<LocalSource> {
  const refuse = (why: string): never => {
    throw new OciboxError("INVALID", `the manifest.json of "${name}" cannot be used: ${why}`);
  };
  let list: unknown;
  try {
    list = parseStrictJson(new TextDecoder().decode(read(files, "manifest.json")));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    refuse(error.message);
  }
  if (!Array.isArray(list) || list.length > 10_000) refuse("it is not a list of images");
  const members = new Map<Digest, string>();
  const made = new Map<Digest, Uint8Array>();
  const images: LocalImage[] = [];
  for (const item of list as unknown[]) {
    const tags = isTable(item) ? strings(item.RepoTags) : undefined;
    const layers = isTable(item) ? strings(item.Layers) : undefined;
    if (!isTable(item) || typeof item.Config !== "string" || tags === undefined || layers === undefined)
      return refuse("an image has no Config, RepoTags and Layers");
    const configBytes = read(files, item.Config);
    const configDigest = sha256(configBytes);
    members.set(configDigest, item.Config);
    const config = decodeImageConfig(configBytes, {
      what: `the configuration "${item.Config}" of "${name}"`,
      layers: layers.length,
    });
    const descriptors: Descriptor[] = [];
    for (const [at, member] of layers.entries()) {
      const size = files.size(member);
      if (size === undefined) return refuse(`it names the layer "${member}", which is not there`);
      const packing = packingOf(await headOf(files.stream(member)), `the layer "${member}" of "${name}"`);
      // A plain layer is its DiffID's own bytes, which the pull will check.
      const digest = packing === "none" ? (config.rootfs.diff_ids[at] as Digest) : await digestOf(files.stream(member));
      members.set(digest, member);
      descriptors.push({ mediaType: layerType(packing), digest, size });
    }
    const manifest = new TextEncoder().encode(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: ociManifest,
        config: { mediaType: ociConfig, digest: configDigest, size: configBytes.byteLength },
        layers: descriptors,
      }),
    );
    const digest = sha256(manifest);
    made.set(digest, manifest);
    const names = tags.flatMap(nameOf);
    images.push({
      names,
      label: tags[0],
      descriptor: { mediaType: ociManifest, digest, size: manifest.byteLength },
    });
  }
  const place = placeOf(files, (digest) => members.get(digest) ?? hexOf(digest));
  const own: BlobPlace = {
    read: (digest, most) => made.get(digest) ?? place.read(digest, most),
    stream: (digest) => place.stream(digest),
  };
  return { name, images, place: own, [Symbol.dispose]: () => files[Symbol.dispose]() };
}

async function headOf(stream: AsyncGenerator<Uint8Array>): Promise<Uint8Array> {
  for await (const piece of stream) return piece.subarray(0, 8);
  return new Uint8Array(0);
}

/** skopeo's "dir": the manifest as it was, and blobs by their digits; containers-transports(5). */
function dir(files: SourceFiles, name: string): LocalSource {
  const bytes = read(files, "manifest.json");
  const digest = sha256(bytes);
  const decoded = decodeManifestOrIndex(bytes, "", { what: `the manifest.json of "${name}"` });
  const { mediaType } = decoded.kind === "manifest" ? decoded.manifest : decoded.index;
  const place = placeOf(files, (each) => {
    if (each === digest) return "manifest.json";
    const nested = `${hexOf(each)}.manifest.json`;
    return files.size(nested) === undefined ? hexOf(each) : nested;
  });
  const image = { names: [], label: undefined, descriptor: { mediaType, digest, size: bytes.byteLength } };
  return { name, images: [image], place, [Symbol.dispose]: () => files[Symbol.dispose]() };
}

function guess(files: SourceFiles): Form {
  if (files.size("index.json") !== undefined) return "oci";
  const manifest = files.read("manifest.json", manifestLimit);
  if (manifest === undefined)
    throw new OciboxError("INVALID", `"${files.path}" holds no images: it has no index.json and no manifest.json`, {
      hint: "for the tree of a root file system: ocibox import",
    });
  return new TextDecoder().decode(manifest).trimStart().startsWith("[") ? "docker-archive" : "dir";
}

/**
 * What images are in some files.
 * @param files owned from here on
 * @param form undefined: whichever it is; archives of newer dockers are OCI layouts too, which keep every digest
 * @throws OciboxError INVALID
 */
export async function openForm(files: SourceFiles, name: string, form: Form | undefined): Promise<LocalSource> {
  try {
    switch (form ?? guess(files)) {
      case "oci":
        return layout(files, name);
      case "docker-archive":
        // Newer dockers write an OCI layout with a manifest.json for the older: the layout keeps every digest.
        return files.size("index.json") === undefined ? await dockerArchive(files, name) : layout(files, name);
      case "dir":
        return dir(files, name);
    }
  } catch (error) {
    files[Symbol.dispose]();
    throw error;
  }
}
