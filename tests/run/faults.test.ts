/** Each step of a container's plan made to fail in turn: the host is as before, and the message says which and why. */
import { describe, expect } from "bun:test";
import { around, unchanged } from "../lib/around.ts";
import { hostOf } from "../lib/host-network.ts";
import { testWith } from "../lib/needs.ts";
import { folder, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;
let before: ReturnType<typeof inventory>;

around(needs, async (owned) => {
  before = unchanged(owned, inventory);
  box = owned.use(await Sandbox.make());
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

/** The call with its arguments, the errno in words, the setting; or what could not be run or removed. */
const calls = String.raw`(?:cannot start the container: |warning: )(?:\w+\(.*\) failed|cannot remove "\w+"|[a-z' ]+ failed)`;
const deeds = `cannot exec "true"|cannot enter the working directory "/(?:made)?"`;
const message = new RegExp(String.raw`^ocibox: (?:${calls}|${deeds}): [a-z/ ]+(?: \(asked for by [^\n]+\))?\n$`);

async function failEach(options: readonly string[], errno: string, name?: string): Promise<void> {
  const explained = await box.run([...options, "--explain", "alpine", "true"]);
  expect(explained.code).toBe(0);
  // As many as the plan has lines: there are fewer steps.
  const steps = explained.out.split("\n").length;
  expect(steps).toBeGreaterThan(300);
  const detached = options.includes("-d");
  let failed = 0;
  let named = 0;
  const wrong: string[] = [];
  const step = async (index: number): Promise<void> => {
    const called = name === undefined ? [] : ["--name", `${name}-${index}`];
    const ended = await box.run([...options, ...called, "--inject", `${index}=${errno}`, "alpine", "true"]);
    const where = `step ${index}: ${ended.code} ${JSON.stringify(ended.err)}`;
    const printed = detached && ended.code === 0 && /^([0-9a-f]{64}\n)?$/.test(ended.out);
    if (ended.out !== "" && !printed) wrong.push(`${where}: it wrote ${JSON.stringify(ended.out)}`);
    // A failure that the plan expects, or one of the teardown, which is tried again, is none of the container's.
    if (ended.code === 0) {
      if (ended.err !== "" && !message.test(ended.err)) wrong.push(where);
    } else if (![125, 126, 127].includes(ended.code) || !message.test(ended.err)) wrong.push(where);
    else failed++;
    if (ended.err.includes("asked for by")) named++;
  };
  for (let index = 0; index < steps; index += 2) {
    await Promise.all([step(index), step(index + 1)]);
    // What was left to itself ends by itself, and a moment after it whoever looked after it.
    if (detached) {
      const processes = JSON.stringify(before.processes);
      await until(() => box.leftovers().length === 0 && JSON.stringify(inventory().processes) === processes);
    }
    const left = box.leftovers();
    if (left.length > 0) {
      wrong.push(`step ${index} or the next leaves ${left.join(", ")}`);
      await box.ocibox(["ps", "-q"]);
    }
    if (index % 16 === 0 || left.length > 0) {
      const now = inventory();
      for (const kind of ["mounts", "cgroups", "processes", "links"] as const)
        if (JSON.stringify(now[kind]) !== JSON.stringify(before[kind]))
          wrong.push(`up to step ${index}: ${kind} are left`);
    }
    if (wrong.length > 20) break;
  }
  expect(wrong).toEqual([]);
  expect(failed).toBeGreaterThan(150);
  expect(named).toBeGreaterThan(120);
  expect(inventory()).toEqual(before);
}

describe("every step of the plan fails in turn", () => {
  test("of a plain container", () => failEach([], "EIO"), 120_000);

  test("of one that is left to itself", () => failEach(["-d"], "EIO"), 120_000);

  test("of one at a bridge, with ports", async () => {
    await using owned = new AsyncDisposableStack();
    const host = await hostOf(box, owned);
    await failEach(["-d", "--init", "-p", "8080-8089:80", "-p", "127.0.0.1:5300-5309:53/udp"], "EIO");
    expect(await host.print("nft list ruleset | grep elements || true")).toBe("");
    expect(await until(async () => (await host.print("ip -o link | grep -c ocb || true")) === "0\n")).toBe(true);
  }, 120_000);

  test("of one with everything, kept", async () => {
    const options = ["--init", "--read-only", "--tmpfs", "/t", "-v", `${folder(box, "bound")}:/deep/in/it:ro`];
    const limits = [
      "-m",
      "64m",
      "--cpus",
      "0.5",
      "--ulimit",
      "nofile=64",
      "-u",
      "nobody",
      "-w",
      "/made",
      "--timeout",
      "1000",
    ];
    await failEach([...options, ...limits], "EPERM", "faulty");
  }, 120_000);
});
