/** Layers that a registry does not have, and that the image says where to find: fetched from there, and told nothing. */
import { afterEach, describe, expect } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { OciboxError } from "../../src/errors.ts";
import { parseReference } from "../../src/reference/reference.ts";
import { openRepository } from "../../src/registry/client.ts";
import type { Digest } from "../../src/spec/digest.ts";
import { sha256 } from "../../src/spec/digest.ts";
import { around } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { makeCertificates, startRegistry, type TestRegistry } from "../lib/registry.ts";
import { Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "openssl"] };
const test = testWith(needs);
let box: Sandbox;
let registry: TestRegistry;
const cleanup: (() => unknown)[] = [];

around(needs, async (owned) => {
  box = await Sandbox.ownedBy(owned);
  registry = owned.use(await startRegistry({ foreign: true }));
});

afterEach(async () => {
  for (const each of cleanup.splice(0).reverse()) await each();
});

interface Maker {
  readonly host: string;
  /** What it was asked, with every header. */
  readonly seen: { readonly path: string; readonly range: string | null; readonly text: string }[];
}

/** A server that is no registry. */
function serve(
  answer: (request: Request, count: number) => Response | Promise<Response>,
  tls?: { cert: string; key: string },
): Maker {
  const seen: Maker["seen"] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    ...(tls === undefined ? {} : { tls: { cert: Bun.file(tls.cert), key: Bun.file(tls.key) } }),
    fetch(request) {
      const { pathname } = new URL(request.url);
      const text = JSON.stringify([...request.headers]).toLowerCase();
      seen.push({ path: pathname, range: request.headers.get("range"), text });
      return answer(request, seen.length);
    },
  });
  cleanup.push(() => server.stop(true));
  return { host: `127.0.0.1:${server.port}`, seen };
}

const secret = Buffer.from("anna:s3cr3t").toString("base64");
const bytes = new Uint8Array(3 << 20).map((_, at) => (at * 7) % 251);
const digest = sha256(bytes);

/** A blob of a registry that has none, and wants a login. */
function fetchFrom(urls: readonly string[], more: { registry?: string; certsDirs?: string[] } = {}): Promise<Digest> {
  const host =
    more.registry ??
    serve((request) =>
      request.headers.get("authorization") === `Basic ${secret}`
        ? new Response("", { status: 404 })
        : new Response("", { status: 401, headers: { "www-authenticate": 'Basic realm="here"' } }),
    ).host;
  const auth = join(box.dir, "auth.json");
  const makers = urls.flatMap((url) => (URL.canParse(url) ? [new URL(url).host] : []));
  writeFileSync(
    auth,
    JSON.stringify({ auths: Object.fromEntries([host, ...makers].map((each) => [each, { auth: secret }])) }),
  );
  const repository = openRepository(parseReference(`${host}/team/app:v1`), {
    env: { OCIBOX_REGISTRIES_CONF: "/nonexistent", REGISTRY_AUTH_FILE: auth, PATH: "" },
    certsDirs: more.certsDirs ?? [],
    timing: { backoff: 5, idle: 400, tries: 5 },
  });
  cleanup.push(() => repository[Symbol.dispose]());
  return (async () => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of repository.blob({ digest, size: bytes.byteLength, urls })) chunks.push(chunk.slice());
    return sha256(Buffer.concat(chunks));
  })();
}

async function refusal(promise: Promise<unknown>): Promise<OciboxError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(OciboxError);
  expect((error as OciboxError).message).not.toMatch(/[\n\r\u001b]/);
  return error as OciboxError;
}

function expectNothingSecret({ seen }: Maker): void {
  const all = seen.map(({ text }) => text).join("\n");
  expect(all).not.toContain("authorization");
  expect(all).not.toContain(secret.toLowerCase());
}

