/** The interpreter on damaged plans, under gcc's sanitizers: whatever is in an image, init stays in its own memory. */
import { expect } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodePlan } from "../../ffi/encode.ts";
import { Recorder } from "../../ffi/plan.ts";
import { contain, exec } from "../ffi/plans.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";

const test = testWith({ programs: ["gcc"] });

/** Every kind of step there is, so that each has something to be damaged. */
function everyStep(): Recorder {
  const p = new Recorder();
  contain(
    p,
    (q) => {
      const memory = q.memory("memory", 64);
      const slot = q.slot("slot");
      const warned = q.newLabel("warned");
      q.field("mounts[0].options");
      q.add({ op: "set", slot, value: 3 });
      q.add({ op: "store", memory, offset: 8, slot });
      q.add({ op: "load", memory, offset: 8, slot });
      q.with({ retries: 2 }).carryOn("ENOENT").unlinkat(slot, q.text`/proc/${slot}/fd/${slot}`, 0x200);
      q.orElse(warned, "EEXIST").mkdirat(-100, "made", 0o755);
      q.sys.mount("proc", "/proc", "proc", 14, null);
      q.place(warned);
      q.branch(slot, "<", 5, warned);
      q.add({ op: "remove", dirfd: -100, name: "deep/tree" });
      q.add({ op: "fail", errno: slot, says: "a warning", blame: "ocibox", warning: true });
      q.add({ op: "fail", errno: 2, says: "nothing came of it", blame: "command" });
      exec(q, "/bin/true", "with", "words");
    },
    { master: p.slot("master"), interactive: true },
  );
  return p;
}

function small(): Recorder {
  const p = new Recorder();
  contain(p, (q) => exec(q, "/bin/true"));
  return p;
}

test("a damaged plan is refused, or does no harm", async () => {
  const dir = mkdtempSync(join(tmpdir(), "ocibox-fuzz-"));
  try {
    const machine = process.arch === "arm64" ? "arm64" : "x64";
    const tables = await run(process.execPath, "ffi/init/generate.ts", "tables", machine);
    await Bun.write(join(dir, "tables.gen.h"), tables);
    const sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"];
    const flags = ["-std=gnu17", "-g", "-O1", "-w", "-fno-builtin", ...sanitizers];
    await run("gcc", ...flags, "-I", dir, "-I", "ffi/init", "-o", join(dir, "init"), "tests/fuzz/init.c");
    const seeds = [small(), everyStep()].map((plan, index) => ({ plan, path: join(dir, `seed-${index}`) }));
    for (const { plan, path } of seeds) await Bun.write(path, encodePlan(plan));
    const seed = String(Math.floor(Math.random() * 2 ** 31));
    const fuzzer = Bun.spawn([join(dir, "init"), seed, "8", ...seeds.map((each) => each.path)], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ASAN_OPTIONS: "detect_leaks=0" },
    });
    // What init itself says of the plans goes to its stub; only the sanitizers write here.
    const [out, err] = await Promise.all([fuzzer.stdout.text(), fuzzer.stderr.text(), fuzzer.exited]);
    expect([fuzzer.exitCode, err, `seed ${seed}`]).toEqual([0, "", `seed ${seed}`]);
    const [, plans = "0", refused = "0"] = /^(\d+) plans, (\d+) refused at once/.exec(out) ?? [];
    // Some are refused at once, and many are not: both ways are walked.
    expect(Number(plans)).toBeGreaterThan(5_000);
    expect(Number(refused)).toBeGreaterThan(Number(plans) / 20);
    expect(Number(plans) - Number(refused)).toBeGreaterThan(Number(plans) / 20);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}, 60_000);
