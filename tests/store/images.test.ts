/** images: the same answers as docker's to the same questions about the same images. */
import { describe, expect, test as plainTest } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ago } from "../../src/cli/output.ts";
import { around } from "../lib/around.ts";
import { Client } from "../lib/client.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "dockerd", "docker", "containerd", "busybox", "tar"] };
const test = testWith(needs);
let box: Sandbox;
let client: Client;

async function ok(...words: string[]): Promise<string> {
  const ended = await box.ocibox(words);
  expect([words, ended.code, ended.err]).toEqual([words, 0, ""]);
  return ended.out;
}

const docker = (...words: string[]) => client.docker(...words);

/** Made a second apart, for docker counts seconds. */
async function make(name: string, ...flags: string[]): Promise<void> {
  writeFileSync(join(box.dir, "small/which"), name);
  await run("tar", "-cf", join(box.dir, "small.tar"), "-C", join(box.dir, "small"), ".");
  await ok("import", "-q", ...flags, join(box.dir, "small.tar"), name);
  await Bun.sleep(1100);
}

around(needs, async (owned) => {
  box = await Sandbox.ownedBy(owned);
  client = owned.use(new Client());
  await client.dockerd();
  mkdirSync(join(box.dir, "small"));
  await make("first:1", "-c", "LABEL stage=test", "-c", 'LABEL owner="some body"');
  await make("example.com/team/second:1.2", "-c", "LABEL stage=prod");
  await make("second:latest", "-c", "LABEL stage=test", "-c", "LABEL owner=nobody");
  await make("team/third:beta");
  await ok("tag", "first:1", "first:again");
  // One that has lost its name.
  await make("lost:1");
  const id = (await ok("images", "-q", "--no-trunc", "lost:1")).trim();
  const names = ["first:1", "first:again", "example.com/team/second:1.2", "second:latest", "team/third:beta"];
  await ok("tag", "first:1", "lost:1");
  await ok("rmi", "lost:1");
  await ok("save", "-o", join(box.dir, "all.tar"), ...names);
  await ok("save", "-o", join(box.dir, "lost.tar"), id);
  for (const archive of ["all.tar", "lost.tar"])
    expect((await docker("load", "-q", "-i", join(box.dir, archive))).err).toBe("");
});

const format = ["--format", "{{.ID}} {{.Repository}} {{.Tag}} {{.CreatedAt}}"];

/** What both say, a line a row, in their order where the times differ. */
async function both(words: readonly string[]): Promise<string[]> {
  const theirs = await docker("images", ...words);
  expect([words, theirs.code, theirs.err]).toEqual([words, 0, ""]);
  const lines = (text: string) => text.split("\n").filter((line) => line !== "");
  const ours = lines(await ok("images", ...words));
  expect([words, ours.toSorted()]).toEqual([words, lines(theirs.out).toSorted()]);
  return ours;
}

const questions: readonly (readonly [question: readonly string[], rows: number])[] = [
  [[], 6],
  [["-a"], 6],
  [["--no-trunc"], 6],
  [["first"], 2],
  [["first:1"], 1],
  [["second"], 1],
  [["example.com/team/second"], 1],
  [["nothing"], 0],
  [["-f", "dangling=true"], 1],
  [["-f", "dangling=false"], 5],
  [["-f", "reference=first"], 2],
  [["-f", "reference=first:1"], 1],
  [["-f", "reference=*:1*"], 1],
  [["-f", "reference=*"], 3],
  [["-f", "reference=*/*"], 1],
  [["-f", "reference=*/*/*"], 1],
  [["-f", "reference=*/*/*:1.?"], 1],
  [["-f", "reference=[fs]*"], 3],
  [["-f", "reference=first:1", "-f", "reference=second"], 2],
  [["-f", "label=stage"], 4],
  [["-f", "label=stage=test"], 3],
  [["-f", "label=stage=test", "-f", "label=owner=nobody"], 1],
  [["-f", "label=owner=some body"], 2],
  [["-f", "label=stage", "-f", "reference=first:1"], 1],
  [["-f", "before=second:latest"], 3],
  [["-f", "since=second:latest"], 2],
  [["-f", "since=first:1", "-f", "before=team/third:beta"], 2],
];

