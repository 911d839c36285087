/** `ocibox ps`: which containers, by docker's filters. */
import { expect } from "bun:test";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { type Ended, inventory, Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  await box.push("other", {});
  for (const each of ["alpine", "other"]) expect((await box.ocibox(["pull", "-q", each])).code).toBe(0);
});

function ps(...words: string[]): Promise<Ended> {
  return box.ocibox(["ps", "--format", "{{.Names}}", ...words]);
}

async function names(...words: string[]): Promise<string[]> {
  const ended = await ps(...words);
  expect([ended.err, ended.code]).toEqual(["", 0]);
  return ended.out.split("\n").filter((each) => each !== "");
}

test("filters, and the last ones", async () => {
  const made = ["run -d --name first alpine sleep 1000", "run --name second -l a=1 -l b=2 alpine sh -c exit\\ 3"];
  made.push("run --name third -l a=2 other true", "create --name fourth alpine true");
  try {
    for (const [index, each] of made.entries()) {
      const words = each.split(/(?<!\\) /).map((word) => word.replace("\\ ", " "));
      expect((await box.ocibox(words)).code).toBe(index === 1 ? 3 : 0);
    }
    expect(await names()).toEqual(["first"]);
    expect(await names("-a")).toEqual(["fourth", "third", "second", "first"]);
    const id = (await box.ocibox(["ps", "-aq", "--no-trunc", "-f", "name=second"])).out.trim();
    const digest = (await box.ocibox(["images", "--format", "{{.Digest}}", "other"])).out.trim();
    expect(digest).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(id).toMatch(/^[0-9a-f]{64}$/);
    for (const [filters, found] of [
      [["status=exited"], ["third", "second"]],
      [["status=created"], ["fourth"]],
      [
        ["status=running", "status=created"],
        ["fourth", "first"],
      ],
      [["status=paused"], []],
      [["exited=3"], ["second"]],
      [["exited=0"], ["third"]],
      [["name=^f"], ["fourth", "first"]],
      [["name=/second$"], ["second"]],
      [
        ["name=thi", "name=sec"],
        ["third", "second"],
      ],
      [["name=("], []],
      [["label=a"], ["third", "second"]],
      [["label=a=1"], ["second"]],
      [["label=a", "label=b=2"], ["second"]],
      [["label=c"], []],
      [[`id=${id.slice(0, 12)}`], ["second"]],
      [["ancestor=other"], ["third"]],
      [[`ancestor=${digest}`], ["third"]],
      [[`ancestor=${digest.slice("sha256:".length, 20)}`], ["third"]],
      [["ancestor=alpine:latest", "status=exited"], ["second"]],
      [["ancestor=alpine:none"], []],
      [["before=third"], ["second", "first"]],
      [["since=second"], ["fourth", "third"]],
      [["since=first", "before=fourth", "exited=0"], ["third"]],
    ] as const) {
      const words = filters.flatMap((each) => ["--filter", each]);
      expect([filters, await names("-a", ...words)]).toEqual([filters, [...found]]);
    }
    // Whoever asks for a status, or for the last ones, means all there are.
    expect(await names("-f", "status=exited")).toEqual(["third", "second"]);
    expect(await names("-f", "exited=3")).toEqual([]);
    expect(await names("-l")).toEqual(["fourth"]);
    expect(await names("-n", "2")).toEqual(["fourth", "third"]);
    expect(await names("--last=1", "-f", "label=a")).toEqual(["third"]);
    for (const [word, why] of [
      ["size=1", "none of id=…, name=…"],
      ["name", "none of id=…"],
      ["status=up", "not one of created, running"],
      ["exited=soon", "no exit code"],
      ["before=nobody", 'there is no container "nobody"'],
    ] as const) {
      const ended = await ps("-f", word);
      expect([word, ended.code, ended.out, ended.err]).toEqual([word, 125, "", expect.stringContaining(why)]);
    }
    expect((await ps("-n", "some")).err).toContain('--last is "some"');
  } finally {
    await box.ocibox(["rm", "-f", "first", "second", "third", "fourth"]);
  }
  expect(await names("-a")).toEqual([]);
});
