/** Containers that run, looked at and steered: pause, unpause, top, stats, rename. */
import { describe, expect } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "ps"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

const ok = (...words: string[]): Promise<string> => box.ok(...words);

const refused = (...words: string[]): Promise<string> => box.refused(...words);

/** A container that runs a script until the test's end. */
async function start(
  cleanup: AsyncDisposableStack,
  name: string,
  script: string,
  flags: readonly string[] = [],
): Promise<void> {
  await ok("run", "-d", "--name", name, ...flags, "alpine", "sh", "-c", script);
  cleanup.defer(async () => {
    await box.ocibox(["rm", "-f", name]);
  });
}

/** Whether a container that counts goes on counting. */
async function counts(name: string): Promise<boolean> {
  const before = await ok("logs", name);
  await Bun.sleep(150);
  return (await ok("logs", name)) !== before;
}

const ticking = "while :; do echo tick; sleep 0.02; done";
const state = (name: string) => ok("inspect", "-f", "{{.State.Status}} {{.State.Paused}}", name);

describe("pause", () => {
  test("stops all of a container until unpause, and says so", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "one", `(${ticking}) & ${ticking}`);
    await start(cleanup, "two", ticking, ["-m", "64m"]);
    expect(await until(() => counts("one"))).toBe(true);
    expect(await ok("pause", "one", "two")).toBe("one\ntwo\n");
    expect([await counts("one"), await counts("two")]).toEqual([false, false]);
    expect(await state("one")).toBe("paused true\n");
    expect(await ok("ps", "--format", "{{.Names}} {{.State}}", "-f", "status=paused")).toBe("two paused\none paused\n");
    expect(await ok("ps", "--format", "{{.Status}}", "-f", "name=one")).toMatch(/^Up .* \(Paused\)\n$/);
    expect(await refused("pause", "one")).toContain('the container "one" is paused already');
    expect(await refused("exec", "one", "true")).toContain("ocibox unpause one");
    expect(await ok("unpause", "one")).toBe("one\n");
    expect([await counts("one"), await counts("two"), await state("one")]).toEqual([true, false, "running false\n"]);
    expect(await refused("unpause", "one")).toContain("is not paused");
    expect(await ok("exec", "one", "echo", "again")).toBe("again\n");
    expect(await refused("pause", "nobody")).toContain('there is no container "nobody"');
  });

  for (const [how, ...words] of [
    ["stop", "stop", "-t", "5", "held"],
    ["kill", "kill", "held"],
    ["rm -f", "rm", "-f", "held"],
    ["restart", "restart", "-t", "5", "held"],
  ])
    test(`a paused container hears of ${how}`, async () => {
      await using cleanup = new AsyncDisposableStack();
      await start(cleanup, "held", `trap 'exit 7' TERM; ${ticking}`);
      await until(() => counts("held"));
      await ok("pause", "held");
      const from = performance.now();
      expect(await ok(...words)).toBe("held\n");
      expect(performance.now() - from).toBeLessThan(4000);
      if (how === "stop") expect(await ok("ps", "-a", "--format", "{{.Status}}")).toMatch(/^Exited \(7\)/);
      if (how === "restart") expect(await until(() => counts("held"))).toBe(true);
    });

  test("what a killed supervisor leaves of a paused one goes with the next command", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "left", ticking);
    const id = (await ok("inspect", "-f", "{{.Id}}", "left")).trim();
    await ok("pause", "left");
    const [pid] = readFileSync(join(box.root, "containers", id, "process"), "utf8").split(" ");
    const supervisor = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
    process.kill(supervisor, 9);
    const listed = () => ok("ps", "-a", "--format", "{{.Names}} {{.State}}");
    expect(await until(async () => (await listed()) === "left exited\n")).toBe(true);
    expect(inventory().cgroups.filter((each) => each.includes(id))).toEqual([]);
  });
});

test("stop hears of a container that has only just begun", async () => {
  await using cleanup = new AsyncDisposableStack();
  await start(cleanup, "young", `trap 'exit 7' TERM; ${ticking}`);
  for (let turn = 0; turn < 5; turn++) {
    // Its process is there before its command is executed, and its trap is set.
    const started = box.ocibox(["start", "young"]);
    await Bun.sleep(turn * 4);
    const from = performance.now();
    expect(await ok("stop", "-t", "3", "young")).toBe("young\n");
    expect(performance.now() - from).toBeLessThan(5000);
    await started;
  }
});