describe("docker", () => {
  test("lists the same images", async () => {
    for (const [question, rows] of questions)
      expect([question, (await both([...question, ...format])).length]).toEqual([question, rows]);
  }, 60_000);

  test("shows them in the same ways", async () => {
    await both(["-q", "--no-trunc", "first:1"]);
    await both(["-q", "second"]);
    await both(["--format", "{{.Repository}}:{{.Tag}}"]);
    await both(["--format", "{{.Repository | upper}} {{len .Tag}} {{slice .ID 0 4}}", "second"]);
    await both(["--format", '{{if eq .Tag "beta"}}{{.Repository}}{{else}}-{{end}}']);
    await both(["--format", "{{.Containers}} {{.SharedSize}} {{.UniqueSize}}"]);
    await both(["--format", "table {{.Repository}}\\t{{.Tag}}"]);
    await both(["--format", "table {{.ID}}\\t{{.CreatedAt}}", "first"]);
    const heads = async (...words: string[]) => {
      const theirs = (await docker("images", ...words)).out.split("\n")[0] ?? "";
      expect((await ok("images", ...words)).split("\n")[0]?.split(/ {2,}/)).toEqual(theirs.trim().split(/ {2,}/));
    };
    await heads();
    await heads("--digests");
    const theirs = JSON.parse((await docker("images", "--format", "json", "first:1")).out) as Record<string, string>;
    const ours = JSON.parse(await ok("images", "--format", "json", "first:1")) as Record<string, string>;
    for (const field of Object.keys(theirs)) expect([field, field in ours]).toEqual([field, field !== "VirtualSize"]);
    for (const field of ["ID", "Repository", "Tag", "CreatedAt"]) expect(ours[field]).toBe(theirs[field] as string);
  });

  test("refuses the same", async () => {
    for (const words of [
      ["-f", "dangling=maybe"],
      ["-f", "nothing=1"],
      ["-f", "before=none:1"],
      ["--format", "{{.Nothing}}"],
      ["--format", "{{.ID"],
    ]) {
      const theirs = await docker("images", ...words);
      const ours = await box.ocibox(["images", ...words]);
      expect([words, theirs.code === 0]).toEqual([words, false]);
      expect([words, ours.code, ours.out]).toEqual([words, 125, ""]);
      expect(ours.err).toMatch(/^ocibox: [^\n]+\n$/);
    }
  });
});

test("podman's word, and the newest first", async () => {
  expect(await ok("images", "-f", "after=second:latest", ...format)).toBe(
    await ok("images", "-f", "since=second:latest", ...format),
  );
  const inFull = async (pattern: string) => (await ok("images", "-f", `reference=${pattern}`, "-q")).trim().split("\n");
  expect((await inFull("docker.io/library/first")).length).toBe(1);
  expect((await inFull("docker.io/*/*:1")).length).toBe(1);
  const order = (await ok("images", "--format", "{{.Repository}}:{{.Tag}}")).trim().split("\n");
  expect(order).toEqual([
    ...["<none>:<none>", "team/third:beta", "second:latest"],
    ...["example.com/team/second:1.2", "first:1", "first:again"],
  ]);
});

plainTest("how long ago, in docker's words", () => {
  const now = new Date("2026-01-01T00:00:00Z");
  const hour = 3600;
  for (const [seconds, words] of [
    [0, "Less than a second"],
    [1, "1 second"],
    [59, "59 seconds"],
    [60, "About a minute"],
    [150, "2 minutes"],
    [3000, "50 minutes"],
    [hour, "About an hour"],
    [30 * hour, "30 hours"],
    [72 * hour, "3 days"],
    [20 * 24 * hour, "2 weeks"],
    [100 * 24 * hour, "3 months"],
    [800 * 24 * hour, "2 years"],
  ] as const)
    expect(ago(new Date(now.getTime() - seconds * 1000), now)).toBe(`${words} ago`);
});
