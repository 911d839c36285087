/**
 * Layers of all that can stand in a tar, sound and damaged: the three ways of unpacking refuse the same ones, make the
 * same tree of the others, and leave what lies beside alone.
 */
import { expect } from "bun:test";
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { xattrsOf } from "../../ffi/attributes.ts";
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { direct, SyscallError } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { OciboxError } from "../../src/errors.ts";
import { applyLayer } from "../../src/layer/apply.ts";
import { indexLayer } from "../../src/layer/erofs/index-layer.ts";
import { mountErofs } from "../../src/layer/erofs/mount.ts";
import { ByteSource } from "../../src/layer/tar.ts";
import { prepareTree } from "../../src/rootfs/prepare.ts";
import { around, temporary, unchanged } from "../lib/around.ts";
import { Canary } from "../lib/canary.ts";
import { type Dice, fuzz, fuzzTimeout } from "../lib/fuzz.ts";
import { testWith } from "../lib/needs.ts";
import { type Member, tar } from "../lib/tar.ts";

const needs = { root: true };
const test = testWith(needs);
let dir = "";
let canary: Canary;
let hasErofs = false;

around(needs, (owned) => {
  dir = temporary(owned, "fuzz");
  canary = new Canary(join(dir, "canary"));
  unchanged(owned, () => canary.now());
  const place = join(dir, "probe");
  mkdirSync(place);
  try {
    unpackErofs(tar([]), place, []);
    mountErofs(place)[Symbol.dispose]();
    hasErofs = true;
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
  }
});

const sound = ["a", "b", "c", "l"];
const odd = ["A", ".", "..", "", "é", ".wh.", ".wh..wh.x", ".wh.a", "..."];
const targets = ["a", "b", "a/b", "../a", "c", "l", ".", "..", "/", "/a", "l/b", "../../canary", "/etc", ""];
const xattrs = ["SCHILY.xattr.user.x", "SCHILY.xattr.trusted.overlay.opaque", "SCHILY.xattr.user.overlay.redirect"];
const kinds = ["0", "0", "0", "0", "5", "5", "5", "5", "2", "2", "2", "1", "3", "6", "7"];

function part(dice: Dice): string {
  return dice.once(60) ? dice.pick(odd) : dice.pick(sound);
}

function name(dice: Dice): string {
  if (dice.once(400)) return "n".repeat(dice.pick([99, 100, 255, 256]));
  const above = dice.some(2, () => part(dice));
  const base = dice.once(6) ? (dice.once(4) ? ".wh..wh..opq" : `.wh.${dice.pick(sound)}`) : part(dice);
  const path = [...above, base].join("/");
  return dice.once(60) ? `/${path}` : dice.once(100) ? `${dice.pick(targets)}/${path}` : path;
}

function extended(dice: Dice): Record<string, string> {
  const pax: Record<string, string> = {};
  if (dice.once(20)) pax.path = name(dice);
  if (dice.once(12)) pax.mtime = dice.pick(["0", "1.5", "-1", "1700000000.123456789", "15032385535"]);
  if (dice.once(10)) pax[dice.pick(xattrs)] = dice.text("ayé", 4);
  if (dice.once(150)) pax[dice.pick(["size", "uid", "gid", "linkpath", "mtime", "GNU.sparse.major"])] = "-1";
  return pax;
}

function member(dice: Dice): Member {
  const type = dice.once(150) ? dice.pick(["g", "x", "L", "K", "S", "Z", "D", "4"]) : dice.pick(kinds);
  const isLink = type === "1" || type === "2";
  const pax = extended(dice);
  return {
    name: type === "5" && dice.once(2) ? `${name(dice)}/` : name(dice),
    type,
    ...(isLink ? { link: dice.once(3) ? name(dice) : dice.pick(targets) } : {}),
    ...(type === "0" || type === "7" || dice.once(100) ? { body: dice.text("xyz", 700) } : {}),
    mode: dice.pick([0o644, 0o755, 0o4755, 0o1777, 0, 0o7777]),
    uid: dice.pick([0, 0, 1000]),
    major: dice.once(20) ? dice.pick([0, 4096]) : 1,
    minor: dice.pick([0, 3, 5]),
    ...(Object.keys(pax).length === 0 ? {} : { pax }),
  };
}

/** The sums made right, or few of the damaged would get past them. */
function mend(bytes: Uint8Array): void {
  for (let at = 0; at + 512 <= bytes.byteLength; at += 512) {
    let sum = 0;
    for (let index = 0; index < 512; index++) sum += index >= 148 && index < 156 ? 32 : (bytes[at + index] ?? 0);
    if (sum > 256) bytes.set(Buffer.from(`${sum.toString(8).padStart(6, "0")}\0 `), at + 148);
  }
}

function layer(dice: Dice): Uint8Array<ArrayBuffer> {
  const whole = tar([member(dice), ...dice.some(7, () => member(dice))], !dice.once(20));
  if (!dice.once(8)) return whole;
  const damaged = dice.damage(whole);
  if (!dice.once(4)) mend(damaged);
  return damaged;
}

/** In pieces that end where no header does. */
function source(bytes: Uint8Array<ArrayBuffer>): ByteSource {
  const stream = function* (): Generator<Uint8Array> {
    for (let at = 0; at < bytes.byteLength; at += 700) yield bytes.subarray(at, at + 700);
  };
  return new ByteSource(stream());
}

