/** What buildah, podman, docker and skopeo push, gzip and zstd, is pulled as the tree that it was. */
import { expect } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Client } from "../lib/client.ts";
import { testWith } from "../lib/needs.ts";
import { run, startRegistry } from "../lib/registry.ts";
import { inventory, Sandbox } from "../lib/sandbox.ts";
import { describeTree } from "../lib/tree.ts";

const needs = {
  root: true,
  programs: [
    "docker-registry",
    "buildah",
    "podman",
    "skopeo",
    "umoci",
    "dockerd",
    "docker",
    "containerd",
    "getfattr",
    "setcap",
    "busybox",
  ],
};
const test = testWith(needs);
let box: Sandbox;
let client: Client;
/** The image as buildah has made and pushed it, in layers of gzip. */
let image = "";
let layout = "";
let tree: string[] = [];

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  client = owned.use(new Client());
  image = await box.pushRich();
  layout = `oci:${box.dir}/layout:rich`;
  await run("skopeo", "copy", "-q", "--src-tls-verify=false", `docker://${image}`, layout);
  await run("umoci", "unpack", "--image", `${box.dir}/layout:rich`, `${box.dir}/bundle`);
  tree = await describeTree(`${box.dir}/bundle/rootfs`);
});

/** Pulls into a store of its own. @returns what each layer is compressed by */
async function pulled(name: string): Promise<string[]> {
  const root = join(box.dir, "pulled");
  const target = join(box.dir, "unpacked");
  try {
    expect(await box.ocibox(["--root", root, "pull", "-q", name])).toMatchObject({ err: "", code: 0 });
    expect(await box.ocibox(["--root", root, "unpack", name, target])).toMatchObject({ err: "", code: 0 });
    expect(await describeTree(target)).toEqual(tree);
    const shown = await box.ocibox(["--root", root, "inspect", "--format", "{{json .Manifest.layers}}", name]);
    const layers = JSON.parse(shown.out) as { mediaType: string }[];
    expect(layers.length).toBeGreaterThan(7);
    return [...new Set(layers.map(({ mediaType }) => mediaType.replace(/^.*(?:tar[+.]|tar$)/, "")))];
  } finally {
    rmSync(root, { recursive: true, force: true });
    rmSync(target, { recursive: true, force: true });
  }
}

const storage = (program: string): string[] => [
  program,
  ...["--root", join(box.dir, "storage"), "--runroot", join(box.dir, "run"), "--storage-driver", "vfs"],
];

test("buildah, gzip", async () => {
  expect(await pulled(image)).toEqual(["gzip"]);
});

for (const [program, compression] of [
  ["buildah", "zstd"],
  ["podman", "gzip"],
  ["podman", "zstd"],
] as const)
  test(`${program}, ${compression}`, async () => {
    // A registry of its own: they send nothing that is there in another compression.
    const registry = await startRegistry();
    try {
      const name = `${registry.host}/from-${program}-${compression}:1`;
      await run(...storage(program), "pull", "-q", "--tls-verify=false", `docker://${image}`);
      const id = (await run(...storage(program), "images", "-q")).trim().split("\n")[0] ?? "";
      const format = ["--format", "oci", "--compression-format", compression];
      await run(...storage(program), "push", "-q", ...format, "--tls-verify=false", id, `docker://${name}`);
      expect(await pulled(name)).toEqual([compression]);
    } finally {
      await registry.stop();
    }
  }, 120_000);

test("skopeo, to zstd and to Docker's schema", async () => {
  const [zstd, docker] = [`${box.host}/from-skopeo-zstd:1`, `${box.host}/from-skopeo-docker:1`];
  const copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"];
  await run(...copy, "--dest-compress", "--dest-compress-format", "zstd", "-f", "oci", layout, `docker://${zstd}`);
  await run(...copy, "-f", "v2s2", layout, `docker://${docker}`);
  expect(await pulled(docker)).toEqual(["gzip"]);
  expect((await pulled(zstd)).length).toBe(1);
});

test("docker, of an archive that ocibox has saved", async () => {
  await client.dockerd("--storage-driver", "overlay2");
  const docker = (...words: string[]) => client.docker(...words);
  const archive = join(box.dir, "archive.tar");
  expect(await box.ocibox(["pull", "-q", image])).toMatchObject({ err: "", code: 0 });
  expect(await box.ocibox(["save", "--format", "docker-archive", "-o", archive, image])).toMatchObject({
    err: "",
    code: 0,
  });
  expect(await docker("load", "-i", archive)).toMatchObject({ code: 0 });
  const name = `${box.host}/from-docker:1`;
  expect(await docker("tag", image, name)).toMatchObject({ code: 0 });
  expect(await docker("push", "-q", name)).toMatchObject({ code: 0 });
  expect(await pulled(name)).toEqual(["gzip"]);
}, 120_000);
