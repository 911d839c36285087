/** cp into a container: one that runs, one that does not, and one whose processes change the names meanwhile. */
import { describe, expect } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Canary } from "../lib/canary.ts";
import { testWith } from "../lib/needs.ts";
import { run as compile } from "../lib/registry.ts";
import { inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "gcc", "strace"] };
const test = testWith(needs);
let box: Sandbox;
let canary: Canary;
/** What is copied. */
let given: string;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  canary = new Canary(join(box.dir, "canary"));
  unchanged(owned, () => canary.now());
  await compile("gcc", "-static", "-O1", "-w", "-o", join(box.tree, "attack"), resolve("tests/fixtures/attack.c"));
  symlinkSync("/srv", join(box.tree, "way"));
  mkdirSync(join(box.tree, "srv"), { recursive: true });
  await box.push("alpine");
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
  given = join(box.dir, "given");
  mkdirSync(join(given, "dir/deep"), { recursive: true });
  writeFileSync(join(given, "file"), "given\n");
  writeFileSync(join(given, "dir/deep/script"), "#!/bin/sh\n");
  chownSync(join(given, "dir/deep/script"), 77, 78);
  chmodSync(join(given, "dir/deep/script"), 0o4755);
  symlinkSync("/etc/passwd", join(given, "dir/link"));
  symlinkSync("file", join(given, "to-file"));
});

const ok = (...words: string[]): Promise<string> => box.ok(...words);

/** A container of the name until the test's end; running, or made only. */
async function container(
  cleanup: AsyncDisposableStack,
  name: string,
  flags: readonly string[],
  runs: boolean,
): Promise<void> {
  await ok(...(runs ? ["run", "-d"] : ["create"]), "--name", name, ...flags, "alpine", "sleep", "100");
  cleanup.defer(async () => {
    await box.ocibox(["rm", "-f", name]);
  });
}

