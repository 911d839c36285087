/** --restart: a container that has ended is started once more by its own supervisor, until somebody stops it. */
import { describe, expect } from "bun:test";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { hostOf } from "../lib/host-network.ts";
import { testWith } from "../lib/needs.ts";
import { inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "ip", "nsenter", "nft"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

const ok = (...words: string[]): Promise<string> => box.ok(...words);

async function run(
  cleanup: AsyncDisposableStack,
  name: string,
  flags: readonly string[],
  script: string,
): Promise<void> {
  cleanup.defer(async () => {
    await box.ocibox(["rm", "-f", name]);
  });
  await ok("run", "-d", "--name", name, ...flags, "alpine", "sh", "-c", script);
}

const count = async (name: string): Promise<number> => Number(await ok("inspect", "-f", "{{.RestartCount}}", name));
const running = async (name: string): Promise<boolean> =>
  (await ok("inspect", "-f", "{{.State.Running}}", name)) === "true\n";
/** How often a container has said that it runs. */
const runs = async (name: string): Promise<number> => (await ok("logs", name)).split("run\n").length - 1;

describe("--restart", () => {
  test("on-failure:N gives it N more tries, and what it has changed stays", async () => {
    await using cleanup = new AsyncDisposableStack();
    await run(cleanup, "fails", ["--restart", "on-failure:2"], "echo x >> /n; echo run; exit $(wc -l < /n)");
    expect(await until(async () => (await runs("fails")) === 3)).toBe(true);
    expect(await until(async () => !(await running("fails")))).toBe(true);
    await Bun.sleep(600);
    expect([await runs("fails"), await count("fails"), await ok("wait", "fails")]).toEqual([3, 2, "3\n"]);
    expect(await ok("inspect", "-f", "{{.RestartPolicy}}", "fails")).toBe("on-failure:2\n");
    // Somebody starts it: it has its tries again.
    await ok("start", "fails");
    expect(await until(async () => (await runs("fails")) === 6)).toBe(true);
  });

  test("on-failure leaves one alone that has done its work", async () => {
    await using cleanup = new AsyncDisposableStack();
    await run(cleanup, "works", ["--restart", "on-failure"], "echo x >> /n; echo run; [ $(wc -l < /n) -ge 3 ]");
    expect(await until(async () => (await runs("works")) === 3)).toBe(true);
    expect(await until(async () => !(await running("works")))).toBe(true);
    await Bun.sleep(600);
    expect([await runs("works"), await ok("ps", "-a", "--format", "{{.Status}}")]).toEqual([
      3,
      expect.stringMatching(/^Exited \(0\)/),
    ]);
  });

  test("always: whatever ends it, but who stops it; by its ports and its limits", async () => {
    await using cleanup = new AsyncDisposableStack();
    const host = await hostOf(box, cleanup);
    await using inside = new AsyncDisposableStack();
    const script = "mkdir -p /www; echo page > /www/index.html; echo run; httpd -p 80 -h /www; exec sleep 0.4";
    await run(inside, "again", ["--restart", "always", "-p", "8080:80", "-m", "32m"], script);
    expect(await until(async () => (await runs("again")) >= 3)).toBe(true);
    expect(await until(async () => (await host.fetch("http://127.0.0.1:8080/")) === "page\n")).toBe(true);
    expect(await ok("port", "again")).toBe("80/tcp -> 0.0.0.0:8080\n");
    expect(await ok("stop", "-t", "0", "again")).toBe("again\n");
    const before = await runs("again");
    await Bun.sleep(1500);
    expect([await runs("again"), await running("again")]).toEqual([before, false]);
    expect(await host.print("nft list ruleset | grep elements || true")).toBe("");
    await ok("start", "again");
    expect(await until(async () => (await runs("again")) >= before + 2)).toBe(true);
  });

  test("somebody's start is the one that counts, and what waits holds nothing", async () => {
    await using cleanup = new AsyncDisposableStack();
    await hostOf(box, cleanup);
    await using inside = new AsyncDisposableStack();
    // Four hasty ends: the next wait is 1.6 s.
    const script = "echo x >> /n; echo run; [ $(wc -l < /n) -gt 5 ]";
    await run(inside, "waits", ["--restart", "on-failure", "-p", "8080:80", "--ip", "10.87.9.9"], script);
    expect(await until(async () => (await runs("waits")) === 5 && !(await running("waits")))).toBe(true);
    // Its port and its address are free, and who waits for its end is not kept waiting.
    const other = await box.run(["-p", "8080:80", "--ip", "10.87.9.9", "alpine", "true"]);
    expect([other.err, other.code]).toEqual(["", 0]);
    await ok("start", "waits");
    expect(await until(async () => (await runs("waits")) === 6)).toBe(true);
    await Bun.sleep(2000);
    expect([await runs("waits"), await count("waits")]).toEqual([6, 0]);
    // A restart at once has the same port again.
    await run(
      inside,
      "again",
      ["--restart", "always", "-p", "8081:80", "--ip", "10.87.9.10"],
      "echo run; exec sleep 100",
    );
    for (let turn = 0; turn < 3; turn++) expect(await ok("restart", "-t", "0", "again")).toContain("again");
    expect(await running("again")).toBe(true);
  });

  test("stop, kill and rm -f meet one that dies all the time", async () => {
    await using cleanup = new AsyncDisposableStack();
    for (const [index, words] of [["stop", "-t", "1"], ["kill"], ["rm", "-f"], ["stop"], ["rm", "-f"]].entries()) {
      const name = `flaps${index}`;
      await run(cleanup, name, ["--restart", "always"], "echo run; sleep 0.02");
      await until(async () => (await runs(name)) >= 2);
      await Bun.sleep(index * 37);
      const ended = await box.ocibox([...words, name]);
      // One that does not run at this moment cannot be killed, and stays down all the same.
      if (words[0] !== "kill") expect([ended.err, ended.code]).toEqual(["", 0]);
      await Bun.sleep(500);
      expect((await ok("ps", "-q", "-f", `name=${name}`)).trim()).toBe("");
    }
  });

  test("why it is not started again stands in its log", async () => {
    await using cleanup = new AsyncDisposableStack();
    const bound = join(box.dir, "goes");
    mkdirSync(bound, { recursive: true });
    await run(cleanup, "lost", ["--restart", "always", "-v", `${bound}:/b`], "echo run; sleep 0.3");
    rmSync(bound, { recursive: true });
    expect(
      await until(async () => (await box.ocibox(["logs", "lost"])).err.includes("ocibox: it is not started again: ")),
    ).toBe(true);
    expect(await running("lost")).toBe(false);
  });

  test("one that is killed on purpose stays down, one whose process is killed does not", async () => {
    await using cleanup = new AsyncDisposableStack();
    await run(cleanup, "held", ["--restart", "unless-stopped"], "echo run; exec sleep 1000");
    const id = (await ok("inspect", "-f", "{{.Id}}", "held")).trim();
    const [pid] = readFileSync(join(box.root, "containers", id, "process"), "utf8").split(" ");
    process.kill(Number(pid), 9);
    expect(await until(async () => (await runs("held")) === 2 && (await running("held")))).toBe(true);
    await ok("kill", "held");
    expect(await until(async () => !(await running("held")))).toBe(true);
    await Bun.sleep(600);
    expect([await runs("held"), await running("held"), await count("held")]).toEqual([2, false, 1]);
  });

  test("what cannot be executed is not tried again", async () => {
    await using cleanup = new AsyncDisposableStack();
    cleanup.defer(async () => {
      await box.ocibox(["rm", "-f", "none"]);
    });
    const ended = await box.ocibox(["run", "-d", "--name", "none", "--restart", "always", "alpine", "/no/such"]);
    expect(ended.code).toBe(127);
    await Bun.sleep(500);
    expect([await running("none"), await count("none")]).toEqual([false, 0]);
  });

  test("is for what is left to itself and stays", async () => {
    for (const [flags, words] of [
      [["--restart", "always"], "add -d"],
      [["-d", "--rm", "--restart", "always"], "cannot both be had"],
      [["-d", "--report", join(box.dir, "r"), "--restart", "always"], "cannot both be had"],
      [["-d", "--restart", "sometimes"], '--restart is "sometimes"'],
      [["-d", "--restart", "on-failure:x"], '--restart is "on-failure:x"'],
    ] as const) {
      const { code, err } = await box.ocibox(["run", ...flags, "alpine", "true"]);
      expect([code, err]).toEqual([125, expect.stringContaining(words)]);
    }
    expect((await box.run(["--restart", "no", "alpine", "true"])).code).toBe(0);
  });
});
