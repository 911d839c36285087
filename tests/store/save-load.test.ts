/** Every way an image takes in and out of the store, against the field's own tools: digests are the same at both ends. */
import { expect } from "bun:test";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { blobOf, writeLayout } from "../lib/oci-fixture.ts";
import { run } from "../lib/registry.ts";
import { Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "skopeo", "umoci", "podman", "busybox", "gzip", "zstd"] };
const test = testWith(needs);
let box: Sandbox;
let digest = "";

around(needs, async (owned) => {
  box = owned.use(await Sandbox.make());
  digest = (await ok("pull", "-q", "alpine")).trim();
  await ok("tag", "alpine", "example.com/other/name:2");
});

async function ok(...words: string[]): Promise<string> {
  const ended = await box.ocibox(words);
  expect([ended.code, ended.err]).toEqual([0, ""]);
  return ended.out;
}

/** ocibox on another, empty store. */
async function elsewhere(name: string, ...words: string[]): Promise<{ out: string; err: string; code: number }> {
  return box.ocibox(["--root", join(box.dir, name), ...words]);
}

const path = (name: string): string => join(box.dir, name);

async function digestIn(reference: string): Promise<string> {
  const insecure = reference.startsWith("docker://") ? ["--tls-verify=false"] : [];
  return (await run("skopeo", "inspect", ...insecure, "--format", "{{.Digest}}", reference)).trim();
}

const formats = ["docker-archive", "oci-archive", "oci-dir", "docker-dir"];
for (const format of formats) {
  test(`save --format ${format}, load into an empty store: names, digests and blobs are the same`, async () => {
    const file = path(`saved-${format}`);
    await ok("save", "--format", format, "-o", file, "alpine");
    const loaded = await elsewhere(`root-${format}`, "load", "-q", "-i", file);
    expect([loaded.code, loaded.err]).toEqual([0, ""]);
    // skopeo's dir has no room for a name.
    const named = format !== "docker-dir";
    expect(loaded.out).toMatch(named ? /^Loaded image: alpine:latest\n$/ : /^Loaded image ID: sha256:[0-9a-f]{64}\n$/);
    const listed = await elsewhere(`root-${format}`, "images", "--no-trunc", "--format", "{{.Digest}} {{.ID}}");
    expect(listed.out).toBe(await ok("images", "--no-trunc", "--format", "{{.Digest}} {{.ID}}", "alpine"));
    const blobs = (root: string): string[] => readdirSync(join(root, "image/blobs/sha256")).sort();
    expect(blobs(path(`root-${format}`))).toEqual(blobs(box.root));
    const word = named ? "alpine" : digest;
    const ran = await elsewhere(`root-${format}`, "run", "--rm", "--pull=never", word, "echo", "hi");
    expect([ran.out, ran.err, ran.code]).toEqual(["hi\n", "", 0]);
  });
}

test("registry → ocibox → save → skopeo → registry: one digest", async () => {
  const file = path("round.tar");
  await ok("save", "--format", "oci-archive", "-o", file, "alpine");
  const target = `docker://${box.host}/round/trip:1`;
  await run("skopeo", "copy", "-q", "--dest-tls-verify=false", `oci-archive:${file}`, target);
  expect(await digestIn(target)).toBe(digest);
  expect((await ok("pull", "-q", "--tls-verify=false", `${box.host}/round/trip:1`)).trim()).toBe(digest);
});

test("our archive in podman and in skopeo's docker-archive", async () => {
  const file = path("for-podman.tar");
  await ok("save", "-o", file, "alpine", "example.com/other/name:2");
  expect(await run("skopeo", "list-tags", `docker-archive:${file}`)).toContain("example.com/other/name:2");
  const podman = ["podman", "--root", path("podman"), "--runroot", path("podman-run"), "--storage-driver", "vfs"];
  try {
    const out = await run(...podman, "load", "-q", "-i", file);
    expect(out).toContain("docker.io/library/alpine:latest");
    // A line for each name of the image.
    const listed = (await run(...podman, "images", "--no-trunc", "--format", "{{.Id}}", "alpine")).trim().split("\n");
    const ids = [...new Set(listed.map((id) => `sha256:${id.replace("sha256:", "")}`))];
    const ours = (await ok("images", "-q", "--no-trunc", "alpine")).trim();
    expect(ids).toEqual([ours]);
    // And back: podman's own archives have no manifest, but the image's id is the same.
    for (const format of ["docker-archive", "oci-archive", "oci-dir", "docker-dir"]) {
      const back = path(`podman-${format}`);
      await run(...podman, "save", "-q", "--format", format, "-o", back, "docker.io/library/alpine:latest");
      const loaded = await elsewhere(`back-${format}`, "load", "-q", "-i", back);
      expect([format, loaded.code, loaded.err]).toEqual([format, 0, ""]);
      const there = await elsewhere(`back-${format}`, "images", "-q", "--no-trunc");
      expect([format, there.out.trim()]).toEqual([format, ours]);
      const ran = await elsewhere(`back-${format}`, "run", "--rm", there.out.trim(), "cat", "/etc/passwd");
      expect(ran.out).toContain("root:x:0:0");
    }
  } finally {
    await run(...podman, "rmi", "-af").catch(() => {});
  }
}, 60_000);

