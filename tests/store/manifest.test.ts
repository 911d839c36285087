/** Multi-platform images made here: an index of images for one platform each, which other tools take. */
import { expect } from "bun:test";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around } from "../lib/around.ts";
import { buildIndex } from "../lib/multi-platform.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "skopeo", "podman", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

const own = process.arch === "arm64" ? "arm64" : "amd64";

around(needs, async (owned) => {
  box = await Sandbox.ownedBy(owned);
  const registry = `http://${box.host}/v2`;
  // Each for one platform, as a build machine would push them.
  for (const platform of ["amd64", "arm64", "arm/v7", "s390x"])
    await buildIndex(`${registry}/built/${platform.replace("/", "")}`, `${registry}/library/alpine`, [platform]);
});

async function ok(...words: string[]): Promise<string> {
  const ended = await box.ocibox(words);
  expect([words, ended.code, ended.err]).toEqual([words, 0, ""]);
  return ended.out;
}

async function refused(words: readonly string[], ...says: readonly string[]): Promise<void> {
  const ended = await box.ocibox(words);
  expect([words, ended.code, ended.out]).toEqual([words, 125, ""]);
  for (const each of says) expect(ended.err).toContain(each);
}

const built = (platform: string): string => `${box.host}/built/${platform}`;
const sha256 = (text: string): string => `sha256:${new Bun.CryptoHasher("sha256").update(text).digest("hex")}`;
const rawOf = (name: string): Promise<string> =>
  run("skopeo", "inspect", "--raw", "--tls-verify=false", `docker://${box.host}/${name}`);

interface Listed {
  readonly manifests: readonly { readonly digest: string; readonly platform: Readonly<Record<string, string>> }[];
}

test("create makes an index of what the store and the registry have", async () => {
  await ok("pull", "-q", "--platform", "linux/arm64", built("arm64"));
  const digest = (
    await ok("manifest", "create", "-q", "mine/all:1", built("arm64"), built("amd64"), built("armv7"))
  ).trim();
  const raw = await ok("manifest", "inspect", "--raw", "mine/all:1");
  expect(sha256(raw)).toBe(digest);
  const { manifests } = JSON.parse(raw) as Listed;
  expect(manifests.map((each) => each.platform)).toEqual([
    { architecture: "arm64", os: "linux" },
    { architecture: "amd64", os: "linux" },
    { architecture: "arm", os: "linux", variant: "v7" },
  ]);
  // The manifests themselves are those that were pushed.
  const pushed = JSON.parse(await rawOf("built/armv7")) as Listed;
  expect(manifests[2]?.digest).toBe(pushed.manifests[0]?.digest);
  expect(JSON.parse(await ok("manifest", "inspect", "mine/all:1"))).toEqual(JSON.parse(raw));
  expect(await ok("run", "--rm", "mine/all:1", "echo", "runs")).toBe("runs\n");
  const rows = await ok("images", "--format", "{{.Platform}} {{.Digest}}", "mine/all:1");
  expect(rows.trim().split("\n").sort()).toEqual(["amd64", "arm", "arm64"].map((each) => `linux/${each} ${digest}`));
  // The images' own names still have the indexes that they came by.
  expect(await ok("images", "--format", "{{.Digest}}", built("armv7"))).toBe(`${sha256(await rawOf("built/armv7"))}\n`);
});

test("push, and what skopeo and podman make of it", async () => {
  const digest = sha256(await ok("manifest", "inspect", "--raw", "mine/all:1"));
  const target = `${box.host}/mine/all:1`;
  expect(await ok("manifest", "push", "-q", "mine/all:1", `docker://${target}`)).toBe(`${digest}\n`);
  expect(sha256(await rawOf("mine/all:1"))).toBe(digest);
  await run("skopeo", "copy", "-q", "--all", "--src-tls-verify=false", `docker://${target}`, `dir:${box.dir}/copied`);
  const podman = ["podman", "--root", join(box.dir, "podman"), "--runroot", join(box.dir, "podman-run")];
  const words = [...podman, "--storage-driver", "vfs"];
  try {
    for (const [platform, architecture] of [
      ["linux/arm64", "arm64"],
      ["linux/arm/v7", "arm"],
    ] as const) {
      const id = (await run(...words, "pull", "-q", "--tls-verify=false", "--platform", platform, target)).trim();
      expect((await run(...words, "image", "inspect", "--format", "{{.Architecture}}", id)).trim()).toBe(architecture);
    }
    // podman's own reading of the same index.
    const insecure = join(box.dir, "insecure.conf");
    writeFileSync(insecure, `[[registry]]\nlocation = "${box.host}"\ninsecure = true\n`);
    const inspect = ["env", `CONTAINERS_REGISTRIES_CONF=${insecure}`, ...words, "manifest", "inspect", target];
    const theirs = JSON.parse(await run(...inspect)) as Listed;
    const ours = JSON.parse(await ok("manifest", "inspect", "--remote", target)) as Listed;
    expect(ours.manifests.map((each) => each.digest)).toEqual(theirs.manifests.map((each) => each.digest));
  } finally {
    await run(...words, "rmi", "-af").catch(() => {});
  }
  await ok("manifest", "push", "-q", "--all", "mine/all:1", `${box.host}/mine/again:1`);
  expect(sha256(await rawOf("mine/again:1"))).toBe(digest);
}, 60_000);

