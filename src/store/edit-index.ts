/** A multi-platform index written anew with something changed in it: image-spec, image-index.md. */
import { OciboxError } from "../errors.ts";
import type { Digest } from "../spec/digest.ts";
import type { Descriptor, Platform } from "../spec/image.ts";
import { decodeIndex, manifestLimit } from "../spec/image-decode.ts";
import { isManifestType } from "../spec/media-types.ts";
import { samePlatform } from "../spec/platform.ts";
import { entriesOf, type Part } from "./make-index.ts";
import { indexOf, type Store } from "./store.ts";

/** Whatever else is in it stays as it is. */
interface Entry {
  digest: Digest;
  platform?: object;
  annotations?: Record<string, string>;
}

interface Document {
  manifests: Entry[];
  annotations?: Record<string, string>;
}

export interface Annotations {
  /** Fields of the platform: "os.version" and the like. */
  readonly platform: Readonly<Record<string, string | readonly string[]>>;
  readonly annotations: Readonly<Record<string, string>>;
}

/**
 * Writes the index that a name stands for anew, and makes the name stand for that. The store's lock is the caller's.
 * @param name canonical
 * @param word for errors: the name as it was given
 * @throws OciboxError NOT_FOUND, INVALID where the name stands for no index
 */
function edit(store: Store, name: string, word: string, change: (document: Document) => void): Digest {
  const [image] = store.findAll(name);
  if (image === undefined)
    throw new OciboxError("NOT_FOUND", `there is no image "${word}" in the store`, {
      hint: `make it with: ocibox manifest create ${word} IMAGE…`,
    });
  const before = image.indexes.get(name);
  if (before === undefined)
    throw new OciboxError("INVALID", `"${word}" is no multi-platform image`, {
      hint: "make one of it with: ocibox manifest create NAME IMAGE…",
    });
  const document = JSON.parse(new TextDecoder().decode(store.readBlob(before, manifestLimit))) as Document;
  change(document);
  const bytes = new TextEncoder().encode(JSON.stringify(document));
  // What is written is what could be pulled.
  const { manifests } = decodeIndex(bytes, "", { what: `the index of "${word}"` });
  const digest = store.putBlob(bytes);
  const known = new Set(store.entries().map((each) => each.digest));
  const there = manifests.filter(
    (each): each is Descriptor => isManifestType(each.mediaType) && known.has(each.digest),
  );
  // Somebody else may have changed it meanwhile: what they wrote is changed then.
  const isStill = (named: readonly Descriptor[]): boolean => named.some((each) => indexOf(each) === before);
  return store.nameIndex(name, there, digest, isStill) ? digest : edit(store, name, word, change);
}

function ofImages(store: Store, manifests: readonly Entry[], meant: string): Entry[] {
  const images = new Set(store.findAll(meant).map((each) => each.manifestDescriptor.digest));
  return manifests.filter((each) => images.has(each.digest));
}

/** The entry of an index that a word means: a digest, or an image of the store by any of its names. */
function entryOf(store: Store, { manifests }: Document, meant: string, word: string, list: string): Entry {
  // What an index lists beside images is in no store by a name.
  const listed = manifests.filter((each) => each.digest === meant);
  const found = listed.length > 0 ? listed : ofImages(store, manifests, meant);
  const [entry] = found;
  if (entry === undefined)
    throw new OciboxError("NOT_FOUND", `"${list}" does not list "${word}"`, {
      hint: `see: ocibox manifest inspect ${list}`,
    });
  if (found.length > 1)
    throw new OciboxError("INVALID", `"${word}" is ${found.length} of the images that "${list}" lists`, {
      hint: "name one by its digest",
    });
  return entry;
}

/** Says something of an image that an index lists. @param meant as Store.findAll has it @returns the new digest */
export function annotateEntry(
  store: Store,
  list: { readonly name: string; readonly word: string },
  image: { readonly meant: string; readonly word: string },
  { platform, annotations }: Annotations,
): Digest {
  return edit(store, list.name, list.word, (document) => {
    const entry = entryOf(store, document, image.meant, image.word, list.word);
    if (Object.keys(platform).length > 0) entry.platform = { ...entry.platform, ...platform };
    if (Object.keys(annotations).length > 0) entry.annotations = { ...entry.annotations, ...annotations };
  });
}

/** Says something of an index itself. */
export function annotateIndex(
  store: Store,
  list: { readonly name: string; readonly word: string },
  annotations: Readonly<Record<string, string>>,
): Digest {
  return edit(store, list.name, list.word, (document) => {
    document.annotations = { ...document.annotations, ...annotations };
  });
}

/** Adds images to an index. One of the same platform gives way; one that is listed already stays as it is. */
export function addEntries(
  store: Store,
  list: { readonly name: string; readonly word: string },
  parts: readonly Part[],
): Digest {
  const entries = entriesOf(parts);
  return edit(store, list.name, list.word, (document) => {
    const listed = new Set(document.manifests.map((each) => each.digest));
    const added = entries.filter((each) => !listed.has(each.digest));
    const givesWay = ({ platform }: Entry): boolean =>
      platform !== undefined && added.some((each) => samePlatform(each.platform, platform as Platform));
    document.manifests = [...document.manifests.filter((each) => !givesWay(each)), ...added];
  });
}

/** Takes an image out of an index; it stays in the store. */
export function removeEntry(
  store: Store,
  list: { readonly name: string; readonly word: string },
  image: { readonly meant: string; readonly word: string },
): Digest {
  return edit(store, list.name, list.word, (document) => {
    const entry = entryOf(store, document, image.meant, image.word, list.word);
    document.manifests = document.manifests.filter((each) => each !== entry);
    if (document.manifests.length === 0)
      throw new OciboxError("INVALID", `"${image.word}" is all that "${list.word}" lists`, {
        hint: `remove the whole of it with: ocibox rmi ${list.word}`,
      });
  });
}
