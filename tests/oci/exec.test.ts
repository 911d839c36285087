/** `exec`: one more process in a container that runs: where it is, who it is, how it ends, and what is left. */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { receiver } from "../lib/console.ts";
import { testWith } from "../lib/needs.ts";
import { binary, inventory, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["busybox", "python3"] };
const test = testWith(needs);
const kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"];
let box: Bundles;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = Bundles.ownedBy(owned);
  box.write((spec) => {
    if (spec.process === undefined || spec.linux === undefined) return;
    spec.process.args = ["sleep", "1000"];
    spec.process.env = ["PATH=/bin", "HOME=/", "FROM=config"];
    spec.process.rlimits = [{ type: "RLIMIT_NOFILE", soft: 77, hard: 88 }];
    spec.process.oomScoreAdj = 321;
    spec.linux.namespaces?.push({ type: "cgroup" }, { type: "time" });
    spec.linux.seccomp = {
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: 95 }],
    };
  });
  owned.defer(async () => {
    await box.call("delete", "-f", "one");
  });
  expect(await box.call("run", "-d", "one")).toMatchObject({ code: 0, err: "" });
});

async function sh(script: string, ...flags: string[]): Promise<string> {
  const { out, err, code } = await box.call("exec", ...flags, "one", "sh", "-c", script);
  expect([err, code]).toEqual(["", 0]);
  return out;
}

function pidOf(id: string): number {
  return Number.parseInt(readFileSync(join(box.root, id, "process"), "utf8"), 10);
}

describe("where the process is", () => {
  test("in every namespace of the container's first process, and in its cgroups", async () => {
    const shown = await sh(`for each in ${kinds.join(" ")}; do readlink /proc/self/ns/$each; done`);
    const { readlinkSync } = await import("node:fs");
    const own = kinds.map((kind) => readlinkSync(`/proc/${pidOf("one")}/ns/${kind}`));
    expect(shown.trim().split("\n")).toEqual(own);
    // Only what the configuration names is the container's own.
    const host = kinds.filter((kind, index) => readlinkSync(`/proc/self/ns/${kind}`) === own[index]);
    expect(host).toEqual(["user"]);
    const cgroups = (await sh("cat /proc/self/cgroup")).trim().split("\n");
    expect(cgroups).toEqual((await sh("cat /proc/1/cgroup")).trim().split("\n"));
  });

  test("--cgroup: in one below, of one hierarchy or of all; never in one above", async () => {
    const record = JSON.parse(readFileSync(join(box.root, "one/state.json"), "utf8")) as {
      cgroups: { mode: string; directories: string[] };
    };
    const directory = record.cgroups.directories.find((each) => each.includes("/pids/")) ?? "";
    const below = join(record.cgroups.mode === "v2" ? (record.cgroups.directories[0] ?? "") : directory, "below");
    mkdirSync(below);
    try {
      const flag = record.cgroups.mode === "v2" ? "/below" : "pids:/below";
      const pidFile = join(box.dir, "below.pid");
      expect((await box.call("exec", "-d", "--pid-file", pidFile, "--cgroup", flag, "one", "sleep", "1000")).code).toBe(
        0,
      );
      const pid = readFileSync(pidFile, "utf8");
      expect(readFileSync(join(below, "cgroup.procs"), "utf8")).toBe(`${pid}\n`);
      process.kill(Number(pid), "SIGKILL");
      expect(await until(() => readFileSync(join(below, "cgroup.procs"), "utf8") === "")).toBe(true);
    } finally {
      rmdirSync(below);
    }
    expect((await box.call("exec", "--cgroup", "/../other", "one", "true")).err).toContain("is not a sub cgroup path");
    expect((await box.call("exec", "--cgroup", "nothing:/x", "one", "true")).err).toContain(
      "unknown controller nothing",
    );
  });

  test("an exec in a container with a user namespace is root there, and nobody outside", async () => {
    box.write((spec) => {
      if (spec.process === undefined || spec.linux === undefined) return;
      spec.process.args = ["sleep", "1000"];
      spec.linux.namespaces?.push({ type: "user" });
      spec.linux.uidMappings = [{ containerID: 0, hostID: 100_000, size: 1000 }];
      spec.linux.gidMappings = [{ containerID: 0, hostID: 200_000, size: 1000 }];
      delete spec.linux.readonlyPaths;
      delete spec.linux.maskedPaths;
    });
    expect(await box.call("run", "-d", "mapped")).toMatchObject({ code: 0, err: "" });
    try {
      const pidFile = join(box.dir, "mapped.pid");
      const ran = await box.call(
        "exec",
        "--pid-file",
        pidFile,
        "mapped",
        "sh",
        "-c",
        "id -u; id -g; cat /proc/self/uid_map",
      );
      expect(ran).toEqual({ out: "0\n0\n         0     100000       1000\n", err: "", code: 0 });
      expect((await box.call("exec", "-d", "--pid-file", pidFile, "-u", "5:6", "mapped", "sleep", "1000")).code).toBe(
        0,
      );
      const status = readFileSync(`/proc/${readFileSync(pidFile, "utf8")}/status`, "utf8");
      expect(status).toMatch(/^Uid:\t100005\t100005\t100005\t100005$/m);
      expect(status).toMatch(/^Gid:\t200006\t200006\t200006\t200006$/m);
      expect((await box.call("exec", "-t", "mapped", "tty")).out).toBe("/dev/pts/0\n");
    } finally {
      await box.call("delete", "-f", "mapped");
    }
  });
});