describe("a blob", () => {
  test("comes from the first URL that has it, and no secret goes there", async () => {
    const none = serve(() => new Response("", { status: 404 }));
    const asks = serve(() => new Response("", { status: 401, headers: { "www-authenticate": 'Basic realm="me"' } }));
    const has = serve(({ url }) =>
      url.endsWith("/moved") ? new Response(bytes) : Response.redirect(`http://${has.host}/moved`, 302),
    );
    const urls = [`http://${none.host}/x`, `http://${asks.host}/x`, `http://${has.host}/x`];
    expect(await fetchFrom(urls)).toBe(digest);
    expect([none, asks, has].map(({ seen }) => seen.length)).toEqual([1, 1, 2]);
    for (const each of [none, asks, has]) expectNothingSecret(each);
  });

  test("is gone on with where the connection breaks", async () => {
    const broken = serve((request, count) => {
      const from = Number(/bytes=(\d+)-/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
      const to = count < 3 ? from + (1 << 20) : bytes.byteLength;
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(bytes.slice(from, to));
          controller.close();
        },
      });
      const headers = { "content-range": `bytes ${from}-${bytes.byteLength - 1}/${bytes.byteLength}` };
      return new Response(body, { status: from === 0 ? 200 : 206, headers: from === 0 ? {} : headers });
    });
    expect(await fetchFrom([`http://${broken.host}/x`])).toBe(digest);
    expect(broken.seen.length).toBeGreaterThan(1);
    expect(broken.seen.at(-1)?.range).toMatch(/^bytes=[1-9]/);
    expectNothingSecret(broken);
  });

  test("with another digest, or of another length, is refused", async () => {
    const wrong = serve(() => new Response(bytes.slice().fill(1)));
    expect((await refusal(fetchFrom([`http://${wrong.host}/x`]))).code).toBe("DIGEST_MISMATCH");
    const long = serve(() => new Response(new Uint8Array(bytes.byteLength + 1)));
    const error = await refusal(fetchFrom([`http://${long.host}/x`]));
    expect(error.message).toContain(`not ${bytes.byteLength}`);
  });

  test("that is nowhere ends in one line, which names the registry and every URL's reason", async () => {
    const none = serve(() => new Response("", { status: 404 }));
    const error = await refusal(fetchFrom([`http://${none.host}/x`, "http://127.0.0.1:1/y", "no url"]));
    expect(error.code).toBe("NOT_FOUND");
    expect(error.message).toContain(`does not have the layer ${digest}, nor can it be had from where the image says`);
    expect(error.message).toContain(`http://${none.host}/x answers 404`);
    expect(error.message).toContain("127.0.0.1:1 refuses the connection");
    expect(error.message).toContain('"no url" is not a URL');
  });

  test("is not looked for elsewhere where the registry fails in another way", async () => {
    const has = serve(() => new Response(bytes));
    const broken = serve(() => new Response("", { status: 418 }));
    const error = await refusal(fetchFrom([`http://${has.host}/x`], { registry: broken.host }));
    expect([error.code, has.seen.length]).toEqual(["REGISTRY", 0]);
  });
});

describe("nothing is asked of", () => {
  test("file, link-local and others' addresses", async () => {
    const table = [
      ["file:///etc/shadow", "neither https nor http"],
      ["ftp://example.test/x", "neither https nor http"],
      ["data:text/plain,x", "neither https nor http"],
      ["http://169.254.169.254/latest/meta-data", "link-local"],
      ["https://[fe80::1]/x", "link-local"],
      ["https://anna:secret@127.0.0.1:1/x", "a user name in it"],
    ] as const;
    for (const [url, why] of table) {
      const error = await refusal(fetchFrom([url]));
      expect([url, error.code, error.message]).toEqual([url, "NOT_FOUND", expect.stringContaining(why)]);
    }
  });

  test("plain HTTP, where the registry speaks TLS", async () => {
    const folder = join(box.dir, "tls");
    mkdirSync(folder, { recursive: true });
    const { ca, cert, key } = await makeCertificates(folder);
    const lacks = serve(() => new Response("", { status: 404 }), { cert, key });
    const plain = serve(() => new Response(bytes));
    const secure = serve(() => new Response(bytes), { cert, key });
    for (const { host } of [lacks, secure]) {
      mkdirSync(join(folder, "certs.d", host), { recursive: true });
      writeFileSync(join(folder, "certs.d", host, "ca.crt"), ca);
    }
    const more = { registry: lacks.host, certsDirs: [join(folder, "certs.d")] };
    const error = await refusal(fetchFrom([`http://${plain.host}/x`], more));
    expect(error.message).toContain("plain http");
    expect(plain.seen.length).toBe(0);
    expect(await fetchFrom([`https://${secure.host}/x`], more)).toBe(digest);
    expectNothingSecret(secure);
  });
});

