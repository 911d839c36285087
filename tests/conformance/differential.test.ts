/** runc, crun and ocibox are given the same bundles: what the container sees, and how it ends, is to be the same. */
import { describe, expect } from "bun:test";
import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { testWith } from "../lib/needs.ts";
import { binary, inventory } from "../lib/sandbox.ts";
import { base, type Case, corpus, probe } from "./corpus.ts";
import { type Difference, differences, normal, type Runtime } from "./differences.ts";

const needs = { root: true, programs: ["busybox", "runc", "crun", "unshare"] };
const test = testWith(needs);
let box: Bundles;
const used = new Set<Difference>();

const kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
const runtimes: Readonly<Record<Runtime | "ocibox", readonly string[]>> = {
  ocibox: [binary, "oci"],
  runc: ["runc"],
  crun: ["crun"],
};

around(needs, (owned) => {
  unchanged(owned, inventory);
  box = owned.use(
    new Bundles("stat", "chrt", "ionice", "grep", "sed", "tail", "df", "rm", "rmdir", "wc", "false", "umount"),
  );
  for (const name of ["given/in", "given2", "rootfs/etc"]) mkdirSync(join(box.bundle, name), { recursive: true });
  writeFileSync(join(box.bundle, "given/file"), "given\n");
  writeFileSync(join(box.bundle, "given2/second"), "second\n");
  writeFileSync(join(box.bundle, "rootfs/etc/passwd"), "root:x:0:0::/root:/bin/sh\nseven:x:7:7::/home/seven:/bin/sh\n");
  writeFileSync(join(box.bundle, "rootfs/probe"), probe);
  for (const [target, link] of [
    ["rootfs", "linked"],
    ["etc", "rootfs/link-to-etc"],
    ["../../../../tmp", "rootfs/climbs"],
    ["/made/there", "rootfs/dangling"],
  ] as const)
    symlinkSync(target, join(box.bundle, link));
  writeFileSync(join(box.bundle, "rootfs/probe2"), "second\n");
});

interface Seen {
  readonly code: number;
  readonly sections: ReadonlyMap<string, string>;
  readonly text: string;
}

/** The namespaces that the runtimes are called in: but for the mounts, this process's own. */
const host = Object.fromEntries(kinds.map((kind) => [kind, readlinkSync(`/proc/self/ns/${kind}`)]));

function write(one: Case): void {
  const spec = base(host);
  one.change(spec);
  writeFileSync(join(box.bundle, "config.json"), JSON.stringify(spec).replaceAll("@/", `${box.bundle}/`));
  const extra = join(box.bundle, "rootfs/extra");
  rmSync(extra, { force: true });
  if (one.extra !== undefined) writeFileSync(extra, one.extra);
}

/**
 * Runs the bundle. crun takes no hybrid of cgroups, so that all three have a view of their own without v2's part; each
 * call is in a mount namespace that is gone with it.
 */
async function run(name: Runtime | "ocibox"): Promise<Seen> {
  const root = join(box.dir, `state-${name}`);
  const script = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec timeout 20 "$@"';
  const child = Bun.spawn(
    ["unshare", "-m", "sh", "-c", script, "sh", ...runtimes[name], "--root", root, "run", "corpus"],
    { cwd: box.bundle, stdio: ["ignore", "pipe", "pipe"] },
  );
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const sections = new Map<string, string>();
  for (const part of out.split(/^@/m).slice(1)) {
    const end = part.indexOf("\n");
    sections.set(part.slice(0, end), normal(part.slice(0, end), part.slice(end + 1), name));
  }
  if (!out.includes("@")) sections.set("output", out);
  // What a runtime leaves of a failure is its own; the next must not stumble over it.
  if (existsSync(join(root, "corpus"))) Bun.spawnSync([...runtimes[name], "--root", root, "delete", "-f", "corpus"]);
  clean();
  if (name === "crun") chownSync("/dev/null", 0, 0);
  return { code, sections, text: `${out}${err}` };
}

/** What a case makes in the root, and cgroups that were made for it. */
function clean(): void {
  for (const name of ["made", "new", "bound", "over", "nothing", "cgroup", "x", "tmp/x", "etc/x", "sys"])
    rmSync(join(box.bundle, "rootfs", name), { recursive: true, force: true });
  for (const hierarchy of readdirSync("/sys/fs/cgroup"))
    for (const place of ["ocibox-corpus/place", "ocibox-corpus", "corpus"]) {
      const path = join("/sys/fs/cgroup", hierarchy, place);
      if (existsSync(path)) rmdirSync(path);
    }
}

function explained(one: Case, runtime: Runtime, section: string): boolean {
  const found = differences.find(
    (each) =>
      each.runtime.includes(runtime) && each.section === section && (each.cases === "all" || each.cases.test(one.name)),
  );
  if (found !== undefined) used.add(found);
  return found !== undefined;
}

/** Success, or the process's own code; how a runtime says that it failed itself is its own matter. */
function outcome(one: Case, code: number): string {
  return one.fails === true ? (code === 0 ? "it ran" : "it failed") : `ended with ${code}`;
}

test("there are at least 150 of them, each once", () => {
  expect(corpus.length).toBeGreaterThanOrEqual(150);
  expect(new Set(corpus.map(({ name }) => name)).size).toBe(corpus.length);
});

describe("bundles", () => {
  for (const one of corpus)
    test(one.name, async () => {
      write(one);
      const ours = await run("ocibox");
      const told: string[] = [];
      if (one.fails === true && ours.code === 0) told.push("ocibox ran it");
      for (const runtime of ["runc", "crun"] as const) {
        const theirs = await run(runtime);
        if (outcome(one, ours.code) !== outcome(one, theirs.code)) {
          if (!explained(one, runtime, "end"))
            told.push(
              `${outcome(one, ours.code)}, with ${runtime} ${outcome(one, theirs.code)}:\n${ours.text}\n${theirs.text}`,
            );
          continue;
        }
        if (one.fails === true) continue;
        for (const section of new Set([...ours.sections.keys(), ...theirs.sections.keys()])) {
          const [a, b] = [ours.sections.get(section) ?? "nothing", theirs.sections.get(section) ?? "nothing"];
          if (a !== b && !explained(one, runtime, section)) told.push(`@${section}:\n${a}\nwith ${runtime}:\n${b}`);
        }
      }
      expect(told.join("\n")).toBe("");
    }, 60_000);
});

test("each difference that is explained is there", () => {
  expect(differences.filter((each) => !used.has(each)).map(({ why }) => why)).toEqual([]);
});
