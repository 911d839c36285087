/** Documents of strangers, damaged and changed: they are decoded to what can be trusted, or refused by an error of ours. */
import { expect, test } from "bun:test";
import { OciboxError } from "../../src/errors.ts";
import { isDigest } from "../../src/spec/digest.ts";
import type { Descriptor } from "../../src/spec/image.ts";
import { decodeImageConfig, decodeIndex, decodeManifest, decodeManifestOrIndex } from "../../src/spec/image-decode.ts";
import { ociConfig, ociIndex, ociManifest } from "../../src/spec/media-types.ts";
import { OddNumber, parseStrictJson } from "../../src/spec/strict-json.ts";
import { decodeLock, encodeLock } from "../../src/store/image-lock.ts";
import { shouldFailDocuments } from "../fixtures/should-fail-documents.ts";
import { type Dice, fuzz, fuzzTimeout } from "../lib/fuzz.ts";

const digest = `sha256:${"0123456789abcdef".repeat(4)}`;
const config = { mediaType: ociConfig, digest, size: 7, annotations: { a: "b" } };
const layer = { mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest, size: 5, urls: ["https://x/y"] };
const platform = { os: "linux", architecture: "arm", variant: "v7", "os.version": "1" };
const documents: readonly object[] = [
  { schemaVersion: 2, mediaType: ociManifest, config, layers: [layer, layer], annotations: { a: "b" } },
  { schemaVersion: 2, mediaType: ociIndex, manifests: [{ ...config, mediaType: ociManifest, platform }] },
  {
    ...platform,
    created: "2026-01-01T00:00:00Z",
    author: "nobody",
    config: {
      ...{ User: "1:2", Env: ["A=1"], Entrypoint: ["sh"], Cmd: ["-c", "x"], WorkingDir: "/", StopSignal: "SIGTERM" },
      ...{ Volumes: { "/v": {} }, ExposedPorts: { "80/tcp": {} }, Labels: { l: "v" } },
    },
    rootfs: { type: "layers", diff_ids: [digest, digest] },
    history: [{ created_by: "x", empty_layer: true }],
  },
  {
    version: 1,
    images: {
      "docker.io/library/alpine:latest": { digest, platforms: { "linux/amd64": digest, "linux/arm/v7": digest } },
    },
  },
];

const odd: readonly unknown[] = [
  ...[null, true, -1, 0, 1.5, 2 ** 53, "", "\0", "a\0b", "../..", {}, [], [null], { "": 0 }],
  ...["sha256:../../x", digest.toUpperCase(), `${digest}0`, ociIndex, ociManifest, "linux", "unknown", "NO_EQUALS"],
];

/** One value somewhere replaced, removed or moved. */
function changed(dice: Dice, value: unknown): unknown {
  if (typeof value !== "object" || value === null || dice.once(6)) return dice.pick(odd);
  const keys = Object.keys(value);
  const key = dice.pick(keys);
  if (keys.length === 0) return dice.pick(odd);
  const copy: unknown = Array.isArray(value) ? [...value] : { ...value };
  const target = copy as Record<string, unknown>;
  if (dice.once(8)) delete target[key];
  else if (dice.once(12))
    target[dice.pick(["__proto__x", "layers", "manifests", "config", "size", "x"])] = dice.pick(odd);
  else target[key] = changed(dice, target[key]);
  return copy;
}

function documentOf(dice: Dice): Uint8Array<ArrayBuffer> {
  let value: unknown = dice.pick(documents);
  for (let times = dice.below(3); times > 0; times--) value = changed(dice, value);
  const text = dice.once(30) ? dice.pick(shouldFailDocuments)[1] : (JSON.stringify(value) ?? "");
  const bytes = new TextEncoder().encode(text.replace("__proto__x", "__proto__"));
  return dice.once(3) ? dice.damage(bytes) : bytes;
}