test("stdin and stdout, gzip and zstd", async () => {
  for (const tool of ["cat", "gzip -1", "zstd -q"]) {
    const ended = await box.shell(
      `$OCIBOX save alpine | ${tool} | $OCIBOX --root ${path(`piped-${tool}`).replaceAll(" ", "\\ ")} load -q`,
    );
    expect([ended.code, ended.out, ended.err]).toEqual([0, "Loaded image: alpine:latest\n", ""]);
    expect((await elsewhere(`piped-${tool}`, "images", "--digests", "--format", "{{.Digest}}")).out.trim()).toBe(
      digest,
    );
    expect(readdirSync(path(`piped-${tool}/tmp`))).toEqual([]);
  }
});

test("two images with a layer in common are in an archive once", async () => {
  const file = path("two.tar");
  await ok("save", "-o", file, "alpine", "example.com/other/name:2");
  const members = (await run("tar", "-tf", file)).trim().split("\n");
  expect(new Set(members).size).toBe(members.length);
  const loaded = await elsewhere("two", "load", "-q", "-i", file);
  expect(loaded.out).toBe("Loaded image: alpine:latest\nLoaded image: example.com/other/name:2\n");
});

test("images are run, inspected and tagged from where they lie", async () => {
  const layout = path("lying");
  await run("skopeo", "copy", "-q", `oci:${box.root}/image:docker.io/library/alpine:latest`, `oci:${layout}:v1`);
  for (const form of ["oci-archive", "docker-archive", "dir"]) {
    const label = form === "dir" ? "" : ":example.org/lying:v1";
    await run("skopeo", "copy", "-q", `oci:${layout}:v1`, `${form}:${layout}-${form}${label}`);
  }
  for (const word of [
    `oci:${layout}`,
    `oci:${layout}:v1`,
    `oci-archive:${layout}-oci-archive`,
    `docker-archive:${layout}-docker-archive:example.org/lying:v1`,
    `dir:${layout}-dir`,
  ]) {
    const root = `lying-${word.replaceAll("/", "_")}`;
    const ran = await elsewhere(root, "run", "--rm", "-q", word, "echo", "from", "there");
    expect([word, ran.out, ran.err, ran.code]).toEqual([word, "from there\n", "", 0]);
    // No name was taken from it.
    expect((await elsewhere(root, "images", "--format", "{{.Repository}}")).out).toBe("<none>\n");
    expect((await elsewhere(root, "tag", word, "mine:1")).code).toBe(0);
    expect((await elsewhere(root, "images", "--format", "{{.Repository}}:{{.Tag}}")).out).toBe("mine:1\n");
    const shown = await elsewhere(root, "inspect", "-f", "{{.Architecture}}", word);
    expect([shown.code, shown.out.trim()]).toEqual([0, process.arch === "arm64" ? "arm64" : "amd64"]);
  }
  const absent = await box.ocibox(["run", "--rm", `oci:${layout}:v2`, "true"]);
  expect([absent.code, absent.err]).toEqual([125, `ocibox: "oci:${layout}" holds no image "v2"; there are v1\n`]);
});

test("a layout is looked at each time it is run from", async () => {
  const layout = path("changing");
  const first = writeLayout(layout, [await tarOf("first")]);
  const root = [
    "--root",
    path("changing-root"),
    "run",
    "--rm",
    "-q",
    "--entrypoint",
    "/bin/cat",
    `oci:${layout}`,
    "/which",
  ];
  for (const _ of [1, 2]) expect((await box.ocibox(root)).out).toBe("first\n");
  rmSync(layout, { recursive: true });
  const second = writeLayout(layout, [await tarOf("second")]);
  expect(first.manifest.digest).not.toBe(second.manifest.digest);
  expect((await box.ocibox(root)).out).toBe("second\n");
});

async function tarOf(text: string): Promise<Uint8Array> {
  const tree = path("small-tree");
  if (!existsSync(tree)) {
    mkdirSync(join(tree, "bin"), { recursive: true });
    cpSync("/bin/busybox", join(tree, "bin/cat"));
  }
  writeFileSync(join(tree, "which"), `${text}\n`);
  await run("tar", "-cf", path("small.tar"), "-C", tree, ".");
  return readFileSync(path("small.tar"));
}

