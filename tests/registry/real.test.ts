/** Against Debian's docker-registry, fed by skopeo. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { OciboxError } from "../../src/errors.ts";
import { parseReference } from "../../src/reference/reference.ts";
import { openRepository, type RepositoryOptions } from "../../src/registry/client.ts";
import { decodeImageConfig, decodeManifest } from "../../src/spec/image-decode.ts";
import { around, temporary } from "../lib/around.ts";
import { type LayoutImage, noise, writeLayout } from "../lib/oci-fixture.ts";
import { run, startRegistry, type TestRegistry } from "../lib/registry.ts";

let folder: string;
let layout: string;
let image: LayoutImage;

around({}, (owned) => {
  folder = temporary(owned, "real");
  layout = join(folder, "layout");
  image = writeLayout(layout, [new Uint8Array(1024), noise(3_000_000)]);
});

async function feed(registry: TestRegistry, ...flags: string[]): Promise<string> {
  const name = `${registry.host}/team/app:v1`;
  await run("skopeo", "copy", "--quiet", "--preserve-digests", ...flags, `oci:${layout}:latest`, `docker://${name}`);
  return name;
}

/** No configuration of this machine: only what the test gives. */
function options(more: Record<string, string> = {}, certsDirs: string[] = []): RepositoryOptions {
  return { env: { OCIBOX_REGISTRIES_CONF: "/nonexistent", PATH: "", ...more }, certsDirs, timing: { backoff: 10 } };
}

async function pull(name: string, with_: RepositoryOptions): Promise<void> {
  const reference = parseReference(name);
  using repository = openRepository(reference, with_);
  const fetched = await repository.manifest(reference.digest ?? reference.tag ?? "");
  expect(fetched.digest).toBe(image.manifest.digest);
  const manifest = decodeManifest(fetched.bytes, fetched.mediaType);
  expect(manifest.layers.map((layer) => layer.digest)).toEqual(image.layers.map((layer) => layer.digest));
  for (const [index, layer] of manifest.layers.entries()) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of repository.blob(layer)) chunks.push(chunk.slice());
    expect(Buffer.concat(chunks).equals(Buffer.from(image.layers[index]?.bytes ?? []))).toBe(true);
  }
  const parts: Uint8Array[] = [];
  for await (const chunk of repository.blob(manifest.config)) parts.push(chunk);
  decodeImageConfig(Buffer.concat(parts), { layers: manifest.layers.length });
}

async function failure(promise: Promise<unknown>): Promise<OciboxError> {
  try {
    await promise;
  } catch (error) {
    return error as OciboxError;
  }
  throw new Error("it did not fail");
}

