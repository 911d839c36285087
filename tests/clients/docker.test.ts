/** dockerd on a socket of the test's, without a network, with ocibox as one of its runtimes. */
import { describe, expect } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Client } from "../lib/client.ts";
import { testWith } from "../lib/needs.ts";
import { type Ended, inventory, until } from "../lib/sandbox.ts";

/** The client may be somewhere else than in PATH's first place; any will do. */
const needs = { root: true, programs: ["dockerd", "docker", "containerd", "busybox"] };
const test = testWith(needs);
let client: Client;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  client = owned.use(new Client());
  await client.dockerd(...client.asRuntime);
  owned.defer(async () => {
    for (const id of (await docker("ps", "-aq")).out.split("\n").filter((each) => each !== ""))
      await docker("rm", "-f", id);
  });
  expect((await docker("import", await client.tree(), "box")).code).toBe(0);
});

function docker(...words: string[]): Promise<Ended> {
  return client.docker(...words);
}

function run(...words: string[]): Promise<Ended> {
  return docker("run", "--network", "none", ...words);
}

describe("docker", () => {
  test("it is ocibox that runs", async () => {
    expect((await docker("info", "-f", "{{.DefaultRuntime}}")).out).toBe("ocibox\n");
  });

  test("run: output, exit codes, errors, a terminal, limits", async () => {
    expect(await run("--rm", "box", "echo", "hello")).toEqual({ out: "hello\n", err: "", code: 0 });
    expect((await run("--rm", "box", "sh", "-c", "exit 6")).code).toBe(6);
    const named = await run("--rm", "-u", "1000", "box", "sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr");
    expect(named).toEqual({ out: "out\n", err: "err\n", code: 0 });
    expect((await run("--rm", "-t", "box", "tty")).out).toBe("/dev/pts/0\r\n");
    const nope = await run("--rm", "box", "nope");
    expect([nope.code, nope.err]).toEqual([127, expect.stringContaining("executable file not found in $PATH")]);
    expect((await run("--rm", "box", "/etc/passwd")).code).toBe(126);
    expect(await run("--rm", "-u", "5:6", "--ulimit", "nofile=77:88", "box", "sh", "-c", "id -u; ulimit -n")).toEqual({
      out: "5\n77\n",
      err: "",
      code: 0,
    });
    expect((await run("--rm", "--init", "box", "true")).code === 0 || !existsSync("/usr/bin/docker-init")).toBe(true);
    expect((await run("--rm", "box", "grep", "Seccomp:", "/proc/self/status")).out).toContain("2");
    expect(
      (await run("--rm", "--cap-drop", "all", "--cap-add", "CHOWN", "box", "grep", "CapEff", "/proc/self/status")).out,
    ).toContain("0000000000000001");
    expect(
      (
        await run(
          "--rm",
          "--read-only",
          "-v",
          `${client.dir}/tree/etc:/given:ro`,
          "box",
          "sh",
          "-c",
          "cat /given/group | head -n 1; touch /x || echo kept",
        )
      ).out,
    ).toBe("root:x:0:\nkept\n");
  });

  test("a container that runs on: exec, update, stats, top, pause, stop, restart, kill", async () => {
    expect(
      (
        await run(
          "-d",
          "--name",
          "one",
          "-m",
          "64m",
          "box",
          "sh",
          "-c",
          "trap 'exit 3' TERM; while :; do sleep 0.1; done",
        )
      ).code,
    ).toBe(0);
    const status = async (): Promise<string> => (await docker("ps", "-a", "--format", "{{.Status}}")).out.trim();
    expect(await docker("exec", "one", "echo", "inside")).toEqual({ out: "inside\n", err: "", code: 0 });
    expect((await docker("exec", "-t", "one", "tty")).out).toMatch(/^\/dev\/pts\/\d\r\n$/);
    expect((await docker("exec", "one", "sh", "-c", "exit 3")).code).toBe(3);
    expect([126, 127]).toContain((await docker("exec", "one", "nope")).code);
    expect(
      (await docker("exec", "-u", "5", "-w", "/tmp", "-e", "A=b", "one", "sh", "-c", "id -u; pwd; echo $A")).out,
    ).toBe("5\n/tmp\nb\n");
    const updated = await docker("update", "-m", "32m", "--memory-swap", "-1", "one");
    expect([updated.code, updated.err]).toEqual([0, ""]);
    const pid = (await docker("inspect", "-f", "{{.State.Pid}}", "one")).out.trim();
    const line =
      readFileSync(`/proc/${pid}/cgroup`, "utf8")
        .split("\n")
        .find((each) => /:memory:|^0::/.test(each)) ?? "";
    const path = line.split(":")[2] ?? "";
    const file = line.startsWith("0:")
      ? `/sys/fs/cgroup${path}/memory.max`
      : `/sys/fs/cgroup/memory${path}/memory.limit_in_bytes`;
    expect(readFileSync(file, "utf8")).toBe(`${32 << 20}\n`);
    expect((await docker("stats", "--no-stream", "--format", "{{.MemUsage}}", "one")).out).toContain("32MiB");
    expect((await docker("top", "one")).out).toContain("sleep");
    expect((await docker("pause", "one")).code).toBe(0);
    expect(await status()).toContain("(Paused)");
    expect((await docker("unpause", "one")).code).toBe(0);
    expect((await docker("stop", "-t", "5", "one")).code).toBe(0);
    expect(await status()).toMatch(/^Exited \(3\)/);
    expect((await docker("start", "one")).code).toBe(0);
    expect((await docker("kill", "one")).code).toBe(0);
    expect(await until(async () => (await status()).startsWith("Exited (137)"))).toBe(true);
    expect((await docker("rm", "one")).code).toBe(0);
  });

  test("a command that ran out of memory is told", async () => {
    const ended = await run(
      "-d",
      "--name",
      "oom",
      "-m",
      "8m",
      "--memory-swap",
      "8m",
      "box",
      "sh",
      "-c",
      "head -c 60000000 /dev/zero | sort > /dev/null; exit 0",
    );
    expect(ended.code).toBe(0);
    await docker("wait", "oom");
    expect(
      await until(async () => (await docker("inspect", "-f", "{{.State.OOMKilled}}", "oom")).out === "true\n"),
    ).toBe(true);
    expect((await docker("rm", "oom")).code).toBe(0);
  });
});

