/** Registries that misbehave: each fault ends in the right bytes or in one clear line, and no secret goes astray. */
import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OciboxError } from "../../src/errors.ts";
import { parseReference } from "../../src/reference/reference.ts";
import { openRepository, type RepositoryOptions } from "../../src/registry/client.ts";
import { type Blob, blobOf, noise } from "../lib/oci-fixture.ts";
import { makeCertificates } from "../lib/registry.ts";

const cleanup: (() => unknown)[] = [];
afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
});

const layer = blobOf(noise(300_000));
const manifest = blobOf({ schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json" });

interface Seen {
  readonly method: string;
  readonly path: string;
  readonly authorization: string | null;
  readonly range: string | null;
  readonly body: string;
}

type Answer = Response | Promise<Response>;
interface Fake {
  readonly host: string;
  readonly port: number;
  readonly seen: Seen[];
}

/** A server that answers as it is told; what it was asked is kept. */
function serve(answer: (request: Request, seen: Seen[]) => Answer, tls?: { cert: string; key: string }): Fake {
  const seen: Seen[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    idleTimeout: 60,
    ...(tls === undefined ? {} : { tls: { cert: Bun.file(tls.cert), key: Bun.file(tls.key) } }),
    async fetch(request) {
      const url = new URL(request.url);
      seen.push({
        method: request.method,
        path: url.pathname + url.search,
        authorization: request.headers.get("authorization"),
        range: request.headers.get("range"),
        body: await request.text(),
      });
      return answer(request, seen);
    },
  });
  cleanup.push(() => server.stop(true));
  const port = server.port ?? 0;
  return { host: `127.0.0.1:${port}`, port, seen };
}

/** A server that writes what it is told to the socket, byte for byte, and then hangs up or falls silent. */
function serveRaw(answer: (request: string, count: number) => { bytes: Uint8Array | string; end?: boolean }): Fake {
  let count = 0;
  const listener = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      data(socket, data) {
        // A TLS handshake begins with 22: hung up on, as plain HTTP servers do.
        if (data[0] === 22) {
          socket.end();
          return;
        }
        const { bytes, end } = answer(data.toString(), ++count);
        const all = typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes;
        socket.write(all);
        socket.flush();
        if (end !== false) setTimeout(() => socket.terminate(), 30);
      },
    },
  });
  cleanup.push(() => listener.stop(true));
  return { host: `127.0.0.1:${listener.port}`, port: listener.port, seen: [] };
}

function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), "ocibox-faults-"));
  cleanup.push(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function authFile(entries: Record<string, object>): Record<string, string> {
  const path = join(scratch(), "auth.json");
  writeFileSync(path, JSON.stringify({ auths: entries }));
  return { REGISTRY_AUTH_FILE: path };
}

const secret = "s3cr3t-w0rd";
const login = { auth: Buffer.from(`anna:${secret}`).toString("base64") };

function open(host: string, env: Record<string, string> = {}, more: RepositoryOptions = {}) {
  const repository = openRepository(parseReference(`${host}/team/app:v1`), {
    env: { OCIBOX_REGISTRIES_CONF: "/nonexistent", PATH: "", ...env },
    certsDirs: [],
    timing: { backoff: 5, idle: 400, tries: 5 },
    ...more,
  });
  cleanup.push(() => repository[Symbol.dispose]());
  return repository;
}

async function bytesOf(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk.slice());
  return Buffer.concat(chunks);
}

async function failure(promise: Promise<unknown>): Promise<OciboxError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(OciboxError);
  const failed = error as OciboxError;
  expect(failed.message).not.toMatch(/[\n\r\u001b]/);
  expect(`${failed.message} ${failed.hint}`).not.toContain(secret);
  return failed;
}

const send = (blob: Blob, status = 200, headers: Record<string, string> = {}) =>
  new Response(blob.bytes.slice(), { status, headers });
