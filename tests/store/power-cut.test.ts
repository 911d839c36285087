/**
 * The power is cut at each call by which a command makes something last or gives it its name: the store comes back as it
 * was before or as it is after, nothing in it is damaged, and the command that is given again succeeds.
 *
 * The store lies on an ext4 of its own, which tests/fixtures/powercut.c shuts down. What was written and not synced is
 * lost. Of the names either all are there, because the journal has just been written: so it is cut before each call. Or
 * only those that a sync of the command's own has brought to the disk: so it is cut after each sync, for between two of
 * them nothing reaches the disk. OCIBOX_TEST_POWER=all cuts both ways before and after each call, those too that remove
 * what lies in a tree, which finds the same disks several times over.
 */
import { beforeAll, describe, expect } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { type ChainId, chainIds, type DiffId, hexOf } from "../../src/spec/digest.ts";
import { layerFolders, type Snapshotter, snapshotters } from "../../src/store/snapshotter.ts";
import { around } from "../lib/around.ts";
import { buildIndex } from "../lib/multi-platform.ts";
import { cannotRun, testWith } from "../lib/needs.ts";
import { noise, writeLayout } from "../lib/oci-fixture.ts";
import { run } from "../lib/registry.ts";
import { binary, type Ended, Sandbox } from "../lib/sandbox.ts";
import { tar } from "../lib/tar.ts";

const needs = {
  root: true,
  programs: ["docker-registry", "skopeo", "gcc", "mkfs.ext4", "busybox"],
  missing: existsSync("/dev/loop-control") ? undefined : "needs loop devices",
};
const test = testWith(needs);
const thorough = process.env.OCIBOX_TEST_POWER === "all";
type Way = readonly [when: "before" | "after", names: "logged" | "lost", calls: "all" | "paths" | "syncs"];
const ways: readonly Way[] = thorough
  ? [
      ["before", "logged", "all"],
      ["after", "logged", "all"],
      ["before", "lost", "all"],
      ["after", "lost", "all"],
    ]
  : [
      ["before", "logged", "paths"],
      ["after", "lost", "syncs"],
    ];
const lanes = 2;

let box: Sandbox;

/** Layers that a version shares with the others, and those of its own: files, links, a whiteout, a link to below. */
async function publish(version: string): Promise<void> {
  const layout = join(box.dir, `layout-${version}`);
  const busybox = readFileSync(Bun.which("busybox") ?? "");
  writeLayout(layout, [
    tar([
      { name: "bin/", type: "5" },
      { name: "bin/busybox", body: busybox, mode: 0o755 },
      { name: "bin/cat", type: "1", link: "bin/busybox" },
      { name: "etc/", type: "5" },
      { name: "etc/gone", body: "gone\n" },
    ]),
    tar([
      { name: "etc/version", body: `${version}\n` },
      { name: "etc/noise", body: noise(50_000) },
      { name: "etc/link", type: "2", link: "version" },
    ]),
    tar([
      { name: "etc/.wh.gone" },
      { name: "etc/same", type: "1", link: "etc/version" },
      { name: "etc/top", body: `${version} at the top\n` },
    ]),
  ]);
  const registry = `http://${box.host}/v2`;
  await run("skopeo", "copy", "-q", "--dest-tls-verify=false", `oci:${layout}:latest`, `docker://${box.host}/parts`);
  await buildIndex(`${registry}/library/power`, `${registry}/parts`, ["amd64", "arm64"]);
}

let serial = 0;

/** A store on an ext4 of its own, for as long as it is mounted. */
class Disk implements AsyncDisposable {
  private constructor(
    readonly place: string,
    private readonly image: string,
    private readonly to: string,
    private readonly env: Readonly<Record<string, string>>,
  ) {}

  /**
   * Mounts a copy of an image; the copy is kept as `to` when it is unmounted. A loop device that somebody else has just
   * opened outlives its mount, with all that it has in memory: so no file is ever mounted twice.
   */
  static async mount(from: string, to: string, lane: number, snapshotter: Snapshotter): Promise<Disk> {
    const image = at(`disk-${++serial}`);
    await run("cp", "--sparse=always", at(from), image);
    const place = at(`place-${lane}`);
    // No heuristics that sync on a rename, and no timer that writes the journal in between: ext4(5).
    await run("mount", "-o", "loop,noauto_da_alloc,commit=600", image, place);
    return new Disk(place, image, at(to), { OCIBOX_ROOT: join(place, "root"), OCIBOX_SNAPSHOTTER: snapshotter });
  }

  ocibox(...words: string[]): Promise<Ended> {
    return box.ocibox(words, { env: this.env });
  }

  /** Called where it must succeed without a word on stderr. */
  async ok(...words: string[]): Promise<string> {
    const ended = await this.ocibox(...words);
    expect([words, ended.code, ended.err]).toEqual([words, 0, ""]);
    return ended.out;
  }

