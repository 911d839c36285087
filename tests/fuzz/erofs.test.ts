/**
 * The EROFS writer on made-up layers: what the kernel mounts of an index is what unpacking makes of the same archive, and
 * either refuses what the other refuses. Where fsck.erofs is there, it accepts the image too (Debian 12's knows blocks of
 * pages alone: it sees the same trees with empty files). OCIBOX_FUZZ_SECONDS for longer.
 */
import { expect } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { O } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { OciboxError } from "../../src/errors.ts";
import { applyLayer } from "../../src/layer/apply.ts";
import { firstDifference } from "../../src/layer/compare.ts";
import { indexLayer } from "../../src/layer/erofs/index-layer.ts";
import { mountErofs } from "../../src/layer/erofs/mount.ts";
import { Tree } from "../../src/layer/erofs/tree.ts";
import { writeErofs } from "../../src/layer/erofs/write.ts";
import { ByteSource, finishEntry, nextEntry } from "../../src/layer/tar.ts";
import { around, temporary } from "../lib/around.ts";
import { whyErofsFails } from "../lib/erofs.ts";
import { cannotRun, testWith } from "../lib/needs.ts";
import { type Member, tar } from "../lib/tar.ts";

const seconds = Number(process.env.OCIBOX_FUZZ_SECONDS ?? 4);
let dir = "";
const kernelNeeds = { root: true, missing: whyErofsFails() };
const fsckNeeds = { programs: ["fsck.erofs"] };

around({}, (owned) => {
  dir = temporary(owned, "erofs");
});

class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 1;
  }

  below(most: number): number {
    this.#state = (Math.imul(this.#state, 1103515245) + 12345) >>> 0;
    return (this.#state >>> 8) % most;
  }

  of<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }
}

/** A member under few names, so that they meet: replaced, linked, led through, whited out. */
function member(dice: Dice, contents: boolean): Member {
  const parts = ["a", "b", "c", "d e", "ü", "-", "!", "long".repeat(1 + dice.below(60))];
  const name = Array.from({ length: 1 + dice.below(4) }, () => dice.of(parts)).join("/");
  const xattrs =
    dice.below(5) === 0
      ? { [`SCHILY.xattr.user.${"k".repeat(1 + dice.below(100))}`]: "v".repeat(1 + dice.below(400)) }
      : {};
  const pax = { mtime: `${dice.below(2_000_000_000)}.${dice.below(999)}`, ...xattrs };
  const more = { mode: dice.below(0o10000), uid: dice.below(100_000), pax };
  switch (dice.below(12)) {
    case 0:
    case 1:
      return { name: `${name}/`, type: "5", ...more };
    case 2: {
      const to = dice.of([dice.of(parts), `/${dice.of(parts)}`, "..", "x".repeat(1 + dice.below(600))]);
      return { name, type: "2", ...more, pax: { ...pax, linkpath: to } };
    }
    case 3:
      return {
        name,
        type: "1",
        pax: { linkpath: Array.from({ length: 1 + dice.below(3) }, () => dice.of(parts)).join("/") },
      };
    case 4:
      return {
        name,
        type: dice.of(["3", "4"]),
        major: 1 + dice.below(4000),
        minor: dice.below(2_000_000) & 0xfffff,
        ...more,
      };
    case 5:
      return { name, type: "6", ...more };
    case 6: {
      const slash = name.lastIndexOf("/") + 1;
      return {
        name: "x",
        pax: { path: `${name.slice(0, slash)}.wh.${dice.below(3) === 0 ? ".wh..opq" : name.slice(slash)}` },
      };
    }
    default:
      return { name, body: contents ? "x".repeat(dice.below(3000)) : "", ...more };
  }
}

function archive(dice: Dice, contents: boolean): Uint8Array<ArrayBuffer> {
  const members = Array.from({ length: 1 + dice.below(30) }, () => member(dice, contents));
  // Names of more than 100 bytes stand in a header of their own.
  return tar(members.map((each) => ({ ...each, pax: { path: each.name, ...each.pax } })));
}

const opened = (path: string): OwnedFd =>
  new OwnedFd(direct.openat(-100, path, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));

/** What it throws that is an answer; anything else is a mistake of ours. */
function refusal(work: () => void): string | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    if (error instanceof OciboxError || (error as Error).name === "SyscallError") return (error as Error).message;
    throw error;
  }
}

testWith(kernelNeeds)(
  "what the kernel mounts is what unpacking makes",
  () => {
    if (cannotRun(kernelNeeds)) return;
    const until = performance.now() + seconds * 1000;
    let mounted = 0;
    for (let _rounds = 0; performance.now() < until; _rounds++) {
      const seed = Math.floor(Math.random() * 2 ** 31);
      const bytes = archive(new Dice(seed), true);
      const [plain, layer] = [join(dir, "plain"), join(dir, "layer")];
      for (const path of [plain, layer]) mkdirSync(path);
      writeFileSync(join(layer, "data"), bytes);
      const options = { lowers: () => [] };
      const unpacked = refusal(() => {
        using root = opened(plain);
        applyLayer(root.fd, new ByteSource([bytes]), options);
      });
      const indexed = refusal(() => {
        using data = new OwnedFd(direct.openat(-100, join(layer, "data"), O.O_RDWR | O.O_CLOEXEC, 0));
        const index = indexLayer(new ByteSource([bytes]), { ...options, uuid: new Uint8Array(16), data: data.fd });
        writeFileSync(join(layer, "index"), index);
      });
      expect([seed, indexed === undefined, indexed, unpacked]).toEqual([
        seed,
        unpacked === undefined,
        indexed,
        unpacked,
      ]);
      if (indexed === undefined) {
        using expected = opened(plain);
        using mount = mountErofs(layer);
        using actual = new OwnedFd(direct.openat(mount.fd, ".", O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
        expect([seed, firstDifference(expected.fd, actual.fd)]).toEqual([seed, undefined]);
        mounted++;
      }
      for (const path of [plain, layer]) rmSync(path, { recursive: true, force: true });
    }
    expect(mounted).toBeGreaterThan(20);
  },
  (seconds + 30) * 1000,
);

testWith(fsckNeeds)("fsck.erofs accepts the images", () => {
  if (cannotRun(fsckNeeds)) return;
  let accepted = 0;
  for (let rounds = 0; rounds < 60; rounds++) {
    const seed = Math.floor(Math.random() * 2 ** 31);
    const tree = new Tree(() => []);
    const source = new ByteSource([archive(new Dice(seed), false)]);
    const refused = refusal(() => {
      for (let entry = nextEntry(source); entry !== undefined; entry = nextEntry(source)) {
        tree.apply(entry, source.taken);
        source.skip(entry.size);
        finishEntry(source, entry);
      }
      tree.finish();
    });
    if (refused !== undefined) continue;
    const image = join(dir, "image");
    const pageBits = 12;
    writeFileSync(image, writeErofs(tree.root, new Uint8Array(16), 4096, pageBits));
    writeFileSync(`${image}-data`, new Uint8Array(4096));
    const ended = Bun.spawnSync(["fsck.erofs", `--device=${image}-data`, "--extract", image]);
    expect([seed, ended.exitCode, ended.stderr.toString()]).toEqual([seed, 0, ""]);
    accepted++;
  }
  expect(accepted).toBeGreaterThan(5);
});
