/** podman with ocibox as its runtime: what its users do all day. */
import { describe, expect } from "bun:test";
import { chmodSync, mkdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Client } from "../lib/client.ts";
import { testWith } from "../lib/needs.ts";
import { type Ended, inventory, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["podman", "conmon", "busybox"] };
const test = testWith(needs);
let client: Client;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  client = owned.use(new Client("libpod_parent"));
  owned.defer(async () => {
    await podman("rm", "-fa", "-t", "0");
  });
  mkdirSync(join(client.dir, "hooks"));
  // podman asks for more open files than a process without CAP_SYS_RESOURCE may have.
  writeFileSync(
    join(client.dir, "containers.conf"),
    '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n',
  );
  expect((await podman("import", "-q", await client.tree(), "box")).code).toBe(0);
});

function podman(...words: string[]): Promise<Ended> {
  return client.call(
    [
      ...[
        "podman",
        "--root",
        join(client.dir, "r"),
        "--runroot",
        join(client.dir, "rr"),
        "--tmpdir",
        join(client.dir, "t"),
      ],
      ...["--runtime", client.runtime, "--cgroup-manager", "cgroupfs", "--hooks-dir", join(client.dir, "hooks")],
      ...words,
    ],
    { env: { CONTAINERS_CONF: join(client.dir, "containers.conf") } },
  );
}

function run(...words: string[]): Promise<Ended> {
  return podman("run", "--rm", "--net", "none", "--cgroup-parent", `/${client.cgroup}`, ...words);
}

function create(name: string, ...words: string[]): Promise<Ended> {
  return podman("run", "-d", "--name", name, "--net", "none", "--cgroup-parent", `/${client.cgroup}`, ...words);
}