describe("docker with --userns-remap", () => {
  const first = 200_000;
  const size = 65_536;

  test("run, exec, a terminal, limits, stop", async () => {
    await using other = new Client();
    await other.tree();
    await other.remappedDockerd("daemon", [first, size], ...other.asRuntime);
    const call = (...words: string[]): Promise<Ended> => other.docker(...words);
    try {
      expect((await call("import", join(other.dir, "tree.tar"), "box")).code).toBe(0);
      const run_ = (...words: string[]): Promise<Ended> => call("run", "--network", "none", ...words);
      const look = "id -u; cat /proc/self/uid_map /proc/self/oom_score_adj; stat -c %u:%g /dev/mqueue; echo >/dev/null";
      expect(await run_("--rm", "--oom-score-adj", "77", "box", "sh", "-c", look)).toEqual({
        out: `0\n         0     ${first}      ${size}\n77\n0:0\n`,
        err: "",
        code: 0,
      });
      expect((await run_("--rm", "-t", "box", "tty")).out).toBe("/dev/pts/0\r\n");
      expect((await run_("-d", "--name", "box", "-m", "64m", "box", "sleep", "1000")).code).toBe(0);
      const inside = await call(
        "exec",
        "-u",
        "5:6",
        "box",
        "sh",
        "-c",
        "id -u; touch /tmp/own && stat -c %u:%g /tmp/own",
      );
      expect(inside).toEqual({ out: "5\n5:6\n", err: "", code: 0 });
      expect((await call("exec", "-t", "box", "tty")).out).toMatch(/^\/dev\/pts\/\d\r\n$/);
      expect((await call("update", "-m", "128m", "--memory-swap", "256m", "box")).code).toBe(0);
      expect((await call("stats", "--no-stream", "--format", "{{.MemUsage}}", "box")).out).toContain("128MiB");
      expect((await call("stop", "-t", "1", "box")).code).toBe(0);
    } finally {
      await call("rm", "-f", "box");
    }
  });
});
