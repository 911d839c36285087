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

/** @param repository where the index comes to be "latest" @param from the image, of the same registry */
export async function buildIndex(repository: string, from: string, architectures: readonly string[]): Promise<void> {
  const answer = await fetch(`${from}/manifests/latest`, { headers: { accept: manifestType } });
  const manifest = (await answer.json()) as { config: Described & { mediaType: string }; layers: Described[] };
  const bytesOf = async (digest: string) =>
    new Uint8Array(await (await fetch(`${from}/blobs/${digest}`)).arrayBuffer());
  for (const layer of manifest.layers) await sendBlob(repository, await bytesOf(layer.digest));
  const config = JSON.parse(new TextDecoder().decode(await bytesOf(manifest.config.digest))) as object;
  const manifests: object[] = [];
  for (const architecture of architectures) {
    const own = new TextEncoder().encode(JSON.stringify({ ...config, architecture }));
    await sendBlob(repository, own);
    const document = { ...manifest, mediaType: manifestType, config: { ...manifest.config, ...describe(own) } };
    const described = await sendManifest(repository, "", document, manifestType);
    manifests.push({ mediaType: manifestType, ...described, platform: { os: "linux", architecture } });
  }
  await sendManifest(repository, "latest", { schemaVersion: 2, mediaType: indexType, manifests }, indexType);
}
