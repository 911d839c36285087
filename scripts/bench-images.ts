/**
 * Pulling images to where they can be run, beside the peers: a large image and Debian's minbase, a second pull of what has
 * not changed, and the least that the parts of a pull cost in C.
 * usage: bun scripts/bench-images.ts ROUNDS; called by scripts/bench, which builds and installs what is needed, in a mount
 * namespace of its own.
 */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { $, type Socket } from "bun";
import { BenchDisk } from "./bench-disk.ts";
import { compileTools, measured, ociboxPuller, type Puller, peers, stopPulling, type Taken } from "./bench-pullers.ts";
import { type Registry, startRegistry } from "./bench-registry.ts";
import { allHeld, bound, table } from "./bench-table.ts";
import { type ImageFacts, type LargeImages, largeImages } from "./large-image.ts";

interface Variant {
  readonly kind: string;
  /** What is asked for with the large image: the most of the best peer's wall and CPU time. */
  readonly wall?: number;
  readonly cpu?: number;
}

/** How ocibox can keep layers. The first is measured whether or not the program can be told. */
const variants: readonly Variant[] = [
  { kind: "overlay", wall: 1 / 3.5, cpu: 1 / 3 },
  { kind: "erofs", wall: 1 / 6, cpu: 1 / 5 },
];
const mostMinbase = 1 / 2.5;
const mostPeak = 150;
const mostRoundTrips = 1.2;
const secondRounds = 40;

const rounds = Number(process.argv[2] ?? "3");
const ocibox = resolve("dist/ocibox");
const directory = mkdtempSync(join(tmpdir(), "ocibox-bench-"));
const undo: (() => unknown)[] = [() => $`rm -rf ${directory}`];

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

interface Row {
  readonly name: string;
  readonly variant: Variant | undefined;
  readonly taken: Taken[];
}

function figure(row: Row | undefined, of: keyof Taken): number {
  return median((row?.taken ?? []).map((each) => each[of]));
}

/** Round after round every program once, beginning with another each time, on a disk that is new each time. */
async function pullAll(
  disk: BenchDisk,
  image: string,
  pullers: readonly Puller[],
  rows: readonly Row[],
): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    for (let place = 0; place < pullers.length; place++) {
      const index = (place + round) % pullers.length;
      const puller = pullers[index] as Puller;
      await disk.fresh();
      const taken = await puller.pull(disk.mounted, image);
      await puller.prove?.(disk.mounted, image);
      rows[index]?.taken.push(taken);
      const { wall, cpu, peak } = taken;
      console.error(
        `  ${round + 1}: ${puller.name}: ${wall.toFixed(0)} ms, ${cpu.toFixed(2)} s, ${peak.toFixed(0)} MB`,
      );
    }
  }
}

function showRows(title: string, facts: ImageFacts, rows: readonly Row[]): void {
  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0);
  const what = `${facts.layers} layers, ${facts.entries} entries, ${megabytes(facts.compressedBytes)} MB, plain ${megabytes(facts.plainBytes)} MB`;
  table(
    `${title}: ${what} (${rounds} rounds in turns)`,
    ["wall, ms", "least", "most", "CPU, s", "peak, MB"],
    rows.map((row) => {
      const walls = row.taken.map((each) => each.wall);
      const cells = [figure(row, "wall"), Math.min(...walls), Math.max(...walls), figure(row, "cpu")];
      return { name: row.name, cells: [...cells, figure(row, "peak")] };
    }),
  );
}

function boundsOf(rows: readonly Row[], large: boolean): void {
  const others = rows.filter((row) => row.variant === undefined);
  const best = (of: keyof Taken): number => Math.min(...others.map((row) => figure(row, of)));
  console.log();
  for (const row of rows) {
    if (row.variant === undefined) continue;
    const { wall = Number.NaN, cpu = Number.NaN } = row.variant;
    const own = figure(row, "wall") / best("wall");
    if (large) {
      bound(`${row.name}: wall over the best peer's`, own, wall, " ×");
      bound(`${row.name}: CPU over the best peer's`, figure(row, "cpu") / best("cpu"), cpu, " ×");
    } else bound(`${row.name}: wall over the best peer's`, own, mostMinbase, " ×");
    bound(`${row.name}: peak of memory`, Math.max(...row.taken.map((each) => each.peak)), mostPeak, " MB");
  }
}

interface Asked {
  connections: number;
  /** The first lines of the requests. */
  requests: string[];
}