describe("cp into a container", () => {
  for (const runs of [true, false])
    test(`that ${runs ? "runs" : "does not run"}: as docker's`, async () => {
      await using cleanup = new AsyncDisposableStack();
      await container(cleanup, "to", [], runs);
      const at = (name: string): string => join(given, name);
      await ok("cp", at("file"), "to:/new");
      await ok("cp", at("file"), "to:/srv");
      await ok("cp", at("file"), "to:/srv/again/".slice(0, -1));
      await ok("cp", at("dir"), "to:/srv");
      await ok("cp", at("dir"), "to:/srv/called");
      await ok("cp", `${at("dir")}/.`, "to:/srv/contents");
      await ok("cp", `${at("dir")}/.`, "to:/srv");
      // By a link of the container's, which stays inside.
      await ok("cp", at("file"), "to:/way/by");
      await ok("cp", at("to-file"), "to:/srv/as-link");
      await ok("cp", "-L", at("to-file"), "to:/srv/as-file");
      await ok("cp", "-a", at("dir/deep/script"), "to:/srv/owned");
      // What is there is overwritten.
      writeFileSync(at("file"), "given once more\n");
      await ok("cp", at("file"), "to:/new");
      writeFileSync(at("file"), "given\n");
      if (!runs) await ok("start", "to");
      const script = `cat /new; find /srv | sort; stat -c '%u:%g %a' /srv/dir/deep/script /srv/owned
        readlink /srv/dir/link; readlink /srv/as-link; cat /srv/as-file`;
      const made = ["", "/deep", "/deep/script", "/link"];
      expect((await ok("exec", "to", "sh", "-c", script)).trim().split("\n")).toEqual([
        "given once more",
        ...[
          "/srv",
          ...["again", "as-file", "as-link", "by", "file", "owned"].map((name) => `/srv/${name}`),
          ...["/srv/called", "/srv/contents", "/srv/dir"].flatMap((top) => made.map((name) => top + name)),
          ...made.slice(1).map((name) => `/srv${name}`),
        ].sort(),
        "0:0 4755",
        "77:78 4755",
        "/etc/passwd",
        "file",
        "given",
      ]);
    });

  test("what is mounted in one that runs is written to", async () => {
    await using cleanup = new AsyncDisposableStack();
    const shared = join(box.dir, "shared");
    mkdirSync(shared);
    await container(cleanup, "mounts", ["-v", `${shared}:/shared`], true);
    await ok("cp", join(given, "file"), "mounts:/shared/there");
    expect(readFileSync(join(shared, "there"), "utf8")).toBe("given\n");
    // A file that is mounted stays the one that it is.
    await ok("cp", join(given, "file"), "mounts:/etc/hosts");
    expect(await ok("exec", "mounts", "cat", "/etc/hosts")).toBe("given\n");
  });

  test("of one that does not run what would be mounted is written to, and read", async () => {
    await using cleanup = new AsyncDisposableStack();
    const bound = join(box.dir, "bound");
    mkdirSync(join(bound, "sub"), { recursive: true });
    writeFileSync(join(bound, "conf"), "old\n");
    const flags = ["-v", "kept:/data", "-v", `${bound}:/b`, "-v", `${bound}/conf:/etc/conf`, "-v", `${bound}:/ro:ro`];
    await container(cleanup, "waits", flags, false);
    cleanup.defer(async () => {
      await box.ocibox(["rm", "-f", "waits"]);
      await ok("volume", "rm", "kept");
    });
    const file = join(given, "file");
    await ok("cp", file, "waits:/data/in");
    await ok("cp", file, "waits:/b/sub");
    expect(readFileSync(join(bound, "sub/file"), "utf8")).toBe("given\n");
    const conf = await box.ocibox(["cp", file, "waits:/etc/conf"]);
    expect([conf.code, conf.err]).toEqual([
      125,
      expect.stringContaining(`start it first, or write to "${bound}/conf"`),
    ]);
    expect((await box.ocibox(["cp", file, "waits:/ro/x"])).err).toContain("is mounted read-only");
    for (const running of [false, true]) {
      if (running) await ok("start", "waits");
      const out = join(box.dir, `out-${running}`);
      await ok("cp", "waits:/data/in", out);
      expect(readFileSync(out, "utf8")).toBe("given\n");
      await ok("cp", "waits:/data/.", `${out}.d`);
      expect(readFileSync(join(`${out}.d`, "in"), "utf8")).toBe("given\n");
      // Under the name that it has in the container.
      await ok("cp", "waits:/data", `${out}.d`);
      await ok("cp", "waits:/etc/conf", `${out}.d`);
      expect(readdirSync(`${out}.d`).sort()).toEqual(["conf", "data", "in"]);
      await ok("cp", "waits:/data", `${out}.new`);
      expect(readdirSync(`${out}.new`)).toEqual(["in"]);
    }
    const before = statSync(join(bound, "conf"));
    await ok("cp", file, "waits:/etc/conf");
    const after = statSync(join(bound, "conf"));
    expect([after.ino, after.uid, after.mode]).toEqual([before.ino, before.uid, before.mode]);
    expect(await ok("exec", "waits", "cat", "/data/in", "/b/sub/file", "/etc/conf")).toBe("given\n".repeat(3));
  });

  test("what is copied stays as it is, also where it is mounted in the container", async () => {
    await using cleanup = new AsyncDisposableStack();
    const work = join(box.dir, "work");
    mkdirSync(join(work, "deep"), { recursive: true });
    for (const name of ["one", "deep/two"]) writeFileSync(join(work, name), "mine\n");
    symlinkSync("one", join(work, "link"));
    await container(cleanup, "same", ["-v", `${work}:/work`, "-v", `${work}/one:/etc/one`], true);
    for (const [source, destination, words] of [
      [join(work, "one"), "same:/work", "is the file that is copied"],
      [join(work, "link"), "same:/work", "is the file that is copied"],
      [join(work, "one"), "same:/etc/one", "is the file that is copied"],
      [`${work}/.`, "same:/work", "is the file that is copied|cannot be copied into itself"],
      [join(work, "deep"), "same:/work/deep", "cannot be copied into itself"],
      [`${work}/.`, "same:/work/new", "cannot be copied into itself"],
      ["/", "same:/srv", "has the container in it"],
      [box.root, "same:/srv", "has the container in it"],
    ] as const) {
      const { code, err } = await box.ocibox(["cp", source, destination]);
      expect([destination, code, err]).toEqual([destination, 125, expect.stringMatching(new RegExp(words))]);
    }
    for (const name of ["one", "deep/two", "link"]) expect(readFileSync(join(work, name), "utf8")).toBe("mine\n");
  });

  test("dots of a path are no names", async () => {
    await using cleanup = new AsyncDisposableStack();
    await container(cleanup, "dots", [], true);
    const target = join(box.dir, "dots/target");
    mkdirSync(target, { recursive: true });
    await ok("cp", "dots:/etc/../etc/./passwd", target);
    await ok("cp", "dots:/etc/..", target);
    expect(readdirSync(join(box.dir, "dots"))).toEqual(["target"]);
    expect(readdirSync(target)).toContain("etc");
    await ok("cp", join(given, "file"), "dots:/etc/../srv/../dotted");
    expect(await ok("exec", "dots", "cat", "/dotted")).toBe("given\n");
  });

  test("that has not its own root yet does not reach the host's", async () => {
    await using cleanup = new AsyncDisposableStack();
    const name = `ocibox-canary-${process.pid}`;
    cleanup.defer(async () => {
      await box.ocibox(["rm", "-f", "slow"]);
      rmSync(`/${name}`, { force: true });
    });
    const held = "-e trace=pivot_root -e inject=pivot_root:delay_enter=700000";
    const started = box.shell(`exec strace -f -qq -o /dev/null ${held} "$OCIBOX" run -d --name slow alpine sleep 100`);
    const noted = async (): Promise<boolean> => {
      const id = (await box.ocibox(["ps", "-aq", "--no-trunc"])).out.trim();
      return id !== "" && existsSync(join(box.root, "containers", id, "process"));
    };
    expect(await until(noted)).toBe(true);
    const copied = await box.ocibox(["cp", join(given, "file"), `slow:/${name}`]);
    expect([copied.err, copied.code, existsSync(`/${name}`)]).toEqual(["", 0, false]);
    expect(await ok("exec", "slow", "cat", `/${name}`)).toBe("given\n");
    await ok("rm", "-f", "slow");
    // strace(1) ends with the last that it looks at.
    expect((await started).code).toBe(0);
  });

  test("what cannot be is told", async () => {
    await using cleanup = new AsyncDisposableStack();
    await container(cleanup, "to", [], true);
    await container(cleanup, "solid", ["--read-only"], true);
    const file = join(given, "file");
    for (const [source, destination, words] of [
      [join(given, "none"), "to:/x", `there is no "${given}/none" to be copied`],
      [file, "nobody:/x", 'there is no container "nobody"'],
      [file, "to:/none/x", 'there is no directory "/none" in the container'],
      [file, "to:/none/", 'there is no directory "/none/" in the container'],
      [join(given, "dir"), "to:/etc/passwd", '"passwd" is no directory there'],
      [file, "solid:/x", "read-only file system"],
    ] as const) {
      const { code, err } = await box.ocibox(["cp", source, destination]);
      expect([destination, code, err]).toEqual([destination, 125, expect.stringContaining(words)]);
    }
    await ok("exec", "to", "mkdir", "/srv/file");
    expect((await box.ocibox(["cp", file, "to:/srv"])).err).toContain('"file" is a directory there');
  });

  // Which 2018-15664 and 2019-14271 were: the host's files are not reached, and nothing of the container's is loaded.
  for (const [what, make, trap] of [
    ["the directory that is copied to", "mkdir", "sub"],
    ["the file that is written", "touch", "file"],
  ] as const)
    test(`while ${what} is exchanged for a link to the host's (2018-15664)`, async () => {
      await using cleanup = new AsyncDisposableStack();
      const script = `${make} /srv/a; exec /attack trap /srv/a /srv/b ${canary.dir}/${trap}`;
      await ok("run", "-d", "--name", "flips", "alpine", "sh", "-c", script);
      cleanup.defer(async () => {
        await box.ocibox(["rm", "-f", "flips"]);
      });
      const source = join(box.dir, "passwd");
      writeFileSync(source, "copied\n");
      chmodSync(source, 0o777);
      const codes = new Set<number>();
      for (let turn = 0; turn < 60; turn++) {
        const copies = await Promise.all([
          box.ocibox(["cp", source, "flips:/srv/a"]),
          box.ocibox(["cp", "-a", source, "flips:/srv/b"]),
          box.ocibox(["cp", `${given}/dir/.`, "flips:/srv/a"]),
        ]);
        for (const { code } of copies) codes.add(code);
      }
      rmSync(source);
      expect(canary.now()).toEqual([...canary.before]);
      expect([...codes].filter((code) => code !== 0 && code !== 125)).toEqual([]);
      expect(statSync("/etc/passwd").mode & 0o7777).toBe(0o644);
    });
});
