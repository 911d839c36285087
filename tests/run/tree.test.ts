/** The tree that a container stands in is, name by name, what umoci makes of the same image; and others read our store. */
import { describe, expect } from "bun:test";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { prepareOverlay } from "../../src/rootfs/overlay.ts";
import { openStore } from "../../src/store/store.ts";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { writeLayout } from "../lib/oci-fixture.ts";
import { run } from "../lib/registry.ts";
import { inventory, Sandbox, until } from "../lib/sandbox.ts";
import { describeTree } from "../lib/tree.ts";

const needs = {
  root: true,
  programs: ["docker-registry", "buildah", "skopeo", "umoci", "getfattr", "setcap", "busybox"],
};
const test = testWith(needs);
let box: Sandbox;
let expected: string[];
let image = "";

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  image = await box.pushRich();
  await run("skopeo", "copy", "-q", "--src-tls-verify=false", `docker://${image}`, `oci:${box.dir}/layout:rich`);
  await run("umoci", "unpack", "--image", `${box.dir}/layout:rich`, `${box.dir}/bundle`);
  expected = await describeTree(`${box.dir}/bundle/rootfs`);
});

describe("an image with everything odd", () => {
  test("has what the comparison is about", () => {
    const all = expected.join("\n");
    for (const word of ["security.capability=", "user.ocibox=", " 4755 ", " 3770 ", " p ", "links, first", " -> "])
      expect(all).toContain(word);
    expect(expected.length).toBeGreaterThan(60);
    const manifest = JSON.parse(
      Bun.spawnSync(["skopeo", "inspect", "--raw", `oci:${box.dir}/layout:rich`]).stdout.toString(),
    );
    expect(manifest.layers.length).toBeGreaterThanOrEqual(6);
  });

  test("its layers, mounted, are what umoci unpacks", async () => {
    const pulled = await box.ocibox(["pull", "-q", image]);
    expect(pulled.err).toBe("");
    const store = openStore(box.root);
    const found = store.find(image, undefined);
    if (found === undefined) throw new Error("the image is not in the store");
    for (const name of ["upper", "work", "place"]) mkdirSync(join(box.dir, "overlay", name), { recursive: true });
    const at = (name: string): string => join(box.dir, "overlay", name);
    using tree = prepareOverlay(
      {
        lower: found.layers.map((layer) => store.layerPath("overlay", layer.chainId)).reverse(),
        upper: at("upper"),
        work: at("work"),
        volatile: true,
      },
      at("place"),
    );
    expect(await describeTree(`/proc/${process.pid}/fd/${tree.fd}/`)).toEqual(expected);
  });

  test("the container's own view is the same, but for what is mounted in it", async () => {
    // Mount points are made in the container's own layer: / and /etc get new times and new names.
    const mounted = ["dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf"];
    const comparable = (lines: readonly string[]): string[] =>
      lines.filter((line) => !line.startsWith('"" ') && !line.startsWith('"etc" '));
    const lower = comparable(expected).filter((line) => !/^"(?:dev|proc|sys)"/.test(line));
    let seen: string[] = [];
    const ended = await box.run([image, "sleep", "4321"], {
      started: async (child) => {
        const find = (): string => Bun.spawnSync(["pgrep", "-x", "-f", "sleep 4321"]).stdout.toString().trim();
        expect(await until(() => find() !== "")).toBe(true);
        seen = await describeTree(`/proc/${find()}/root/`, mounted);
        child.kill("SIGTERM");
      },
    });
    expect(ended.code).toBe(143);
    expect(comparable(seen)).toEqual(lower);
  });

  test("it runs, in the image's working directory", async () => {
    expect((await box.run([image, "sh", "-c", "pwd; cat /usr/lib/two; ls /var/lib/gone"])).out).toBe(
      "/home\ntwo\nnew\n",
    );
  });
});

