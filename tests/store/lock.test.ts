/** The lock file: what a name stood for when it was locked is what --locked takes, whatever the tag has come to be. */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { decodeLock, encodeLock } from "../../src/store/image-lock.ts";
import { around } from "../lib/around.ts";
import { buildIndex } from "../lib/multi-platform.ts";
import { testWith } from "../lib/needs.ts";
import { freePort, run } from "../lib/registry.ts";
import { Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "skopeo", "busybox", "strace"] };
const test = testWith(needs);
let box: Sandbox;
let work = "";

around(needs, async (owned) => {
  box = await Sandbox.ownedBy(owned);
  work = join(box.dir, "work");
  mkdirSync(work);
});

const call = (...words: string[]) => box.ocibox(words, { cwd: work });

async function ok(...words: string[]): Promise<string> {
  const ended = await call(...words);
  expect([words, ended.code, ended.err]).toEqual([words, 0, ""]);
  return ended.out;
}

async function refused(words: readonly string[], ...says: readonly string[]): Promise<void> {
  const ended = await call(...words);
  expect([words, ended.code, ended.out]).toEqual([words, 125, ""]);
  for (const each of says) expect(ended.err).toContain(each);
}

const lockFile = () => join(work, "ocibox.lock");
const readFile = () => JSON.parse(readFileSync(lockFile(), "utf8")) as { images: Record<string, { digest: string }> };