test("inspect: of the registry's, with what an index lists", async () => {
  const remote = await ok("manifest", "inspect", "--raw", built("s390x"));
  expect(remote).toBe(await rawOf("built/s390x"));
  const verbose = JSON.parse(await ok("manifest", "inspect", "-v", built("s390x"))) as {
    Ref: string;
    Descriptor: { digest: string; platform: { architecture: string } };
    OCIManifest: { layers: unknown[] };
  }[];
  expect(verbose.map((each) => each.Descriptor.platform.architecture)).toEqual(["s390x"]);
  expect(verbose[0]?.Ref).toBe(`${built("s390x")}:latest@${verbose[0]?.Descriptor.digest}`);
  expect(verbose[0]?.OCIManifest.layers.length).toBe(1);
  const one = JSON.parse(
    await ok("manifest", "inspect", "-v", `${built("s390x")}@${verbose[0]?.Descriptor.digest}`),
  ) as object;
  expect(one).toMatchObject({ Descriptor: { digest: verbose[0]?.Descriptor.digest } });
  // Nothing of it is in the store now.
  expect(await ok("images", "-q", built("s390x"))).toBe("");
  const id = (await ok("images", "-q", built("amd64"))).trim();
  expect(await ok("manifest", "inspect", "--raw", id)).toBe(await ok("manifest", "inspect", "--raw", built("amd64")));
  await refused(["manifest", "inspect", `${box.host}/built/none`], "built/none");
});

test("annotate and remove change what they are told to, and nothing else", async () => {
  interface Noted {
    readonly mediaType: string;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly manifests: readonly {
      readonly digest: string;
      readonly platform: Readonly<Record<string, unknown>>;
      readonly annotations?: Readonly<Record<string, string>>;
    }[];
  }
  const name = "mine/noted:1";
  const index = async (): Promise<Noted> => JSON.parse(await ok("manifest", "inspect", name)) as Noted;
  await ok("manifest", "create", "-q", name, built("amd64"), built("armv7"));
  const before = await index();
  const [first, second] = before.manifests;
  const said = await ok(
    ...[
      "manifest",
      "annotate",
      name,
      built("armv7"),
      "--variant",
      "v6",
      "--os-version",
      "1.2",
      "--annotation",
      "a=b=c",
    ],
    ...["--os-features", "one,two", "--os-features", "three"],
  );
  expect(sha256(await ok("manifest", "inspect", "--raw", name))).toBe(said.trim());
  const platform = { ...second?.platform, variant: "v6", "os.version": "1.2", "os.features": ["one", "two", "three"] };
  expect(await index()).toEqual({
    ...before,
    manifests: [first, { ...second, platform, annotations: { a: "b=c" } }],
  } as Noted);

  // By its digest, and the index itself; what was said before stays.
  await ok("manifest", "annotate", name, second?.digest ?? "", "--annotation", "d=e");
  await ok("manifest", "annotate", "--index", "--annotation", "org.opencontainers.image.title=all of it", name);
  const noted = await index();
  expect(noted.manifests[1]).toEqual({ ...second, platform, annotations: { a: "b=c", d: "e" } } as never);
  expect(noted.annotations).toEqual({ "org.opencontainers.image.title": "all of it" });
  expect(await ok("images", "--format", "{{.Platform}}", name)).toContain("linux/arm");

  // Others see the same, and a pull for that platform takes it.
  const digest = (await ok("manifest", "push", "-q", name, `${box.host}/${name}`)).trim();
  expect(sha256(await rawOf(name))).toBe(digest);
  expect(JSON.parse(await rawOf(name))).toEqual(noted);
  await ok("rmi", name);
  await ok("pull", "-q", "--platform", "linux/arm/v6", `${box.host}/${name}`);
  expect((await ok("inspect", "-f", "{{.Digest}}", `${box.host}/${name}`)).trim()).toBe(second?.digest ?? "");
  await ok("rmi", `${box.host}/${name}`);

  await ok("manifest", "create", "-q", name, built("amd64"), built("armv7"));
  await ok("manifest", "remove", name, built("amd64"));
  expect((await index()).manifests.map((each) => each.digest)).toEqual([second?.digest ?? ""]);
  expect(await ok("images", "--format", "{{.Platform}}", name)).toBe("linux/arm\n");
  await refused(["manifest", "remove", name, built("armv7")], "all that", "ocibox rmi");
  await refused(["manifest", "remove", name, built("amd64")], `"${name}" does not list "${built("amd64")}"`);
  await refused(["manifest", "annotate", name, built("armv7")], "not told what to say");
  await refused(["manifest", "annotate", name, "--annotation", "a=b"], "wants the IMAGE");
  await refused(["manifest", "annotate", name, "--index", "--os", "linux"], "no platform");
  await refused(["manifest", "annotate", name, built("armv7"), "--annotation", "a"], "not KEY=VALUE");
  await refused(["manifest", "annotate", "mine/none", built("armv7"), "--os", "linux"], 'no image "mine/none"');
  await refused(["manifest", "annotate", "alone", "alone", "--os", "linux"], 'no image "alone"');
  await ok("rmi", name);
});