  cut(way: Way, count: number, words: readonly string[]): Promise<Ended> {
    const powercut = [at("powercut"), ...way, String(count), this.place, binary, ...words];
    return box.shell(powercut.map((word) => `'${word}'`).join(" "), { env: this.env });
  }

  names(folder: string): string[] {
    return readdirSync(join(this.place, "root", folder)).sort();
  }

  /** However they are kept. */
  layers(): string[] {
    return Object.values(layerFolders).flatMap((folder) => this.names(folder).map((name) => `${folder}/${name}`));
  }

  /** Names, digests and ids of the images. */
  async images(): Promise<string[]> {
    const format = "{{.Repository}}:{{.Tag}} {{.Digest}} {{.ID}}";
    return (await this.ok("images", "--no-trunc", "--format", format)).split("\n").sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run("umount", this.place);
    renameSync(this.image, this.to);
  }
}

interface Scenario {
  readonly title: string;
  /** Which of the disks it begins with. */
  readonly disk: string;
  readonly words: readonly string[];
  /** What it may lack before the command has ended, in check's words. */
  readonly lacks?: RegExp;
  /** The command cannot be given when it is done. */
  readonly once?: boolean;
  /** The version that `power` is afterwards. */
  readonly version: string;
  /** What is on the disk afterwards depends on how layers are kept. */
  readonly unpacks?: boolean;
}

const scenarios: readonly Scenario[] = [
  { title: "a first pull", disk: "empty", words: ["pull", "-q", "power"], version: "two" },
  { title: "a pull of a new version", disk: "one", words: ["pull", "-q", "power"], unpacks: true, version: "two" },
  {
    title: "a pull of a blob that was lost",
    disk: "no-blob",
    words: ["pull", "-q", "power"],
    lacks: /^image \S+: the blob \S+ is missing or cut short\n$/,
    version: "two",
  },
  {
    title: "a pull of an unpacked layer that was lost",
    disk: "no-layer",
    words: ["pull", "-q", "power"],
    lacks: /^layer \w+: it is not unpacked\n$/,
    unpacks: true,
    version: "two",
  },
  { title: "tag", disk: "one", words: ["tag", "power", "power:other"], version: "one" },
  { title: "rmi", disk: "one", words: ["rmi", "power"], once: true, version: "two" },
  { title: "load", disk: "empty", words: ["load", "-q", "-i", "ARCHIVE"], version: "one" },
  { title: "prune", disk: "two", words: ["prune", "-a", "-f"], version: "two" },
];

const at = (name: string): string => join(box.dir, name);

interface Kept {
  readonly images: readonly string[];
  readonly blobs: readonly string[];
  readonly layers: readonly string[];
}

/** What is in the store, when what nobody needs has been removed. */
async function keptOf(disk: Disk): Promise<Kept> {
  await disk.ok("prune", "-f");
  expect([...disk.names("tmp"), ...disk.names("trash")]).toEqual([]);
  return { images: await disk.images(), blobs: disk.names("image/blobs/sha256"), layers: disk.layers() };
}

async function makeDisks(snapshotter: Snapshotter): Promise<void> {
  const made = async (disk: string, from: string, work: (disk: Disk) => Promise<unknown>): Promise<void> => {
    await using mounted = await Disk.mount(from, `${snapshotter}-${disk}`, 0, snapshotter);
    await work(mounted);
  };
  await made("empty", "formatted", async () => {});
  await publish("one");
  await made("one", "formatted", async (disk) => {
    await disk.ok("pull", "-q", "power");
    await disk.ok("save", "-o", at("archive"), "power");
  });
  await publish("two");
  await made("two", `${snapshotter}-one`, (disk) => disk.ok("pull", "-q", "power"));
  const lacking = (disk: string, pathOf: (mounted: Disk) => Promise<string> | string) =>
    made(disk, `${snapshotter}-two`, async (mounted) => {
      await mounted.ok("prune", "-f");
      rmSync(join(mounted.place, "root", await pathOf(mounted)), { recursive: true });
    });
  await lacking("no-blob", largestBlob);
  await lacking("no-layer", async (mounted) => `${layerFolders[snapshotter]}/${hexOf(await topOf(mounted))}`);
}

/** That of the lowest layer. */
function largestBlob(disk: Disk): string {
  const size = (path: string): number => statSync(join(disk.place, "root", path)).size;
  const paths = disk.names("image/blobs/sha256").map((name) => `image/blobs/sha256/${name}`);
  return paths.reduce((a, b) => (size(a) > size(b) ? a : b));
}

/** The layer that no other lies upon. */
async function topOf(disk: Disk): Promise<ChainId> {
  const layers = JSON.parse(await disk.ok("inspect", "-f", "{{json .RootFS.Layers}}", "power")) as DiffId[];
  return chainIds(layers).at(-1) as ChainId;
}

