import { describe, expect, test } from "bun:test";
import { OciboxError } from "../../src/errors.ts";
import { parseDigest } from "../../src/spec/digest.ts";
import {
  decodeImageConfig,
  decodeIndex,
  decodeManifest,
  decodeManifestOrIndex,
  manifestLimit,
} from "../../src/spec/image-decode.ts";
import {
  dockerConfig,
  dockerIndex,
  dockerManifest,
  ociConfig,
  ociIndex,
  ociManifest,
} from "../../src/spec/media-types.ts";

const hex = "0123456789abcdef".repeat(4);
const digest = parseDigest(`sha256:${hex}`, "the test");
const encode = (text: string) => new TextEncoder().encode(text);
const json = (value: unknown) => encode(JSON.stringify(value));

const config = { mediaType: ociConfig, digest, size: 7 };
const layer = { mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest, size: 5 };
const manifest = { schemaVersion: 2, mediaType: ociManifest, config, layers: [layer] };
const entry = { mediaType: ociManifest, digest, size: 9, platform: { os: "linux", architecture: "amd64" } };
const index = { schemaVersion: 2, mediaType: ociIndex, manifests: [entry] };
const image = {
  os: "linux",
  architecture: "amd64",
  config: { Env: ["A=1"], Cmd: ["sh"], Entrypoint: null, Volumes: null, User: "" },
  rootfs: { type: "layers", diff_ids: [digest] },
};

function refused(decode: () => unknown): OciboxError {
  try {
    decode();
  } catch (error) {
    expect(error).toBeInstanceOf(OciboxError);
    expect((error as Error).message).not.toContain("\n");
    return error as OciboxError;
  }
  throw new Error("it was not refused");
}

describe("what is good", () => {
  test("a manifest, in OCI's and in Docker's words", () => {
    expect(decodeManifest(json(manifest), ociManifest)).toEqual({ mediaType: ociManifest, config, layers: [layer] });
    const docker = { ...manifest, mediaType: dockerManifest, config: { ...config, mediaType: dockerConfig } };
    expect(decodeManifest(json(docker), dockerManifest).mediaType).toBe(dockerManifest);
    const { mediaType: _, ...unnamed } = manifest;
    expect(decodeManifest(json(unnamed), ociManifest).mediaType).toBe(ociManifest);
    expect(decodeManifest(json(unnamed)).mediaType).toBe(ociManifest);
    expect(decodeManifest(json(docker), "text/plain").mediaType).toBe(dockerManifest);
    expect(decodeManifest(json({ ...manifest, subject: { a: 1.5e3 } }), ociManifest).layers.length).toBe(1);
    expect(decodeManifest(json(manifest), ociManifest, { trusted: true }).layers.length).toBe(1);
  });

  test("an index", () => {
    expect(decodeIndex(json(index), ociIndex).manifests).toEqual([entry]);
    expect(decodeIndex(json({ ...index, mediaType: dockerIndex })).mediaType).toBe(dockerIndex);
  });

  test("either, told apart by type and by fields", () => {
    expect(decodeManifestOrIndex(json(manifest), ociManifest).kind).toBe("manifest");
    expect(decodeManifestOrIndex(json(index), ociIndex).kind).toBe("index");
    expect(decodeManifestOrIndex(json({ schemaVersion: 2, manifests: [] })).kind).toBe("index");
    expect(decodeManifestOrIndex(json({ schemaVersion: 2, config, layers: [] }), "application/json").kind).toBe(
      "manifest",
    );
  });

  test("null for an empty list, as Go writes it", () => {
    expect(decodeManifest(json({ ...manifest, layers: null }), ociManifest).layers).toEqual([]);
    expect(decodeIndex(json({ schemaVersion: 2, manifests: null })).manifests).toEqual([]);
    refused(() => decodeManifest(json({ ...manifest, layers: undefined }), ociManifest));
    refused(() => decodeIndex(json({ schemaVersion: 2 })));
  });

  test("a configuration with Docker's nulls", () => {
    for (const trusted of [true, false]) {
      const decoded = decodeImageConfig(json(image), { layers: 1, trusted });
      expect(decoded.config).toEqual({ Env: ["A=1"], Cmd: ["sh"] });
      expect(decoded.rootfs.diff_ids.map(String)).toEqual([digest]);
    }
    expect(decodeImageConfig(json({ ...image, config: undefined })).config).toEqual({});
    expect(
      decodeImageConfig(json({ ...image, rootfs: { type: "layers", diff_ids: null } }), { layers: 0 }),
    ).toBeDefined();
  });

  test("labels named like what objects inherit", () => {
    const Labels = Object.fromEntries([
      ["constructor", "x"],
      ["toString", "y"],
    ]);
    const decoded = decodeImageConfig(json({ ...image, config: { Labels } }));
    expect(Object.entries(decoded.config.Labels ?? {})).toEqual([
      ["constructor", "x"],
      ["toString", "y"],
    ]);
  });
});

