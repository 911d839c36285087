/** A pull killed at any moment leaves a store whose next pull succeeds, and nothing of the killed one in it. */
import { expect } from "bun:test";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { around } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "buildah", "skopeo", "setcap", "busybox"] };
const test = testWith(needs);
let box: Sandbox;
let image = "";

around(needs, async (owned) => {
  box = owned.use(await Sandbox.make());
  image = await box.pushRich();
});

/** What is there of finished things: only whole blobs and whole layers may be. */
function temporaries(): string[] {
  return ["tmp", "trash"].flatMap((name) => readdirSync(join(box.root, name)));
}

test("kill -9 at 50 moments of a pull", async () => {
  // The shortest of three: the first one of all finds nothing in the machine's caches.
  let whole = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < 3; turn++) {
    rmSync(box.root, { recursive: true, force: true });
    const started = performance.now();
    expect((await box.ocibox(["pull", "-q", image])).code).toBe(0);
    whole = Math.min(whole, performance.now() - started);
  }
  const layers = readdirSync(join(box.root, "layers")).length;
  let killed = 0;
  for (let turn = 0; turn < 50; turn++) {
    rmSync(box.root, { recursive: true, force: true });
    // Spread over the pull's length, which varies: some will be too late.
    const moment = (whole * (turn + Math.random())) / 50;
    const ended = await box.ocibox(["pull", "-q", image], {
      started: async (child) => {
        await Bun.sleep(moment);
        child.kill("SIGKILL");
      },
    });
    if (ended.code === 137) killed++;
    else expect(ended.code).toBe(0);
    const again = await box.ocibox(["pull", "-q", image]);
    expect([turn, again.code, again.err]).toEqual([turn, 0, ""]);
    expect(temporaries()).toEqual([]);
    expect(readdirSync(join(box.root, "layers")).length).toBe(layers);
    expect((await box.run([image, "cat", "/usr/lib/two"])).out).toBe("two\n");
    // skopeo verifies every digest that it copies.
    if (turn % 5 === 0) {
      await run("skopeo", "copy", "-q", `oci:${box.root}/image:${image}`, `dir:${box.dir}/copied-${turn}`);
    }
  }
  expect(killed).toBeGreaterThan(25);
}, 120_000);

test("SIGTERM of a pull removes what is unfinished, and says so in a line", async () => {
  rmSync(box.root, { recursive: true, force: true });
  let seen = false;
  for (let turn = 0; turn < 10 && !seen; turn++) {
    const ended = await box.ocibox(["pull", image], {
      started: async (child) => {
        await Bun.sleep(15 + turn * 5);
        child.kill("SIGTERM");
      },
    });
    if (ended.code === 143) {
      // Before the handler was there.
      continue;
    }
    if (ended.code !== 0) {
      seen = true;
      expect(ended.err).toContain("was stopped by SIGTERM");
      expect(temporaries()).toEqual([]);
    }
    rmSync(box.root, { recursive: true, force: true });
  }
  expect(seen).toBe(true);
}, 60_000);

test("five pulls of one image at once", async () => {
  rmSync(box.root, { recursive: true, force: true });
  const all = await Promise.all(Array.from({ length: 5 }, () => box.ocibox(["pull", "-q", image])));
  for (const each of all) expect([each.code, each.err]).toEqual([0, ""]);
  expect(temporaries()).toEqual([]);
  expect((await box.run([image, "cat", "/usr/lib/two"])).out).toBe("two\n");
}, 60_000);