/** What it comes to, or undefined where it is refused; anything else that is thrown is a fault. */
function attempt<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch (error) {
    if (error instanceof OciboxError) {
      expect(error.message).not.toContain("\n");
      expect(error.message.length).toBeLessThan(2000);
      return undefined;
    }
    throw error;
  }
}

function checkDescriptor({ digest: own, size, mediaType }: Descriptor): void {
  expect(isDigest(own)).toBe(true);
  expect(Number.isSafeInteger(size) && size >= 0).toBe(true);
  expect(mediaType).toMatch(/^[!-~]+\/[!-~]+$/);
}

function plain(value: unknown): boolean {
  if (value instanceof OddNumber) return false;
  return typeof value !== "object" || value === null || Object.values(value).every(plain);
}

/** Against JSON.parse: what is accepted is the same; what only we refuse is refused for a reason that we have. */
function checkJson(bytes: Uint8Array): void {
  const text = new TextDecoder().decode(bytes);
  let theirs: { value: unknown } | undefined;
  try {
    theirs = { value: JSON.parse(text) };
  } catch {
    // not JSON
  }
  let ours: { value: unknown } | undefined;
  try {
    ours = { value: parseStrictJson(text) };
  } catch (error) {
    expect(error).toBeInstanceOf(SyntaxError);
    if (theirs !== undefined) expect((error as Error).message).toMatch(/appears twice|"__proto__"|nested more than/);
  }
  if (ours === undefined) return;
  expect(theirs).toBeDefined();
  if (plain(ours.value)) expect(JSON.stringify(ours.value)).toBe(JSON.stringify(theirs?.value));
}

test(
  "manifests, indexes, configurations, lock files",
  async () => {
    let accepted = 0;
    let refused = 0;
    const { rounds } = await fuzz((dice) => {
      const bytes = documentOf(dice);
      checkJson(bytes);
      const sentAs = dice.pick(["", ociManifest, ociIndex, "text/plain"]);
      const manifest = attempt(() => decodeManifest(bytes, sentAs));
      if (manifest !== undefined) for (const each of [manifest.config, ...manifest.layers]) checkDescriptor(each);
      const index = attempt(() => decodeIndex(bytes, sentAs));
      for (const each of index?.manifests ?? []) checkDescriptor(each);
      // No document is both.
      expect(manifest !== undefined && index !== undefined).toBe(false);
      const either = attempt(() => decodeManifestOrIndex(bytes, sentAs));
      if (either !== undefined) expect(either.kind === "manifest" ? manifest : index).toBeDefined();
      const image = attempt(() => decodeImageConfig(bytes));
      if (image !== undefined) {
        expect(image.rootfs.diff_ids.every(isDigest)).toBe(true);
        for (const each of image.config.Env ?? []) expect(each).toMatch(/^[^=\0]+=[^\0]*$/s);
        for (const each of [...(image.config.Cmd ?? []), image.config.User ?? ""]) expect(each).not.toContain("\0");
      }
      const lock = attempt(() => decodeLock(bytes, "ocibox.lock"));
      // What is written of what was read is read as the same.
      if (lock !== undefined) {
        const text = encodeLock(lock);
        expect(encodeLock(decodeLock(new TextEncoder().encode(text), "x"))).toBe(text);
      }
      expect(({} as Record<string, unknown>).size).toBeUndefined();
      if ([manifest, index, image, lock].some((each) => each !== undefined)) accepted++;
      else refused++;
    });
    expect(rounds).toBeGreaterThan(500);
    expect(accepted).toBeGreaterThan(rounds / 20);
    expect(refused).toBeGreaterThan(rounds / 20);
  },
  fuzzTimeout,
);

test("the corpus is refused", () => {
  for (const [name, text] of shouldFailDocuments) {
    const bytes = new Uint8Array(Buffer.from(text, "latin1"));
    for (const decode of [decodeManifest, decodeIndex, decodeManifestOrIndex])
      expect([name, attempt(() => decode(bytes))]).toEqual([name, undefined]);
  }
});
