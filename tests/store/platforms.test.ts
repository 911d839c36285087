/** Images for several platforms: an index comes whole, attestations included, and goes on to a registry unchanged. */
import { expect } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { around } from "../lib/around.ts";
import { buildIndex } from "../lib/multi-platform.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "skopeo", "podman", "busybox"] };
const test = testWith(needs);
const all = ["amd64", "arm/v6", "arm/v7", "arm64"];
let box: Sandbox;
let index = "";

around(needs, async (owned) => {
  box = await Sandbox.ownedBy(owned);
  const registry = `http://${box.host}/v2`;
  await buildIndex(`${registry}/library/many`, `${registry}/library/alpine`, all, true);
  index = await digestOf("library/many");
});

async function ok(...words: string[]): Promise<string> {
  const ended = await box.ocibox(words);
  expect([words, ended.code, ended.err]).toEqual([words, 0, ""]);
  return ended.out;
}

async function digestOf(name: string): Promise<string> {
  const raw = await run("skopeo", "inspect", "--raw", "--tls-verify=false", `docker://${box.host}/${name}`);
  return `sha256:${new Bun.CryptoHasher("sha256").update(raw).digest("hex")}`;
}

const at = (name: string): string[] => ["--root", join(box.dir, name)];
const blobs = (name: string): string[] => readdirSync(join(box.dir, name, "image/blobs/sha256")).sort();

async function platforms(root: string, image: string): Promise<string[]> {
  return (await ok(...at(root), "images", "--format", "{{.Platform}}", image)).trim().split("\n").sort();
}

/** Everything that the index leads to, as skopeo finds it. */
async function allBlobs(): Promise<string[]> {
  const layout = join(box.dir, "by-skopeo");
  await run(
    "skopeo",
    "copy",
    "-q",
    "--all",
    "--src-tls-verify=false",
    `docker://${box.host}/library/many`,
    `oci:${layout}`,
  );
  return readdirSync(join(layout, "blobs/sha256")).sort();
}

test("pull --all-platforms takes all of the index, and push --all-platforms gives it on as it is", async () => {
  expect(await ok(...at("all"), "pull", "-q", "--all-platforms", "many")).toBe(`${index}\n`);
  expect(await platforms("all", "many")).toEqual(["linux/amd64", "linux/arm", "linux/arm", "linux/arm64"]);
  const expected = await allBlobs();
  expect(blobs("all")).toEqual(expected);
  // Each is there to be run without a registry; the tree is the same for all.
  for (const each of all) {
    const words = ["run", "--rm", "--offline", "--platform", `linux/${each}`, "many", "echo", each];
    expect(await ok(...at("all"), ...words)).toBe(`${each}\n`);
  }
  const digests = await Promise.all(
    all.map((each) => ok(...at("all"), "pull", "--offline", "--platform", `linux/${each}`, "many")),
  );
  expect(new Set(digests)).toEqual(new Set([`${index}\n`]));

  expect(await ok(...at("all"), "push", "-q", "--all-platforms", "many", `${box.host}/pushed/many:1`)).toBe(
    `${index}\n`,
  );
  expect(await digestOf("pushed/many:1")).toBe(index);
  await run(
    "skopeo",
    "copy",
    "-q",
    "--all",
    "--src-tls-verify=false",
    `docker://${box.host}/pushed/many:1`,
    `dir:${box.dir}/back`,
  );

  // What nobody needs goes, and this is needed; then it is not.
  await ok(...at("all"), "prune", "-f");
  expect(blobs("all")).toEqual(expected);
  await ok(...at("all"), "rmi", "-f", index);
  expect(await ok(...at("all"), "images", "-q")).toBe("");
  expect(blobs("all")).toEqual([]);
}, 60_000);