describe("who it is", () => {
  test("the container's own process, with what was changed", async () => {
    const shown = await sh("id -u; id -g; id -G; pwd; env | sort; cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn");
    expect(shown).toBe("0\n0\n0\n/\nFROM=config\nHOME=/\nPATH=/bin\nPWD=/\nSHLVL=1\n321\n77\n88\n");
    const flags = ["-u", "12:34", "-g", "56", "-g", "78", "--cwd", "/tmp", "-e", "A=1", "-e", "FROM=flag"];
    expect(
      await sh(
        'id -u; id -g; cat /proc/self/status | while read a b; do [ "$a" = Groups: ] && echo $b; done; pwd; echo $A $FROM',
        ...flags,
      ),
    ).toBe("12\n34\n56 78\n/tmp\n1 flag\n");
  });

  test("capabilities, no new privileges, seccomp", async () => {
    const status = "cat /proc/self/status";
    const of = (text: string, name: string): string => new RegExp(`^${name}:\\t(.*)$`, "m").exec(text)?.[1] ?? "";
    const plain = await sh(status);
    expect(["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"].map((name) => of(plain, name))).toEqual([
      "0000000020000420",
      "0000000020000420",
      "0000000020000420",
      "0000000000000000",
      "0000000000000000",
    ]);
    expect([of(plain, "NoNewPrivs"), of(plain, "Seccomp")]).toEqual(["1", "2"]);
    const more = await sh(status, "--cap", "CAP_SYS_PTRACE", "--no-new-privs=false");
    expect(["CapBnd", "CapEff", "CapPrm"].map((name) => of(more, name))).toEqual(Array(3).fill("0000000020080420"));
    expect(of(more, "NoNewPrivs")).toBe("0");
    expect((await box.call("exec", "one", "sh", "-c", "mkdir /tmp/x")).err).toContain("Operation not supported");
    expect((await box.call("exec", "--cap", "CAP_NONE", "one", "true")).err).toMatch(
      /level=warning .*ignoring what this kernel does not have: CAP_NONE"/,
    );
  });

  test("--process: a process of its own from a file", async () => {
    const file = join(box.dir, "process.json");
    const process = {
      user: { uid: 7, gid: 8, umask: 0o077 },
      args: ["sh", "-c", "id -u; umask; pwd; echo $ONLY $FROM"],
      env: ["PATH=/bin", "ONLY=this"],
      cwd: "/tmp",
    };
    writeFileSync(file, JSON.stringify(process));
    expect(await box.call("exec", "--process", file, "one")).toEqual({
      out: "7\n0077\n/tmp\nthis\n",
      err: "",
      code: 0,
    });
    // What a process does not say is the container's own, as under runc.
    writeFileSync(
      file,
      JSON.stringify({ cwd: "/", args: ["/bin/sh", "-c", "cat /proc/self/status"], user: { uid: 0, gid: 0 } }),
    );
    const bare = await box.call("exec", "-p", file, "one");
    expect(bare.out).toContain("CapEff:\t0000000020000420\n");
    expect(bare.out).toContain("CapBnd:\t0000000020000420\n");
    writeFileSync(file, JSON.stringify({ ...process, user: { uid: "root" } }));
    const wrong = await box.call("exec", "-p", file, "one");
    expect([wrong.code, wrong.err]).toEqual([
      255,
      expect.stringContaining('process.user.uid is \\"root\\", not an integer'),
    ]);
    expect((await box.call("exec", "-p", "/nowhere", "one")).err).toContain("no such file or directory");
  });

  test("three descriptors, and those that are handed on", async () => {
    const script = `exec 3<<< "through" 9< /; exec ${binary} oci --root ${box.root} exec --preserve-fds 1 one sh -c 'ls /proc/self/fd; cat <&3'`;
    const ran = Bun.spawnSync(["bash", "-c", script]);
    expect(ran.stderr.toString()).toBe("");
    expect(ran.stdout.toString()).toBe("0\n1\n2\n3\n4\nthrough\n");
  });
});