describe("run", () => {
  test("output, exit codes, a terminal, stdin", async () => {
    expect(await run("box", "echo", "hello")).toEqual({ out: "hello\n", err: "", code: 0 });
    expect((await run("box", "sh", "-c", "exit 9")).code).toBe(9);
    expect((await run("box", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?")).code).toBe(143);
    expect((await run("-t", "box", "tty")).out).toBe("/dev/pts/0\r\n");
    const nope = await run("box", "nope");
    expect([nope.code, nope.err]).toEqual([127, expect.stringContaining("executable file not found in $PATH")]);
    expect((await run("box", "/etc/passwd")).code).toBe(126);
  });

  test("limits, users, namespaces, mounts, capabilities, seccomp", async () => {
    const limited = await run(
      "-m",
      "64m",
      "--pids-limit",
      "77",
      "--cpus",
      "0.5",
      "box",
      "sh",
      "-c",
      "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max",
    );
    expect(limited.out).toMatch(/^67108864\n77\n50000( 100000)?\n$/);
    expect((await run("-u", "5:6", "--group-add", "7", "box", "id")).out).toBe("uid=5(5) gid=6(6) groups=6(6),7\n");
    const shared = await run(
      ...["--pid", "host", "--ipc", "host", "--uts", "host"],
      "box",
      "readlink",
      "/proc/self/ns/pid",
    );
    expect(shared).toEqual({ out: `${readlinkSync("/proc/self/ns/pid")}\n`, err: "", code: 0 });
    writeFileSync(join(client.dir, "given"), "from the host");
    const volume = await run(
      "-v",
      `${client.dir}/given:/given:ro`,
      "--read-only",
      "--tmpfs",
      "/t",
      "box",
      "sh",
      "-c",
      "cat /given; echo x > /t/x && echo fine; echo x > /given || echo kept; touch /y || echo kept",
    );
    expect(volume.out).toBe("from the hostfine\nkept\nkept\n");
    expect(
      (await run("--cap-drop", "all", "--cap-add", "CHOWN", "box", "grep", "CapEff", "/proc/self/status")).out,
    ).toContain("0000000000000001");
    expect((await run("box", "grep", "Seccomp:", "/proc/self/status")).out).toContain("2");
    expect((await run("--privileged", "box", "grep", "Seccomp:", "/proc/self/status")).out).toContain("0");
    expect(
      (
        await run(
          "--uidmap",
          "0:100000:1000",
          "--gidmap",
          "0:200000:1000",
          "box",
          "sh",
          "-c",
          "cat /proc/self/uid_map; id -u",
        )
      ).out,
    ).toMatch(/0 +100000 +1000\n0\n/);
    expect((await run("--sysctl", "net.ipv4.ip_forward=1", "box", "cat", "/proc/sys/net/ipv4/ip_forward")).out).toBe(
      "1\n",
    );
    expect(
      (await run("--ulimit", "nofile=55:66", "--ulimit", "nproc=1024:1024", "box", "sh", "-c", "ulimit -n; ulimit -Hn"))
        .out,
    ).toBe("55\n66\n");
    expect((await run("--oom-score-adj", "100", "box", "cat", "/proc/self/oom_score_adj")).out).toBe("100\n");
    expect((await run("--device", "/dev/null:/dev/other", "box", "ls", "-l", "/dev/other")).out).toMatch(/1, +3/);
    expect((await run("--init", "box", "true")).code === 0 || Bun.which("catatonit") === null).toBe(true);
  });
});

describe("a container that runs on", () => {
  test("exec, top, pause, unpause, kill, stop, restart, rm", async () => {
    expect((await create("one", "box", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")).code).toBe(0);
    const status = async (): Promise<string> => (await podman("ps", "-a", "--format", "{{.Status}}")).out.trim();
    expect(await podman("exec", "one", "echo", "inside")).toEqual({ out: "inside\n", err: "", code: 0 });
    expect((await podman("exec", "-t", "one", "tty")).out).toMatch(/^\/dev\/pts\/\d\r\n$/);
    expect(
      (await podman("exec", "-u", "5:6", "-e", "A=b", "-w", "/tmp", "one", "sh", "-c", "id -u; echo $A; pwd")).out,
    ).toBe("5\nb\n/tmp\n");
    expect((await podman("exec", "one", "sh", "-c", "exit 3")).code).toBe(3);
    expect((await podman("exec", "one", "nope")).code).toBe(127);
    expect((await podman("exec", "-d", "one", "sh", "-c", "echo yes > /detached")).code).toBe(0);
    expect(await until(async () => (await podman("exec", "one", "cat", "/detached")).out === "yes\n")).toBe(true);
    expect((await podman("top", "one")).out).toContain("sleep");
    expect((await podman("pause", "one")).code).toBe(0);
    expect(await status()).toMatch(/^Paused/);
    expect((await podman("exec", "one", "true")).code).not.toBe(0);
    expect((await podman("unpause", "one")).code).toBe(0);
    expect(await status()).toMatch(/^Up/);
    expect((await podman("stop", "-t", "5", "one")).code).toBe(0);
    expect(await status()).toMatch(/^Exited \(3\)/);
    expect((await podman("start", "one")).code).toBe(0);
    expect((await podman("kill", "-s", "KILL", "one")).code).toBe(0);
    expect(await until(async () => (await status()).startsWith("Exited (137)"))).toBe(true);
    expect((await podman("rm", "one")).code).toBe(0);
    expect(await status()).toBe("");
  });

  test("logs and wait", async () => {
    expect((await create("logged", "box", "sh", "-c", "echo out; echo err >&2; exit 4")).code).toBe(0);
    expect((await podman("wait", "logged")).out).toBe("4\n");
    expect(await podman("logs", "logged")).toEqual({ out: "out\n", err: "err\n", code: 0 });
    expect((await podman("rm", "logged")).code).toBe(0);
  });

  test("ten at once", async () => {
    const names = Array.from({ length: 10 }, (_, index) => `many${index}`);
    const all = await Promise.all(names.map((name) => run("--name", name, "box", "echo", name)));
    expect(all.map(({ out, err, code }) => [out, err, code])).toEqual(names.map((name) => [`${name}\n`, "", 0]));
  });
});

test("hooks of podman's own folder", async () => {
  const log = join(client.dir, "hook.log");
  const script = join(client.dir, "hook.sh");
  writeFileSync(script, `#!/bin/sh\necho "$1 $(cat)" >> ${log}\n`);
  chmodSync(script, 0o755);
  for (const stage of ["prestart", "createRuntime", "poststart", "poststop"])
    writeFileSync(
      join(client.dir, "hooks", `${stage}.json`),
      JSON.stringify({
        version: "1.0.0",
        hook: { path: script, args: ["hook", stage] },
        when: { always: true },
        stages: [stage],
      }),
    );
  expect((await run("box", "true")).code).toBe(0);
  const lines = readFileSync(log, "utf8")
    .trim()
    .split("\n")
    .map((line) => {
      const [, stage = "", json = ""] = /^(\w+) (.*)$/.exec(line) ?? [];
      return [stage, (JSON.parse(json) as { status: string }).status];
    });
  expect(lines).toEqual([
    ["prestart", "creating"],
    ["createRuntime", "creating"],
    ["poststart", "running"],
    ["poststop", "stopped"],
  ]);
});
