/** Stores that are only read: their images are there as one's own are, and nothing is ever written to them. */
import { expect } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { inventory, Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "mount", "umount"] };
const test = testWith(needs);
let box: Sandbox;
let shared = "";
let env: Record<string, string> = {};

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  shared = join(box.dir, "shared");
  expect((await box.ocibox(["--root", shared, "pull", "-q", "alpine"])).code).toBe(0);
  // As a disk that somebody else writes: an attempt to write to it fails.
  await run("mount", "--bind", shared, shared);
  owned.defer(async () => {
    await run("umount", shared);
  });
  await run("mount", "-o", "remount,bind,ro", shared);
  env = { OCIBOX_ADDITIONAL_STORES: `/nowhere:${shared}` };
});

test("its images are listed, run and looked into, without a registry", async () => {
  expect((await box.ocibox(["images", "--format", "{{.Repository}}"], { env })).out).toBe("alpine\n");
  const ran = await box.ocibox(["run", "--rm", "--pull", "never", "alpine", "echo", "read"], { env });
  expect(ran).toEqual({ out: "read\n", err: "", code: 0 });
  const again = await box.ocibox(["--additional-store", shared, "run", "--rm", "--pull", "never", "alpine", "true"]);
  expect(again).toEqual({ out: "", err: "", code: 0 });
  expect(existsSync(join(box.root, "layers")) ? readdirSync(join(box.root, "layers")) : []).toEqual([]);
});

test("a pull takes what is there, and gives it a name in one's own store", async () => {
  const pulled = await box.ocibox(["pull", "alpine"], { env });
  expect([pulled.code, pulled.err]).toEqual([0, expect.stringContaining("0 B in")]);
  for (const folder of ["layers", "image/blobs/sha256"])
    expect([
      folder,
      readdirSync(join(box.root, folder)).filter((name) => existsSync(join(shared, folder, name))),
    ]).toEqual([folder, []]);
  expect((await box.ocibox(["run", "--rm", "alpine", "true"], { env })).code).toBe(0);
});

test("nothing of it is removed", async () => {
  expect((await box.ocibox(["rmi", "alpine"], { env })).code).toBe(0);
  const refused = await box.ocibox(["rmi", "alpine"], { env });
  expect([refused.code, refused.err]).toEqual([125, expect.stringContaining("in a store that is only read")]);
  expect((await box.ocibox(["prune", "-f", "-a"], { env })).code).toBe(0);
  expect((await box.ocibox(["run", "--rm", "--pull", "never", "alpine", "echo", "still"], { env })).out).toBe(
    "still\n",
  );
});

test("in another way than it is kept there, it is unpacked into one's own", async () => {
  const ran = await box.ocibox(["--snapshotter", "copy", "run", "--rm", "-q", "alpine", "echo", "own"], { env });
  expect(ran).toEqual({ out: "own\n", err: "", code: 0 });
  expect(readdirSync(join(box.root, "trees")).length).toBe(1);
  expect((await box.ocibox(["prune", "-f"], { env })).code).toBe(0);
});