const head = (status: string, headers: string[]) => `HTTP/1.1 ${status}\r\n${headers.join("\r\n")}\r\n\r\n`;
const withBody = (text: string, body: Uint8Array) => Buffer.concat([Buffer.from(text), body]);

describe("faults 429, 5xx", () => {
  test.each([
    ["429 with Retry-After in seconds", 429, { "retry-after": "1" }, 900],
    ["429 with Retry-After as a date", 429, { "retry-after": new Date(Date.now() - 1000).toUTCString() }, 0],
    ["503 without Retry-After", 503, {}, 0],
    ["500", 500, {}, 0],
  ])("%s: tried again", async (_name, status, headers, least) => {
    let left = 2;
    if (least > 0) left = 1;
    const fake = serve(() => (left-- > 0 ? new Response("", { status, headers }) : send(layer)));
    const start = performance.now();
    const bytes = await bytesOf(open(fake.host).blob(layer));
    expect(bytes.equals(layer.bytes)).toBe(true);
    expect(performance.now() - start).toBeGreaterThan(least);
  });

  test("five tries and no more", async () => {
    const fake = serve(() => new Response("", { status: 502 }));
    const error = await failure(open(fake.host).manifest("v1"));
    expect([error.code, error.message.includes("502")]).toEqual(["REGISTRY", true]);
    expect(fake.seen.filter((each) => each.path.includes("/manifests/")).length).toBe(5);
  });

  test("an hour of patience is not given", async () => {
    const fake = serve(() => new Response("", { status: 429, headers: { "retry-after": "3600" } }));
    const error = await failure(open(fake.host).manifest("v1"));
    expect([error.code, error.hint?.includes("3600 seconds")]).toEqual(["REGISTRY", true]);
    expect(fake.seen.filter((each) => each.path.includes("/manifests/")).length).toBe(1);
  });
});

