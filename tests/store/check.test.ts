/** check, check --repair, prune, system df: what is wrong is found by name, mended without fetching what is whole. */
import { describe, expect } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { writeLayout } from "../lib/oci-fixture.ts";
import { inventory, Sandbox } from "../lib/sandbox.ts";
import { tar } from "../lib/tar.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  writeFileSync(join(box.tree, "second"), "another layer\n");
  await box.push("other");
});

const blobs = (): string => join(box.root, "image/blobs/sha256");

/** The largest blob: a layer's. */
function layerBlob(): string {
  const [largest = ""] = readdirSync(blobs()).sort(
    (a, b) => statSync(join(blobs(), b)).size - statSync(join(blobs(), a)).size,
  );
  return join(blobs(), largest);
}

async function fresh(): Promise<void> {
  rmSync(box.root, { recursive: true, force: true });
  for (const name of ["alpine", "other"]) expect((await box.ocibox(["pull", "-q", name])).code).toBe(0);
}

describe("check", () => {
  test("all is well", async () => {
    await fresh();
    expect(await box.ocibox(["check"])).toEqual({ out: "all is well\n", err: "", code: 0 });
    expect((await box.ocibox(["system", "check", "--quick"])).out).toBe("all is well\n");
    expect(box.leftovers()).toEqual([]);
  });

  test("a whiteout was made when it was unpacked, and nothing is wrong with that", async () => {
    rmSync(box.root, { recursive: true, force: true });
    const layout = join(box.dir, "whiteout");
    writeLayout(layout, [
      tar([{ name: "etc/", type: "5" }, { name: "etc/gone" }, { name: "etc/stays" }]),
      tar([{ name: "etc/.wh.gone" }]),
    ]);
    expect((await box.ocibox(["load", "-q", "-i", layout])).err).toBe("");
    expect(await box.ocibox(["check"])).toEqual({ out: "all is well\n", err: "", code: 0 });
    const hidden = layerFile("etc/stays").replace("stays", "gone");
    const other = readdirSync(join(box.root, "layers")).map((name) => join(box.root, "layers", name, "etc/gone"));
    const [made = ""] = other.filter((path) => path !== hidden);
    rmSync(made);
    expect((await box.ocibox(["check"])).out).toMatch(/^layer [0-9a-f]{64}: "etc\/gone" is missing$/m);
  });

  const damages: readonly (readonly [title: string, spoil: () => void, told: RegExp])[] = [
    [
      "a bit of a layer's blob",
      () => {
        const bytes = readFileSync(layerBlob());
        bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
        chmodSync(layerBlob(), 0o600);
        writeFileSync(layerBlob(), bytes);
      },
      /^blob [0-9a-f]{64}: its contents have the digest [0-9a-f]{12}$/m,
    ],
    ["a blob cut short", () => truncateSync(layerBlob(), 1000), /^blob [0-9a-f]{64}: /m],
    [
      "a blob that is gone",
      () => rmSync(layerBlob()),
      /^image docker\.io\/library\/\w+:latest: the blob sha256:[0-9a-f]{64} is missing/m,
    ],
    [
      "a file of a layer changed",
      () => appendFileSync(layerFile("bin/busybox"), "x"),
      /^layer [0-9a-f]{64}: "bin\/busybox" has (other contents|another mtime_)/m,
    ],
    [
      "a file of a layer gone",
      () => rmSync(layerFile("etc/passwd")),
      /^layer [0-9a-f]{64}: "etc\/passwd" is missing$/m,
    ],
    [
      "a file too many",
      () => writeFileSync(join(layerFile("etc"), "more"), ""),
      /^layer [0-9a-f]{64}: "etc(\/more)?" (is too many|has another mtime_)/m,
    ],
    ["another mode", () => chmodSync(layerFile("tmp"), 0o700), /^layer [0-9a-f]{64}: "tmp" has another mode$/m],
    ["a layer gone", () => rmSync(layerFile(""), { recursive: true }), /^layer [0-9a-f]{64}: it is not unpacked$/m],
  ];
  for (const [title, spoil, told] of damages)
    test(title, async () => {
      await fresh();
      spoil();
      const found = await box.ocibox(["check"]);
      expect(found.code).toBe(125);
      expect(found.out).toMatch(told);
      expect(found.err).toMatch(
        /^ocibox: \d+ things? (is|are) wrong with the store ".*"; mend it with: ocibox check --repair\n$/,
      );
      const mended = await box.ocibox(["check", "--repair"]);
      expect([mended.code, mended.err]).toEqual([0, ""]);
      expect(mended.out).toMatch(/^mended docker\.io\/library\/\w+:latest$/m);
      expect(mended.out).toMatch(/all is well\n$/);
      const names = (await box.ocibox(["images", "--format", "{{.Repository}}:{{.Tag}}"])).out
        .trim()
        .split("\n")
        .sort();
      expect(names).toEqual(["alpine:latest", "other:latest"]);
      expect((await box.run(["other", "cat", "/second"])).out).toBe("another layer\n");
      expect(box.leftovers()).toEqual([]);
    });

  test("what cannot be fetched again stays wrong, and is told", async () => {
    await fresh();
    for (const name of ["alpine", "other"])
      expect((await box.ocibox(["tag", name, `gone.invalid/${name}:1`])).code).toBe(0);
    for (const name of ["alpine", "other"]) expect((await box.ocibox(["rmi", name])).code).toBe(0);
    rmSync(layerBlob());
    const ended = await box.ocibox(["check", "--repair"]);
    expect([ended.code, ended.err]).toEqual([125, expect.stringContaining('cannot pull "gone.invalid/')]);
  });
});