around(needs, async (owned) => {
  box = owned.use(await Sandbox.make());
  // Others on the machine mount and unmount meanwhile.
  owned.defer(() => {
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(box.dir);
  });
  await run("gcc", "-O1", "-Wall", "-o", at("powercut"), resolve("tests/fixtures/powercut.c"));
  await run("truncate", "-s", "48M", at("formatted"));
  await run("mkfs.ext4", "-q", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0", at("formatted"));
  for (let lane = 0; lane < lanes; lane++) mkdirSync(at(`place-${lane}`));
});

/** One scenario on one kind of layers. */
class Course {
  old: readonly string[] = [];
  new: readonly string[] = [];
  kept: Kept = { images: [], blobs: [], layers: [] };
  /** Where it was cut, in the end "at the end". */
  readonly cuts: string[] = [];

  constructor(
    readonly scenario: Scenario,
    readonly snapshotter: Snapshotter,
  ) {}

  get disk(): string {
    return `${this.snapshotter}-${this.scenario.disk}`;
  }

  get words(): readonly string[] {
    return this.scenario.words.map((word) => (word === "ARCHIVE" ? at("archive") : word));
  }

  #mount(from: string, lane: number): Promise<Disk> {
    return Disk.mount(from, `disk-of-${lane}`, lane, this.snapshotter);
  }

  /** Without a cut. */
  async undisturbed(): Promise<void> {
    await using disk = await this.#mount(this.disk, 0);
    this.old = await disk.images();
    await disk.ok(...this.words);
    this.new = await disk.images();
    this.kept = await keptOf(disk);
  }

  /** At each call, until the command has ended before it would be cut. */
  async all(way: Way): Promise<void> {
    let next = 1;
    let ended = false;
    const work = async (lane: number): Promise<void> => {
      try {
        while (!ended) if (await this.#cutAt(way, next++, lane)) ended = true;
      } finally {
        ended = true;
      }
    };
    // Each to its end, for they hold mounts.
    const lives = await Promise.allSettled(Array.from({ length: lanes }, (_, lane) => work(lane)));
    for (const life of lives) if (life.status === "rejected") throw life.reason;
  }

  /** @returns whether the command had ended */
  async #cutAt(way: Way, count: number, lane: number): Promise<boolean> {
    let cut: Ended;
    {
      await using disk = await this.#mount(this.disk, lane);
      cut = await disk.cut(way, count, this.words);
    }
    const where = `${way[1]}, call ${count}: ${cut.out.trim().split("\n").at(-1)}`;
    expect([where, cut.err, cut.code]).toEqual([where, "", cut.code === 3 ? 3 : 0]);
    this.cuts.push(where);
    // The journal is replayed by the mount.
    await using disk = await this.#mount(`disk-of-${lane}`, lane);
    try {
      await this.#verify(disk, cut.code === 3);
    } catch (error) {
      throw new Error(`the power was cut ${where}`, { cause: error });
    }
    return cut.code === 3;
  }

  async #verify(disk: Disk, done: boolean): Promise<void> {
    const { lacks, once, version } = this.scenario;
    const images = await disk.images();
    expect(done ? [this.new] : [this.old, this.new]).toContainEqual(images);
    // What lies in a layer is looked at in the end, when all of them are an image's.
    const checked = await disk.ocibox("check", "--quick");
    if (done || lacks === undefined || !lacks.test(checked.out)) expect(checked).toEqual(well);
    if (once !== true || !Bun.deepEquals(images, this.new)) await disk.ok(...this.words);
    expect(await keptOf(disk)).toEqual(this.kept);
    expect(await disk.ok("run", "--rm", "-q", "power", "cat", "/etc/link")).toBe(`${version}\n`);
    expect(await disk.ocibox("check")).toEqual(well);
    expect([...disk.names("tmp"), ...disk.names("trash")]).toEqual([]);
  }
}

const well: Ended = { out: "all is well\n", err: "", code: 0 };

for (const snapshotter of snapshotters)
  describe(snapshotter, () => {
    beforeAll(async () => {
      if (!cannotRun(needs)) await makeDisks(snapshotter);
    }, 60_000);

    // The rest is the same for all.
    for (const scenario of scenarios.filter((each) => thorough || snapshotter === "overlay" || each.unpacks))
      test(
        scenario.title,
        async () => {
          const course = new Course(scenario, snapshotter);
          await course.undisturbed();
          for (const way of ways) await course.all(way);
          expect(course.cuts.length).toBeGreaterThan(3 * ways.length);
          if (thorough) console.log(course.cuts.join("\n"));
        },
        thorough ? 1_800_000 : 300_000,
      );
  });