describe("directories that an upper layer does not name", () => {
  test("keep what the layer below says of them, the root included", async () => {
    const at = (name: string): string => join(box.dir, "implied", name);
    const script = `set -e; mkdir -p ${at("one/a/deep")} ${at("two/a/deep")}; cd ${at("one")}
      cp /bin/busybox busybox; chmod 700 a; chown 5:6 a; touch -d @1000000000 a/deep; chmod 2751 a/deep; setfattr -n user.x -v y a
      chmod 555 .; chown 7:8 .; touch -d @1234567890 a .
      tar --xattrs -cf ../one.tar .; cd ../two; echo new > a/deep/file; tar -cf ../two.tar a/deep/file`;
    await run("sh", "-c", script);
    writeLayout(at("layout"), [await Bun.file(at("one.tar")).bytes(), await Bun.file(at("two.tar")).bytes()]);
    await run("umoci", "unpack", "--image", `${at("layout")}:latest`, at("bundle"));
    const name = `${box.host}/implied:1`;
    await run("skopeo", "copy", "-q", "--dest-tls-verify=false", `oci:${at("layout")}:latest`, `docker://${name}`);
    expect((await box.ocibox(["pull", "-q", name])).err).toBe("");
    const found = openStore(box.root).find(name, undefined);
    const top = found?.layers.at(-1);
    if (found === undefined || top === undefined) throw new Error("the image is not in the store");
    const plain = (lines: readonly string[]): string[] => lines.filter((line) => /^"(?:a|a\/deep|)" /.test(line));
    const unpacked = plain(await describeTree(at("bundle/rootfs")));
    // What is put in a directory changes its time for umoci, which unpacks upon it; an overlay's layer keeps it.
    const timeless = (lines: readonly string[]): string[] => lines.map((line) => line.replace(/ \d+\.\d{10}/, ""));
    const ours = plain(await describeTree(openStore(box.root).layerPath("overlay", top.chainId)));
    expect(timeless(ours)).toEqual(timeless(unpacked));
    expect(ours[0]).toContain("d 555 7:8 1234567890.0");
    expect(ours[2]).toContain("d 2751 0:0 1000000000.0");
    const ended = await box.run(["--entrypoint", "/busybox", name, "stat", "-c", "%a %u:%g", "/", "/a", "/a/deep"]);
    expect(ended.out).toBe("555 7:8\n700 5:6\n2751 0:0\n");
    expect((await box.ocibox(["rmi", name])).code).toBe(0);
  });
});

describe("the store", () => {
  test("is an OCI layout that skopeo and umoci read in place", async () => {
    const shown = JSON.parse(await run("skopeo", "inspect", `oci:${box.root}/image:${image}`));
    const registry = JSON.parse(await run("skopeo", "inspect", "--tls-verify=false", `docker://${image}`));
    expect(shown.Layers).toEqual(registry.Layers);
    expect(shown.Digest).toBe(registry.Digest);
    await run("skopeo", "copy", "-q", `oci:${box.root}/image:${image}`, `dir:${box.dir}/copied`);
    expect(await run("umoci", "ls", "--layout", `${box.root}/image`)).toContain(image);
    await run("umoci", "unpack", "--image", `${box.root}/image:${image}`, `${box.dir}/bundle2`);
    expect(await describeTree(`${box.dir}/bundle2/rootfs`)).toEqual(expected);
  });

  test("shares layers, and rmi takes what nobody needs any more", async () => {
    const blobs = (): number => readdirSync(join(box.root, "image/blobs/sha256")).length;
    await run(
      "skopeo",
      "copy",
      "-q",
      "--src-tls-verify=false",
      "--dest-tls-verify=false",
      `docker://${image}`,
      `docker://${box.host}/rich:2`,
    );
    const count = blobs();
    expect((await box.ocibox(["pull", "-q", `${box.host}/rich:2`])).code).toBe(0);
    expect(blobs()).toBe(count);
    expect((await box.ocibox(["rmi", image])).code).toBe(0);
    expect(blobs()).toBe(count);
    expect((await box.run([`${box.host}/rich:2`, "cat", "/usr/lib/two"])).out).toBe("two\n");
    expect((await box.ocibox(["rmi", `${box.host}/rich:2`])).code).toBe(0);
    expect(blobs()).toBe(0);
    expect(readdirSync(join(box.root, "layers"))).toEqual([]);
  });
});