/** A way to the registry that writes down what is asked of it, beginnings of TLS with it. */
function countingProxy(host: string): { host: string; asked: Asked; stop(): void } {
  const asked: Asked = { connections: 0, requests: [] };
  const port = Number(host.slice(host.lastIndexOf(":") + 1));
  const onward = (to: Socket<undefined>): Promise<Socket<undefined>> =>
    Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: { data: (_, bytes) => void to.write(bytes), close: () => void to.end() },
    });
  const ways = new Map<Socket<undefined>, Promise<Socket<undefined>>>();
  const listener = Bun.listen<undefined>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open: (from) => {
        asked.connections++;
        ways.set(from, onward(from));
      },
      data: (from, bytes) => {
        const line = /^([A-Z]+ \/\S*) HTTP/.exec(bytes.toString("latin1"))?.[1];
        if (line !== undefined) asked.requests.push(line);
        const copy = Buffer.from(bytes);
        void ways.get(from)?.then((to) => to.write(copy));
      },
      close: (from) => void ways.get(from)?.then((to) => to.end()),
    },
  });
  return { host: `127.0.0.1:${listener.port}`, asked, stop: () => listener.stop(true) };
}

/** What ocibox asks the registry when it pulls what it has; the image is in the store under another name. */
async function requestsOfSecond(registry: Registry, env: Record<string, string>): Promise<Asked> {
  const proxy = countingProxy(registry.host);
  try {
    const pull = (): Promise<unknown> =>
      $`${ocibox} pull -q ${proxy.host}/large`.env({ ...process.env, ...env }).quiet();
    await pull();
    proxy.asked.connections = 0;
    proxy.asked.requests.length = 0;
    await pull();
    return proxy.asked;
  } finally {
    proxy.stop();
  }
}

/** Milliseconds of one GET of the manifest on a connection of its own, in a process that has done it before. */
async function roundTrip(url: string): Promise<number> {
  const from = performance.now();
  const answer = await fetch(url, {
    keepalive: false,
    headers: { Accept: "application/vnd.docker.distribution.manifest.v2+json" },
  });
  await answer.arrayBuffer();
  if (!answer.ok) throw new Error(`the registry answers ${answer.status} to GET ${url}`);
  return performance.now() - from;
}

/** A registry that is further away: what goes either way arrives after half of `distance`, in milliseconds. */
function distant(target: string, distance: number): { host: string; stop(): void } {
  const [hostname = "", port = ""] = target.split(":");
  const later = (call: () => void): void => void setTimeout(call, distance / 2);
  const listener = Bun.listen<{ onward?: Promise<Socket<undefined>> }>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open: (from) => {
        const onward = Bun.connect<undefined>({
          hostname,
          port: Number(port),
          socket: {
            data: (_, bytes) => {
              const copy = Buffer.from(bytes);
              later(() => void from.write(copy));
            },
            close: () => later(() => void from.end()),
          },
        });
        // The connection itself is made in no time on a loopback: the first bytes wait for what it would take, and then
        // for their own way.
        from.data = { onward: new Promise((resolve) => setTimeout(() => resolve(onward), distance * 1.5)) };
      },
      data: (from, bytes) => {
        const copy = Buffer.from(bytes);
        later(() => void from.data.onward?.then((to) => to.write(copy)));
      },
      close: (from) => void from.data.onward?.then((to) => later(() => to.end())),
    },
  });
  return { host: `127.0.0.1:${listener.port}`, stop: () => listener.stop(true) };
}

/** The second pull from a registry beside one request to it, in turns. @param distance for people */
async function secondFrom(host: string, distance: string, child: string, env: Record<string, string>): Promise<void> {
  const image = `${host}/large:latest`;
  await measured(child, [ocibox, "pull", "-q", image], env);
  const url = `http://${host}/v2/large/manifests/latest`;
  const times: [number[], number[], number[]] = [[], [], []];
  for (let round = -3; round < secondRounds; round++) {
    const pull = (await measured(child, [ocibox, "pull", "-q", image], env)).wall;
    const start = (await measured(child, [ocibox, "--version"], env)).wall;
    const trip = await roundTrip(url);
    if (round < 0) continue;
    for (const [index, each] of [pull, start, trip].entries()) times[index]?.push(each);
  }
  const names = ["ocibox pull, the second", "ocibox --version", "one GET of the manifest"];
  table(
    `A second pull of an unchanged image, the registry ${distance} (${secondRounds} rounds in turns; ms)`,
    ["median", "p10", "p90"],
    times.map((all, index) => {
      const sorted = [...all].sort((a, b) => a - b);
      const cells = [0.5, 0.1, 0.9].map((part) => sorted[Math.floor(sorted.length * part)] ?? Number.NaN);
      return { name: names[index] ?? "", cells };
    }),
  );
  const [pull, start, trip] = times.map(median) as [number, number, number];
  bound(
    `second pull without the program's start, over one GET, the registry ${distance}`,
    (pull - start) / trip,
    mostRoundTrips,
    " ×",
  );
}

