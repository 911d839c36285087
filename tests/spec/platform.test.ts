import { describe, expect, test } from "bun:test";
import { OciboxError } from "../../src/errors.ts";
import { sha256 } from "../../src/spec/digest.ts";
import type { Descriptor, Index, Platform } from "../../src/spec/image.ts";
import { ociIndex, ociManifest } from "../../src/spec/media-types.ts";
import { hostPlatform, parsePlatform, selectPlatform, showPlatform } from "../../src/spec/platform.ts";

function entry(platform: string | undefined, more: Partial<Descriptor> = {}): Descriptor {
  const [os = "", architecture = "", variant] = (platform ?? "").split("/");
  const named: Platform = { os, architecture, ...(variant === undefined ? {} : { variant }) };
  return {
    mediaType: ociManifest,
    digest: sha256(`${platform}${JSON.stringify(more)}`),
    size: 1,
    ...(platform === undefined ? {} : { platform: named }),
    ...more,
  };
}

function indexOf(...entries: Descriptor[]): Index {
  return { mediaType: ociIndex, manifests: entries };
}

describe("the choice", () => {
  const many = indexOf(
    entry("linux/arm/v6"),
    entry("linux/arm/v7"),
    entry("linux/amd64"),
    entry("linux/arm64/v8"),
    entry("windows/amd64"),
    entry("unknown/unknown"),
    entry("linux/s390x", { annotations: { "vnd.docker.reference.type": "attestation-manifest" } }),
    entry("linux/riscv64", { mediaType: "application/vnd.example" }),
  );
  test.each([
    ["linux/amd64", "linux/amd64"],
    ["amd64", "linux/amd64"],
    ["x86_64", "linux/amd64"],
    ["linux/amd64/v3", "linux/amd64"],
    ["linux/arm64", "linux/arm64/v8"],
    ["linux/arm64/v8", "linux/arm64/v8"],
    ["aarch64", "linux/arm64/v8"],
    ["linux/arm", "linux/arm/v7"],
    ["linux/arm/v8", "linux/arm/v7"],
    ["linux/arm/v6", "linux/arm/v6"],
    ["windows/amd64", "windows/amd64"],
  ])("%s gets %s", (asked, got) => {
    const chosen = selectPlatform(many, parsePlatform(asked));
    expect(chosen.platform === undefined ? "" : showPlatform(chosen.platform)).toBe(got);
  });

  test.each(["linux/arm/v5", "linux/s390x", "linux/riscv64", "unknown/unknown", "linux/386"])(
    "%s gets none",
    (asked) => {
      let thrown: unknown;
      try {
        selectPlatform(many, parsePlatform(asked), "alpine:latest");
      } catch (error) {
        thrown = error;
      }
      expect(thrown).toBeInstanceOf(OciboxError);
      const error = thrown as OciboxError;
      expect(error.code).toBe("PLATFORM");
      expect(error.message).toContain('"alpine:latest"');
      expect(error.hint).toContain("linux/arm/v6, linux/arm/v7, linux/amd64, linux/arm64/v8, windows/amd64");
      expect(error.hint).not.toContain("s390x");
    },
  );

  test("the first of two that suit equally", () => {
    const first = entry("linux/amd64");
    expect(selectPlatform(indexOf(first, entry("linux/amd64", { size: 2 })), parsePlatform("amd64"))).toBe(first);
  });

  test("one image without a platform is taken, of two neither", () => {
    const only = entry(undefined);
    expect(selectPlatform(indexOf(only, entry("unknown/unknown")), hostPlatform())).toBe(only);
    expect(() => selectPlatform(indexOf(only, entry(undefined, { size: 2 })), hostPlatform())).toThrow(OciboxError);
  });
});

test.each(["", "/", "linux/", "a/b/c/d", "linux/amd 64", "../x/y"])("platform %j is refused", (text) => {
  expect(() => parsePlatform(text)).toThrow(OciboxError);
});
