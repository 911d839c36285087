/**
 * Decoders of image-spec 1.1 and Docker schema 2 documents. They refuse what two readers could understand in two ways
 * (image-spec GHSA-77vh-xpmg-72qh) and what has no honest size. The bytes stay with the caller: digests are over them.
 */
import { OciboxError } from "../errors.ts";
import { type DiffId, parseDigest } from "./digest.ts";
import type { ContainerDefaults, Descriptor, ImageConfig, Index, Manifest, Platform } from "./image.ts";
import {
  dockerConfig,
  isGenericType,
  isIndexType,
  isManifestType,
  isSchema1Type,
  ociConfig,
  ociIndex,
  ociManifest,
} from "./media-types.ts";
import { type Json, OddNumber, parseStrictJson } from "./strict-json.ts";

/** distribution-spec, "Pushing Manifests": what registries must take at least; here the most that is read. Bytes. */
export const manifestLimit = 4 << 20;
const indexEntryLimit = 10_000;
const layerLimit = 500;

export interface DecodeOptions {
  /** For the error: "the manifest of "alpine"". */
  readonly what?: string | undefined;
  /**
   * The bytes come from the store, under a digest whose document was decoded without this option when it was pulled:
   * equal keys and odd numbers are not looked for again.
   */
  readonly trusted?: boolean | undefined;
}

type Fields = { readonly [key: string]: Json | undefined };

function refuse(what: string, why: string): never {
  throw new OciboxError("INVALID", `${what} cannot be used: ${why}`, {
    hint: "the image is damaged or was made to mislead; get it from its maker again",
  });
}

function show(value: unknown): string {
  if (value instanceof OddNumber) return value.text.slice(0, 40);
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function read(bytes: Uint8Array, what: string, trusted: boolean | undefined): Fields {
  if (bytes.byteLength > manifestLimit) refuse(what, `it is ${bytes.byteLength} bytes long, over ${manifestLimit}`);
  let value: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = trusted === true ? JSON.parse(text) : parseStrictJson(text);
  } catch (error) {
    refuse(what, error instanceof SyntaxError ? error.message : "it is not UTF-8");
  }
  return fields(value as Json, what, "the document");
}

function isFields(value: Json | undefined): value is Fields & Json {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof OddNumber);
}

function fields(value: Json | undefined, what: string, path: string): Fields {
  return isFields(value) ? value : refuse(what, `${path} is ${show(value)}, not an object`);
}

/** Null is an empty one: Go writes that for it, as umoci does for a layout without images. */
function list(value: Json | undefined, what: string, path: string, limit: number): readonly Json[] {
  if (value === null) return [];
  if (!Array.isArray(value)) refuse(what, `${path} is ${show(value)}, not an array`);
  const items: readonly Json[] = value;
  if (items.length > limit) refuse(what, `${path} has ${items.length} entries, over ${limit}`);
  return items;
}

/** Text for the kernel or a path ends at a NUL there and not here: none is let through. */
function string(value: Json | undefined, what: string, path: string): string {
  if (typeof value !== "string") refuse(what, `${path} is ${show(value)}, not a string`);
  if (value.includes("\0")) refuse(what, `${path} has a NUL in it`);
  return value;
}

function size(value: Json | undefined, what: string, path: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0)
    refuse(what, `${path} is ${show(value)}, not a size in bytes`);
  return value;
}

function strings(value: Json | undefined, what: string, path: string): readonly string[] {
  return list(value, what, path, 100_000).map((item, index) => string(item, what, `${path}[${index}]`));
}

function stringMap(value: Json | undefined, what: string, path: string): Readonly<Record<string, string>> {
  const map: Record<string, string> = Object.create(null);
  const from = fields(value, what, path);
  for (const key of Object.keys(from)) {
    // Labels and annotations are free text, NULs included: they go nowhere but into output.
    const text = from[key];
    if (typeof text !== "string") refuse(what, `${path}[${show(key)}] is ${show(text)}, not a string`);
    map[key] = text;
  }
  return map;
}

/** A field that may be missing or null (Docker writes null for empty lists and maps). */
function given(value: Json | undefined): value is Json {
  return value !== undefined && value !== null;
}

function mediaType(value: Json | undefined, what: string, path: string): string {
  const text = string(value, what, path);
  if (!/^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}\/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$/.test(text))
    refuse(what, `${path} is ${show(text)}, not a media type`);
  return text;
}