describe("bodies that break", () => {
  const half = 150_000;
  const range = (request: string) => Number(/range: bytes=([0-9]+)-/i.exec(request)?.[1] ?? 0);

  test("reset in the middle: resumed by Range", async () => {
    const asked: number[] = [];
    const fake = serveRaw((request) => {
      const from = range(request);
      asked.push(from);
      if (from === 0)
        return {
          bytes: withBody(head("200 OK", [`Content-Length: ${layer.size}`]), layer.bytes.subarray(0, half)),
        };
      const headers = [
        `Content-Range: bytes ${from}-${layer.size - 1}/${layer.size}`,
        `Content-Length: ${layer.size - from}`,
      ];
      return { bytes: withBody(head("206 Partial Content", headers), layer.bytes.subarray(from)) };
    });
    const bytes = await bytesOf(open(fake.host).blob(layer));
    expect(bytes.equals(layer.bytes)).toBe(true);
    expect(asked.length).toBe(2);
    expect(asked[1]).toBeGreaterThan(0);
  });

  test("reset, and a server that knows no ranges: the right bytes once", async () => {
    let count = 0;
    const fake = serveRaw(() => ({
      bytes: withBody(
        head("200 OK", [`Content-Length: ${layer.size}`]),
        ++count === 1 ? layer.bytes.subarray(0, half) : layer.bytes,
      ),
    }));
    expect((await bytesOf(open(fake.host).blob(layer))).equals(layer.bytes)).toBe(true);
    expect(count).toBe(2);
  });

  test.each([
    ["another start", (from: number) => `bytes ${from + 1}-${layer.size - 1}/${layer.size}`],
    ["another size", (from: number) => `bytes ${from}-${layer.size - 1}/${layer.size + 7}`],
    ["none", () => "nonsense"],
  ])("a Content-Range with %s is refused", async (_name, contentRange) => {
    const fake = serveRaw((request) => {
      const from = range(request);
      if (from === 0)
        return { bytes: withBody(head("200 OK", [`Content-Length: ${layer.size}`]), layer.bytes.subarray(0, half)) };
      return {
        bytes: withBody(
          head("206 Partial Content", [`Content-Range: ${contentRange(from)}`, `Content-Length: ${layer.size - from}`]),
          layer.bytes.subarray(from),
        ),
      };
    });
    const error = await failure(bytesOf(open(fake.host).blob(layer)));
    expect([error.code, error.message.includes("was asked for byte")]).toEqual(["REGISTRY", true]);
  });

  test("always short without a length: told how far it came", async () => {
    const fake = serve((request) =>
      request.headers.has("range")
        ? new Response("", {
            status: 206,
            headers: { "content-range": `bytes ${half}-${layer.size - 1}/${layer.size}` },
          })
        : new Response(
            new ReadableStream({
              start(controller) {
                controller.enqueue(layer.bytes.slice(0, half));
                controller.close();
              },
            }),
          ),
    );
    const error = await failure(bytesOf(open(fake.host).blob(layer)));
    expect(error.code).toBe("REGISTRY");
    expect(error.message).toContain(`after ${half} of ${layer.size} bytes`);
  });

  test("an over-long body is cut before its surplus is given out", async () => {
    const fake = serve(
      () =>
        new Response(
          new ReadableStream({
            async pull(controller) {
              controller.enqueue(noise(65_536));
              await Bun.sleep(1);
            },
          }),
        ),
    );
    let received = 0;
    const error = await failure(
      (async () => {
        for await (const chunk of open(fake.host).blob(layer)) received += chunk.byteLength;
      })(),
    );
    expect(error.code).toBe("DIGEST_MISMATCH");
    expect(received).toBeLessThanOrEqual(layer.size);
  });

  test("another Content-Length than the manifest's size", async () => {
    const fake = serve(() => send(blobOf("short")));
    const error = await failure(bytesOf(open(fake.host).blob(layer)));
    expect(error.code).toBe("DIGEST_MISMATCH");
  });

  test("the right length and wrong bytes", async () => {
    const wrong = layer.bytes.slice();
    wrong[5] = (wrong[5] ?? 0) ^ 1;
    const fake = serve(() => new Response(wrong));
    const error = await failure(bytesOf(open(fake.host).blob(layer)));
    expect([error.code, error.message.includes("has the digest")]).toEqual(["DIGEST_MISMATCH", true]);
  });

  test("a Content-Encoding on a blob changes nothing about its bytes", async () => {
    const packed = blobOf(Bun.gzipSync(noise(1000)));
    const fake = serve(() => send(packed, 200, { "content-encoding": "gzip" }));
    expect((await bytesOf(open(fake.host).blob(packed))).equals(packed.bytes)).toBe(true);
  });

  test("silence in the middle is given up and resumed", async () => {
    const fake = serveRaw((request) => {
      const from = range(request);
      if (from === 0)
        return {
          bytes: withBody(head("200 OK", [`Content-Length: ${layer.size}`]), layer.bytes.subarray(0, half)),
          end: false,
        };
      const headers = [
        `Content-Range: bytes ${from}-${layer.size - 1}/${layer.size}`,
        `Content-Length: ${layer.size - from}`,
      ];
      return { bytes: withBody(head("206 Partial Content", headers), layer.bytes.subarray(from)) };
    });
    expect((await bytesOf(open(fake.host).blob(layer))).equals(layer.bytes)).toBe(true);
  });

  test("a server that never answers", async () => {
    const fake = serveRaw(() => ({ bytes: "", end: false }));
    const repository = open(fake.host, {}, { timing: { backoff: 1, idle: 100, tries: 2 } });
    const error = await failure(repository.manifest("v1"));
    expect([error.code, error.message.includes("does not answer")]).toEqual(["NETWORK", true]);
  });

  test("five bytes a second are not waited for", async () => {
    const fake = serve(
      () =>
        new Response(
          new ReadableStream({
            async pull(controller) {
              controller.enqueue(noise(5));
              await Bun.sleep(50);
            },
          }),
        ),
    );
    const repository = open(fake.host, {}, { timing: { backoff: 1, idle: 200, tries: 2 } });
    const error = await failure(bytesOf(repository.blob(layer)));
    expect([error.code, error.message.includes("does not answer")]).toEqual(["NETWORK", true]);
  });

  test("the caller's signal ends a stream at once", async () => {
    const fake = serveRaw(() => ({ bytes: head("200 OK", [`Content-Length: ${layer.size}`]), end: false }));
    const stop = new AbortController();
    setTimeout(() => stop.abort(new OciboxError("INTERRUPTED", "stopped")), 50);
    const repository = open(fake.host, {}, { timing: { idle: 30_000 } });
    const error = await failure(bytesOf(repository.blob(layer, { signal: stop.signal })));
    expect(error.code).toBe("INTERRUPTED");
  });
});

