/** The images that pulling is measured with, in a registry's storage: made once (scripts/large-image), and kept. */
import { join, resolve } from "node:path";
import { $ } from "bun";
import { startRegistry } from "./bench-registry.ts";
import { pushBlob } from "./busybox-image.ts";

interface LayerFacts {
  readonly diffId: string;
  /** Bytes of the plain tar. */
  readonly size: number;
  readonly entries: number;
}

export interface ImageFacts {
  readonly layers: number;
  readonly entries: number;
  readonly plainBytes: number;
  readonly compressedBytes: number;
}

export interface LargeImages {
  /** The registry's storage, with "large:latest" and "minbase:latest". */
  readonly storage: string;
  /** The layers as they are in the registry, in order. */
  readonly files: readonly string[];
  readonly large: ImageFacts;
  readonly minbase: ImageFacts;
}

async function factsOf(directory: string): Promise<LayerFacts[]> {
  const facts: LayerFacts[] = [];
  for (let index = 1; ; index++) {
    const file = Bun.file(`${directory}/${index}.json`);
    if (!(await file.exists())) return facts;
    facts.push(await file.json());
  }
}

/** As `docker push` does it: manifest v2, schema 2. */
async function push(url: string, facts: readonly LayerFacts[], files: readonly string[]): Promise<void> {
  const type = "application/vnd.docker";
  const created = "2026-01-01T00:00:00Z";
  const config = {
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    os: "linux",
    created,
    config: { Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], Cmd: ["bash"] },
    rootfs: { type: "layers", diff_ids: facts.map((each) => each.diffId) },
    history: facts.map(() => ({ created, created_by: "scripts/large-image" })),
  };
  const layers: unknown[] = [];
  for (const file of files) {
    const pushed = await pushBlob(url, await Bun.file(file).bytes());
    layers.push({ mediaType: `${type}.image.rootfs.diff.tar.gzip`, ...pushed });
  }
  const configBlob = await pushBlob(url, new TextEncoder().encode(JSON.stringify(config)));
  const put = await fetch(`${url}/manifests/latest`, {
    method: "PUT",
    body: JSON.stringify({
      schemaVersion: 2,
      mediaType: `${type}.distribution.manifest.v2+json`,
      config: { mediaType: `${type}.container.image.v1+json`, ...configBlob },
      layers,
    }),
    headers: { "Content-Type": `${type}.distribution.manifest.v2+json` },
  });
  if (put.status !== 201) throw new Error(`the registry answers ${put.status} to the manifest: ${await put.text()}`);
}

function sum(facts: readonly LayerFacts[], files: readonly string[]): ImageFacts {
  return {
    layers: facts.length,
    entries: facts.reduce((total, each) => total + each.entries, 0),
    plainBytes: facts.reduce((total, each) => total + each.size, 0),
    compressedBytes: files.reduce((total, file) => total + Bun.file(file).size, 0),
  };
}

/** @param cache a directory that is kept from one bench to the next */
export async function largeImages(cache: string): Promise<LargeImages> {
  await $`${resolve("scripts/large-image")} ${join(cache, "image")}`;
  const directory = join(cache, "image/layers");
  const facts = await factsOf(directory);
  const files = facts.map((_, index) => `${directory}/${index + 1}.tar.gz`);
  const storage = join(cache, "registry");
  const stamp = join(cache, "registry.recipe");
  const recipe = await Bun.file(join(cache, "image/recipe")).text();
  const pushed = Bun.file(stamp);
  if (!(await pushed.exists()) || (await pushed.text()) !== recipe) {
    await $`rm -rf ${storage}`;
    const registry = await startRegistry(storage, join(cache, "registry.yml"));
    try {
      await push(`http://${registry.host}/v2/large`, facts, files);
      await push(`http://${registry.host}/v2/minbase`, facts.slice(0, 1), files.slice(0, 1));
    } finally {
      await registry.stop();
    }
    await Bun.write(stamp, recipe);
  }
  return { storage, files, large: sum(facts, files), minbase: sum(facts.slice(0, 1), files.slice(0, 1)) };
}
