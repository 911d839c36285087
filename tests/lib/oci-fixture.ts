/** Small images for tests, made as OCI layouts byte by byte. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Digest, hexOf, sha256 } from "../../src/spec/digest.ts";

export interface Blob {
  readonly digest: Digest;
  readonly size: number;
  readonly bytes: Uint8Array;
}

export function blobOf(content: string | Uint8Array | object): Blob {
  const bytes =
    content instanceof Uint8Array
      ? content
      : new TextEncoder().encode(typeof content === "string" ? content : JSON.stringify(content));
  return { digest: sha256(bytes), size: bytes.byteLength, bytes };
}

/** Bytes that do not compress, the same each time. */
export function noise(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = 12345;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[at] = state >>> 16;
  }
  return bytes;
}

export interface LayoutImage {
  readonly manifest: Blob;
  readonly config: Blob;
  readonly layers: readonly Blob[];
}

/** An image of the given layers (taken as plain tars), written as an OCI layout with the tag "latest". */
export function writeLayout(dir: string, layers: readonly Uint8Array[]): LayoutImage {
  const layerBlobs = layers.map(blobOf);
  const config = blobOf({
    architecture: "amd64",
    os: "linux",
    config: { Env: ["PATH=/bin"] },
    rootfs: { type: "layers", diff_ids: layerBlobs.map((layer) => layer.digest) },
  });
  const manifest = blobOf({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: config.digest, size: config.size },
    layers: layerBlobs.map(({ digest, size }) => ({
      mediaType: "application/vnd.oci.image.layer.v1.tar",
      digest,
      size,
    })),
  });
  mkdirSync(join(dir, "blobs/sha256"), { recursive: true });
  for (const blob of [...layerBlobs, config, manifest])
    writeFileSync(join(dir, "blobs/sha256", hexOf(blob.digest)), blob.bytes);
  writeFileSync(join(dir, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  const entry = {
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    digest: manifest.digest,
    size: manifest.size,
    annotations: { "org.opencontainers.image.ref.name": "latest" },
  };
  writeFileSync(join(dir, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  return { manifest, config, layers: layerBlobs };
}