/** A path in the first layer that has it. */
function layerFile(path: string): string {
  const layers = join(box.root, "layers");
  const found = readdirSync(layers)
    .map((name) => join(layers, name, path))
    .find(existsSync);
  if (found === undefined) throw new Error(`no layer has ${path}`);
  return found;
}

describe("prune and system df", () => {
  test("what has no name goes, all but what a container was made of with -a; temporaries of killed commands too", async () => {
    await fresh();
    const sizes = JSON.parse((await box.ocibox(["system", "df", "--format", "json"])).out) as {
      Type: string;
      Total: number;
      Size: number;
    }[];
    expect(sizes.map(({ Type, Total }) => [Type, Total])).toEqual([
      ["Images", 2],
      ["Layers, unpacked", 2],
      ["Containers", 0],
      ["Volumes", 0],
      ["Unfinished, kept plans", 0],
    ]);
    expect(sizes[0]?.Size).toBeGreaterThan(500_000);
    expect((await box.ocibox(["system", "df"])).out).toMatch(/^TYPE +TOTAL +ACTIVE +SIZE\nImages +2 +0 +[\d.]+MB\n/);
    expect((await box.ocibox(["prune"])).err).toContain("say so with -f");
    expect((await box.ocibox(["prune", "-f"])).out).toBe("Removed 0 images\nTotal reclaimed space: 0B\n");
    // An image that was loaded by where it lies has no name.
    expect((await box.ocibox(["save", "--format", "oci-dir", "-o", join(box.dir, "saved"), "other"])).code).toBe(0);
    expect((await box.ocibox(["rmi", "other"])).code).toBe(0);
    expect((await box.run([`oci:${box.dir}/saved`, "true"])).code).toBe(0);
    const pruned = await box.ocibox(["image", "prune", "--force"]);
    expect(pruned.out).toMatch(/^Removed 1 image\nTotal reclaimed space: [\d.]+MB\n$/);
    // What a container was made of stays.
    expect((await box.ocibox(["run", "-q", "--name", "kept", "alpine", "true"])).code).toBe(0);
    expect((await box.ocibox(["system", "prune", "-af"])).out).toMatch(/^Removed 0 images/);
    expect((await box.ocibox(["rm", "kept"])).code).toBe(0);
    expect((await box.ocibox(["prune", "-a", "-f"])).out).toMatch(
      /^Removed 1 image\nTotal reclaimed space: [\d.]+MB\n$/,
    );
    expect(readdirSync(blobs())).toEqual([]);
    expect(readdirSync(join(box.root, "layers"))).toEqual([]);
  });

  test("temporaries that nobody works on any more", async () => {
    await fresh();
    const place = join(box.root, "tmp/pull-0123456789abcdef");
    Bun.spawnSync(["mkdir", "-p", place]);
    writeFileSync(`${place}.lock`, "");
    writeFileSync(join(place, "half"), "x".repeat(100_000));
    expect((await box.ocibox(["prune", "-f"])).out).toMatch(/^Removed 0 images\nTotal reclaimed space: 1\d\dkB\n$/);
    expect(readdirSync(join(box.root, "tmp"))).toEqual([]);
  });
});
