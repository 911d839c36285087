/** What a pull that was killed has fetched of a large layer is gone on with, and never believed. */
import { expect } from "bun:test";
import { closeSync, existsSync, openSync, readdirSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { around, temporary } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { type Blob, type LayoutImage, noise, writeLayout } from "../lib/oci-fixture.ts";
import { binary, until } from "../lib/sandbox.ts";
import { tar } from "../lib/tar.ts";

const needs = { root: true };
const test = testWith(needs);
let dir = "";
let image: LayoutImage;
let large: Blob;
/** Bytes of the layer that are sent before the server falls silent; undefined: all. */
let silentAfter: number | undefined;
/** Whether Range is honoured. */
let ranges = true;
const asked: (string | null)[] = [];
let server: ReturnType<typeof Bun.serve>;

function answer(request: Request): Response {
  const { pathname } = new URL(request.url);
  const of = (blob: Blob, type: string): Response =>
    new Response(blob.bytes.slice(), { headers: { "content-type": type } });
  if (pathname === "/v2/") return new Response("{}");
  if (pathname.includes("/manifests/")) return of(image.manifest, "application/vnd.oci.image.manifest.v1+json");
  if (pathname.endsWith(image.config.digest)) return of(image.config, "application/octet-stream");
  const range = request.headers.get("range");
  asked.push(range);
  const from = range === null || !ranges ? 0 : Number(/^bytes=(\d+)-/.exec(range)?.[1] ?? 0);
  const bytes = large.bytes.slice(from);
  const headers = {
    "content-length": String(bytes.byteLength),
    ...(from === 0 ? {} : { "content-range": `bytes ${from}-${large.size - 1}/${large.size}` }),
  };
  const most = silentAfter;
  if (most === undefined) return new Response(bytes, { status: from === 0 ? 200 : 206, headers });
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(bytes.slice(0, most));
    },
  });
  return new Response(body, { headers });
}

around(needs, (owned) => {
  dir = temporary(owned, "resume");
  image = writeLayout(join(dir, "layout"), [tar([{ name: "noise", body: noise(6_000_000) }])]);
  [large] = image.layers as [Blob];
  server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: answer });
  owned.defer(() => server.stop(true));
});

const root = (): string => join(dir, "root");
const partial = (): string => join(root(), "tmp", `${large.digest.slice(7)}.part`);

function pull(snapshotter: string): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  const words = ["--root", root(), "--snapshotter", snapshotter, "pull", "-q", "--tls-verify=false"];
  return Bun.spawn([binary, ...words, `127.0.0.1:${server.port}/team/app:v1`], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { PATH: process.env.PATH ?? "", OCIBOX_REGISTRIES_CONF: "/nonexistent" },
  });
}

/** A pull that gets four of the six megabytes, and is killed. */
async function killed(snapshotter: string): Promise<void> {
  rmSync(root(), { recursive: true, force: true });
  silentAfter = 4_000_000;
  const child = pull(snapshotter);
  try {
    expect(await until(() => existsSync(partial()) && statSync(partial()).size === 4_000_000)).toBe(true);
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
  silentAfter = undefined;
  asked.length = 0;
}

async function succeeds(snapshotter: string): Promise<void> {
  const child = pull(snapshotter);
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  expect([await child.exited, err, out.trim()]).toEqual([0, "", image.manifest.digest]);
  expect(readdirSync(join(root(), "tmp"))).toEqual([]);
  const check = Bun.spawnSync([binary, "--root", root(), "check"]);
  expect([check.exitCode, check.stderr.toString()]).toEqual([0, ""]);
}

for (const snapshotter of ["overlay", "erofs", "copy"]) {
  test(`${snapshotter}: only the rest is asked for`, async () => {
    await killed(snapshotter);
    await succeeds(snapshotter);
    expect(asked).toEqual(["bytes=4000000-"]);
  });

  test(`${snapshotter}: what was changed on the disk is found out, and all of it fetched anew`, async () => {
    await killed(snapshotter);
    const file = openSync(partial(), "r+");
    writeSync(file, "damaged", 1_000_000);
    closeSync(file);
    await succeeds(snapshotter);
    expect(asked).toEqual(["bytes=4000000-", null]);
  });
}

test("on one processor, where each thread would wait for the other", async () => {
  rmSync(root(), { recursive: true, force: true });
  const words = ["--root", root(), "pull", "-q", "--tls-verify=false", `127.0.0.1:${server.port}/team/app:v1`];
  const child = Bun.spawn(["taskset", "-c", "0", binary, ...words], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { PATH: process.env.PATH ?? "", OCIBOX_REGISTRIES_CONF: "/nonexistent" },
    timeout: 20_000,
  });
  const err = await child.stderr.text();
  await child.exited;
  expect([child.exitCode, err]).toEqual([0, ""]);
});

test("a registry that knows no ranges", async () => {
  ranges = false;
  try {
    await killed("overlay");
    await succeeds("overlay");
    expect(asked).toEqual(["bytes=4000000-"]);
  } finally {
    ranges = true;
  }
});

test("prune removes what nobody goes on with, and leaves what somebody fetches", async () => {
  await killed("overlay");
  const prune = (): number => Bun.spawnSync([binary, "--root", root(), "prune", "-f"]).exitCode;
  expect(prune()).toBe(0);
  expect(readdirSync(join(root(), "tmp"))).toEqual([]);
  silentAfter = 4_000_000;
  const child = pull("overlay");
  try {
    expect(await until(() => existsSync(partial()) && statSync(partial()).size === 4_000_000)).toBe(true);
    expect(prune()).toBe(0);
    expect(existsSync(partial())).toBe(true);
  } finally {
    child.kill("SIGKILL");
    await child.exited;
    silentAfter = undefined;
  }
});