test("podman takes what was pushed, for another platform too", async () => {
  const podman = ["podman", "--root", join(box.dir, "podman"), "--runroot", join(box.dir, "podman-run")];
  const own = [...podman, "--storage-driver", "vfs"];
  try {
    for (const platform of ["linux/arm64", "linux/arm/v6"]) {
      const image = `${box.host}/pushed/many:1`;
      const id = (await run(...own, "pull", "-q", "--tls-verify=false", "--platform", platform, image)).trim();
      const shown = await run(...own, "image", "inspect", "--format", "{{.Author}}", id);
      expect(shown.trim()).toBe(`maker ${all.indexOf(platform.slice(6))}`);
    }
  } finally {
    await run(...own, "rmi", "-af").catch(() => {});
  }
}, 60_000);

test("an archive keeps it whole", async () => {
  const file = join(box.dir, "many.tar");
  await ok(...at("from"), "pull", "-q", "--all-platforms", "many");
  await ok(...at("from"), "save", "--format", "oci-archive", "-o", file, "many");
  await ok(...at("to"), "load", "-q", "-i", file);
  expect(blobs("to")).toEqual(blobs("from"));
  expect(await ok(...at("to"), "push", "-q", "--all-platforms", "many", `${box.host}/loaded/many:1`)).toBe(
    `${index}\n`,
  );
  // One platform of it is that one alone.
  await ok(...at("one"), "load", "-q", "-i", file, "--platform", "linux/arm64");
  expect(await platforms("one", "many")).toEqual(["linux/arm64"]);
});

test("--platform more than once takes these, and none where one is not there", async () => {
  const words = ["pull", "-q", "--platform", "linux/arm64", "--platform", "linux/arm/v7"];
  expect(await ok(...at("two"), ...words, "many")).toBe(`${index}\n`);
  expect(await platforms("two", "many")).toEqual(["linux/arm", "linux/arm64"]);
  const missing = await box.ocibox([...at("none"), ...words, "--platform", "linux/s390x", "many"]);
  expect([missing.code, missing.out]).toEqual([125, ""]);
  expect(missing.err).toContain("no image for linux/s390x");
  expect(await ok(...at("none"), "images", "-q")).toBe("");
  const part = await box.ocibox([...at("two"), "push", "--all-platforms", "many", `${box.host}/pushed/part:1`]);
  expect([part.code, part.out]).toEqual([125, ""]);
  expect(part.err).toContain("ocibox pull --all-platforms");
  for (const flags of [["--platform", "linux/arm64"], ["--offline"]]) {
    const both = await box.ocibox(["pull", "--all-platforms", ...flags, "many"]);
    expect([both.code, both.err]).toEqual([125, expect.stringContaining("cannot both be had")]);
  }
});

test("the same name, platform by platform, from a newer index", async () => {
  const registry = `http://${box.host}/v2`;
  await buildIndex(`${registry}/library/moving`, `${registry}/library/alpine`, ["amd64", "arm64"]);
  await ok(...at("moving"), "pull", "-q", "--all-platforms", "moving");
  await buildIndex(`${registry}/library/moving`, `${registry}/library/alpine`, ["riscv64", "arm64/v8", "amd64"]);
  const newer = (await ok(...at("moving"), "pull", "-q", "--all-platforms", "moving")).trim();
  expect(newer).toBe(await digestOf("library/moving"));
  const listed = await ok(...at("moving"), "images", "--format", "{{.Repository}} {{.Platform}} {{.Digest}}", "moving");
  expect(listed.trim().split("\n").sort()).toEqual(
    ["amd64", "arm64", "riscv64"].map((each) => `moving linux/${each} ${newer}`),
  );
});

test("an image without an index, for a platform that is not this one", async () => {
  const registry = `http://${box.host}/v2`;
  const shown = await fetch(`${registry}/library/many/manifests/latest`, {
    headers: { accept: "application/vnd.oci.image.index.v1+json" },
  });
  const { manifests } = (await shown.json()) as { manifests: { digest: string }[] };
  const [, , , , , , arm64] = manifests;
  const word = `many@${arm64?.digest}`;
  expect(await ok(...at("plain"), "pull", "-q", "--all-platforms", word)).toBe(`${arm64?.digest}\n`);
  expect(await ok(...at("plain"), "images", "--format", "{{.Platform}}")).toBe("linux/arm64\n");
});