function platform(value: Json, what: string, path: string): Platform {
  const from = fields(value, what, path);
  return {
    os: string(from.os, what, `${path}.os`),
    architecture: string(from.architecture, what, `${path}.architecture`),
    ...(given(from.variant) && from.variant !== "" ? { variant: string(from.variant, what, `${path}.variant`) } : {}),
    ...(given(from["os.version"]) ? { "os.version": string(from["os.version"], what, `${path}["os.version"]`) } : {}),
  };
}

/** image-spec, descriptor.md. */
function descriptor(value: Json | undefined, what: string, path: string): Descriptor {
  const from = fields(value, what, path);
  return {
    mediaType: mediaType(from.mediaType, what, `${path}.mediaType`),
    digest: parseDigest(from.digest, `${path} of ${what}`),
    size: size(from.size, what, `${path}.size`),
    ...(given(from.annotations) ? { annotations: stringMap(from.annotations, what, `${path}.annotations`) } : {}),
    ...(given(from.platform) ? { platform: platform(from.platform, what, `${path}.platform`) } : {}),
    ...(given(from.urls) ? { urls: strings(from.urls, what, `${path}.urls`) } : {}),
    ...(given(from.artifactType) ? { artifactType: string(from.artifactType, what, `${path}.artifactType`) } : {}),
  };
}

/** The document's own media type, which must be what it was sent as. */
function ownType(from: Fields, sentAs: string, what: string, fallback: string): string {
  if (isSchema1Type(sentAs) || from.schemaVersion === 1)
    throw new OciboxError("UNSUPPORTED", `${what} cannot be used: it is Docker's schema 1, a format given up in 2017`, {
      hint: "push the image again with a present-day tool",
    });
  if (from.schemaVersion !== 2) refuse(what, `schemaVersion is ${show(from.schemaVersion)}, not 2`);
  const stated = from.mediaType === undefined ? undefined : mediaType(from.mediaType, what, "mediaType");
  const sent = isGenericType(sentAs) ? undefined : sentAs;
  if (stated !== undefined && sent !== undefined && stated !== sent)
    refuse(what, `it says that it is ${stated}, but was sent as ${sent}`);
  return stated ?? sent ?? fallback;
}

function manifestOf(from: Fields, sentAs: string, what: string): Manifest {
  const type = ownType(from, sentAs, what, ociManifest);
  if (!isManifestType(type)) refuse(what, `${type} is not the media type of an image manifest`);
  for (const stranger of ["manifests", "fsLayers"])
    if (from[stranger] !== undefined) refuse(what, `it is a manifest with ${JSON.stringify(stranger)} in it`);
  const config = descriptor(from.config, what, "config");
  if (config.mediaType !== ociConfig && config.mediaType !== dockerConfig)
    throw new OciboxError("UNSUPPORTED", `${what} cannot be used: it is no container image but ${config.mediaType}`);
  const layers = list(from.layers, what, "layers", layerLimit).map((layer, index) =>
    descriptor(layer, what, `layers[${index}]`),
  );
  if (!Number.isSafeInteger(layers.reduce((sum, layer) => sum + layer.size, 0)))
    refuse(what, "its sizes are too large");
  return {
    mediaType: type,
    config,
    layers,
    ...(given(from.annotations) ? { annotations: stringMap(from.annotations, what, "annotations") } : {}),
  };
}

function indexOf(from: Fields, sentAs: string, what: string): Index {
  const type = ownType(from, sentAs, what, ociIndex);
  if (!isIndexType(type)) refuse(what, `${type} is not the media type of an index`);
  for (const stranger of ["layers", "config", "fsLayers"])
    if (from[stranger] !== undefined) refuse(what, `it is an index with ${JSON.stringify(stranger)} in it`);
  const manifests = list(from.manifests, what, "manifests", indexEntryLimit).map((entry, index) =>
    descriptor(entry, what, `manifests[${index}]`),
  );
  return { mediaType: type, manifests };
}

/**
 * An image manifest.
 * @param sentAs the Content-Type, or the descriptor's media type; "" where neither is known
 * @throws OciboxError INVALID, UNSUPPORTED for schema 1 and for what is not a container image
 */
