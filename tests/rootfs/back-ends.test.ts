/**
 * The three ways of keeping layers, one suite for all: each makes the same tree of the same image, and that is the one
 * that umoci makes. Small images with odd layers, a rich one, busybox, Debian.
 */
import { describe, expect } from "bun:test";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { snapshotters } from "../../src/store/snapshotter.ts";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { writeLayout } from "../lib/oci-fixture.ts";
import { run } from "../lib/registry.ts";
import { inventory, Sandbox } from "../lib/sandbox.ts";
import { tar } from "../lib/tar.ts";
import { comparable, describeTree } from "../lib/tree.ts";
import { cases } from "./corpus.ts";

const needs = { root: true, programs: ["docker-registry", "buildah", "umoci", "getfattr", "setcap", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
});

/** The image's tree, as each back end has it. */
async function trees(image: string): Promise<string[][]> {
  const all: string[][] = [];
  for (const snapshotter of snapshotters) {
    const target = join(box.dir, `tree-${snapshotter}`);
    const ended = await box.ocibox(["--snapshotter", snapshotter, "unpack", image, target]);
    expect([snapshotter, ended.code, ended.err]).toEqual([snapshotter, 0, ""]);
    all.push(await describeTree(target));
    rmSync(target, { recursive: true });
  }
  return all;
}

async function umocis(image: string): Promise<string[]> {
  const bundle = join(box.dir, "umoci");
  await run("umoci", "unpack", "--image", image, bundle);
  const tree = await describeTree(join(bundle, "rootfs"));
  rmSync(bundle, { recursive: true });
  return tree;
}

describe("layers made by hand", () => {
  cases.forEach(({ name, layers, lacks = 0, unlikeUmoci, umociLosesTimes = false }, index) => {
    test(`${name}${unlikeUmoci === undefined ? "" : " (not as umoci)"}`, async () => {
      const layout = join(box.dir, `layout-${index}`);
      mkdirSync(layout);
      writeLayout(
        layout,
        layers.map((members, at) => {
          const archive = tar(members);
          return at === layers.length - 1 ? archive.slice(0, archive.byteLength - lacks) : archive;
        }),
      );
      const [overlay = [], ...others] = await trees(`oci:${layout}`);
      for (const other of others) expect(other).toEqual(overlay);
      if (unlikeUmoci === undefined) {
        const theirs = await umocis(`${layout}:latest`);
        expect(comparable(overlay, overlay, umociLosesTimes)).toEqual(comparable(theirs, overlay, umociLosesTimes));
      }
    });
  });
});
