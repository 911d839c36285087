/**
 * Hostile and odd layers, applied: each is refused by name, or ends up inside its own directory, and the host's tree
 * beside it stays as it was. security: tar escape (2020-10696, 2021-29136, 2021-32760, 2021-21272, 2026-23745,
 * 2026-24842, 2026-26960), whiteouts, nodes and attributes, parser differentials.
 */
import { describe, expect } from "bun:test";
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { join } from "node:path";
import { O } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { OciboxError } from "../../src/errors.ts";
import { applyLayer } from "../../src/layer/apply.ts";
import { ByteSource } from "../../src/layer/tar.ts";
import { around, temporary, unchanged } from "../lib/around.ts";
import { Canary } from "../lib/canary.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { type Member, tar } from "../lib/tar.ts";

const test = testWith({ root: true, programs: ["getfattr", "tar"] });
let dir = "";
let canary: Canary;
let layers = 0;

around({}, (owned) => {
  dir = temporary(owned, "layer");
  canary = new Canary(join(dir, "canary"));
  unchanged(owned, () => canary.now());
});

async function apply(bytes: Uint8Array<ArrayBuffer>, lowers: readonly string[] = []): Promise<string> {
  const path = join(dir, `layer-${layers++}`);
  mkdirSync(path);
  using root = new OwnedFd(direct.openat(-100, path, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  const stream = function* (): Generator<Uint8Array> {
    // In pieces that end where no header does.
    for (let at = 0; at < bytes.byteLength; at += 700) yield bytes.subarray(at, at + 700);
  };
  applyLayer(root.fd, new ByteSource(stream()), { lowers: () => lowers });
  return path;
}

/** What is in a directory, a line each: "d a", "- a/b=content", "l c->target", "c d 0:0", sorted. */
function shown(root: string, below = ""): string[] {
  return readdirSync(join(root, below))
    .sort()
    .flatMap((name) => {
      const path = join(below, name);
      const stat = lstatSync(join(root, path));
      if (stat.isDirectory()) return [`d ${path}`, ...shown(root, path)];
      if (stat.isSymbolicLink()) return [`l ${path}->${readlinkSync(join(root, path))}`];
      if (stat.isCharacterDevice()) return [`c ${path} ${stat.rdev >> 8}:${stat.rdev & 0xff}`];
      if (stat.isBlockDevice()) return [`b ${path} ${stat.rdev >> 8}:${stat.rdev & 0xff}`];
      if (stat.isFIFO()) return [`p ${path}`];
      return [`- ${path}=${readFileSync(join(root, path), "utf8")}`];
    });
}

async function refused(members: readonly Member[] | Uint8Array<ArrayBuffer>, words: RegExp): Promise<void> {
  const bytes = members instanceof Uint8Array ? members : tar(members);
  const error = await apply(bytes).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(OciboxError);
  expect((error as Error).message).toMatch(words);
  expect(canary.now()).toEqual([...canary.before]);
}

const out = "../canary";

describe("tar escape", () => {
  const refusedOnes: readonly (readonly [string, readonly Member[], RegExp])[] = [
    ["a name with ..", [{ name: `${out}/new`, body: "x" }], /leads out/],
    ["a name with .. in the middle", [{ name: "a/../../canary/new", body: "x" }], /leads out/],
    ["a directory of ..", [{ name: `${out}/sub/`, type: "5", mode: 0o777 }], /leads out/],
    ["a symlink's own name with ..", [{ name: `${out}/l`, type: "2", link: "x" }], /leads out/],
    ["a whiteout of ..", [{ name: ".wh..." }], /whiteout of no file/],
    ["a whiteout through ..", [{ name: `${out}/.wh.file` }], /leads out/],
    ["a hard link out by ..", [{ name: "h", type: "1", link: `${out}/file` }], /leads out/],
    ["a hard link to an absolute name", [{ name: "h", type: "1", link: "/etc/hostname" }], /neither this layer nor/],
    [
      "a file as the way to another",
      [
        { name: "a", body: "x" },
        { name: "a/b", body: "y" },
      ],
      /not a directory/,
    ],
    ["a name with a NUL in PAX", [{ name: "x", pax: { path: "a\0b" }, body: "x" }], /NUL/],
    ["a name longer than names are", [{ name: "x", pax: { path: "n".repeat(300) }, body: "x" }], /255 bytes/],
    ["directories 5,000 deep", [{ name: "x", pax: { path: "d/".repeat(5000) }, body: "" }], /deep/],
  ];
  for (const [what, members, words] of refusedOnes) test(what, () => refused(members, words));

  test("absolute names are names inside", async () => {
    const path = await apply(tar([{ name: "/etc/x", body: "mine" }]));
    expect(shown(path)).toEqual(["d etc", "- etc/x=mine"]);
  });

  const ways: readonly (readonly [string, string])[] = [
    ["an absolute symlink", "CANARY"],
    ["a climbing symlink", "../canary"],
    ["a symlink to /.", "/."],
    ["a dangling symlink", "/nowhere/at/all"],
  ];
  for (const [what, link] of ways) {
    test(`${what} in the way of a file, a directory, a node, a link, a whiteout`, async () => {
      const target = link.replace("CANARY", canary.dir);
      const way: Member = { name: "way", type: "2", link: target };
      const through: readonly Member[] = [
        { name: "way/file", body: "overwritten" },
        { name: "way/sub/", type: "5", mode: 0o777 },
        { name: "way/node", type: "3", major: 1, minor: 3 },
        { name: "way/soft", type: "2", link: "x" },
        { name: "way/.wh.file" },
        { name: "way/sub/.wh..wh..opq" },
        { name: "hard", type: "1", link: "way/file" },
      ];
      for (const member of through) {
        const before = [...canary.before];
        // Inside the layer, or not at all.
        const path = await apply(tar([way, member])).catch(() => undefined);
        expect([member.name, canary.now()]).toEqual([member.name, before]);
        if (path !== undefined) expect(shown(path)).toContain(`l way->${target}`);
      }
    });
  }

  test("a chain of symlinks that climbs a step each", async () => {
    const members: Member[] = [
      { name: "a/b/c/", type: "5" },
      { name: "a/b/c/up", type: "2", link: ".." },
      { name: "a/b/up", type: "2", link: "c/up/.." },
      { name: "up", type: "2", link: "a/b/up/.." },
      { name: "up/../../../canary/new", body: "x" },
    ];
    await refused(members, /leads out/);
    await apply(tar([...members.slice(0, 4), { name: "up/canary/new", body: "x" }]));
    expect(canary.now()).toEqual([...canary.before]);
  });

  test("attributes of a symlink are its own: owner, mode and time of what it leads to stay", async () => {
    const members: Member[] = [
      { name: "l", type: "2", link: join(canary.dir, "file"), uid: 1234, mode: 0o777 },
      { name: "m", type: "2", link: canary.dir, uid: 1234, mode: 0o777, pax: { "SCHILY.xattr.trusted.x": "y" } },
    ];
    await apply(tar(members));
    expect(canary.now()).toEqual([...canary.before]);
  });

  test("a hard link to a symlink, then written to: the link is replaced, not followed", async () => {
    const path = await apply(
      tar([
        { name: "soft", type: "2", link: join(canary.dir, "file") },
        { name: "hard", type: "1", link: "soft" },
        { name: "hard", body: "mine" },
      ]),
    );
    expect(canary.now()).toEqual([...canary.before]);
    expect(shown(path)).toContain("- hard=mine");
  });

  test("a name given twice: the last is there, whatever types they are", async () => {
    const kinds: readonly Member[] = [
      { name: "x", body: "file" },
      { name: "x", type: "5" },
      { name: "x", type: "2", link: canary.dir },
      { name: "x", type: "6" },
    ];
    const lines = ["- x=file", "d x", `l x->${canary.dir}`, "p x"];
    for (let first = 0; first < 4; first++)
      for (let last = 0; last < 4; last++) {
        const path = await apply(tar([kinds[first] as Member, kinds[last] as Member]));
        expect([first, last, shown(path)]).toEqual([first, last, [lines[last] as string]]);
      }
    expect(canary.now()).toEqual([...canary.before]);
  });

  test("a symlink of a layer below is no way for one above", async () => {
    const lower = await apply(tar([{ name: "way", type: "2", link: canary.dir }]));
    const upper = await apply(tar([{ name: "way/file", body: "above" }]), [lower]);
    expect(shown(upper)).toEqual(["d way", "- way/file=above"]);
    expect(canary.now()).toEqual([...canary.before]);
  });

  test("a hard link to a file of a layer below, in a directory that only that has", async () => {
    const lower = await apply(tar([{ name: "deep/way/file", body: "below", mode: 0o4755 }]));
    const upper = await apply(tar([{ name: "h", type: "1", link: "deep/way/file" }]), [lower]);
    expect(shown(upper)).toEqual(["d deep", "d deep/way", "- deep/way/file=below", "- h=below"]);
    expect(lstatSync(join(upper, "h")).ino).toBe(lstatSync(join(upper, "deep/way/file")).ino);
    expect(lstatSync(join(upper, "h")).mode & 0o7777).toBe(0o4755);
  });

  test("a hard link to a file of a layer below, through a symlink there", async () => {
    const lower = await apply(tar([{ name: "way", type: "2", link: canary.dir }]));
    const attempt = apply(tar([{ name: "h", type: "1", link: "way/file" }]), [lower]);
    await expect(attempt).rejects.toThrow();
    expect(canary.now()).toEqual([...canary.before]);
  });
});

describe("whiteouts", () => {
  test("become overlay's: a device 0:0, an opaque directory", async () => {
    const lower = await apply(tar([{ name: "d/gone", body: "x" }]));
    const path = await apply(
      tar([
        { name: "d/", type: "5" },
        { name: "d/.wh.gone" },
        { name: "e/.wh..wh..opq" },
        { name: "e/new", body: "n" },
      ]),
      [lower],
    );
    expect(shown(path)).toEqual(["d d", "c d/gone 0:0", "d e", "- e/new=n"]);
    expect(await run("getfattr", "-n", "trusted.overlay.opaque", "--only-values", join(path, "e"))).toBe("y");
  });

  test("that hide nothing go: overlay would show their names", async () => {
    const lower = await apply(tar([{ name: "e/old", body: "x" }]));
    const members = [
      { name: "d/.wh.gone" },
      { name: "d/x", body: "x" },
      { name: "e/.wh..wh..opq" },
      { name: "e/.wh.old" },
    ];
    expect(shown(await apply(tar(members), [lower]))).toEqual(["d d", "- d/x=x", "d e"]);
  });

  test("hide what lower layers have, never what this one has, in either order", async () => {
    for (const members of [
      [{ name: "x", body: "mine" }, { name: ".wh.x" }],
      [{ name: ".wh.x" }, { name: "x", body: "mine" }],
    ]) {
      const path = await apply(tar(members));
      expect(shown(path)).toEqual(["- x=mine"]);
    }
    const opaque = await apply(tar([{ name: "d/x", body: "mine" }, { name: "d/.wh..wh..opq" }]));
    expect(shown(opaque)).toEqual(["d d", "- d/x=mine"]);
  });

  test("a whiteout before a directory of the same name makes that opaque", async () => {
    const path = await apply(tar([{ name: ".wh.d" }, { name: "d/", type: "5" }]));
    expect(shown(path)).toEqual(["d d"]);
    expect(await run("getfattr", "-n", "trusted.overlay.opaque", "--only-values", join(path, "d"))).toBe("y");
  });

  test("names that are none", async () => {
    for (const name of [".wh.", ".wh..", ".wh..."]) await refused([{ name }], /whiteout of no file/);
    await refused([{ name: ".wh.d/x", body: "x" }], /inside a whiteout/);
    // What aufs kept for itself means nothing.
    expect(shown(await apply(tar([{ name: ".wh..wh.aufs" }, { name: ".wh..wh.plnk", type: "5" }])))).toEqual([]);
  });
});

describe("nodes and attributes", () => {
  test("devices keep their numbers, FIFOs are made, 0:0 is refused", async () => {
    const path = await apply(
      tar([
        { name: "null", type: "3", major: 1, minor: 3 },
        { name: "disk", type: "4", major: 8, minor: 1 },
        { name: "pipe", type: "6" },
      ]),
    );
    expect(shown(path)).toEqual(["b disk 8:1", "c null 1:3", "p pipe"]);
    await refused([{ name: "z", type: "3" }], /0:0/);
  });

  test("overlay's own attributes are never taken from an archive; capabilities are", async () => {
    const path = await apply(
      tar([
        {
          name: "x",
          body: "x",
          pax: { "SCHILY.xattr.trusted.overlay.metacopy": "y", "SCHILY.xattr.user.overlay.opaque": "y" },
        },
        { name: "d/", type: "5", pax: { "SCHILY.xattr.trusted.overlay.redirect": "/etc" } },
        { name: "u", body: "u", pax: { "SCHILY.xattr.user.mine": "kept" } },
      ]),
    );
    const names = await run("getfattr", "-R", "-m", "-", "-d", "--absolute-names", path);
    expect(names).not.toContain("overlay");
    expect(names).toContain('user.mine="kept"');
  });

  test("setuid, setgid and sticky bits are kept", async () => {
    const path = await apply(
      tar([
        { name: "s", body: "x", mode: 0o6755 },
        { name: "t/", type: "5", mode: 0o1777 },
      ]),
    );
    expect(lstatSync(join(path, "s")).mode & 0o7777).toBe(0o6755);
    expect(lstatSync(join(path, "t")).mode & 0o7777).toBe(0o1777);
  });
});

describe("parser differentials", () => {
  const unsound: readonly (readonly [string, readonly Member[] | Uint8Array<ArrayBuffer>, RegExp])[] = [
    ["a wrong checksum", [{ name: "x", body: "x", unsound: true }], /checksum/],
    ["a negative size", [{ name: "x", size: "\x80\0\0\0\0\0\0\0\0\0\0\0" }], /./],
    ["a size that is no number", [{ name: "x", size: "12z\0" }], /size/],
    ["a PAX record without an end", [{ name: "pax", type: "x", body: "99 path=a\n" }], /PAX/],
    ["a PAX record of no length", [{ name: "pax", type: "x", body: "path=a\n" }], /PAX/],
    ["headers for all that follows", [{ name: "g", type: "g", body: "10 path=a\n" }], /for all that follows/],
    ["sparse files", [{ name: "x", body: "x", pax: { "GNU.sparse.major": "1" } }], /sparse/],
    ["sparse files as GNU once had them", [{ name: "x", type: "S" }], /sparse/],
    ["an unknown type", [{ name: "x", type: "Z" }], /type/],
    ["an end in the middle of a file", tar([{ name: "x", body: "x".repeat(2000) }], false).slice(0, 1024), /middle/],
    ["an end in the middle of a header", tar([{ name: "x", body: "x" }], false).slice(0, 300), /middle/],
  ];
  for (const [what, members, words] of unsound) test(what, () => refused(members, words));

  test("the members are those that GNU tar finds", async () => {
    const members: readonly Member[] = [
      { name: "plain", body: "1" },
      { name: "./dotted", body: "2" },
      { name: "x", pax: { path: "12345" }, body: "3" },
      { name: "ignored", pax: { path: `long/${"n".repeat(200)}`, size: "4" }, body: "four" },
      { name: "größe", body: "5" },
      { name: "gro\u0308ße", body: "6" },
      { name: "UPPER", body: "7" },
      { name: "upper", body: "8" },
      { name: "slash/", body: "" },
    ];
    const bytes = tar(members);
    const archive = join(dir, "members.tar");
    await Bun.write(archive, bytes);
    const theirs = join(dir, "theirs");
    mkdirSync(theirs);
    await run("tar", "-xf", archive, "-C", theirs);
    expect(shown(await apply(bytes))).toEqual(shown(theirs));
  });

  test("GNU's long names and links, and its base-256 numbers", async () => {
    const tree = join(dir, "gnu");
    const name = `${"d".repeat(90)}/${"f".repeat(120)}`;
    mkdirSync(join(tree, "d".repeat(90)), { recursive: true });
    await Bun.write(join(tree, name), "long");
    const archive = join(dir, "gnu.tar");
    await run("ln", "-s", "t".repeat(150), join(tree, "soft"));
    await run(
      "tar",
      "--format=gnu",
      "--owner=3000000",
      "--group=0",
      "--numeric-owner",
      "-cf",
      archive,
      "-C",
      tree,
      ".",
    );
    const path = await apply(new Uint8Array(await Bun.file(archive).arrayBuffer()));
    expect(shown(path)).toEqual(shown(tree));
    expect(lstatSync(join(path, name)).uid).toBe(3_000_000);
  });

  test("what a fuzzer makes of archives ends, quickly, and inside", async () => {
    const seed = Math.floor(Math.random() * 2 ** 31);
    let state = seed | 1;
    const chance = (most: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % most;
    };
    const sound = tar([
      { name: "d/", type: "5" },
      { name: "d/f", body: "body" },
      { name: "d/l", type: "2", link: canary.dir },
      { name: "d/h", type: "1", link: "d/f" },
      { name: "d/.wh.gone" },
      { name: "p", pax: { path: "pax/name", "SCHILY.xattr.user.a": "b" }, body: "x" },
    ]);
    const until = performance.now() + 4000;
    let kept = 0;
    let rounds = 0;
    for (; performance.now() < until; rounds++) {
      const bytes = sound.slice();
      for (let times = 1 + chance(4); times > 0; times--) bytes[chance(bytes.byteLength)] = chance(256);
      // The sums are made right again, or few would get past them.
      for (let at = 0; at + 512 <= bytes.byteLength; at += 512) {
        let sum = 0;
        for (let i = 0; i < 512; i++) sum += i >= 148 && i < 156 ? 32 : (bytes[at + i] ?? 0);
        if (sum > 256) bytes.set(Buffer.from(`${sum.toString(8).padStart(6, "0")}\0 `), at + 148);
      }
      try {
        rmSync(await apply(bytes), { recursive: true, force: true });
        kept++;
      } catch (error) {
        if (!(error instanceof OciboxError) && (error as Error).name !== "SyscallError")
          throw new Error(`seed ${seed}`, { cause: error });
      }
    }
    expect(canary.now()).toEqual([...canary.before]);
    expect(rounds).toBeGreaterThan(100);
    expect(kept).toBeGreaterThan(0);
  }, 30_000);
});