describe("type confusion (2021-41190)", () => {
  const rows: [name: string, text: string, sentAs: string, why: RegExp][] = [
    ["layers and manifests, as a manifest", JSON.stringify({ ...manifest, manifests: [] }), ociManifest, /"manifests"/],
    ["layers and manifests, as an index", JSON.stringify({ ...index, layers: [] }), ociIndex, /"layers"/],
    ["config in an index", JSON.stringify({ ...index, config }), ociIndex, /"config"/],
    ["fsLayers in a manifest", JSON.stringify({ ...manifest, fsLayers: [] }), ociManifest, /"fsLayers"/],
    ["a manifest sent as an index", JSON.stringify(manifest), ociIndex, /sent as/],
    ["an index sent as a manifest", JSON.stringify(index), ociManifest, /sent as/],
    ["OCI sent as Docker", JSON.stringify(manifest), dockerManifest, /sent as/],
    ["another document sent as HTML", JSON.stringify(manifest), "text/html", /sent as/],
    ["equal keys", `{"schemaVersion":2,"schemaVersion":2}`, ociManifest, /appears twice/],
    ["equal keys by escapes", `{"layers":[],"l\\u0061yers":[]}`, ociManifest, /appears twice/],
    ["equal keys inside", `{"a":[{"b":{"digest":1,"digest":2}}]}`, ociManifest, /appears twice/],
    ["__proto__", `{"__proto__":{"schemaVersion":2}}`, ociManifest, /__proto__/],
    ["__proto__ by escapes", `{"\\u005f_proto__":1}`, ociManifest, /__proto__/],
    ["schemaVersion 3", JSON.stringify({ ...manifest, schemaVersion: 3 }), ociManifest, /schemaVersion/],
    ["schemaVersion 2.0", JSON.stringify(manifest).replace(":2,", ":2.0,"), ociManifest, /schemaVersion/],
    ["an array", "[]", ociManifest, /not an object/],
    ["null", "null", ociManifest, /not an object/],
    ["nothing", "", ociManifest, /too early/],
    ["more behind it", `${JSON.stringify(manifest)}{}`, ociManifest, /follows/],
    ["a byte order mark", `\ufeff${JSON.stringify(manifest)}`, ociManifest, /not JSON/],
    ["a comment", `/**/${JSON.stringify(manifest)}`, ociManifest, /not JSON/],
    ["a comma too many", '{"a":1,}', ociManifest, /key is missing/],
    ["a line feed in a string", '{"a":"\n"}', ociManifest, /control character/],
    ["100 levels", "[".repeat(100) + "]".repeat(100), ociManifest, /deep/],
  ];
  test.each(rows)("%s", (_name, text, sentAs, why) => {
    const error = refused(() => decodeManifestOrIndex(encode(text), sentAs));
    expect(error.code).toBe("INVALID");
    expect(error.message).toMatch(why);
  });

  test("bytes that are not UTF-8", () => {
    expect(refused(() => decodeManifest(new Uint8Array([0x7b, 0xff, 0x7d]))).message).toContain("UTF-8");
  });

  test("schema 1 by name", () => {
    const type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for (const error of [
      refused(() => decodeManifestOrIndex(json({ schemaVersion: 1 }))),
      refused(() => decodeManifest(json(manifest), type)),
    ])
      expect([error.code, error.message.includes("schema 1")]).toEqual(["UNSUPPORTED", true]);
  });

  test("an artifact that is no image", () => {
    const chart = { ...manifest, config: { ...config, mediaType: "application/vnd.cncf.helm.config.v1+json" } };
    const error = refused(() => decodeManifest(json(chart)));
    expect([error.code, error.message.includes("helm")]).toEqual(["UNSUPPORTED", true]);
  });
});

