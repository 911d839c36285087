/** Kept plans: the third container of a kind is made from a template, and is like the first but for its names. */
import { expect } from "bun:test";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { testWith } from "../lib/needs.ts";
import { inventory, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["busybox"] };
const test = testWith(needs);
let box: Bundles;

around(needs, (owned) => {
  unchanged(owned, inventory);
  box = Bundles.ownedBy(owned);
});

function hash(letter: string): string {
  return new Bun.CryptoHasher("sha256").update(letter).digest("hex");
}

/** Templates, two of a kind, those that are made: the others say only that a kind was seen. */
function templates(): string[] {
  const folder = join(box.root, ".plans");
  return existsSync(folder) ? readdirSync(folder).filter((name) => statSync(join(folder, name)).size > 100) : [];
}

/** A life of a container of that id, as a caller like podman would have it; what is seen of it. */
async function life(id: string, command: readonly string[]): Promise<unknown> {
  box.write((spec) => {
    if (spec.process === undefined || spec.linux === undefined) return;
    spec.hostname = id.slice(0, 12);
    spec.process.args = [...command];
    spec.process.env?.push(`OWN=${id}`);
    spec.linux.cgroupsPath = `/ocibox-templates/${id}`;
    spec.annotations = { created: String(Math.random()) };
    spec.mounts?.push({ destination: `/${id}`, type: "tmpfs", source: id, options: ["size=1m"] });
  });
  const pidFile = join(box.dir, `${id}.pid`);
  expect(await box.call("create", "--pid-file", pidFile, id)).toEqual({ out: "", err: "", code: 0 });
  const pid = readFileSync(pidFile, "utf8");
  const cgroups = readFileSync(`/proc/${pid}/cgroup`, "utf8");
  expect((await box.call("start", id)).code).toBe(0);
  const inside = await box.call(
    "exec",
    id,
    "sh",
    "-c",
    `hostname; echo $OWN; mount | head -n 1; [ -d /${id} ] && echo mounted`,
  );
  expect(await box.status(id)).toBe("running");
  expect(await box.call("delete", "-f", id)).toEqual({ out: "", err: "", code: 0 });
  const text = JSON.stringify([cgroups.split("\n").slice(0, 3), inside]);
  return text.replaceAll(id, "<id>").replaceAll(id.slice(0, 12), "<short>");
}

test("containers of one kind, with ids, commands and annotations of their own", async () => {
  const seen: unknown[] = [];
  const made: number[] = [];
  for (const letter of ["a", "b", "c", "d"]) {
    // The command is not part of the kind, but for its name.
    seen.push(await life(hash(letter), ["sleep", String(1000 + letter.charCodeAt(0))]));
    made.push(templates().length);
  }
  expect(made).toEqual([0, 2, 2, 2]);
  expect(seen[0]).toContain("<id>");
  expect(new Set(seen).size).toBe(1);
  Bun.spawnSync(["sh", "-c", "rmdir /sys/fs/cgroup/ocibox-templates /sys/fs/cgroup/*/ocibox-templates 2>/dev/null"]);
});

test("what changes a step is another kind; what is wrong is told as ever", async () => {
  const kinds = templates().length;
  for (let turn = 0; turn < 3; turn++) {
    box.command("sh", "-c", `echo ${turn}; exit ${turn}`);
    expect(await box.call("run", "a-kind-1")).toEqual({ out: `${turn}\n`, err: "", code: turn });
  }
  expect(templates().length).toBe(kinds + 2);
  box.write((spec) => {
    if (spec.process !== undefined) spec.process.args = ["sh", "-c", "umask"];
    if (spec.process !== undefined) spec.process.user.umask = 0o077;
  });
  expect((await box.call("run", "a-kind-1")).out).toBe("0077\n");
  // A template holds up to where the command is: errors of it, and of fields that no template was made of, are named.
  box.command("nope");
  const missing = await box.call("run", "a-kind-1");
  expect([missing.code, missing.err]).toEqual([
    1,
    expect.stringContaining('cannot exec \\"nope\\": executable file not found in $PATH'),
  ]);
  for (const [change, words] of [
    [{ process: { cwd: "/", args: ["sh"], env: ["PATH=/bin"], user: {}, rlimits: "many" } }, "process.rlimits is"],
    [{ process: { cwd: "/", args: ["sh", 5], env: ["PATH=/bin"], user: {} } }, "process.args[1] is 5"],
    [{ annotations: { a: 5 } }, 'annotations[\\"a\\"] is 5'],
    [{ linux: { namespaces: {} } }, "linux.namespaces is"],
    [{ linux: { namespaces: [{ type: "mount" }], resources: { memory: 5 } } }, "linux.resources.memory is 5"],
    [{ mounts: [5] }, "mounts[0] is 5"],
  ] as const) {
    box.write((spec) => Object.assign(spec, change));
    const ended = await box.call("run", "a-kind-1");
    expect([words, ended.code, ended.err]).toEqual([words, 1, expect.stringContaining(words)]);
  }
});