test("many that say something of one index at once all have said it", async () => {
  const name = "mine/crowded:1";
  await ok("manifest", "create", "-q", name, built("amd64"), built("armv7"));
  const said = Array.from({ length: 12 }, (_, index) => [`note.${index}`, String(index * index)] as const);
  await Promise.all(
    said.map(([key, value], index) => {
      const annotation = ["--annotation", `${key}=${value}`];
      return index % 2 === 0
        ? ok("manifest", "annotate", "--index", name, ...annotation)
        : ok("manifest", "annotate", name, built("armv7"), ...annotation);
    }),
  );
  const index = JSON.parse(await ok("manifest", "inspect", name)) as {
    annotations: Record<string, string>;
    manifests: { annotations?: Record<string, string> }[];
  };
  expect({ ...index.annotations, ...index.manifests[1]?.annotations }).toMatchObject(Object.fromEntries(said));
  // What is added leaves what was said as it is; what is there already is not said anew.
  await ok("manifest", "add", "-q", name, built("arm64"), built("armv7"));
  const more = JSON.parse(await ok("manifest", "inspect", name)) as typeof index;
  expect(more).toEqual({ ...index, manifests: [...index.manifests, more.manifests[2] as (typeof index.manifests)[0]] });
  await ok("rmi", name);
});

test("an index that many begin at once has what each of them adds", async () => {
  const name = "mine/begun:1";
  const platforms = ["amd64", "arm64", "armv7", "s390x"];
  await Promise.all(platforms.map((each) => ok("manifest", "add", "-q", name, built(each))));
  const { manifests } = JSON.parse(await ok("manifest", "inspect", name)) as Listed;
  expect(manifests.map((each) => each.platform.architecture).sort()).toEqual(["amd64", "arm", "arm64", "s390x"]);
  await ok("rmi", name);
  // Of many that make one, one does.
  const made = await Promise.all(platforms.map((each) => box.ocibox(["manifest", "create", "-q", name, built(each)])));
  expect(made.map((each) => each.code).sort()).toEqual([0, 125, 125, 125]);
  for (const { code, err } of made) if (code !== 0) expect(err).toContain(`there is an image "${name}" already`);
  await ok("rmi", name);
  // One image becomes the first of an index.
  await ok("tag", built("amd64"), name);
  await ok("manifest", "add", "-q", name, built("arm64"));
  expect((JSON.parse(await ok("manifest", "inspect", name)) as Listed).manifests.length).toBe(2);
  await ok("rmi", name);
});

test("add, another name's images, and what is refused", async () => {
  await refused(["manifest", "create", "mine/all:1", built("amd64")], '"mine/all:1" already', "--amend");
  await refused(["manifest", "create", "mine/two:1", built("amd64"), "alpine"], `both for linux/${own}`);
  await refused(["manifest", "create", `mine/two@sha256:${"0".repeat(64)}`, built("amd64")], "names a digest");
  await refused(["manifest", "create", "mine/two:1"], "wants 2 arguments");
  await refused(["manifest", "create", "mine/two:1", `${box.host}/built/none`], "built/none");
  await refused(["manifest", "creat", "x"], 'did you mean "ocibox manifest create"');
  expect(await ok("images", "-q", "mine/two")).toBe("");

  await ok("manifest", "add", "-q", "mine/all:1", built("s390x"));
  // One for a platform that is there takes its place.
  await ok("manifest", "create", "--amend", "mine/all:1", "alpine");
  const { manifests } = JSON.parse(await ok("manifest", "inspect", "mine/all:1")) as Listed;
  expect(manifests.map((each) => each.platform.architecture).sort()).toEqual(["amd64", "arm", "arm64", "s390x"]);
  const mine = (await ok("inspect", "-f", "{{.Digest}}", "mine/all:1")).trim();
  expect(mine).toBe((await ok("inspect", "-f", "{{.Digest}}", "alpine")).trim());

  // Every index stays while a name came from it.
  await ok("prune", "-f");
  for (const name of ["mine/all:1", built("arm64"), built("s390x")]) await ok("manifest", "inspect", name);
  await ok("manifest", "push", "-q", "mine/all:1", `${box.host}/mine/all:2`);
  await ok("manifest", "rm", "mine/all:1");
  expect(await ok("images", "-q", "mine/all")).toBe("");
  await ok("rmi", "-f", ...["amd64", "arm64", "armv7", "s390x"].map(built), "alpine");
  await ok("prune", "-f");
  expect(readdirSync(join(box.root, "image/blobs/sha256"))).toEqual([]);
});