describe("manifests that lie (2021-41190, 2020-1702)", () => {
  test("another digest than was asked for", async () => {
    const fake = serve(() => send(manifest));
    const error = await failure(open(fake.host).manifest(layer.digest));
    expect(error.code).toBe("DIGEST_MISMATCH");
  });

  test("another digest than its header promises", async () => {
    const fake = serve(() => send(manifest, 200, { "docker-content-digest": layer.digest }));
    expect((await failure(open(fake.host).manifest("v1"))).code).toBe("DIGEST_MISMATCH");
    expect((await failure(open(fake.host).manifest(manifest.digest))).code).toBe("DIGEST_MISMATCH");
  });

  test("more than 4 MiB: cut while it streams", async () => {
    let sent = 0;
    const fake = serve(
      () =>
        new Response(
          new ReadableStream({
            pull(controller) {
              sent += 65_536;
              controller.enqueue(new Uint8Array(65_536));
            },
          }),
        ),
    );
    const error = await failure(open(fake.host).manifest("v1"));
    expect([error.code, error.message.includes("over 4194304 bytes")]).toEqual(["REGISTRY", true]);
    expect(sent).toBeLessThan(64 << 20);
  });

  test("an error text with control characters stays on its line", async () => {
    const body = JSON.stringify({ errors: [{ code: "DENIED", message: "a\u001b[2Jb\nc" }] });
    const fake = serve(() => new Response(body, { status: 418 }));
    const error = await failure(open(fake.host).manifest("v1"));
    expect(error.message).toContain("a [2Jb c");
  });

  test("a name that would leave the path is refused before any request", async () => {
    const fake = serve(() => send(manifest));
    const repository = open(fake.host);
    await expect(async () => repository.manifest("../../x")).toThrow(OciboxError);
    await failure(bytesOf(repository.blob({ digest: "sha256:../../x" as never, size: 1 })));
    expect(fake.seen).toEqual([]);
  });
});