async function digestOf(name: string): Promise<string> {
  const target = `docker://${box.host}/library/${name}`;
  return (await run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", target)).trim();
}

/** The same tag, other contents. */
async function push(name: string, says: string): Promise<string> {
  writeFileSync(join(box.tree, "which"), `${says}\n`);
  await box.push(name);
  return digestOf(name);
}

test("what is locked stays, though the tag moves on", async () => {
  const first = await push("moving", "first");
  expect(await ok("lock", "moving", "alpine")).toContain(`moving:latest not locked → ${first}`);
  const text = readFileSync(lockFile(), "utf8");
  expect(Object.keys(readFile().images)).toEqual([
    "docker.io/library/alpine:latest",
    "docker.io/library/moving:latest",
  ]);
  expect(readFile().images["docker.io/library/moving:latest"]?.digest).toBe(first);
  expect(await ok("lock", "--check")).toBe("");

  const second = await push("moving", "second");
  const check = await call("lock", "--check");
  expect([check.code, check.out]).toEqual([1, `moving:latest ${first} → ${second}\n`]);
  expect(readFileSync(lockFile(), "utf8")).toBe(text);

  // Into an empty store, by the digest; then the tag's own; then back to what is locked.
  expect(await ok("run", "--rm", "-q", "--locked", "moving", "cat", "/which")).toBe("first\n");
  expect(await ok("images", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}")).toBe(`moving:latest ${first}\n`);
  expect(await ok("pull", "-q", "moving")).toBe(`${second}\n`);
  expect(await ok("run", "--rm", "moving", "cat", "/which")).toBe("second\n");
  // The second time a kept plan is taken.
  for (const _ of [1, 2]) expect(await ok("run", "--rm", "--locked", "moving", "cat", "/which")).toBe("first\n");
  expect(await ok("run", "--rm", "moving", "cat", "/which")).toBe("first\n");
  expect(await ok("pull", "-q", "--locked")).toBe(`${await digestOf("alpine")}\n${first}\n`);

  expect(await ok("lock")).toBe(`moving:latest ${first} → ${second}\n`);
  expect(await ok("run", "--rm", "-q", "--locked", "moving", "cat", "/which")).toBe("second\n");
});

test("the file is the same whatever came first, and is not written where nothing changes", async () => {
  await ok("lock", "--file", "a.lock", "alpine", "moving");
  await ok("lock", "--file", "b.lock", "moving");
  await ok("lock", "--lock-file", "b.lock", "alpine:latest", "docker.io/library/alpine");
  expect(readFileSync(join(work, "b.lock"), "utf8")).toBe(readFileSync(join(work, "a.lock"), "utf8"));
  const before = statSync(join(work, "a.lock"));
  expect(await ok("lock", "--file", "a.lock")).toBe("");
  expect(statSync(join(work, "a.lock")).ino).toBe(before.ino);
  await ok("lock", "--file", "a.lock", "--remove", "alpine");
  expect(readFileSync(join(work, "a.lock"), "utf8")).not.toContain("alpine");
  await refused(["lock", "--file", "a.lock", "--remove", "alpine"], '"alpine" is not in the lock file');
  expect(readdirSync(work).sort()).toEqual(["a.lock", "b.lock", "ocibox.lock"]);
  const umask = await box.shell(`umask 027; cd ${work}; $OCIBOX lock --file masked.lock alpine`);
  expect([umask.code, statSync(join(work, "masked.lock")).mode & 0o777]).toEqual([0, 0o640]);
});

test("an index is locked with its platforms, and each of them is pulled by it", async () => {
  const registry = `http://${box.host}/v2`;
  await buildIndex(`${registry}/library/many`, `${registry}/library/alpine`, ["amd64", "arm64", "riscv64"]);
  await ok("lock", "--file", "many.lock", "many");
  const { images } = JSON.parse(readFileSync(join(work, "many.lock"), "utf8")) as {
    images: Record<string, { digest: string; platforms: Record<string, string> }>;
  };
  const locked = images["docker.io/library/many:latest"];
  expect(locked?.digest).toBe(await digestOf("many"));
  expect(Object.keys(locked?.platforms ?? {})).toEqual(["linux/amd64", "linux/arm64", "linux/riscv64"]);
  await buildIndex(`${registry}/library/many`, `${registry}/library/moving`, ["amd64", "arm64"]);
  const flags = ["--locked", "--lock-file", "many.lock"];
  expect(await ok("pull", "-q", ...flags, "--platform", "linux/riscv64", "many")).toBe(`${locked?.digest}\n`);
  expect(await ok("inspect", "-f", "{{.Architecture}} {{.Digest}}", "many")).toBe(
    `riscv64 ${locked?.platforms["linux/riscv64"]}\n`,
  );
  // The store gives the same file as the registry did.
  await ok("lock", "--offline", "--file", "offline.lock", "many");
  expect(readFileSync(join(work, "offline.lock"), "utf8")).toBe(readFileSync(join(work, "many.lock"), "utf8"));
  expect((await call("lock", "--check", "--file", "many.lock")).code).toBe(1);
});

test("an image that came out of an archive, without index and under another name", async () => {
  const platform = process.arch === "arm64" ? "linux/arm64" : "linux/amd64";
  await ok("lock", "--file", "many.lock", "many");
  await ok("pull", "-q", "--locked", "--lock-file", "many.lock", "many");
  await ok("tag", "many", "other:1");
  await ok("save", "-o", join(work, "other.tar"), "--platform", platform, "other:1");
  const root = ["--root", join(box.dir, "archive-root")];
  await ok(...root, "load", "-q", "-i", join(work, "other.tar"));
  const words = ["run", "--rm", "--offline", "--locked", "--lock-file", "many.lock", "many", "echo", "here"];
  expect(await ok(...root, ...words)).toBe("here\n");
  expect((await ok(...root, "images", "--format", "{{.Repository}}:{{.Tag}}")).trim().split("\n").sort()).toEqual([
    "many:latest",
    "other:1",
  ]);
});

test("--offline asks nobody", async () => {
  const traced = async (...words: string[]) => {
    const trace = join(work, "trace");
    const ended = await box.shell(`cd ${work}; exec strace -f -o ${trace} -e trace=network $OCIBOX ${words.join(" ")}`);
    // systemd's and the like are sockets of AF_UNIX; a container's own are made by no call of ours.
    return { ...ended, asked: /AF_INET/.test(readFileSync(trace, "utf8")) };
  };
  const digest = (await ok("pull", "-q", "--offline", "alpine")).trim();
  expect(digest).toBe(await digestOf("alpine"));
  expect(await traced("pull", "-q", "alpine")).toMatchObject({ code: 0, out: `${digest}\n`, asked: true });
  expect(await traced("pull", "-q", "--offline", "alpine")).toMatchObject({
    code: 0,
    out: `${digest}\n`,
    asked: false,
  });
  expect(await traced("pull", "--offline", "--locked")).toMatchObject({ code: 0, asked: false });
  expect(await traced("run", "--rm", "--offline", "absent:1", "true")).toMatchObject({ code: 125, asked: false });
  expect(await ok("run", "--rm", "--offline", "alpine", "echo", "hi")).toBe("hi\n");
  for (const words of [
    ["pull", "--offline", "absent:1"],
    ["run", "--rm", "--offline", "absent:1", "true"],
  ])
    await refused(words, '"absent:1" is not in the store', "--offline", "ocibox load");
  await refused(["run", "--rm", "--offline", "--pull=always", "alpine", "true"], "cannot both");
  await refused(["run", "--rm", "--locked", "--pull=never", "--lock-file", "lost.lock", "alpine", "true"], "lost.lock");
  await refused(["lock", "--offline", "absent:1"], '"absent:1"', "in the store");
});

test("what is not in the file, and a file that is not there", async () => {
  await refused(["run", "--rm", "--locked", "alpine:2", "true"], '"alpine:2" is not in', "ocibox lock alpine:2");
  await refused(["pull", "--locked", "--lock-file", "b.lock", "x"], "ocibox lock --file b.lock x");
  await refused(["pull", "--locked", "--lock-file", "none.lock"], "there is no lock file", "none.lock");
  await refused(["lock", "--file", "none.lock"], "there is no lock file");
  await refused(["pull", "--lock-file", "b.lock", "alpine"], "--locked");
  await refused(["run", "--locked", "--rm", "oci:somewhere", "true"], "cannot be locked");
  await refused(["pull"], "wants an argument");
  expect(existsSync(join(work, "none.lock"))).toBe(false);
});

test("a digest that the registry does not have, or has other bytes for", async () => {
  const locked = (name: string, digest: string) =>
    writeFileSync(join(work, "wrong.lock"), JSON.stringify({ version: 1, images: { [name]: { digest } } }));
  const flags = ["--locked", "--lock-file", "wrong.lock"];
  const absent = `sha256:${"ab".repeat(32)}`;
  locked("docker.io/library/alpine:latest", absent);
  const before = await ok("images", "--no-trunc");
  await refused(["pull", ...flags, "alpine"], absent);
  // A server that answers for any digest with one manifest.
  const manifest = await (await fetch(`http://${box.host}/v2/library/alpine/manifests/latest`)).arrayBuffer();
  const type = "application/vnd.oci.image.manifest.v1+json";
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: freePort(),
    fetch: () => new Response(manifest, { headers: { "content-type": type } }),
  });
  try {
    locked(`127.0.0.1:${server.port}/alpine:1`, absent);
    await refused(["run", "--rm", ...flags, `127.0.0.1:${server.port}/alpine:1`, "true"], "has the digest", absent);
  } finally {
    server.stop(true);
  }
  expect(await ok("images", "--no-trunc")).toBe(before);
  rmSync(join(work, "wrong.lock"));
});

