/** Digests and layouts (2024-3727, 2014-9356): what is no digest is refused before a path or a request is made of it. */
import { describe, expect } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { around, temporary } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { blobOf } from "../lib/oci-fixture.ts";
import { binary } from "../lib/sandbox.ts";

const test = testWith({ root: true });
let dir: string;

around({}, (owned) => {
  dir = temporary(owned, "digests");
});

const zeros = "0".repeat(64);
const bad = [
  "sha256:../../../../etc/passwd",
  `sha256:${"A".repeat(64)}`,
  `sha256:${"0".repeat(63)}`,
  `sha256:${"0".repeat(65)}`,
  `SHA256:${zeros}`,
  `sha1:${"0".repeat(40)}`,
  `sha256:${zeros}/..`,
  `sha256:${zeros}\n`,
  `sha256:%2e%2e%2f${"0".repeat(50)}`,
  `sha256-${zeros}`,
  zeros,
  "sha256:",
  "",
];

const type = "application/vnd.oci.image";

interface Answer {
  readonly body: string;
  readonly type: string;
}

/** Pulls from a registry with one answer to every manifest; says what it was asked for after that. */
async function pull(answer: Answer): Promise<{ err: string; code: number | null; asked: string[] }> {
  const asked: string[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const { pathname } = new URL(request.url);
      if (pathname === "/v2/") return new Response("{}");
      if (pathname.endsWith("/manifests/1"))
        return new Response(answer.body, { headers: { "Content-Type": answer.type } });
      asked.push(pathname);
      return new Response("{}", { status: 404 });
    },
  });
  try {
    const child = Bun.spawn([binary, "pull", "-q", `127.0.0.1:${server.port}/x:1`], {
      env: { OCIBOX_ROOT: join(dir, "root"), OCIBOX_STATE: join(dir, "state"), PATH: process.env.PATH ?? "" },
      stdout: "pipe",
      stderr: "pipe",
    });
    const err = await child.stderr.text();
    await child.exited;
    return { err, code: child.exitCode, asked };
  } finally {
    server.stop(true);
  }
}

function stored(): string[] {
  return ["image/blobs/sha256", "layers", "tmp"].flatMap((name) => readdirSync(join(dir, "root", name)));
}

const good = blobOf("{}");
const layer = { mediaType: `${type}.layer.v1.tar`, digest: good.digest, size: good.size };
const config = { mediaType: `${type}.config.v1+json`, digest: good.digest, size: good.size };

describe("digests and layouts (2024-3727, 2014-9356)", () => {
  for (const digest of bad) {
    test(`${JSON.stringify(digest)} as a layer, a configuration, a manifest`, async () => {
      const manifests = [
        { schemaVersion: 2, mediaType: `${type}.manifest.v1+json`, config, layers: [{ ...layer, digest }] },
        { schemaVersion: 2, mediaType: `${type}.manifest.v1+json`, config: { ...config, digest }, layers: [layer] },
        {
          schemaVersion: 2,
          mediaType: `${type}.index.v1+json`,
          manifests: [
            {
              mediaType: `${type}.manifest.v1+json`,
              digest,
              size: 2,
              platform: { os: "linux", architecture: "amd64" },
            },
          ],
        },
      ];
      for (const manifest of manifests) {
        const ended = await pull({ body: JSON.stringify(manifest), type: manifest.mediaType });
        expect(ended.code).toBe(125);
        expect(ended.err).toMatch(/^ocibox: [^\n]*digest[^\n]*\n$/);
        expect(ended.asked).toEqual([]);
        expect(stored()).toEqual([]);
      }
    });
  }

  test("sizes that are none (2021-41190)", async () => {
    for (const size of ["-1", "1e3", "1.5", "9007199254740993", '"2"', "null", "1e400"]) {
      const text = JSON.stringify({
        schemaVersion: 2,
        mediaType: `${type}.manifest.v1+json`,
        config,
        layers: [{ ...layer, size: 987654 }],
      });
      const ended = await pull({ body: text.replace("987654", size), type: `${type}.manifest.v1+json` });
      expect([size, ended.code, ended.asked]).toEqual([size, 125, []]);
      expect(ended.err).toMatch(/^ocibox: [^\n]*size[^\n]*\n$/);
    }
  });

  test("layers and manifests together, another Content-Type, keys given twice, __proto__ (2021-41190)", async () => {
    const manifest = { schemaVersion: 2, mediaType: `${type}.manifest.v1+json`, config, layers: [layer] };
    const text = JSON.stringify(manifest);
    const answers: Answer[] = [
      { body: JSON.stringify({ ...manifest, manifests: [] }), type: `${type}.manifest.v1+json` },
      { body: text, type: `${type}.index.v1+json` },
      { body: text.replace('"layers"', '"config":{},"layers"'), type: `${type}.manifest.v1+json` },
      { body: text.replace('"layers"', '"__proto__":{"layers":[]},"config"'), type: `${type}.manifest.v1+json` },
    ];
    for (const answer of answers) {
      const ended = await pull(answer);
      expect([answer.body, ended.code, ended.asked]).toEqual([answer.body, 125, []]);
      expect(ended.err).toMatch(/^ocibox: [^\n]*manifest[^\n]*\n$/);
    }
  });
});