describe("redirects and secrets (2020-15157)", () => {
  test("Authorization does not go to another origin, and does not come back", async () => {
    const other: Fake = serve((request) => {
      if (new URL(request.url).pathname === "/cdn") return send(layer);
      return Response.redirect(`http://${registry.host}/back`, 307);
    });
    const registry: Fake = serve((request) => {
      const path = new URL(request.url).pathname;
      if (path === "/back") return Response.redirect(`http://${other.host}/cdn`, 307);
      if (request.headers.get("authorization") === null)
        return new Response("", { status: 401, headers: { "www-authenticate": 'Basic realm="x"' } });
      return Response.redirect(`http://user:${secret}@${other.host}/start`, 307);
    });
    const repository = open(registry.host, authFile({ [registry.host]: login }));
    expect((await bytesOf(repository.blob(layer))).equals(layer.bytes)).toBe(true);
    expect(other.seen.map((each) => [each.path, each.authorization])).toEqual([
      ["/start", null],
      ["/cdn", null],
    ]);
    expect(registry.seen.filter((each) => each.path === "/back").map((each) => each.authorization)).toEqual([null]);
    expect(registry.seen.some((each) => each.authorization === `Basic ${login.auth}`)).toBe(true);
  });

  test("a 401 from where a redirect led gets no login", async () => {
    const other = serve(
      () => new Response("", { status: 401, headers: { "www-authenticate": 'Basic realm="give me"' } }),
    );
    const registry = serve(() => Response.redirect(`http://${other.host}/`, 307));
    const error = await failure(bytesOf(open(registry.host, authFile({ [registry.host]: login })).blob(layer)));
    expect(error.code).toBe("DENIED");
    expect(other.seen.map((each) => each.authorization)).toEqual([null]);
  });

  test("a loop ends", async () => {
    const fake: Fake = serve((request) => Response.redirect(request.url, 307));
    const error = await failure(open(fake.host).manifest("v1"));
    expect([error.code, error.message.includes("more than 10 redirects")]).toEqual(["REGISTRY", true]);
    expect(fake.seen.length).toBeLessThan(15);
  });

  test.each([
    ["file:", "file:///etc/passwd", "neither https nor http"],
    ["data:", "data:text/plain,x", "neither https nor http"],
    ["link-local", "http://169.254.169.254/latest/meta-data", "link-local"],
    ["link-local IPv6", "http://[fe80::1]/", "link-local"],
    ["mapped link-local", "http://[::ffff:169.254.169.254]/", "link-local"],
  ])("to %s is refused", async (_name, location, why) => {
    const fake = serve(() => new Response("", { status: 302, headers: { location } }));
    const error = await failure(open(fake.host).manifest("v1"));
    expect([error.code, error.message.includes(why)]).toEqual(["REGISTRY", true]);
  });

  test("from https to http is refused", async () => {
    const folder = scratch();
    const { ca, cert, key } = await makeCertificates(folder);
    const plain = serve(() => send(manifest));
    const secure = serve(() => Response.redirect(`http://${plain.host}/`, 307), { cert, key });
    mkdirSync(join(folder, "certs.d", secure.host), { recursive: true });
    writeFileSync(join(folder, "certs.d", secure.host, "ca.crt"), ca);
    const repository = open(secure.host, {}, { certsDirs: [join(folder, "certs.d")] });
    const error = await failure(repository.manifest("v1"));
    expect([error.code, error.message.includes("plain http")]).toEqual(["REGISTRY", true]);
    expect(plain.seen.length).toBe(0);
  });
});

describe("a registry for TLS on this machine", () => {
  /** In front of a server for TLS: what comes in plain is answered here, and kept. */
  function front(behind: Fake, answer: string | undefined): { host: string; plain: string[] } {
    const plain: string[] = [];
    const listener = Bun.listen<{ other?: Bun.Socket<unknown> }>({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        open(socket) {
          socket.data = {};
        },
        async data(socket, bytes) {
          const chunk = Buffer.from(bytes);
          if (socket.data.other === undefined && chunk[0] !== 22) {
            plain.push(chunk.toString());
            if (answer === undefined) socket.terminate();
            else socket.end(answer.replace("HERE", `127.0.0.1:${listener.port}`));
            return;
          }
          socket.pause();
          socket.data.other ??= await Bun.connect({
            hostname: "127.0.0.1",
            port: behind.port,
            socket: {
              data: (_, back) => void socket.write(back),
              close: () => void socket.end(),
            },
          });
          socket.data.other.write(chunk);
          socket.resume();
        },
        close: (socket) => void socket.data.other?.end(),
      },
    });
    cleanup.push(() => listener.stop(true));
    return { host: `127.0.0.1:${listener.port}`, plain };
  }

  test.each([
    ["answers 400", "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"],
    ["hangs up", undefined],
    ["sends an alert", "\u0015\u0003\u0001\u0000\u0002\u0002F"],
    [
      "leads there",
      "HTTP/1.1 301 Moved\r\nlocation: https://HERE/v2/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ],
  ])("%s to plain HTTP, and is asked by TLS; no secret goes out before", async (_name, answer) => {
    const folder = scratch();
    const { ca, cert, key } = await makeCertificates(folder);
    const secure = serve(
      ({ headers }) =>
        headers.get("authorization") === `Basic ${login.auth}`
          ? send(manifest)
          : new Response("", { status: 401, headers: { "www-authenticate": 'Basic realm="here"' } }),
      { cert, key },
    );
    const { host, plain } = front(secure, answer);
    mkdirSync(join(folder, "certs.d", host), { recursive: true });
    writeFileSync(join(folder, "certs.d", host, "ca.crt"), ca);
    const repository = open(host, authFile({ [host]: login }), { certsDirs: [join(folder, "certs.d")] });
    expect((await repository.manifest("v1")).digest).toBe(manifest.digest);
    await repository.manifest("v1");
    expect(plain.length).toBe(1);
    expect(plain[0]).toStartWith("GET /v2/team/app/manifests/v1 ");
    expect(plain.join("").toLowerCase()).not.toContain("authorization");
    expect(secure.seen.at(-1)?.authorization).toBe(`Basic ${login.auth}`);
  });

  test("in plain it is asked once and no more", async () => {
    const fake = serve(() => send(manifest));
    await open(fake.host).manifest("v1");
    expect(fake.seen.map((each) => each.path)).toEqual(["/v2/team/app/manifests/v1"]);
  });
});

