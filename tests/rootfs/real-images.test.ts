/**
 * Real images, kept in each of the three ways: one tree, and that is umoci's. The large one takes minutes to make, so it
 * is not made here: `OCIBOX_TEST_LARGE=DIR`, as scripts/large-image leaves it, has it looked at too.
 */
import { expect } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { snapshotters } from "../../src/store/snapshotter.ts";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { blobOf, writeLayout } from "../lib/oci-fixture.ts";
import { run } from "../lib/registry.ts";
import { inventory, Sandbox } from "../lib/sandbox.ts";
import { comparable, describeTree } from "../lib/tree.ts";

const needs = {
  root: true,
  programs: ["docker-registry", "buildah", "skopeo", "umoci", "getfattr", "setcap", "busybox", "debootstrap"],
};
const large = process.env.OCIBOX_TEST_LARGE;
const test = testWith(needs);
const testLarge = testWith({
  ...needs,
  missing:
    large === undefined
      ? "the image takes minutes to make: scripts/large-image DIR; then OCIBOX_TEST_LARGE=DIR"
      : undefined,
});
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
});

/** @param layout with the tag "latest" */
async function compare(layout: string): Promise<void> {
  const bundle = join(box.dir, "umoci");
  await run("umoci", "unpack", "--image", `${layout}:latest`, bundle);
  const theirs = await describeTree(join(bundle, "rootfs"));
  rmSync(bundle, { recursive: true });
  expect(theirs.length).toBeGreaterThan(10);
  for (const snapshotter of snapshotters) {
    const target = join(box.dir, "unpacked");
    const ended = await box.ocibox(["--snapshotter", snapshotter, "unpack", `oci:${layout}`, target]);
    expect([snapshotter, ended.code, ended.err]).toEqual([snapshotter, 0, ""]);
    const ours = await describeTree(target);
    rmSync(target, { recursive: true });
    expect([snapshotter, comparable(ours, ours)]).toEqual([snapshotter, comparable(theirs, ours)]);
  }
}

async function fromRegistry(image: string, layout: string): Promise<string> {
  await run("skopeo", "copy", "-q", "--src-tls-verify=false", `docker://${image}`, `oci:${layout}:latest`);
  return layout;
}

test("busybox", async () => {
  await compare(await fromRegistry(`${box.host}/library/alpine:latest`, join(box.dir, "busybox")));
});

test("eight layers with everything that unpacking can get wrong", async () => {
  const image = `${box.host}/rich:1`;
  await run("bash", resolve("tests/fixtures/rich-image.sh"), join(box.dir, "buildah"), image);
  await compare(await fromRegistry(image, join(box.dir, "rich")));
}, 120_000);

test("Debian, as debootstrap makes it", async () => {
  const dir = mkdtempSync(join(tmpdir(), "ocibox-debian-"));
  try {
    const site = (
      await run(
        "sh",
        "-c",
        "apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1",
      )
    ).trim();
    await run("debootstrap", "--variant=minbase", "bookworm", join(dir, "root"), site);
    // A layer has no devices of its own here: what debootstrap makes of /dev is left out.
    await run(
      "sh",
      "-c",
      `rm -rf ${dir}/root/dev/* && tar --xattrs --format=posix -cf ${dir}/layer.tar -C ${dir}/root .`,
    );
    const layout = join(box.dir, "debian");
    mkdirSync(layout);
    writeLayout(layout, [readFileSync(join(dir, "layer.tar"))]);
    await compare(layout);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}, 300_000);

interface Packed {
  readonly diffId: string;
}

testLarge(
  "the large image of the benchmark: 85,000 entries in eight layers",
  async () => {
    const layout = join(box.dir, "large");
    mkdirSync(join(layout, "blobs/sha256"), { recursive: true });
    const layers: { mediaType: string; digest: string; size: number }[] = [];
    const diffIds: string[] = [];
    for (let at = 1; existsSync(join(large ?? "", `layers/${at}.json`)); at++) {
      const path = join(large ?? "", `layers/${at}.tar.gz`);
      const [hex = ""] = (await run("sha256sum", path)).split(" ");
      await run("cp", path, join(layout, "blobs/sha256", hex));
      layers.push({
        mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
        digest: `sha256:${hex}`,
        size: statSync(path).size,
      });
      diffIds.push((JSON.parse(readFileSync(join(large ?? "", `layers/${at}.json`), "utf8")) as Packed).diffId);
    }
    const config = blobOf({
      architecture: "amd64",
      os: "linux",
      config: {},
      rootfs: { type: "layers", diff_ids: diffIds },
    });
    const manifestType = "application/vnd.oci.image.manifest.v1+json";
    const manifest = blobOf({
      schemaVersion: 2,
      mediaType: manifestType,
      config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: config.digest, size: config.size },
      layers,
    });
    for (const { digest, bytes } of [config, manifest])
      writeFileSync(join(layout, "blobs/sha256", digest.slice(7)), bytes);
    const entry = {
      mediaType: manifestType,
      digest: manifest.digest,
      size: manifest.size,
      annotations: { "org.opencontainers.image.ref.name": "latest" },
    };
    writeFileSync(join(layout, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
    writeFileSync(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
    await compare(layout);
  },
  1_200_000,
);
