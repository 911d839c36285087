import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createProgress, layerLine, showBytes, showTime } from "../../src/cli/progress.ts";
import { sha256 } from "../../src/spec/digest.ts";
import { run } from "../lib/registry.ts";

const a = sha256("a");
const b = sha256("b");

/** A pull shown by a process of its own, on a pipe or on a terminal made by script(1). */
const demo = `
import { createProgress } from ${JSON.stringify(join(import.meta.dir, "../../src/cli/progress.ts"))};
const [a, b] = ${JSON.stringify([a, b])};
using progress = createProgress({ quiet: process.env.QUIET === "1", heartbeat: 40 });
progress.resolved("evil\\u001b[31m:latest", a, [{ digest: a, size: 1000 }, { digest: b, size: 5e6 }]);
progress.layerState(a, "exists");
progress.layerBytes(b, 2.5e6);
await Bun.sleep(130);
progress.layerState(b, "applying");
progress.layerState(b, "done");
progress.done({ name: "x:latest", digest: a, downloaded: 5e6, elapsed: 1234 });
`;

async function show(env: Record<string, string>, terminal: boolean): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "ocibox-progress-"));
  try {
    const file = join(folder, "demo.ts");
    await Bun.write(file, demo);
    const out = join(folder, "out");
    const vars = Object.entries({ TERM: "xterm", NO_COLOR: "", ...env }).map(([name, value]) => `${name}=${value}`);
    const command = `env ${vars.join(" ")} ${process.execPath} ${file}`;
    if (terminal) await run("script", "-qec", `stty cols 60; ${command}`, out);
    else await run("sh", "-c", `${command} 2>${out}`);
    return readFileSync(out, "utf8");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

describe("where there is no terminal", () => {
  test("a first line, a heartbeat, a summary", async () => {
    const lines = (await show({}, false)).trimEnd().split("\n");
    expect(lines[0]).toBe("Pulling evil?[31m:latest: 2 layers, 5.0 MB");
    expect(lines[1]).toBe("Pulling evil?[31m:latest: 2.5 MB of 5.0 MB (50 %)");
    expect(lines.length).toBeLessThan(8);
    expect(lines.at(-1)).toBe(`Pulled x:latest (${a.slice(0, 19)}): 5.0 MB in 1.2 s`);
  });

  test("nothing with -q", async () => {
    expect(await show({ QUIET: "1" }, false)).toBe("");
  });
});

describe("on a terminal", () => {
  test("bars drawn over again, within the width", async () => {
    const text = await show({}, true);
    expect(text).toContain("\u001b[2A");
    expect(text).toContain("##");
    expect(text).toContain("\u001b[32m");
    expect(text).not.toContain("evil\u001b");
    for (const line of text.split(/[\r\n]+/).filter((each) => each.includes("[#")))
      expect(line.replace(/\u001b\[[0-9;]*[A-Za-z]/g, "").length).toBeLessThan(60);
  });

  test("without colour where NO_COLOR is set, plain lines where TERM is dumb", async () => {
    const bare = await show({ NO_COLOR: "1" }, true);
    expect(bare).toContain("\u001b[2A");
    expect(bare).not.toContain("\u001b[32m");
    const dumb = await show({ TERM: "dumb" }, true);
    expect(dumb.slice(dumb.indexOf("Pulling"), dumb.indexOf("Pulled"))).not.toContain("\u001b");
  });
});

test("a descriptor that cannot be written to is no reason to fail", () => {
  expect(() => {
    using progress = createProgress({ fd: 999 });
    progress.resolved("x", a, []);
    progress.done({ name: "x", digest: a, downloaded: 0, elapsed: 0 });
  }).not.toThrow();
});

test.each([1, 10, 30, 60, 200])("a layer's line fits %d columns", (width) => {
  for (const state of ["waiting", "downloading", "applying", "done", "exists"] as const)
    expect(layerLine({ id: "0123456789ab", size: 999_999_999, done: 12_345, state }, width).length).toBeLessThanOrEqual(
      width,
    );
});

test("sizes and times in words", () => {
  expect([0, 999, 1000, 9_960, 12_345, 999_600, 5e6, 1.25e9, 3e12].map(showBytes)).toEqual([
    "0 B",
    "999 B",
    "1.0 kB",
    "10.0 kB",
    "12 kB",
    "1.0 MB",
    "5.0 MB",
    "1.3 GB",
    "3.0 TB",
  ]);
  expect([5, 1234, 59_940, 59_960, 187_000].map(showTime)).toEqual([
    "5 ms",
    "1.2 s",
    "59.9 s",
    "1 min 0 s",
    "3 min 7 s",
  ]);
});