describe("sizes and digests (2014-9356, 2024-3727, 2020-1702)", () => {
  const withSize = (size: string) => JSON.stringify(manifest).replace('"size":5', `"size":${size}`);
  test.each(["-1", "1e3", "1.0", "9007199254740993", "1e400", '"5"', "null", "[5]", "01", "-0"])("size %s", (size) => {
    expect(refused(() => decodeManifest(encode(withSize(size)))).code).toBe("INVALID");
  });
  test("sizes whose sum is not exact", () => {
    const large = { ...layer, size: Number.MAX_SAFE_INTEGER };
    expect(refused(() => decodeManifest(json({ ...manifest, layers: [large, large] }))).code).toBe("INVALID");
  });
  test.each([
    "sha256:../../x",
    digest.toUpperCase(),
    `sha256:${hex.slice(1)}`,
    `md5:${hex}`,
    hex,
    5,
    null,
    `${digest}\n`,
  ])("digest %p", (bad) => {
    expect(refused(() => decodeManifest(json({ ...manifest, layers: [{ ...layer, digest: bad }] }))).code).toBe(
      "INVALID",
    );
    expect(refused(() => decodeManifest(json({ ...manifest, config: { ...config, digest: bad } }))).code).toBe(
      "INVALID",
    );
    expect(refused(() => decodeImageConfig(json({ ...image, rootfs: { type: "layers", diff_ids: [bad] } }))).code).toBe(
      "INVALID",
    );
  });
  test("500 layers are read, 501 are not", () => {
    const layers = (count: number) => json({ ...manifest, layers: Array.from({ length: count }, () => layer) });
    expect(decodeManifest(layers(500)).layers.length).toBe(500);
    expect(refused(() => decodeManifest(layers(501))).message).toContain("501 entries");
  });
  test("an index of 10,001 entries", () => {
    const small = { mediaType: ociManifest, digest, size: 1 };
    const error = refused(() =>
      decodeIndex(json({ ...index, manifests: Array.from({ length: 10_001 }, () => small) })),
    );
    expect(error.message).toContain("10001 entries");
  });
  test("more than 4 MiB", () => {
    const padded = new Uint8Array(manifestLimit + 1).fill(32);
    padded.set(json(manifest));
    expect(refused(() => decodeManifest(padded)).message).toContain("over 4194304");
    expect(decodeManifest(padded.subarray(0, manifestLimit)).layers.length).toBe(1);
  });
});

describe("configurations that are refused", () => {
  const rows: [name: string, change: object, why: RegExp][] = [
    ["Env without =", { config: { Env: ["PATH"] } }, /NAME=VALUE/],
    ["Env with an empty name", { config: { Env: ["=x"] } }, /NAME=VALUE/],
    ["a NUL in Env", { config: { Env: ["A=\0"] } }, /NUL/],
    ["a NUL in User", { config: { User: "0\0" } }, /NUL/],
    ["Cmd as a string", { config: { Cmd: "sh" } }, /not an array/],
    ["a number in Entrypoint", { config: { Entrypoint: [1] } }, /not a string/],
    ["a number as a label", { config: { Labels: { a: 1 } } }, /not a string/],
    ["Volumes as an array", { config: { Volumes: ["/x"] } }, /not an object/],
    ["no rootfs", { rootfs: undefined }, /rootfs/],
    ["rootfs of another type", { rootfs: { type: "x", diff_ids: [] } }, /rootfs.type/],
    ["two DiffIDs for one layer", { rootfs: { type: "layers", diff_ids: [digest, digest] } }, /2 DiffIDs for 1/],
    ["no os", { os: undefined }, /os/],
  ];
  test.each(rows)("%s", (_name, change, why) => {
    for (const trusted of [true, false]) {
      const error = refused(() => decodeImageConfig(json({ ...image, ...change }), { layers: 1, trusted }));
      expect(error.code).toBe("INVALID");
      expect(error.message).toMatch(why);
    }
  });
});
