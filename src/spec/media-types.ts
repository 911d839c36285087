/** Media types of images: image-spec, media-types.md, and Docker's image manifest, version 2 schema 2. */

export const ociIndex = "application/vnd.oci.image.index.v1+json";
export const ociManifest = "application/vnd.oci.image.manifest.v1+json";
export const ociConfig = "application/vnd.oci.image.config.v1+json";
export const dockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json";
export const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
export const dockerConfig = "application/vnd.docker.container.image.v1+json";

export function isIndexType(mediaType: string): boolean {
  return mediaType === ociIndex || mediaType === dockerIndex;
}

export function isManifestType(mediaType: string): boolean {
  return mediaType === ociManifest || mediaType === dockerManifest;
}

/** A layer that its maker lets nobody pass on: image-spec, layer.md, "Non-Distributable Layers"; Docker's foreign ones. */
export function isNonDistributable(mediaType: string): boolean {
  return /^application\/vnd\.(?:docker\.image\.rootfs\.foreign\.|oci\.image\.layer\.nondistributable\.)/.test(
    mediaType,
  );
}

/** Docker's first format, with its signed form: it holds a history instead of a configuration, and is not read here. */
export function isSchema1Type(mediaType: string): boolean {
  return /^application\/vnd\.docker\.distribution\.manifest\.v1\+(?:json|prettyjws)$/.test(mediaType);
}

/** A Content-Type that says nothing about which document it is: what plain file servers send. */
export function isGenericType(mediaType: string): boolean {
  return /^(?:|application\/json|application\/octet-stream|binary\/octet-stream|text\/plain)$/.test(mediaType);
}
