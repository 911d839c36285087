/**
 * The corpus of bad inputs, through the program itself: each is refused in one line that says why, and nothing of it is
 * in the store.
 */
import { expect } from "bun:test";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { snapshotters } from "../../src/store/snapshotter.ts";
import { shouldFailDocuments } from "../fixtures/should-fail-documents.ts";
import { shouldFailLayers } from "../fixtures/should-fail-layers.ts";
import { shouldFailReferences } from "../fixtures/should-fail-references.ts";
import { around, temporary, unchanged } from "../lib/around.ts";
import { Canary } from "../lib/canary.ts";
import { testWith } from "../lib/needs.ts";
import { blobOf, writeLayout } from "../lib/oci-fixture.ts";
import { binary } from "../lib/sandbox.ts";

const needs = { root: true };
const test = testWith(needs);
let dir = "";
let canary: Canary;

around(needs, (owned) => {
  dir = temporary(owned, "bad");
  canary = new Canary(join(dir, "canary"));
  unchanged(owned, () => canary.now());
});

async function refused(words: readonly string[], says: RegExp): Promise<void> {
  const env = { OCIBOX_ROOT: join(dir, "root"), OCIBOX_STATE: join(dir, "state"), PATH: process.env.PATH ?? "" };
  const child = Bun.spawn([binary, ...words], { stdio: ["ignore", "pipe", "pipe"], env });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect([words, code, out]).toEqual([words, 125, ""]);
  expect(err).toMatch(/^ocibox: [^\n]+\n$/);
  expect(err).toMatch(says);
}

/** Folders of the store that something of a bad image could be in. */
function left(): string[] {
  return ["layers", "erofs", "trees", "tmp", "trash", "containers"].flatMap((folder) => {
    const path = join(dir, "root", folder);
    return existsSync(path) ? readdirSync(path).map((name) => join(folder, name)) : [];
  });
}

for (const kind of snapshotters)
  test(`layers, kept as ${kind}`, async () => {
    for (const [at, { name, bytes, says }] of shouldFailLayers.entries()) {
      const layout = join(dir, `${kind}-${at}`);
      mkdirSync(layout);
      writeLayout(layout, [bytes]);
      await refused(["--snapshotter", kind, "load", "-q", "-i", layout], says);
      expect([name, left()]).toEqual([name, []]);
      rmSync(layout, { recursive: true });
    }
    expect(canary.now()).toEqual([...canary.before]);
  }, 120_000);

test("manifests and indexes", async () => {
  for (const [name, text, says] of shouldFailDocuments) {
    const layout = join(dir, "document");
    mkdirSync(join(layout, "blobs/sha256"), { recursive: true });
    const { digest, size, bytes } = blobOf(Buffer.from(text, "latin1"));
    writeFileSync(join(layout, "blobs/sha256", digest.slice(7)), bytes);
    writeFileSync(join(layout, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
    const annotations = { "org.opencontainers.image.ref.name": "example.com/bad:1" };
    const mediaType = `application/vnd.oci.image.${text.includes('"manifests"') ? "index" : "manifest"}.v1+json`;
    const top = { mediaType, digest, size, annotations };
    writeFileSync(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [top] }));
    await refused(["load", "-q", "-i", layout], says);
    expect([name, left()]).toEqual([name, []]);
    rmSync(layout, { recursive: true });
  }
}, 60_000);

test("names", async () => {
  for (const word of shouldFailReferences) {
    // An argument ends at a NUL.
    if (word.includes("\0")) continue;
    await refused(["pull", "-q", "--", word], /./);
  }
  expect(left()).toEqual([]);
}, 60_000);
