/** --store-max: after a pull the images that were not used for the longest time go, and never what is in use. */
import { beforeEach, expect } from "bun:test";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { lockFile } from "../../ffi/lock.ts";
import { around } from "../lib/around.ts";
import { cannotRun, testWith } from "../lib/needs.ts";
import { noise } from "../lib/oci-fixture.ts";
import { Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  box = await Sandbox.ownedBy(owned);
  for (const [at, name] of ["one", "two", "three", "four"].entries()) {
    // 4 MiB that do not compress, of each image its own: with busybox about 11 MB as blob and unpacked.
    const bytes = noise(4 << 20).map((byte) => byte ^ (at * 17));
    writeFileSync(join(box.tree, "noise"), bytes);
    await box.push(name);
  }
});

beforeEach(() => {
  if (!cannotRun(needs)) rmSync(box.root, { recursive: true, force: true });
});

async function ok(...words: string[]): Promise<string> {
  const ended = await box.ocibox(words);
  expect([words, ended.code, ended.err]).toEqual([words, 0, ""]);
  return ended.out;
}

const there = async (): Promise<string[]> =>
  (await ok("images", "--format", "{{.Repository}}")).trim().split("\n").sort();

const bytes = async (): Promise<number> => {
  const rows = JSON.parse(await ok("system", "df", "--format", "json")) as { Size: number }[];
  return (rows[0]?.Size ?? 0) + (rows[1]?.Size ?? 0);
};

test("the least recently used goes, and what only it needs", async () => {
  for (const name of ["one", "two", "three"]) await ok("pull", "-q", name);
  expect(await bytes()).toBeGreaterThan(30_000_000);
  // The first run compiles a plan, the second takes it: both are uses.
  for (const _ of [1, 2]) await ok("run", "--rm", "one", "true");
  const pulled = await box.ocibox(["--store-max", "36m", "pull", "four"]);
  expect(pulled.code).toBe(0);
  expect(pulled.err).toMatch(/removed two:latest, not used for the longest time: images may take 36m\n$/);
  expect(await there()).toEqual(["four", "one", "three"]);
  expect(await bytes()).toBeLessThan(36 << 20);
  expect(readdirSync(join(box.root, "layers")).length).toBe(3);

  // By a run that pulls, and by the environment; naming an image anew is a use of it.
  await ok("tag", "three", "again:1");
  const ran = await box.ocibox(["run", "--rm", "-q", "two", "echo", "ran"], { env: { OCIBOX_STORE_MAX: "36m" } });
  expect(ran).toEqual({ code: 0, out: "ran\n", err: "" });
  expect(await there()).toEqual(["again", "four", "three", "two"]);
  // What a plan was kept for does not come back with it.
  expect((await box.ocibox(["run", "--rm", "--pull=never", "one", "true"])).code).toBe(125);
});

test("without a limit, and below it, nothing goes", async () => {
  for (const name of ["one", "two", "three", "four"]) await ok("pull", "-q", name);
  await ok("--store-max", "1g", "pull", "-q", "one");
  expect(await there()).toEqual(["four", "one", "three", "two"]);
});

test("what a container was made of stays, and what was just asked for", async () => {
  for (const name of ["one", "two", "three"]) await ok("pull", "-q", name);
  await ok("run", "--name", "kept", "one", "true");
  const ended = await box.ocibox(["--store-max", "1m", "pull", "-q", "three", "four"]);
  expect([ended.code, ended.err]).toEqual([0, ""]);
  expect(await there()).toEqual(["four", "one", "three"]);
  const said = await box.ocibox(["--store-max=1m", "pull", "four"]);
  expect(said.err).toMatch(
    /removed three:latest[^\n]*\nimages take [0-9.]+MB of 1m \(--store-max\): what is left is in use\n$/,
  );
  expect(await there()).toEqual(["four", "one"]);
  await ok("diff", "kept");
  await ok("rm", "kept");
  await ok("--store-max", "1m", "pull", "-q", "four");
  expect(await there()).toEqual(["four"]);
});

test("while others use the store it is left to another time", async () => {
  for (const name of ["one", "two"]) await ok("pull", "-q", name);
  {
    using lock = lockFile(join(box.root, "lock"), "shared");
    expect(lock).toBeDefined();
    await ok("--store-max", "1m", "pull", "-q", "one");
    expect(await there()).toEqual(["one", "two"]);
  }
  await ok("--store-max", "1m", "pull", "-q", "one");
  expect(await there()).toEqual(["one"]);
}, 30_000);

test("it is told, and a bad one refused before anything is pulled", async () => {
  await ok("pull", "-q", "one");
  expect(await ok("--store-max", "20G", "info")).toContain("images may take: 20G\n");
  expect(await ok("info")).toContain("images may take: no limit\n");
  expect(await ok("--store-max", "20G", "system", "df")).toContain("Images and layers may take 20G (--store-max)\n");
  const rows = JSON.parse(await ok("--store-max", "20G", "system", "df", "--format", "json")) as { Size: number }[];
  expect(rows.at(-1)?.Size).toBe(20 * 2 ** 30);
  const bad = await box.ocibox(["--store-max", "much", "pull", "two"]);
  expect([bad.code, bad.out]).toEqual([125, ""]);
  expect(bad.err).toContain('--store-max (or OCIBOX_STORE_MAX) is "much"');
  expect(await there()).toEqual(["one"]);
  expect((await box.ocibox(["--store-max"])).err).toContain("wants a size");
});