describe("top", () => {
  test("lists the processes by the host's numbers", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "busy", "sleep 97 & exec sleep 98", ["-u", "1234:5"]);
    const lines = (await ok("top", "busy")).trim().split("\n");
    expect(lines[0]).toMatch(/^UID +PID +PPID +C +STIME +TTY +TIME +CMD$/);
    expect(
      lines
        .slice(1)
        .map((line) => line.replace(/^(\S+) .* (\d\d:\d\d:\d\d) +/, "$1 $2 "))
        .sort(),
    ).toEqual(["1234 00:00:00 sleep 97", "1234 00:00:00 sleep 98"]);
    const [, first = ""] = lines;
    expect(readFileSync(`/proc/${first.split(/ +/)[1]}/cmdline`, "utf8")).toStartWith("sleep\0");
    // As ps says it of the same processes.
    const ps = (await ok("top", "busy", "-o", "pid,args")).trim().split("\n");
    expect(
      ps
        .slice(1)
        .map((line) => line.trim().replace(/^\d+ /, ""))
        .sort(),
    ).toEqual(["sleep 97", "sleep 98"]);
    expect(await refused("top", "busy", "-o", "args")).toContain("no column PID");
  });

  test("a name does not move the terminal's cursor", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "odd", `exec busybox sh -c 'sleep 96; true' "$(printf 'a\\033[2Jb\\nc')"`);
    expect(await ok("top", "odd")).toContain("a?[2Jb?c");
  });
});

describe("stats", () => {
  test("once: what is used, of all that run or of those that are named", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "works", "head -c 8000000 /dev/zero > /dev/shm/f; while :; do :; done", ["-m", "64m"]);
    await start(cleanup, "idles", "exec sleep 100", ["--pids-limit", "-1"]);
    const rows = (await ok("stats", "--no-stream", "--format", "json"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, string>);
    expect(rows.map(({ Name }) => Name)).toEqual(["idles", "works"]);
    const [idles, works] = rows as [Record<string, string>, Record<string, string>];
    expect(Number.parseFloat(works.CPUPerc ?? "")).toBeGreaterThan(20);
    expect(works.MemUsage).toMatch(/^\d+(?:\.\d+)?MiB \/ 64MiB$/);
    expect(Number.parseFloat(works.MemUsage ?? "")).toBeGreaterThan(7);
    expect([idles.CPUPerc, idles.PIDs]).toEqual(["0.00%", "1"]);
    expect(idles.MemUsage).toMatch(/^[\d.]+[KM]iB \/ [\d.]+GiB$/);
    const named = (await ok("stats", "--no-stream", "idles")).trim().split("\n");
    expect(named[0]).toMatch(/^CONTAINER ID +NAME +CPU % +MEM USAGE \/ LIMIT +MEM % +NET I\/O +BLOCK I\/O +PIDS$/);
    expect(named).toHaveLength(2);
    expect(await refused("stats", "--no-stream", "nobody")).toContain('there is no container "nobody"');
    // It ends with who reads it.
    const streamed = await box.shell(`timeout 20 "$OCIBOX" stats idles | head -n 2; echo "ended"`);
    expect(streamed.out).toMatch(/^CONTAINER ID[^\n]*\n[0-9a-f]{12} +idles [^\n]*\nended\n$/);
  });
});

describe("rename", () => {
  test("a container goes by its new name, and the old one is free", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "before", "exec sleep 100");
    cleanup.defer(async () => {
      await box.ocibox(["rm", "-f", "after"]);
    });
    await ok("rename", "before", "after");
    expect(await ok("ps", "--format", "{{.Names}}")).toBe("after\n");
    expect(await ok("exec", "after", "echo", "here")).toBe("here\n");
    await ok("create", "--name", "before", "alpine", "true");
    expect(await refused("rename", "after", "before")).toContain('a container with the name "before" exists already');
    expect(await refused("rename", "after", "a/b")).toContain("which is not letters");
    await ok("rename", "after", "after");
    expect(await ok("ps", "--format", "{{.Names}}")).toBe("after\n");
  });

  test("one of --rm, whose end was planned under its old name, leaves no name", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "short", "exec sleep 100", ["--rm"]);
    await ok("rename", "short", "shorter");
    // Its end takes its first name away: nobody else gets that before.
    expect(await refused("run", "-d", "--name", "short", "alpine", "true")).toContain(
      'the name "short" exists already',
    );
    await ok("stop", "-t", "0", "shorter");
    await start(cleanup, "shorter", "exec sleep 100", ["--rm"]);
    await start(cleanup, "short", "exec sleep 100");
    await ok("rm", "-f", "short", "shorter");
    expect(readdirSync(join(box.root, "names"))).toEqual([]);
  });
});