describe("tokens", () => {
  /** A registry that wants tokens, and the server that gives them out. */
  function withTokens(options: { realm?: (tokens: Fake) => string; answer?: (count: number) => Response } = {}) {
    let issued = 0;
    const valid = new Set<string>();
    const tokens: Fake = serve(() => {
      const token = `token-${++issued}`;
      valid.add(`Bearer ${token}`);
      return options.answer?.(issued) ?? Response.json({ token });
    });
    const realm = options.realm?.(tokens) ?? `http://${tokens.host}/token`;
    const challenge = `Bearer realm="${realm}",service="test, \\"quoted\\"",scope="repository:other/thing:push"`;
    const registry: Fake = serve((request) => {
      if (!valid.has(request.headers.get("authorization") ?? ""))
        return new Response("", { status: 401, headers: { "www-authenticate": challenge } });
      const from = Number(/bytes=([0-9]+)-/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
      if (from > 0)
        return new Response(layer.bytes.slice(from), {
          status: 206,
          headers: { "content-range": `bytes ${from}-${layer.size - 1}/${layer.size}` },
        });
      return send(request.url.includes("/manifests/") ? manifest : layer);
    });
    return { tokens, registry, valid };
  }

  test("anonymous: one token for many requests at once, for pulling this repository only", async () => {
    const { tokens, registry } = withTokens();
    const repository = open(registry.host);
    const all = await Promise.all([1, 2, 3, 4].map(() => bytesOf(repository.blob(layer))));
    expect(all.every((bytes) => bytes.equals(layer.bytes))).toBe(true);
    expect(tokens.seen.length).toBe(1);
    const asked = new URLSearchParams(tokens.seen[0]?.path.split("?")[1]);
    expect([asked.get("scope"), asked.get("service")]).toEqual(["repository:team/app:pull", 'test, "quoted"']);
    expect(tokens.seen[0]?.authorization).toBeNull();
  });

  test("a password goes to the token server and not to the registry", async () => {
    const { tokens, registry } = withTokens();
    await open(registry.host, authFile({ [registry.host]: login })).manifest("v1");
    expect(tokens.seen.map((each) => each.authorization)).toEqual([`Basic ${login.auth}`]);
    expect(registry.seen.some((each) => each.authorization?.startsWith("Basic"))).toBe(false);
  });

  test("an identity token is posted", async () => {
    const { tokens, registry } = withTokens();
    await open(registry.host, authFile({ [registry.host]: { identitytoken: secret } })).manifest("v1");
    expect(tokens.seen.map((each) => each.method)).toEqual(["POST"]);
    const form = new URLSearchParams(tokens.seen[0]?.body);
    expect([form.get("grant_type"), form.get("refresh_token")]).toEqual(["refresh_token", secret]);
    expect(tokens.seen[0]?.path).toBe("/token");
  });

  test("a token that expires is got again once, and the pull goes on", async () => {
    const { tokens, registry, valid } = withTokens();
    const repository = open(registry.host);
    await repository.manifest("v1");
    valid.clear();
    expect((await bytesOf(repository.blob(layer, { from: 100 }))).equals(layer.bytes.subarray(100))).toBe(true);
    expect(tokens.seen.length).toBe(2);
  });

  test("a token that is never accepted: no endless asking", async () => {
    const { tokens, registry, valid } = withTokens();
    const repository = open(registry.host);
    valid.add = () => valid;
    const error = await failure(repository.manifest("v1"));
    expect(error.code).toBe("DENIED");
    expect(tokens.seen.length).toBe(1);
  });

  test("wrong credentials", async () => {
    const { registry } = withTokens({ answer: () => new Response("", { status: 401 }) });
    const error = await failure(open(registry.host, authFile({ [registry.host]: login })).manifest("v1"));
    expect([error.code, error.message.includes("user name or password")]).toEqual(["DENIED", true]);
  });

  test("an answer of more than 1 MiB, without a token, or with a header in it", async () => {
    for (const body of [`{"token":"${"x".repeat(2 << 20)}"}`, "{}", '{"token":"a\\r\\nX: y"}', "not json"]) {
      const { registry } = withTokens({ answer: () => new Response(body) });
      expect((await failure(open(registry.host).manifest("v1"))).code).toBe("REGISTRY");
    }
  });

  test.each([
    ["file:", () => "file:///etc/passwd"],
    ["link-local", () => "http://169.254.169.254/token"],
    ["link-local https", () => "https://169.254.169.254/token"],
    ["plain HTTP elsewhere", () => "http://auth.example.invalid/token"],
    ["a password in it", (tokens: Fake) => `http://a:b@${tokens.host}/token`],
    ["not a URL", () => "::"],
  ])("a realm with %s gets nothing (2019-10214)", async (_name, realm) => {
    const { tokens, registry } = withTokens({ realm });
    const error = await failure(open(registry.host, authFile({ [registry.host]: login })).manifest("v1"));
    expect([error.code, error.message.includes("token server that is not asked")]).toEqual(["REGISTRY", true]);
    expect(tokens.seen.length).toBe(0);
  });

  test("a token server that redirects a password elsewhere", async () => {
    const thief = serve(() => Response.json({ token: "x" }));
    const { registry } = withTokens({ answer: () => Response.redirect(`http://${thief.host}/`, 307) });
    await failure(open(registry.host, authFile({ [registry.host]: login })).manifest("v1"));
    expect(thief.seen.every((each) => each.authorization === null)).toBe(true);
    const posted = withTokens({ answer: () => Response.redirect(`http://${thief.host}/`, 307) }).registry;
    const before = thief.seen.length;
    await failure(open(posted.host, authFile({ [posted.host]: { identitytoken: secret } })).manifest("v1"));
    expect(thief.seen.length).toBe(before);
  });
});

test("a proxy is asked for what is elsewhere, and not for this machine", async () => {
  const proxy = serve(() => send(manifest));
  const registry = serve(() => send(manifest));
  const certs = join(scratch(), "certs.d");
  mkdirSync(join(certs, "far.invalid"), { recursive: true });
  writeFileSync(join(certs, "far.invalid", "hosts.toml"), 'server = "http://far.invalid"\n');
  const { http_proxy: before, no_proxy: none } = process.env;
  cleanup.push(() => {
    if (before === undefined) delete process.env.http_proxy;
    else process.env.http_proxy = before;
  });
  process.env.http_proxy = `http://${proxy.host}`;
  await open(registry.host).manifest("v1");
  expect(proxy.seen.length).toBe(0);
  await open("far.invalid", {}, { certsDirs: [certs] }).manifest("v1");
  expect(proxy.seen.length).toBe(1);
  expect(process.env.no_proxy).toBe(none);
});

test("what Bun reads of its environment turns nothing off and prints no secret", async () => {
  const registry = serve((request) =>
    request.headers.get("authorization") === null
      ? new Response("", { status: 401, headers: { "www-authenticate": "Basic" } })
      : send(manifest),
  );
  const script = join(scratch(), "pull.ts");
  const from = (path: string) => JSON.stringify(join(import.meta.dir, "../../src", path));
  writeFileSync(
    script,
    `import { openRepository } from ${from("registry/client.ts")};
import { parseReference } from ${from("reference/reference.ts")};
using repository = openRepository(parseReference("${registry.host}/a:1"), { certsDirs: [] });
console.log((await repository.manifest("1")).digest);`,
  );
  const child = Bun.spawn([process.execPath, script], {
    env: {
      ...authFile({ [registry.host]: login }),
      OCIBOX_REGISTRIES_CONF: "/nonexistent",
      BUN_CONFIG_VERBOSE_FETCH: "curl",
      NODE_TLS_REJECT_UNAUTHORIZED: "0",
    },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, error] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  expect(out.trim()).toBe(manifest.digest);
  expect(registry.seen.some((each) => each.authorization === `Basic ${login.auth}`)).toBe(true);
  expect(`${out}${error}`).not.toContain(login.auth);
});

test("an expired certificate: the error mentions this machine's clock", async () => {
  const folder = scratch();
  const { ca, cert, key } = await makeCertificates(folder, -1);
  const secure = serve(() => send(manifest), { cert, key });
  mkdirSync(join(folder, "certs.d", secure.host), { recursive: true });
  writeFileSync(join(folder, "certs.d", secure.host, "ca.crt"), ca);
  const error = await failure(open(secure.host, {}, { certsDirs: [join(folder, "certs.d")] }).manifest("v1"));
  expect([error.code, error.message.includes("expired"), error.hint?.includes("clock")]).toEqual([
    "NETWORK",
    true,
    true,
  ]);
});

test("a mirror with another size of a layer: the upstream is asked instead", async () => {
  const mirror = serve(() => send(blobOf("short")));
  const upstream = serve(() => send(layer));
  const conf = join(scratch(), "registries.conf");
  writeFileSync(
    conf,
    `[[registry]]\nlocation = "${upstream.host}"\n[[registry.mirror]]\nlocation = "${mirror.host}"\n`,
  );
  const repository = open(upstream.host, { OCIBOX_REGISTRIES_CONF: conf });
  expect((await bytesOf(repository.blob(layer))).equals(layer.bytes)).toBe(true);
  expect(mirror.seen.some((each) => each.path.includes("/blobs/"))).toBe(true);
});

test("credentials are looked up for the mirror's own host (2020-15157)", async () => {
  const wanting = () => new Response("", { status: 401, headers: { "www-authenticate": "Basic" } });
  const mirror = serve(wanting);
  const upstream = serve((request) => (request.headers.has("authorization") ? send(manifest) : wanting()));
  const conf = join(scratch(), "registries.conf");
  writeFileSync(
    conf,
    `[[registry]]\nlocation = "${upstream.host}"\n[[registry.mirror]]\nlocation = "${mirror.host}"\n`,
  );
  const env = { ...authFile({ [upstream.host]: login }), OCIBOX_REGISTRIES_CONF: conf };
  await open(upstream.host, env).manifest("v1");
  expect(mirror.seen.filter((each) => each.path.includes("/manifests/")).map((each) => each.authorization)).toEqual([
    null,
  ]);
  expect(upstream.seen.at(-1)?.authorization).toBe(`Basic ${login.auth}`);
});