describe("terminals", () => {
  test("-t in the foreground, and over a console socket", async () => {
    expect((await box.call("exec", "-t", "one", "tty")).out).toBe("/dev/pts/0\n");
    const file = join(box.dir, "tty.json");
    writeFileSync(
      file,
      JSON.stringify({
        terminal: true,
        consoleSize: { height: 33, width: 111 },
        user: { uid: 5, gid: 5 },
        args: ["sh", "-c", "read line; echo got $line; ls -ln $(tty) | while read a b c d; do echo $c; done"],
        env: ["PATH=/bin"],
        cwd: "/",
      }),
    );
    const console = await receiver(box.dir, "typed\n");
    const ran = await box.call("exec", "-d", "-p", file, "--console-socket", console.path, "one");
    expect(ran).toEqual({ out: "", err: "", code: 0 });
    expect(await console.heard()).toBe("/dev/ptmx\n33x111\ntyped\ngot typed\n5\n");
  });

  test("a terminal with nobody to have it, and a socket without a terminal", async () => {
    expect((await box.call("exec", "-d", "-t", "one", "sh")).err).toContain("cannot allocate tty if runc will detach");
    expect((await box.call("exec", "--console-socket", "/x", "one", "sh")).err).toContain("cannot use console socket");
  });
});

describe("how it ends", () => {
  test("exit codes and signals of the process; 255 for what is wrong with the exec itself", async () => {
    expect((await box.call("exec", "one", "sh", "-c", "exit 7")).code).toBe(7);
    expect((await box.call("exec", "one", "sh", "-c", "kill -9 $$")).code).toBe(137);
    for (const [command, words] of [
      ["nope", "executable file not found in $PATH"],
      ["/nope", "no such file or directory"],
      ["/tmp", "permission denied"],
    ] as const) {
      const ended = await box.call("exec", "one", command);
      expect([command, ended.code]).toEqual([command, 255]);
      expect(ended.err).toContain(words);
    }
    expect(await box.call("exec", "nobody", "true")).toMatchObject({
      code: 255,
      err: expect.stringContaining("container does not exist"),
    });
    expect((await box.call("exec", "one")).code).toBe(255);
    expect((await box.call("exec", "--cwd", "/proc/self/fd/7", "one", "true")).err).toContain(
      "cannot enter the working directory",
    );
  });

  test("detached: the pid file has no newline, a pidfd is sent, and the process runs on", async () => {
    const pidFile = join(box.dir, "exec.pid");
    const pidfd = await receiver(box.dir, "pid");
    const ran = await box.call(
      "exec",
      "-d",
      "--pid-file",
      pidFile,
      "--pidfd-socket",
      pidfd.path,
      "one",
      "sleep",
      "1000",
    );
    expect(ran).toEqual({ out: "", err: "", code: 0 });
    const pid = readFileSync(pidFile, "utf8");
    expect(pid).toMatch(/^\d+$/);
    expect((await pidfd.heard()).trim()).toBe(pid);
    expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).toBe("sleep\u00001000\0");
    expect(JSON.parse((await box.call("ps", "-f", "json", "one")).out)).toContain(Number(pid));
    process.kill(Number(pid), "SIGKILL");
    expect(
      await until(() => !existsSync(`/proc/${pid}`) || readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ")),
    ).toBe(true);
  });

  test("a paused container takes none, unless it is told to; nor does one that has ended", async () => {
    expect((await box.call("pause", "one")).code).toBe(0);
    try {
      const refused = await box.call("exec", "one", "true");
      expect([refused.code, refused.err]).toEqual([255, expect.stringContaining("cannot exec in a paused container")]);
    } finally {
      await box.call("resume", "one");
    }
    box.command("true");
    expect((await box.call("create", "ended")).code).toBe(0);
    expect((await box.call("exec", "ended", "true")).code).toBe(0);
    expect((await box.call("start", "ended")).code).toBe(0);
    expect(await until(async () => (await box.status("ended")) === "stopped")).toBe(true);
    expect((await box.call("exec", "ended", "true")).err).toContain("container not running");
    expect((await box.call("delete", "ended")).code).toBe(0);
  });

  test("each step failing in turn leaves nothing but the container", async () => {
    const list = (): string[] =>
      JSON.parse(Bun.spawnSync([binary, "oci", "--root", box.root, "ps", "-f", "json", "one"]).stdout.toString());
    const steps = (await box.call("exec", "--explain", "-t", "one", "true")).out.split("\n").length;
    expect(steps).toBeGreaterThan(60);
    const wrong: string[] = [];
    let failed = 0;
    for (let step = 0; step < steps; step++) {
      const ended = await box.call("exec", "-t", "--inject", `${step}=EIO`, "one", "true");
      if (ended.code !== 0) failed++;
      const told =
        ended.code === 0 || (ended.code === 255 && /level=error msg=".+ failed: .+"\n|cannot /.test(ended.err));
      if (!told || list().length !== 1)
        wrong.push(`step ${step}: ${ended.code} ${JSON.stringify(ended.err)} ${list()}`);
    }
    expect(wrong).toEqual([]);
    expect(failed).toBeGreaterThan(50);
    expect(await box.status("one")).toBe("running");
  }, 60_000);

  test("a hundred at once", async () => {
    const all = await Promise.all(
      Array.from({ length: 100 }, (_, index) => box.call("exec", "one", "sh", "-c", `exit ${index % 50}`)),
    );
    expect(all.map((each) => each.code)).toEqual(Array.from({ length: 100 }, (_, index) => index % 50));
  });
});

test("nobody is let into a container that has no root yet: it would be the host's", async () => {
  const out = join(box.dir, "early");
  box.write((spec) => {
    if (spec.process !== undefined) spec.process.args = ["true"];
    const line = `${binary} oci --root ${box.root} exec early ls / >${out} 2>&1; echo $? >>${out}`;
    spec.hooks = { createRuntime: [{ path: "/bin/sh", args: ["sh", "-c", line], env: ["PATH=/usr/bin:/bin"] }] };
  });
  expect(await box.call("create", "early")).toEqual({ out: "", err: "", code: 0 });
  try {
    expect(readFileSync(out, "utf8")).toMatch(
      /^time=.* msg="exec failed: .*cannot exec in a container that is still being made"\n255\n$/,
    );
    expect((await box.call("exec", "early", "ls", "-d", "/bin")).out).toBe("/bin\n");
  } finally {
    await box.call("delete", "-f", "early");
  }
});