test("a command that was seen with its kind comes with the container's own id, another one too", async () => {
  const said = (id: string): string => `sh -c echo ${id} $OWN; readlink /proc/self/ns/pid > /dev/null`;
  const own = async (id: string, words: string): Promise<string> => {
    box.write((spec) => {
      if (spec.process === undefined) return;
      spec.hostname = id.slice(0, 12);
      spec.process.args = ["sh", "-c", `echo ${words} $(hostname) $OWN $0`, said(id)];
      spec.process.env?.push(`OWN=${id}`);
    });
    const ended = await box.call("run", id);
    expect([ended.err, ended.code]).toEqual(["", 0]);
    return ended.out;
  };
  const kinds = templates().length;
  for (const letter of ["e", "f", "g", "h"]) {
    const id = hash(letter);
    expect(await own(id, "one")).toBe(`one ${id.slice(0, 12)} ${id} ${said(id)}\n`);
  }
  for (const letter of ["i", "j"]) {
    const id = hash(letter);
    expect(await own(id, `two ${letter}`)).toBe(`two ${letter} ${id.slice(0, 12)} ${id} ${said(id)}\n`);
  }
  expect(templates().length).toBe(kinds + 2);
  // Nothing of arguments and environment is kept but PATH: they may hold secrets.
  for (const name of templates()) {
    const bytes = readFileSync(join(box.root, ".plans", name));
    for (const own of ["hostname)", "OWN="]) expect([name, bytes.includes(own)]).toEqual([name, false]);
  }
});

/** A run of that id: its name, its cgroup and its host name, as the kernel has them. */
async function shortLife(id: string, hostname: string): Promise<unknown> {
  box.write((spec) => {
    if (spec.process === undefined) return;
    spec.hostname = hostname;
    spec.process.args = ["sleep", "1000"];
  });
  const pidFile = join(box.dir, `${id}.pid`);
  // A short one may be anywhere in a path.
  const noted = id.length > 3 ? ["--pid-file", pidFile] : [];
  expect(await box.call("create", ...noted, id)).toEqual({ out: "", err: "", code: 0 });
  const state = JSON.parse((await box.call("state", id)).out);
  const pid = String(state.pid);
  if (id.length > 3) expect(readFileSync(pidFile, "utf8")).toBe(pid);
  const [cgroup = ""] = readFileSync(`/proc/${pid}/cgroup`, "utf8").split("\n");
  expect((await box.call("start", id)).code).toBe(0);
  const name = (await box.call("exec", id, "hostname")).out.trim();
  expect(await box.call("delete", "-f", id)).toEqual({ out: "", err: "", code: 0 });
  return [state.id, cgroup.slice(cgroup.lastIndexOf("/")), name];
}

test("ids that are short, a number or a word have one template as well, where no other text has them", async () => {
  for (const ids of [
    ["t1", "t2", "t3", "10"],
    ["proc", "root", "mnt7", "type"],
    ["a", "b", "c", "7"],
  ]) {
    const kinds = templates().length;
    const made: number[] = [];
    for (const id of ids) {
      expect(await shortLife(id, "short-ids")).toEqual([id, `/${id}`, "short-ids"]);
      made.push(templates().length - kinds);
    }
    expect([ids, made]).toEqual([ids, [0, 2, 2, 2]]);
  }
  // In the configuration it may be anything: then each is a kind by itself.
  const kinds = templates().length;
  for (const id of ["t4", "t5", "t6"]) expect(await shortLife(id, `x${id}x`)).toEqual([id, `/${id}`, `x${id}x`]);
  expect(templates().length).toBe(kinds);
  for (let turn = 0; turn < 3; turn++) expect(await shortLife("t4", "xt4x")).toEqual(["t4", "/t4", "xt4x"]);
  expect(templates().length).toBe(kinds + 2);
});

test("a template that others could have written is not taken, nor one that is damaged", async () => {
  const folder = join(box.root, ".plans");
  box.command("echo", "well");
  for (let turn = 0; turn < 3; turn++) expect((await box.call("run", "a-kind-2")).out).toBe("well\n");
  const damaged = templates().map((name) => join(folder, name));
  for (const file of damaged) {
    const bytes = readFileSync(file);
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 0xff;
    writeFileSync(file, bytes);
  }
  expect(await box.call("run", "a-kind-2")).toEqual({ out: "well\n", err: "", code: 0 });
  chmodSync(folder, 0o777);
  expect(await box.call("run", "a-kind-2")).toEqual({ out: "well\n", err: "", code: 0 });
  chmodSync(folder, 0o700);
  expect(await until(() => box.left().length === 0)).toBe(true);
});