describe("a file that is none", () => {
  const digest = `sha256:${"0".repeat(64)}`;
  const name = "docker.io/library/alpine:latest";
  const cases: readonly (readonly [text: string, says: string])[] = [
    ["", "ends too early"],
    ["[]", "is [], not an object"],
    ['{"version":1}', "images is nothing, not there: it is required"],
    ['{"version":2,"images":{}}', "version is 2, and this ocibox knows 1"],
    ['{"version":"1","images":{}}', 'version is "1", not an integer'],
    ['{"version":1,"version":1,"images":{}}', 'the key "version" appears twice'],
    ['{"version":1,"images":[]}', "images is [], not an object"],
    [`{"version":1,"images":{"${name}":{}}}`, `images["${name}"].digest is nothing`],
    [`{"version":1,"images":{"${name}":"${digest}"}}`, `images["${name}"] is "sha256`],
    [`{"version":1,"images":{"${name}":{"digest":"sha256:../../x"}}}`, `images["${name}"].digest is "sha256:../../x"`],
    [`{"version":1,"images":{"alpine":{"digest":"${digest}"}}}`, `images["alpine"] is not a name in full, which would`],
    [`{"version":1,"images":{"a b":{"digest":"${digest}"}}}`, `images["a b"] is not an image's name`],
    [
      `{"version":1,"images":{"${name}":{"digest":"${digest}","platforms":{"linux":"${digest}"}}}}`,
      `images["${name}"].platforms["linux"] is not OS/ARCHITECTURE`,
    ],
    [
      `{"version":1,"images":{"${name}":{"digest":"${digest}","platforms":{"linux/amd64":7}}}}`,
      `platforms["linux/amd64"] is 7`,
    ],
    ['{"version":1,"images":{"__proto__":{}}}', "__proto__"],
  ];

  test("is refused by the path of what is wrong", async () => {
    for (const [text, says] of cases) {
      writeFileSync(join(work, "bad.lock"), text);
      for (const words of [
        ["lock", "--file", "bad.lock", "alpine"],
        ["pull", "--locked", "--lock-file", "bad.lock"],
      ])
        await refused(words, 'the lock file "', says);
      expect(readFileSync(join(work, "bad.lock"), "utf8")).toBe(text);
    }
    await refused(["lock", "--file", "/etc", "alpine"], "/etc");
  });

  test("what is written is what is read", () => {
    const image = { digest, platforms: { "linux/arm64": digest, "linux/amd64": digest } };
    const lock = decodeLock(
      new TextEncoder().encode(`{"version":1,"images":{"${name}":${JSON.stringify(image)}}}`),
      "x",
    );
    const text = encodeLock(lock);
    expect(text.indexOf("amd64")).toBeLessThan(text.indexOf("arm64"));
    expect(encodeLock(decodeLock(new TextEncoder().encode(text), "x"))).toBe(text);
  });
});
