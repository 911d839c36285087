/** unpack and cp: an image's tree without a container, as umoci unpacks it. */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { inventory, Sandbox } from "../lib/sandbox.ts";
import { describeTree } from "../lib/tree.ts";

const needs = {
  root: true,
  programs: ["docker-registry", "buildah", "skopeo", "umoci", "getfattr", "setcap", "busybox"],
};
const test = testWith(needs);
let box: Sandbox;
let image = "";

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  image = await box.pushRich();
  expect((await box.ocibox(["pull", "-q", image])).code).toBe(0);
});

describe("unpack", () => {
  test("is name by name what umoci makes", async () => {
    await run("skopeo", "copy", "-q", "--src-tls-verify=false", `docker://${image}`, `oci:${box.dir}/layout:rich`);
    await run("umoci", "unpack", "--image", `${box.dir}/layout:rich`, `${box.dir}/bundle`);
    const expected = await describeTree(`${box.dir}/bundle/rootfs`);
    const unpacked = await box.ocibox(["unpack", image, join(box.dir, "unpacked")]);
    expect([unpacked.code, unpacked.err]).toEqual([0, ""]);
    expect(unpacked.out).toMatch(/^\d+ entries in .*\/unpacked\n$/);
    expect(await describeTree(join(box.dir, "unpacked"))).toEqual(expected);
  });

  test("from where an image lies, into a directory that is empty; never into one that is not", async () => {
    mkdirSync(join(box.dir, "empty"));
    expect((await box.ocibox(["unpack", `oci:${box.dir}/layout:rich`, join(box.dir, "empty")])).code).toBe(0);
    const again = await box.ocibox(["unpack", image, join(box.dir, "empty")]);
    expect([again.code, again.err]).toEqual([125, expect.stringContaining("is not empty")]);
    const none = await box.ocibox(["unpack", "nowhere", join(box.dir, "none")]);
    expect([none.code, existsSync(join(box.dir, "none"))]).toEqual([125, false]);
    expect(box.leftovers()).toEqual([]);
  });
});

describe("cp", () => {
  const cp = (path: string, destination: string) => box.ocibox(["cp", `${image}:${path}`, join(box.dir, destination)]);

  test("a file: under a new name, into a directory; a directory, and what is in it", async () => {
    mkdirSync(join(box.dir, "into"));
    expect(await cp("/etc/passwd", "new-name")).toEqual({ out: "", err: "", code: 0 });
    expect((await cp("/etc/passwd", "into")).code).toBe(0);
    const passwd = readFileSync(join(box.dir, "unpacked/etc/passwd"), "utf8");
    for (const name of ["new-name", "into/passwd"]) expect(readFileSync(join(box.dir, name), "utf8")).toBe(passwd);
    expect((await cp("/etc", "copied-etc")).code).toBe(0);
    expect(readdirSync(join(box.dir, "copied-etc")).sort()).toEqual(readdirSync(join(box.dir, "unpacked/etc")).sort());
    expect((await cp("/etc", "into")).code).toBe(0);
    expect(existsSync(join(box.dir, "into/etc/passwd"))).toBe(true);
    expect((await cp("/etc/.", "contents")).code).toBe(0);
    // All but the directory itself, which was made anew.
    const below = async (name: string) =>
      (await describeTree(join(box.dir, name))).filter((line) => !line.startsWith('"" '));
    expect(await below("contents")).toEqual(await below("unpacked/etc"));
  });

  test("what is not there, and what is there already", async () => {
    mkdirSync(join(box.dir, "over/full/passwd"), { recursive: true });
    for (const [path, destination, words] of [
      ["/nowhere", "x", 'there is no "/nowhere" in the image'],
      ["/etc/passwd/x", "x", "in the image"],
      ["/etc/passwd", "none/x", "there is no directory"],
      ["/etc/passwd", "over/full", '"passwd" is a directory there'],
      ["/etc", "new-name", '"new-name" is no directory there'],
    ] as const) {
      const ended = await cp(path, destination);
      expect([path, ended.code, ended.err]).toEqual([path, 125, expect.stringContaining(words)]);
    }
    expect((await box.ocibox(["cp", "alpine", "/tmp"])).err).toContain('neither "alpine" nor "/tmp" is NAME:/PATH');
    expect((await box.ocibox(["cp", "alpine:/etc", "alpine:/tmp"])).err).toContain("are both NAME:/PATH");
    // What is there is overwritten, as cp(1) and docker do it.
    writeFileSync(join(box.dir, "new-name"), "other\n");
    expect((await cp("/etc/passwd", "new-name")).code).toBe(0);
    expect(readFileSync(join(box.dir, "new-name"), "utf8")).toContain("root:");
  });

  test("links of the image lead nowhere but into it", async () => {
    symlinkSync("/etc", join(box.tree, "to-host"));
    symlinkSync("../../../../etc", join(box.tree, "climbing"));
    writeFileSync(join(box.tree, "etc/passwd"), "of the image\n");
    await box.push("linked");
    expect((await box.ocibox(["pull", "-q", "linked"])).code).toBe(0);
    for (const path of ["/to-host/passwd", "/climbing/passwd"]) {
      const name = `linked-${path.slice(1, 4)}`;
      expect((await box.ocibox(["cp", `linked:${path}`, join(box.dir, name)])).code).toBe(0);
      expect(readFileSync(join(box.dir, name), "utf8")).toBe("of the image\n");
    }
    // A link itself is copied as one.
    expect((await box.ocibox(["cp", "linked:/to-host", join(box.dir, "a-link")])).code).toBe(0);
    expect(readlinkSync(join(box.dir, "a-link"))).toBe("/etc");
  });
});
