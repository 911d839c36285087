/** An index of several platforms, made of one image of a registry's: they differ in what they say they are. */
const manifestType = "application/vnd.oci.image.manifest.v1+json";
const indexType = "application/vnd.oci.image.index.v1+json";

interface Described {
  readonly digest: string;
  readonly size: number;
}

function describe(bytes: Uint8Array): Described {
  return { digest: `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`, size: bytes.byteLength };
}

async function sendBlob(repository: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
  const begun = await fetch(`${repository}/blobs/uploads/`, { method: "POST" });
  const place = new URL(begun.headers.get("location") ?? "", repository);
  place.searchParams.set("digest", describe(bytes).digest);
  const sent = await fetch(place, {
    method: "PUT",
    body: bytes,
    headers: { "content-type": "application/octet-stream" },
  });
  if (sent.status !== 201) throw new Error(`a blob was answered by ${sent.status}`);
}

async function sendManifest(repository: string, name: string, document: object, type: string): Promise<Described> {
  const bytes = new TextEncoder().encode(JSON.stringify(document));
  const sent = await fetch(`${repository}/manifests/${name === "" ? describe(bytes).digest : name}`, {
    method: "PUT",
    body: bytes,
    headers: { "content-type": type },
  });
  if (sent.status !== 201) throw new Error(`a manifest was answered by ${sent.status}`);
  return describe(bytes);
}

/** What BuildKit puts beside an image: a manifest for "unknown/unknown" whose layer is a statement about it. */
async function attest(repository: string, of: string): Promise<object> {
  const statement = new TextEncoder().encode(JSON.stringify({ _type: "https://in-toto.io/Statement/v0.1", of }));
  const config = { architecture: "unknown", os: "unknown", config: {}, rootfs: { type: "layers", diff_ids: [] } };
  const bytes = new TextEncoder().encode(JSON.stringify({ ...config, of }));
  for (const each of [statement, bytes]) await sendBlob(repository, each);
  const document = {
    schemaVersion: 2,
    mediaType: manifestType,
    config: { mediaType: "application/vnd.oci.image.config.v1+json", ...describe(bytes) },
    layers: [{ mediaType: "application/vnd.in-toto+json", ...describe(statement) }],
  };
  return {
    mediaType: manifestType,
    ...(await sendManifest(repository, "", document, manifestType)),
    annotations: { "vnd.docker.reference.digest": of, "vnd.docker.reference.type": "attestation-manifest" },
    platform: { os: "unknown", architecture: "unknown" },
  };
}

/**
 * @param repository where the index comes to be "latest" @param from the image, of the same registry
 * @param architectures "arm64", "arm/v7"; the variant is told by the index alone
 * @param attested with an attestation for each
 */
export async function buildIndex(
  repository: string,
  from: string,
  architectures: readonly string[],
  attested = false,
): Promise<void> {
  const answer = await fetch(`${from}/manifests/latest`, { headers: { accept: manifestType } });
  const manifest = (await answer.json()) as { config: Described & { mediaType: string }; layers: Described[] };
  const bytesOf = async (digest: string) =>
    new Uint8Array(await (await fetch(`${from}/blobs/${digest}`)).arrayBuffer());
  for (const layer of manifest.layers) await sendBlob(repository, await bytesOf(layer.digest));
  const config = JSON.parse(new TextDecoder().decode(await bytesOf(manifest.config.digest))) as object;
  const manifests: object[] = [];
  for (const [at, name] of architectures.entries()) {
    const [architecture, variant] = name.split("/");
    // Of each another, for two variants of one architecture too.
    const author = `maker ${at}`;
    const own = new TextEncoder().encode(JSON.stringify({ ...config, author, architecture }));
    await sendBlob(repository, own);
    const document = { ...manifest, mediaType: manifestType, config: { ...manifest.config, ...describe(own) } };
    const described = await sendManifest(repository, "", document, manifestType);
    const platform = { os: "linux", architecture, ...(variant === undefined ? {} : { variant }) };
    manifests.push({ mediaType: manifestType, ...described, platform });
    if (attested) manifests.push(await attest(repository, described.digest));
  }
  await sendManifest(repository, "latest", { schemaVersion: 2, mediaType: indexType, manifests }, indexType);
}
