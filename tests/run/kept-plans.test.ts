/** Kept plans: a container of a kind that was there before is what it would have been without. */
import { expect } from "bun:test";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { inventory, Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  await box.ocibox(["pull", "-q", "alpine"]);
});

const folder = (): string => join(box.root, "plans");
const plans = (): string[] => readdirSync(folder()).map((name) => join(folder(), name));

/** What the command is given, and where it is: one line an argument, and its environment but for what is the host's. */
const show =
  'for each; do echo "<$each>"; done; env | sort | grep "^OWN"; hostname | grep -c "^[0-9a-f]*$"; cat /proc/self/cgroup';

async function seen(env: Readonly<Record<string, string>>, ...args: string[]): Promise<string[]> {
  const flags = Object.entries(env).flatMap(([name, value]) => ["-e", `${name}=${value}`]);
  const ended = await box.ocibox(["run", "--rm", "--network", "none", ...flags, "alpine", "sh", "-c", show, ...args]);
  expect([ended.err, ended.code]).toEqual(["", 0]);
  return ended.out.split("\n").filter((line) => line !== "" && !line.includes(":"));
}

test("arguments and environment are the container's own, of whatever length", async () => {
  const commands: readonly (readonly [Record<string, string>, ...string[]])[] = [
    [{ OWN1: "one" }, "a", "b", "cc"],
    // The same shape, other texts; texts that are alike, texts that are stand-ins of a template.
    [{ OWN1: "two" }, "x", "y", "zz"],
    [{ OWN1: "two" }, "x", "y", "y\u0001"],
    [{ OWN1: "\u0001\u0001\u0001" }, "\u0002", "\u0001", "\u0001\u0001"],
    [{ OWN1: "ü!" }, "a", "b", "é"],
    // Other shapes.
    [{}, "0"],
    [{}, "0", ""],
    [{ OWN1: "", OWN2: "l".repeat(5000) }, "0", "", "m".repeat(70_000), ""],
    [{ OWN1: "", OWN2: "k".repeat(5000) }, "0", "", "n".repeat(70_000), ""],
    [{ PATH: "/bin", OWN1: "three" }, "a"],
    [{ OWN1: "one" }, "a", "b", "cc"],
  ];
  for (const round of [1, 2])
    for (const [env, ...args] of commands) {
      // sh -c takes the first for its own name.
      const own = args.slice(1).map((each) => `<${each}>`);
      const lines = Object.entries(env).flatMap(([name, value]) => (name === "PATH" ? [] : [`${name}=${value}`]));
      expect([round, ...(await seen(env, ...args))]).toEqual([round, ...own, ...lines, "1"]);
    }
});

test("a command that cannot be run is told as ever", async () => {
  for (let turn = 0; turn < 3; turn++) {
    const ended = await box.ocibox(["run", "--rm", "--network", "none", "alpine", "nope", "-x"]);
    expect([ended.code, ended.err]).toEqual([127, expect.stringContaining('cannot exec "nope"')]);
  }
});

test("nothing of an environment or of arguments is kept", async () => {
  for (let turn = 0; turn < 3; turn++)
    expect(await seen({ OWN_SECRET: "correct-horse-battery" }, "sh", "staple-of-the-day")).toContain(
      "OWN_SECRET=correct-horse-battery",
    );
  expect(plans().length).toBeGreaterThan(1);
  for (const file of plans()) {
    const bytes = readFileSync(file);
    for (const secret of ["correct-horse", "staple-of"]) expect([file, bytes.includes(secret)]).toEqual([file, false]);
  }
});

test("plans that are damaged or gone are made anew", async () => {
  const command = [{ OWN1: "one" }, "a", "b"] as const;
  const expected = await seen(...command);
  for (const file of plans()) {
    const bytes = readFileSync(file);
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 0xff;
    writeFileSync(file, bytes);
  }
  expect(await seen(...command)).toEqual(expected);
  // One of the two files of a kind without the other.
  for (const file of plans()) {
    const bytes = readFileSync(file);
    rmSync(file);
    expect(await seen(...command)).toEqual(expected);
    writeFileSync(file, bytes);
  }
  rmSync(folder(), { recursive: true });
  expect(await seen(...command)).toEqual(expected);
});