describe("a registry that anybody may read", () => {
  let registry: TestRegistry;
  let name: string;
  around({}, async (owned) => {
    registry = owned.use(await startRegistry());
    name = await feed(registry, "--dest-tls-verify=false");
  });

  test("manifest, configuration and layers by tag and by digest, over plain HTTP on loopback", async () => {
    await pull(name, options());
    await pull(name.replace(":v1", `@${image.manifest.digest}`), options());
    await pull(name.replace("127.0.0.1", "localhost"), options());
  });

  test("the digest of a tag by HEAD", async () => {
    using repository = openRepository(parseReference(name), options());
    expect(await repository.resolve("v1")).toBe(image.manifest.digest);
  });

  test("a blob from its middle on", async () => {
    using repository = openRepository(parseReference(name), options());
    const layer = image.layers[1];
    if (layer === undefined) throw new Error("no layer");
    const chunks: Uint8Array[] = [];
    for await (const chunk of repository.blob(layer, { from: 1_000_000 })) chunks.push(chunk);
    expect(Buffer.concat(chunks).equals(Buffer.from(layer.bytes.subarray(1_000_000)))).toBe(true);
  });

  test("no such tag, no such repository, no such layer", async () => {
    using repository = openRepository(parseReference(name), options());
    const noTag = await failure(repository.manifest("v2"));
    expect([noTag.code, noTag.message]).toEqual([
      "NOT_FOUND",
      `cannot pull "${name}": "team/app" on ${registry.host} has no tag "v2"`,
    ]);
    using other = openRepository(parseReference(`${registry.host}/team/other:v1`), options());
    const noRepository = await failure(other.manifest("v1"));
    expect([noRepository.code, noRepository.message.includes("has no")]).toEqual(["NOT_FOUND", true]);
    const digest = image.manifest.digest.replace(/.$/, (last) => (last === "0" ? "1" : "0"));
    const noDigest = await failure(repository.manifest(digest));
    expect(noDigest.code).toBe("NOT_FOUND");
    const noBlob = repository.blob({ digest: digest as never, size: 5 });
    expect((await failure(Array.fromAsync(noBlob))).code).toBe("NOT_FOUND");
  });

  test("a mirror that is down is passed over, and named when the upstream fails as well", async () => {
    const conf = join(folder, "registries.conf");
    writeFileSync(
      conf,
      `[[registry]]\nprefix = "example.test/up"\nlocation = "${registry.host}/team"\n` +
        '[[registry.mirror]]\nlocation = "127.0.0.1:1/mirror"\n',
    );
    await pull("example.test/up/app:v1", options({ OCIBOX_REGISTRIES_CONF: conf }));
    using repository = openRepository(
      parseReference("example.test/up/app:v2"),
      options({ OCIBOX_REGISTRIES_CONF: conf }),
    );
    const error = await failure(repository.manifest("v2"));
    expect(error.code).toBe("NOT_FOUND");
    expect(error.message).toContain("127.0.0.1:1");
    expect(error.message).toContain("refuses the connection");
  });

  test("a mirror that has it is asked instead of the upstream; a blocked registry is not asked", async () => {
    const conf = join(folder, "mirror.conf");
    writeFileSync(
      conf,
      '[[registry]]\nlocation = "nowhere.invalid"\n' +
        `[[registry.mirror]]\nlocation = "${registry.host}"\n` +
        '[[registry]]\nlocation = "blocked.invalid"\nblocked = true\n',
    );
    await pull("nowhere.invalid/team/app:v1", options({ OCIBOX_REGISTRIES_CONF: conf }));
    using blocked = openRepository(parseReference("blocked.invalid/x"), options({ OCIBOX_REGISTRIES_CONF: conf }));
    const error = await failure(blocked.manifest("latest"));
    expect([error.code, error.message.includes("blocks")]).toEqual(["DENIED", true]);
  });

  test("hosts.toml names a mirror", async () => {
    const certs = join(folder, "hosts-certs");
    mkdirSync(join(certs, "up.invalid_8443_"), { recursive: true });
    writeFileSync(
      join(certs, "up.invalid_8443_/hosts.toml"),
      `server = "https://up.invalid:8443"\n[host."http://127.0.0.1:1"]\n[host."${registry.url}"]\ncapabilities = ["pull"]\n`,
    );
    await pull("up.invalid:8443/team/app:v1", options({}, [certs]));
  });
});

test("a name that cannot be resolved, a port where nobody listens", async () => {
  using unknown = openRepository(parseReference("no-such-host.invalid/x:1"), options());
  const dns = await failure(unknown.manifest("1"));
  expect([dns.code, dns.message]).toEqual([
    "NETWORK",
    'cannot pull "no-such-host.invalid/x:1": the host name no-such-host.invalid cannot be resolved',
  ]);
  using refused = openRepository(parseReference("127.0.0.1:1/x:1"), options());
  const error = await failure(refused.manifest("1"));
  expect([error.code, error.message.includes("refuses the connection")]).toEqual(["NETWORK", true]);
});

test("htpasswd: without, with wrong and with right credentials", async () => {
  await using registry = await startRegistry({ htpasswd: { username: "anna", password: "pass:wörd" } });
  const name = await feed(registry, "--dest-tls-verify=false", "--dest-creds", "anna:pass:wörd");
  const none = await failure(pull(name, options()));
  expect([none.code, none.message.includes("needs a login")]).toEqual(["DENIED", true]);
  const file = (password: string) => {
    const path = join(folder, "auth.json");
    const auth = Buffer.from(`anna:${password}`).toString("base64");
    writeFileSync(path, JSON.stringify({ auths: { [registry.host]: { auth } } }));
    return path;
  };
  const wrong = await failure(pull(name, options({ REGISTRY_AUTH_FILE: file("wrong") })));
  expect([wrong.code, wrong.message.includes("does not accept the user name or password")]).toEqual(["DENIED", true]);
  expect(`${wrong.message}${wrong.hint}`).not.toContain("wrong");
  await pull(name, options({ REGISTRY_AUTH_FILE: file("pass:wörd") }));
});

test("TLS with a private authority: refused without it, accepted from certs.d", async () => {
  await using registry = await startRegistry({ tls: true });
  const name = await feed(registry, "--dest-tls-verify=false");
  const refused = await failure(pull(name, options({ NODE_TLS_REJECT_UNAUTHORIZED: "0" })));
  expect([refused.code, refused.message.includes("TLS certificate")]).toEqual(["NETWORK", true]);
  const certs = join(folder, "certs.d");
  mkdirSync(join(certs, registry.host), { recursive: true });
  writeFileSync(join(certs, registry.host, "ca.crt"), registry.ca ?? "");
  await pull(name, options({}, [certs]));
  const conf = join(folder, "insecure.conf");
  writeFileSync(conf, `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`);
  await pull(name, options({ OCIBOX_REGISTRIES_CONF: conf }));
});
