/** The plan by which an ordinary user becomes root of a user namespace. */
import { describe, expect, test } from "bun:test";
import { encodePlan } from "../../ffi/encode.ts";
import { explain } from "../../ffi/explain.ts";
import { spawnInit } from "../../ffi/launch.ts";
import { rangeIn } from "../../src/container/enter.ts";
import { compileEntering, type Entering } from "../../src/plan/enter.ts";

const alone: Entering = {
  uid: 1000,
  gid: 100,
  pid: 4321,
  mappers: undefined,
  of: undefined,
  program: 9,
  argv: ["ocibox", "run", "x"],
};
const range = { first: 100_000, size: 65_536 };
const many: Entering = {
  ...alone,
  mappers: { uid: { program: "/usr/bin/newuidmap", range }, gid: { program: "/usr/bin/newgidmap", range } },
};

test.each([
  ["one id", alone],
  ["ranges", many],
  ["another process's", { ...alone, of: 77 }],
] as const)("%s", (_, entering) => {
  expect(explain(compileEntering(entering).steps)).toMatchSnapshot();
});

// As root, who may do all of it, or as anybody: in both cases each step can fail, and the program is never executed.
describe.each([
  ["one id", alone],
  ["ranges", { ...many, mappers: { uid: { program: "/bin/true", range }, gid: { program: "/bin/true", range } } }],
] as const)("a step that fails, with %s", (_, entering) => {
  test("is told, and the end is 125", async () => {
    const plan = compileEntering(entering);
    const calls = plan.steps.flatMap((step, index) => (step.op === "call" ? [index] : []));
    expect(calls.length).toBeGreaterThan(8);
    for (const step of calls) {
      const child = spawnInit(encodePlan(plan, { fault: { step, last: step, errno: 5 } }));
      const [err, code] = await Promise.all([new Response(child.stderr as ReadableStream).text(), child.exited]);
      expect([step, code]).toEqual([step, 125]);
      expect(err).toMatch(/^ocibox: .+\n/);
    }
  });
});

test("rangeIn: the first of the user's own that is large enough, by name or number", () => {
  const text = "else:1:99999\nme:5:10\nme:300000:65536\n1000:100000:131072\n";
  expect(rangeIn(text, ["me", "1000"])).toEqual({ first: 300_000, size: 65_536 });
  expect(rangeIn(text, ["1000"])).toEqual({ first: 100_000, size: 131_072 });
  expect(rangeIn(text, ["nobody"])).toBeUndefined();
  for (const bad of ["", "me", "me:0:65536", "me:-1:65536", "me:1:x", "me:1:99999999999"])
    expect(rangeIn(bad, ["me"])).toBeUndefined();
});