test("an image with a foreign layer is pulled and run, and pushed without that layer or with it", async () => {
  const at = (host: string, path: string) => `http://${host}/v2/library/alpine/${path}`;
  const accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
  const manifest = (await (await fetch(at(box.host, "manifests/latest"), { headers: { accept } })).json()) as {
    config: { digest: string; mediaType: string; size: number };
    layers: { digest: string; mediaType: string; size: number }[];
  };
  const [layer] = manifest.layers as [(typeof manifest.layers)[0]];
  const layerBytes = await (await fetch(at(box.host, `blobs/${layer.digest}`))).bytes();
  const maker = serve(() => new Response(layerBytes));
  // The configuration alone: the registry does not have the layer.
  const configBytes = await (await fetch(at(box.host, `blobs/${manifest.config.digest}`))).bytes();
  const begun = await fetch(`http://${registry.host}/v2/team/foreign/blobs/uploads/`, { method: "POST" });
  const place = new URL(begun.headers.get("location") ?? "");
  place.searchParams.set("digest", manifest.config.digest);
  expect((await fetch(place, { method: "PUT", body: configBytes })).status).toBe(201);
  const foreign = {
    schemaVersion: 2,
    mediaType: "application/vnd.docker.distribution.manifest.v2+json",
    config: { ...manifest.config, mediaType: "application/vnd.docker.container.image.v1+json" },
    layers: [
      {
        ...layer,
        mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        urls: [`http://${maker.host}/layer.tar.gz`],
      },
    ],
  };
  const put = await fetch(`http://${registry.host}/v2/team/foreign/manifests/latest`, {
    method: "PUT",
    body: JSON.stringify(foreign),
    headers: { "content-type": foreign.mediaType },
  });
  expect([put.status, await put.text()]).toEqual([201, ""]);
  const whole = sha256(new TextEncoder().encode(JSON.stringify(foreign)));

  const image = `${registry.host}/team/foreign`;
  const pulled = await box.ocibox(["pull", "-q", image]);
  expect(pulled).toEqual({ out: `${whole}\n`, err: "", code: 0 });
  expect(maker.seen.map(({ path }) => path)).toEqual(["/layer.tar.gz"]);
  expectNothingSecret(maker);
  expect((await box.run([image, "echo", "hi"])).out).toBe("hi\n");

  // As it was, without the layer: whoever pulls it asks its maker.
  const pushed = await box.ocibox(["push", image, `${registry.host}/team/copy`]);
  expect([pushed.code, pushed.out]).toEqual([0, `${whole}\n`]);
  expect(pushed.err).toContain("not to be passed on: left out");
  const isThere = async (name: string): Promise<boolean> =>
    (await fetch(`http://${registry.host}/v2/team/${name}/blobs/${layer.digest}`, { method: "HEAD" })).status === 200;
  expect(await isThere("copy")).toBe(false);
  const sent = await box.ocibox([
    ...["push", "--allow-nondistributable-artifacts", image, `${registry.host}/team/own`],
  ]);
  expect([sent.code, sent.out, await isThere("own")]).toEqual([0, `${whole}\n`, true]);

  // Archives keep it.
  const file = join(box.dir, "foreign.tar");
  expect((await box.ocibox(["save", "-o", file, image])).code).toBe(0);
  expect((await box.ocibox(["rmi", image])).code).toBe(0);
  const loaded = await box.ocibox(["load", "-q", "-i", file]);
  expect([loaded.code, loaded.err]).toEqual([0, ""]);
  expect((await box.ocibox(["inspect", "--format", "{{.Digest}}", image])).out).toBe(`${whole}\n`);
  expect(readFileSync(file).byteLength).toBeGreaterThan(layer.size);
  expect((await box.ocibox(["rmi", image])).code).toBe(0);
});
