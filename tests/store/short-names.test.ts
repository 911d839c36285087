/** Names without a registry, as this machine's configuration has them, in every command that takes an image. */
import { expect } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;
let work = "";
let mirrors = "";

around(needs, async (owned) => {
  box = await Sandbox.ownedBy(owned);
  work = join(box.dir, "work");
  mkdirSync(work);
  mirrors = readFileSync(join(box.dir, "registries.conf"), "utf8");
  await box.push("other");
});

/** With its own registries.conf; docker.io is the sandbox's registry in each. */
function configure(front: string, back = ""): void {
  writeFileSync(join(box.dir, "registries.conf"), `${front}\n${mirrors}\n${back}`);
}

async function ok(...words: string[]): Promise<string> {
  const ended = await box.ocibox(words, { cwd: work });
  expect([words, ended.code, ended.err]).toEqual([words, 0, ""]);
  return ended.out.trim();
}

test("an alias is what is pulled, run, listed, tagged, locked and removed", async () => {
  configure("", `[aliases]\nmine = "${box.host}/library/other"\n`);
  const long = `${box.host}/library/other:latest`;
  const digest = await ok("pull", "-q", "mine");
  expect(await ok("images", "--format", "{{.Repository}}:{{.Tag}}", "mine")).toBe(long);
  expect(await ok("run", "--rm", "--pull=never", "mine", "echo", "hi")).toBe("hi");
  expect(await ok("run", "--rm", "--offline", "mine:latest", "echo", "again")).toBe("again");
  await ok("run", "--name", "made", "mine", "true");
  expect(await ok("ps", "-a", "--format", "{{.Image}}")).toBe(long);
  await ok("rm", "made");
  expect(await ok("inspect", "--format", "{{.Digest}}", "mine")).toBe(digest);
  expect(await ok("history", "-q", "mine")).not.toBe("");
  await ok("tag", "mine", "copy");
  expect(await ok("images", "--format", "{{.Repository}}", "copy")).toBe("copy");
  await ok("lock", "mine");
  expect(
    Object.keys((JSON.parse(readFileSync(join(work, "ocibox.lock"), "utf8")) as { images: object }).images),
  ).toEqual([long]);
  expect(await ok("run", "--rm", "--locked", "mine", "echo", "locked")).toBe("locked");
  expect(await ok("pull", "-q", "--locked", "mine")).toBe(digest);
  await ok("lock", "--check", "mine");
  await ok("lock", "--remove", "mine");
  await ok("rmi", "mine");
  expect(await ok("images", "-q", "mine")).toBe("");
  // A tag is a name of the user's own, whatever it is an alias of.
  expect(await ok("run", "--rm", "-q", "mine", "echo", "pulled")).toBe("pulled");
  expect(await ok("manifest", "inspect", "mine")).toContain("schemaVersion");
  await ok("rmi", "mine", "copy");
});

test("what the store has by the short name is it, whatever the alias says; a lock names it in full", async () => {
  configure("");
  await ok("pull", "-q", "alpine");
  await ok("lock", "alpine");
  configure("", '[aliases]\nalpine = "127.0.0.1:1/nobody"\n');
  expect(await ok("run", "--rm", "alpine", "echo", "own")).toBe("own");
  await ok("rmi", "alpine");
  expect(await ok("run", "--rm", "-q", "--locked", "alpine", "echo", "locked")).toBe("locked");
  await ok("rmi", "alpine");
  const refused = await box.ocibox(["run", "--rm", "alpine", "true"]);
  expect([refused.code, refused.out]).toEqual([125, ""]);
  expect(refused.err).toContain("127.0.0.1:1");
});

test("search registries are asked in their order, and the first that has it is taken", async () => {
  const empty = '"127.0.0.1:1"';
  configure(`unqualified-search-registries = ["${box.host}"]`);
  await ok("pull", "-q", "library/other");
  expect(await ok("images", "--format", "{{.Repository}}")).toBe(`${box.host}/library/other`);
  await ok("rmi", "library/other");
  // It is not looked for elsewhere where one does not answer.
  configure(`unqualified-search-registries = [${empty}, "${box.host}"]`);
  const dead = await box.ocibox(["pull", "-q", "library/other"]);
  expect([dead.code, dead.out]).toEqual([125, ""]);
  expect(dead.err).toContain("127.0.0.1:1 refuses the connection");
  // One that does not have it is passed over.
  const port = box.host.split(":")[1];
  configure(`unqualified-search-registries = ["localhost:${port}/nothing", "${box.host}"]`);
  await ok("pull", "-q", "library/other");
  const none = await box.ocibox(["pull", "-q", "missing"]);
  expect([none.code, none.out]).toEqual([125, ""]);
  expect(none.err).toContain('none of the registries that "missing" is looked for in has it');
  configure(`unqualified-search-registries = ["a.test", "${box.host}"]\nshort-name-mode = "enforcing"`);
  const asked = await box.ocibox(["pull", "-q", "missing"]);
  expect([asked.code, asked.out]).toEqual([125, ""]);
  expect(asked.err).toContain(`"missing" may be of a.test or ${box.host}`);
  expect(asked.err).toContain("a.test/missing");
  configure(`unqualified-search-registries = ["${box.host}"]`);
  await ok("rmi", "library/other");
});

test("--pull=newer takes what is new, and what is in the store where the registry gives nothing", async () => {
  configure("");
  const says = async (...words: string[]): Promise<readonly [string, number, string]> => {
    const ended = await box.ocibox(["run", "--rm", ...words], { cwd: work });
    return [ended.out.trim(), ended.code, ended.err];
  };
  const push = async (text: string): Promise<void> => {
    writeFileSync(join(box.tree, "which"), `${text}\n`);
    await box.push("moving");
  };
  await push("first");
  expect(await says("-q", "--pull=newer", "moving", "cat", "/which")).toEqual(["first", 0, ""]);
  await push("second");
  expect(await says("-q", "moving", "cat", "/which")).toEqual(["first", 0, ""]);
  expect(await says("-q", "--pull=newer", "moving", "cat", "/which")).toEqual(["second", 0, ""]);
  expect(await says("-q", "--pull", "newer", "moving", "cat", "/which")).toEqual(["second", 0, ""]);
  writeFileSync(join(box.dir, "registries.conf"), '[[registry]]\nlocation = "127.0.0.1:1"\nprefix = "docker.io"\n');
  expect(await says("-q", "--pull=newer", "moving", "cat", "/which")).toEqual(["second", 0, ""]);
  const [out, code, err] = await says("--pull=newer", "moving", "cat", "/which");
  expect([out, code]).toEqual(["second", 0]);
  expect(err).toMatch(
    /^ocibox: cannot pull "moving:latest": .*refuses the connection.*; the image in the store is taken\n$/,
  );
  expect((await says("--pull=always", "moving", "true"))[1]).toBe(125);
  expect((await says("--pull=newer", "absent", "true"))[1]).toBe(125);
  const both = await says("--offline", "--pull=newer", "moving", "true");
  expect([both[1], both[2]]).toEqual([125, expect.stringContaining("--offline and --pull=newer cannot both be had")]);
  configure("");
  await ok("rmi", "moving");
});
