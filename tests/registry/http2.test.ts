/** HTTP/2: a registry that speaks it alone is pulled from and pushed to; any other is spoken to as ever. */
import { expect } from "bun:test";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createSecureServer, type Http2SecureServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { parseReference } from "../../src/reference/reference.ts";
import { openRepository } from "../../src/registry/client.ts";
import { Uploads } from "../../src/registry/push.ts";
import { sha256 } from "../../src/spec/digest.ts";
import { around, temporary } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { makeCertificates, startRegistry, type TestRegistry } from "../lib/registry.ts";

const needs = { programs: ["docker-registry", "openssl"] };
const test = testWith(needs);
let folder: string;
let registry: TestRegistry;
const servers: Http2SecureServer[] = [];

around(needs, async (owned) => {
  folder = temporary(owned, "http2");
  registry = owned.use(await startRegistry());
  owned.defer(() => {
    for (const server of servers) server.close();
  });
});

/** The registry behind a server for TLS. @returns where it is, and the versions that it was spoken to in */
async function behind(allowHTTP1: boolean): Promise<{ host: string; spoken: string[] }> {
  const certificates = mkdtempSync(join(folder, "made-"));
  const { ca, cert, key } = await makeCertificates(certificates);
  const spoken: string[] = [];
  const server = createSecureServer(
    { cert: await Bun.file(cert).text(), key: await Bun.file(key).text(), allowHTTP1 },
    async (request, response) => {
      spoken.push(request.httpVersion);
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer);
      const given = Object.entries(request.headers).filter(
        ([name, value]) => typeof value === "string" && !/^(?::.*|host|connection|content-length)$/.test(name),
      ) as [string, string][];
      const answer = await fetch(registry.url + request.url, {
        method: request.method ?? "GET",
        headers: given,
        ...(parts.length === 0 ? {} : { body: Buffer.concat(parts) }),
      });
      for (const [name, value] of answer.headers)
        if (!/^(?:connection|keep-alive|transfer-encoding)$/.test(name))
          response.setHeader(name, name === "location" ? value.replace(registry.url, `https://${host}`) : value);
      response.statusCode = answer.status;
      response.end(Buffer.from(await answer.arrayBuffer()));
    },
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  servers.push(server);
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  mkdirSync(join(folder, "certs.d", host), { recursive: true });
  writeFileSync(join(folder, "certs.d", host, "ca.crt"), ca);
  return { host, spoken };
}

for (const [name, allowHTTP1, version] of [
  ["a registry that speaks HTTP/2 alone", false, /^2/],
  ["one that speaks HTTP/1.1 too", true, /^1/],
] as const)
  test(name, async () => {
    const { host, spoken } = await behind(allowHTTP1);
    const options = { env: { OCIBOX_REGISTRIES_CONF: "/nonexistent", PATH: "" }, certsDirs: [join(folder, "certs.d")] };
    const reference = parseReference(`${host}/team/app${allowHTTP1 ? 1 : 2}:v1`);
    const blobs = Array.from({ length: 6 }, (_, index) => new Uint8Array(4 << 20).fill(index + 1));
    using uploads = new Uploads(reference, { ...options, chunk: 3 << 20 });
    const descriptors = await Promise.all(
      blobs.map(async (bytes) => {
        const blob = { digest: sha256(bytes), size: bytes.byteLength, file: new Blob([bytes]) };
        expect(await uploads.blob(blob)).toBe("sent");
        return { mediaType: "application/vnd.oci.image.layer.v1.tar", digest: blob.digest, size: blob.size };
      }),
    );
    const mediaType = "application/vnd.oci.image.manifest.v1+json";
    const [config, ...layers] = descriptors;
    const text = JSON.stringify({ schemaVersion: 2, mediaType, config, layers });
    const digest = await uploads.manifest("v1", new TextEncoder().encode(text), mediaType);
    using repository = openRepository(reference, options);
    expect((await repository.manifest("v1")).digest).toBe(digest);
    const read = async (index: number): Promise<string> => {
      const chunks: Uint8Array[] = [];
      for await (const chunk of repository.blob(descriptors[index] as (typeof descriptors)[0]))
        chunks.push(chunk.slice());
      return sha256(Buffer.concat(chunks));
    };
    // Side by side, as a pull's layers come.
    expect(await Promise.all(blobs.map((_, index) => read(index)))).toEqual(descriptors.map((each) => each.digest));
    expect(spoken.length).toBeGreaterThan(20);
    expect(spoken.filter((each) => !version.test(each))).toEqual([]);
  }, 30_000);