export function decodeManifest(bytes: Uint8Array, sentAs = "", options: DecodeOptions = {}): Manifest {
  const what = options.what ?? "the manifest";
  return manifestOf(read(bytes, what, options.trusted), sentAs, what);
}

/**
 * An image index or Docker manifest list. @param sentAs as for decodeManifest
 * @throws OciboxError INVALID, UNSUPPORTED
 */
export function decodeIndex(bytes: Uint8Array, sentAs = "", options: DecodeOptions = {}): Index {
  const what = options.what ?? "the index";
  return indexOf(read(bytes, what, options.trusted), sentAs, what);
}

export type ManifestOrIndex =
  | { readonly kind: "manifest"; readonly manifest: Manifest }
  | { readonly kind: "index"; readonly index: Index };

/**
 * Whichever of the two it is: by what it was sent as, by what it says it is, and at last by its fields.
 * @throws OciboxError INVALID, UNSUPPORTED
 */
export function decodeManifestOrIndex(bytes: Uint8Array, sentAs = "", options: DecodeOptions = {}): ManifestOrIndex {
  const what = options.what ?? "the manifest";
  const from = read(bytes, what, options.trusted);
  const type = ownType(from, sentAs, what, from.manifests === undefined ? ociManifest : ociIndex);
  return isIndexType(type)
    ? { kind: "index", index: indexOf(from, sentAs, what) }
    : { kind: "manifest", manifest: manifestOf(from, sentAs, what) };
}

/** Every entry NAME=VALUE: an entry without "=" means the caller's own variable to some, and nothing to others. */
function environment(value: Json, what: string): readonly string[] {
  const entries = strings(value, what, "config.Env");
  for (const entry of entries)
    if (entry.indexOf("=") < 1) refuse(what, `config.Env has ${show(entry)}, which is not NAME=VALUE`);
  return entries;
}

/** image-spec, config.md, "config". */
function containerDefaults(value: Json, what: string): ContainerDefaults {
  const from = fields(value, what, "config");
  const text = (key: "User" | "WorkingDir" | "StopSignal") =>
    given(from[key]) && from[key] !== "" ? { [key]: string(from[key], what, `config.${key}`) } : {};
  const words = (key: "Entrypoint" | "Cmd") =>
    given(from[key]) ? { [key]: strings(from[key], what, `config.${key}`) } : {};
  const set = (key: "Volumes" | "ExposedPorts") =>
    given(from[key]) ? { [key]: fields(from[key], what, `config.${key}`) } : {};
  return {
    ...text("User"),
    ...(given(from.Env) ? { Env: environment(from.Env, what) } : {}),
    ...words("Entrypoint"),
    ...words("Cmd"),
    ...text("WorkingDir"),
    ...set("Volumes"),
    ...set("ExposedPorts"),
    ...(given(from.Labels) ? { Labels: stringMap(from.Labels, what, "config.Labels") } : {}),
    ...text("StopSignal"),
  };
}

/**
 * An image's configuration.
 * @param options.layers how many layers its manifest has: the configuration must have as many DiffIDs
 * @throws OciboxError INVALID
 */
export function decodeImageConfig(bytes: Uint8Array, options: DecodeOptions & { layers?: number } = {}): ImageConfig {
  const what = options.what ?? "the image's configuration";
  const from = read(bytes, what, options.trusted);
  const rootfs = fields(from.rootfs, what, "rootfs");
  if (rootfs.type !== "layers") refuse(what, `rootfs.type is ${show(rootfs.type)}, not "layers"`);
  const diffIds = given(rootfs.diff_ids) ? list(rootfs.diff_ids, what, "rootfs.diff_ids", layerLimit) : [];
  if (options.layers !== undefined && options.layers !== diffIds.length)
    refuse(what, `it has ${diffIds.length} DiffIDs for ${options.layers} layers`);
  return {
    ...platform(from as Json, what, "the document"),
    ...(given(from.created) ? { created: string(from.created, what, "created") } : {}),
    ...(given(from.author) ? { author: string(from.author, what, "author") } : {}),
    config: given(from.config) ? containerDefaults(from.config, what) : {},
    rootfs: {
      diff_ids: diffIds.map((id, index) => parseDigest(id, `rootfs.diff_ids[${index}] of ${what}`) as DiffId),
    },
  };
}