function openDirectory(path: string): OwnedFd {
  return new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
}

function unpackOverlay(bytes: Uint8Array<ArrayBuffer>, place: string, lowers: readonly string[]): void {
  using root = openDirectory(place);
  applyLayer(root.fd, source(bytes), { lowers: () => lowers });
}

function unpackErofs(bytes: Uint8Array<ArrayBuffer>, place: string, lowers: readonly string[]): void {
  writeFileSync(join(place, "data"), bytes);
  using data = new OwnedFd(direct.openat(AT_FDCWD, join(place, "data"), O.O_RDWR | O.O_CLOEXEC, 0));
  const index = indexLayer(source(bytes), { lowers: () => lowers, uuid: new Uint8Array(16), data: data.fd });
  writeFileSync(join(place, "index"), index);
}

function unpackCopy(bytes: Uint8Array<ArrayBuffer>, place: string): void {
  using root = openDirectory(place);
  applyLayer(root.fd, source(bytes), { onto: true });
}

/** Every name with all that is known of it, but what differs by the file system. */
function described(root: string, below = ""): string[] {
  return readdirSync(Buffer.from(`${root}/${below}`, "latin1"), { encoding: "latin1" })
    .sort()
    .flatMap((each) => {
      const path = below === "" ? each : `${below}/${each}`;
      const full = Buffer.from(`${root}/${path}`, "latin1");
      const stat = lstatSync(full, { bigint: true });
      const attributes: string[] = [];
      for (const [key, value, size] of xattrsOf(Buffer.concat([full, Buffer.alloc(1)])))
        attributes.push(`${key}=${Buffer.from(value.subarray(0, size)).toString("hex")}`);
      const contents = stat.isFile()
        ? Bun.hash(readFileSync(full)).toString(16)
        : stat.isSymbolicLink()
          ? readlinkSync(full, { encoding: "latin1" })
          : "";
      const device = stat.isCharacterDevice() || stat.isBlockDevice() ? stat.rdev : 0n;
      const line = [
        ...[JSON.stringify(path), stat.mode.toString(8), `${stat.uid}:${stat.gid}`, stat.mtimeNs, device, contents],
        ...attributes.sort(),
      ].join(" ");
      return stat.isDirectory() ? [line, ...described(root, path)] : [line];
    });
}

type Kind = "overlay" | "erofs" | "copy";

/** An image's tree by one way, or what is said against it. */
function treeBy(kind: Kind, layers: readonly Uint8Array<ArrayBuffer>[], place: string): string[] | string {
  using owned = new DisposableStack();
  const paths: string[] = [];
  const views: string[] = [];
  const make = (at: string): string => {
    mkdirSync(at, { recursive: true });
    return at;
  };
  try {
    for (const [at, bytes] of layers.entries()) {
      const path = make(join(place, kind === "copy" ? "copy" : `${kind}-${at}`));
      if (kind === "overlay") unpackOverlay(bytes, path, views.toReversed());
      else if (kind === "erofs") unpackErofs(bytes, path, views.toReversed());
      else unpackCopy(bytes, path);
      if (kind !== "copy" || at === 0) paths.push(path);
      views.push(kind === "erofs" ? `/proc/self/fd/${owned.use(mountErofs(path)).fd}/.` : path);
    }
  } catch (error) {
    if (error instanceof OciboxError || error instanceof SyscallError) return error.message;
    throw error;
  }
  if (kind === "copy") return described(join(place, "copy"));
  const parts = { upper: make(join(place, `${kind}-upper`)), work: make(join(place, `${kind}-work`)), volatile: true };
  using mount = prepareTree({ kind, layers: paths, ...parts }, make(join(place, `${kind}-mount`)));
  return described(`/proc/self/fd/${mount.fd}/.`);
}

test(
  "one tree or three refusals, and nothing beside",
  async () => {
    let trees = 0;
    let refusals = 0;
    const place = join(dir, "round");
    const result = await fuzz((dice) => {
      const layers = [layer(dice), ...dice.some(2, () => layer(dice))];
      mkdirSync(place);
      try {
        const overlay = treeBy("overlay", layers, place);
        for (const kind of hasErofs ? (["erofs", "copy"] as const) : (["copy"] as const)) {
          const other = treeBy(kind, layers, place);
          if (typeof overlay === "string" || typeof other === "string")
            expect([kind, typeof other === "string", other, overlay]).toEqual([
              kind,
              typeof overlay === "string",
              other,
              overlay,
            ]);
          else expect([kind, other]).toEqual([kind, overlay]);
        }
        if (typeof overlay === "string") refusals++;
        else trees++;
      } finally {
        rmSync(place, { recursive: true, force: true });
      }
      expect(readdirSync(dir).sort()).toEqual(["canary", "probe"]);
      expect(canary.now()).toEqual([...canary.before]);
    });
    expect(result.rounds).toBeGreaterThan(50);
    // Both ways are walked, and often.
    expect(trees).toBeGreaterThan(result.rounds / 20);
    expect(refusals).toBeGreaterThan(result.rounds / 20);
  },
  fuzzTimeout,
);