async function secondPull(disk: BenchDisk, registry: Registry, child: string): Promise<void> {
  await disk.fresh();
  const env = { OCIBOX_ROOT: `${disk.mounted}/root`, OCIBOX_STATE: `${disk.mounted}/state` };
  await measured(child, [ocibox, "pull", "-q", `${registry.host}/large:latest`], env);
  const asked = await requestsOfSecond(registry, env);
  console.log(`  asked of the registry, on ${asked.connections} connections: ${asked.requests.join(", ")}`);
  bound("second pull: requests", asked.requests.length, 1, "");
  await secondFrom(registry.host, "on the loopback", child, env);
  const far = distant(registry.host, 20);
  try {
    await secondFrom(far.host, "20 ms away", child, env);
  } finally {
    far.stop();
  }
}

/** Each part by itself, in C and one thread; the plain tars lie on the disk too. */
async function floor(disk: BenchDisk, images: LargeImages, tools: { child: string; floor: string }): Promise<void> {
  await disk.fresh();
  const plain = images.files.map((_, index) => `${directory}/plain/${index + 1}.tar`);
  await $`mkdir ${directory}/plain`;
  for (const [index, file] of images.files.entries()) await $`gzip -dc ${file} > ${plain[index]}`;
  const { mounted } = disk;
  await $`mkdir ${mounted}/blobs ${mounted}/plain ${mounted}/layers && cat ${plain} > /dev/null && sync`;
  const parts: readonly (readonly [string, readonly string[]])[] = [
    ["inflate (zlib)", ["zlib", ...images.files]],
    ["inflate (ISA-L)", ["isal", ...images.files]],
    ["sha256 of the blobs", ["sha256", ...images.files]],
    ["sha256 of the plain tars", ["sha256", ...plain]],
    ["writing the blobs", ["copy", `${mounted}/blobs`, ...images.files]],
    ["writing the plain tars", ["copy", `${mounted}/plain`, ...plain]],
    ["making the files", ["files", `${mounted}/layers`, ...plain]],
    ["syncfs", ["syncfs", mounted]],
  ];
  const rows: { name: string; cells: number[] }[] = [];
  for (const [name, words] of parts) {
    const { wall, cpu } = await measured(tools.child, [tools.floor, ...words]);
    rows.push({ name, cells: [wall, cpu] });
  }
  await $`rm -r ${directory}/plain`;
  console.log("\nThe parts of pulling the large image, in C and one thread (once)");
  console.log(`${" ".repeat(32)} wall, ms   CPU, s`);
  for (const { name, cells } of rows)
    console.log(`  ${name.padEnd(30)}${cells.map((each) => each.toFixed(2).padStart(9)).join("")}`);
}

async function pullersOf(child: string): Promise<{ puller: Puller; variant: Variant | undefined }[]> {
  const help = (await $`${ocibox} --help`.text()) + (await $`${ocibox} pull --help`.text());
  const told = help.includes("--snapshotter");
  const list: { puller: Puller; variant: Variant | undefined }[] = [];
  for (const [index, variant] of variants.entries()) {
    if (told || index === 0) list.push({ puller: ociboxPuller(child, ocibox, variant.kind, told), variant });
    else console.error(`ocibox, ${variant.kind}: left out, for this ocibox has no --snapshotter`);
  }
  return [...list, ...peers(child).map((puller) => ({ puller, variant: undefined }))];
}

async function main(): Promise<void> {
  const images = await largeImages(resolve("dist/bench"));
  const tools = await compileTools(directory);
  const disk = await BenchDisk.make(directory, tools.floor);
  undo.push(() => disk.end());
  const registry = await startRegistry(images.storage, join(directory, "registry.yml"));
  undo.push(() => registry.stop());
  console.error(`Stores lie on ${disk.kind}`);
  await $`find ${images.storage} -type f -exec cat {} + > /dev/null`;
  const all = await pullersOf(tools.child);
  for (const name of ["large", "minbase"] as const) {
    const rows = all.map(({ puller, variant }): Row => ({ name: puller.name, variant, taken: [] }));
    const pullers = all.map((each) => each.puller);
    console.error(`Pulling ${name}`);
    await pullAll(disk, `${registry.host}/${name}:latest`, pullers, rows);
    showRows(name === "large" ? "A large image" : "Debian's minbase", images[name], rows);
    boundsOf(rows, name === "large");
  }
  await secondPull(disk, registry, tools.child);
  await floor(disk, images, tools);
  process.exitCode = allHeld() ? 0 : 1;
}

async function cleanUp(): Promise<void> {
  for (let step = undo.pop(); step !== undefined; step = undo.pop()) {
    try {
      await step();
    } catch (error) {
      console.error(`bench: ${error instanceof Error ? error.message : error}`);
      process.exitCode = 1;
    }
  }
}

let givenUp = false;
function giveUp(): void {
  if (givenUp) return;
  givenUp = true;
  undo.push(stopPulling);
  void cleanUp().finally(() => process.exit(1));
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, giveUp);
try {
  await main();
} catch (error) {
  // What was ended ends with an error.
  if (givenUp) await new Promise(() => {});
  throw error;
} finally {
  await cleanUp();
}