test("an index of several platforms goes through as it is", async () => {
  const layout = path("multi");
  const tar = await tarOf("multi");
  const amd = writeLayout(layout, [tar]);
  const entries = [amd.manifest, platformManifest(layout, amd, "arm64")].map((manifest, at) => ({
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    digest: manifest.digest,
    size: manifest.size,
    platform: { os: "linux", architecture: at === 0 ? "amd64" : "arm64" },
  }));
  const index = blobOf({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: entries });
  writeFileSync(join(layout, "blobs/sha256", index.digest.slice(7)), index.bytes);
  const annotations = { "org.opencontainers.image.ref.name": "example.com/multi:1" };
  const top = {
    mediaType: "application/vnd.oci.image.index.v1+json",
    digest: index.digest,
    size: index.size,
    annotations,
  };
  writeFileSync(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [top] }));

  const root = ["--root", path("multi-root")];
  expect((await box.ocibox([...root, "load", "-q", "-i", layout])).err).toBe("");
  const rows = (await box.ocibox([...root, "images", "--format", "{{.Platform}} {{.Digest}}"])).out.trim().split("\n");
  expect(rows.sort()).toEqual([`linux/amd64 ${index.digest}`, `linux/arm64 ${index.digest}`]);
  expect(
    (await box.ocibox([...root, "save", "--format", "oci-dir", "-o", path("multi-out"), "example.com/multi:1"])).err,
  ).toBe("");
  const saved = JSON.parse(readFileSync(path("multi-out/index.json"), "utf8")) as { manifests: { digest: string }[] };
  expect(saved.manifests.map((each) => each.digest)).toEqual([index.digest]);
  await run(
    "skopeo",
    "copy",
    "-q",
    "--all",
    `oci:${path("multi-out")}:example.com/multi:1`,
    `dir:${path("multi-all")}`,
  );
  // skopeo's own writing in our store, in place: an index there stands for its manifests.
  await run(
    "skopeo",
    "copy",
    "-q",
    "--all",
    `oci:${layout}:example.com/multi:1`,
    `oci:${path("multi-root")}/image:example.com/foreign:1`,
  );
  const foreign = await box.ocibox([
    ...root,
    "images",
    "--format",
    "{{.Repository}} {{.Platform}}",
    "example.com/foreign:1",
  ]);
  expect(foreign.out.trim().split("\n").sort()).toEqual([
    "example.com/foreign linux/amd64",
    "example.com/foreign linux/arm64",
  ]);
});

function platformManifest(layout: string, { config, manifest }: ReturnType<typeof writeLayout>, architecture: string) {
  const put = (bytes: string) => {
    const blob = blobOf(bytes);
    writeFileSync(join(layout, "blobs/sha256", blob.digest.slice(7)), blob.bytes);
    return blob;
  };
  const text = new TextDecoder();
  const own = put(text.decode(config.bytes).replace('"amd64"', `"${architecture}"`));
  return put(
    text
      .decode(manifest.bytes)
      .replace(config.digest, own.digest)
      .replace(`"size":${config.size}`, `"size":${own.size}`),
  );
}

test("skopeo and umoci read the store in place while it is written to", async () => {
  const store = `oci:${box.root}/image`;
  const writing = (async () => {
    for (let turn = 0; turn < 25; turn++) await ok("tag", "alpine", `busy:${turn}`);
  })();
  for (let turn = 0; turn < 5; turn++) {
    expect(await digestIn(`${store}:docker.io/library/alpine:latest`)).toBe(digest);
    await run("umoci", "stat", "--image", `${box.root}/image:docker.io/library/alpine:latest`);
  }
  await writing;
  expect(await run("umoci", "list", "--layout", `${box.root}/image`)).toContain("docker.io/library/busy:24");
  await ok("rmi", ...Array.from({ length: 25 }, (_, turn) => `busy:${turn}`));
});

test("a save that fails leaves what was there, and nothing beside it", async () => {
  const dir = path("outputs");
  mkdirSync(dir);
  writeFileSync(join(dir, "old.tar"), "old");
  const blob = join(
    box.root,
    "image/blobs/sha256",
    (await ok("inspect", "-f", "{{(index .Manifest.layers 0).digest}}", "alpine")).trim().slice(7),
  );
  const good = readFileSync(blob);
  const bad = Buffer.from(good);
  bad[1000] = (bad[1000] as number) ^ 1;
  writeFileSync(blob, bad);
  try {
    const ended = await box.ocibox(["save", "-o", join(dir, "old.tar"), "alpine"]);
    expect(ended.code).toBe(125);
    expect(ended.err).toMatch(
      /^ocibox: the store's blob sha256:[0-9a-f]{64} is damaged; mend it with: ocibox repair\n$/,
    );
    const full = await box.ocibox(["save", "--format", "oci-dir", "-o", join(dir, "new"), "alpine"]);
    expect(full.code).toBe(125);
  } finally {
    writeFileSync(blob, good);
  }
  expect(readdirSync(dir)).toEqual(["old.tar"]);
  expect(readFileSync(join(dir, "old.tar"), "utf8")).toBe("old");
});
