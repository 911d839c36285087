/**
 * Fifty processes at once that pull, run, remove and prune the same five images, and are killed at random: the store is
 * whole afterwards, nothing is left, and no blob was fetched twice at the same time.
 */
import { expect } from "bun:test";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { binary, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
/** Seconds; two minutes where somebody wants to know. */
const duration = Number(process.env.OCIBOX_TEST_CROWD ?? "30");
/** Seconds more where too little has happened by then. */
const patience = 90;
const crowd = 50;
const images = ["one", "two", "three", "four", "five"];
let box: Sandbox;
let proxy: Bun.Server<undefined>;
/** Each download of a blob; one whose asker was killed is given up. */
interface Download {
  readonly blob: string;
  readonly from: number;
  to: number;
  givenUp: boolean;
}
const downloads: Download[] = [];

/** Blobs that two who both lived to have them fetched at the same time. */
function twice(): string[] {
  const whole = downloads.filter((each) => !each.givenUp);
  return whole
    .filter((a) => whole.some((b) => a !== b && a.blob === b.blob && a.from <= b.from && b.from < a.to))
    .map((each) => each.blob);
}

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  for (const name of images) {
    writeFileSync(join(box.tree, "name"), `${name}\n`);
    await box.push(name);
  }
  proxy = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const url = new URL(request.url);
      const blob = request.method === "GET" ? /\/blobs\/(sha256:[0-9a-f]{64})$/.exec(url.pathname)?.[1] : undefined;
      const download: Download = {
        blob: blob ?? "",
        from: performance.now(),
        to: Number.POSITIVE_INFINITY,
        givenUp: false,
      };
      if (blob !== undefined) downloads.push(download);
      request.signal.addEventListener("abort", () => {
        download.givenUp = true;
      });
      const headers = new Headers(request.headers);
      headers.delete("host");
      const answer = await fetch(`http://${box.host}${url.pathname}${url.search}`, { method: request.method, headers });
      const bytes = request.method === "HEAD" ? null : await answer.arrayBuffer();
      // Slow enough that others come in the meantime.
      if (blob !== undefined) await Bun.sleep(20);
      download.to = performance.now();
      return new Response(bytes, { status: answer.status, headers: answer.headers });
    },
  });
  owned.defer(() => proxy.stop(true));
  writeFileSync(
    join(box.dir, "registries.conf"),
    `[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "127.0.0.1:${proxy.port}"\ninsecure = true\n`,
  );
});

/** What one of the crowd does next. */
function whim(): string[] {
  const image = images[Math.floor(Math.random() * images.length)] as string;
  const dice = Math.random();
  if (dice < 0.35) return ["pull", "-q", image];
  if (dice < 0.55) return ["run", "--rm", "-q", image, "cat", "/name"];
  if (dice < 0.73) return ["rmi", "-f", image];
  if (dice < 0.8) return ["prune", "-f"];
  if (dice < 0.95) return ["prune", "-af"];
  return ["images", "-q"];
}

/** Errors that are answers: somebody else was faster. */
const answers = /there is no image|was removed|is used by the container|is just being removed|the store is in use/;

test(
  "a crowd",
  async () => {
    const end = performance.now() + duration * 1000;
    const wrong: string[] = [];
    const counts = { calls: 0, killed: 0 };
    const enough = (): boolean => counts.calls > duration * 10 && counts.killed > duration && downloads.length > 20;
    // A slow machine takes longer to see as much.
    const goesOn = (now: number): boolean => now < end || (now < end + patience * 1000 && !enough());
    const one = async (): Promise<void> => {
      while (goesOn(performance.now()) && wrong.length < 5) {
        const words = whim();
        const child = Bun.spawn([binary, ...words], {
          stdio: ["ignore", "pipe", "pipe"],
          env: { ...process.env, ...box.env },
        });
        counts.calls++;
        const output = Promise.all([child.stdout.text(), child.stderr.text()]);
        if (Math.random() < 0.3) {
          await Bun.sleep(Math.random() * 400);
          if (child.exitCode === null) {
            child.kill("SIGKILL");
            counts.killed++;
          }
        }
        const [out, err] = await output;
        await child.exited;
        if (child.signalCode === "SIGKILL") continue;
        const fine = child.exitCode === 0 ? words[0] !== "run" || out === `${words[3]}\n` : answers.test(err);
        if (!fine) wrong.push(`${words.join(" ")}: ${child.exitCode} ${JSON.stringify(out)} ${JSON.stringify(err)}`);
      }
    };
    await Promise.all(Array.from({ length: crowd }, one));
    expect(wrong).toEqual([]);
    expect([counts, downloads.length, enough()]).toEqual([counts, downloads.length, true]);
    expect(twice()).toEqual([]);
    // What was killed last is tidied by whoever comes next.
    expect((await box.ocibox(["prune", "-f"])).code).toBe(0);
    expect(await box.ocibox(["check"])).toEqual({ out: "all is well\n", err: "", code: 0 });
    const temporary = join(box.root, "tmp");
    expect(existsSync(temporary) ? readdirSync(temporary) : []).toEqual([]);
    expect(await until(() => box.leftovers().length === 0)).toBe(true);
    for (const name of images) expect((await box.run([name, "cat", "/name"])).out).toBe(`${name}\n`);
  },
  (duration + patience + 60) * 1000,
);
