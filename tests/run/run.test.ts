/** `ocibox run` as its users know it from docker and podman: streams, exit codes, options, and nothing left behind. */
import { describe, expect } from "bun:test";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { folder, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;
let before: ReturnType<typeof inventory>;

around(needs, async (owned) => {
  before = unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

describe("streams and exit codes", () => {
  test("stdin reaches the command, stdout is the container's alone", async () => {
    expect(await box.run(["-i", "alpine", "cat"], { stdin: "hi\n" })).toEqual({ out: "hi\n", err: "", code: 0 });
    const both = await box.run(["alpine", "sh", "-c", "echo out; echo err >&2"]);
    expect(both).toEqual({ out: "out\n", err: "err\n", code: 0 });
  });

  test("a megabyte both ways", async () => {
    const text = "0123456789abcde\n".repeat(1 << 16);
    const ended = await box.run(["-i", "alpine", "cat"], { stdin: text });
    expect(ended.out === text).toBe(true);
  });

  test("without -i stdin is empty, and what is on ours stays there", async () => {
    expect((await box.run(["alpine", "cat"], { stdin: "hi\n" })).out).toBe("");
    const ended = await box.shell("printf 'a\\nb\\n' | while read line; do $OCIBOX run --rm alpine echo $line; done");
    expect(ended.out).toBe("a\nb\n");
  });

  test("the container's exit code is ours", async () => {
    for (const code of [0, 1, 7, 125, 255]) {
      expect((await box.run(["alpine", "sh", "-c", `exit ${code}`])).code).toBe(code);
    }
  });

  test("127 for a command that is not there, 126 for one that cannot be executed", async () => {
    const none = await box.run(["alpine", "nope"]);
    expect(none.code).toBe(127);
    expect(none.err).toContain('"nope"');
    const path = await box.run(["alpine", "/no/such/file"]);
    expect(path.code).toBe(127);
    const directory = await box.run(["alpine", "/etc"]);
    expect(directory.code).toBe(126);
    expect(directory.err).toContain('"/etc"');
    const file = await box.run(["alpine", "/etc/passwd"]);
    expect(file.code).toBe(126);
    for (const each of [none, path, directory, file]) {
      expect(each.out).toBe("");
      expect(each.err).toMatch(/^ocibox: [^\n]*\n$/);
    }
  });

  test("128+n for a command that a signal ended", async () => {
    // A PID 1 cannot send itself what it has no handler for: under --init the command is another process.
    for (const [name, code] of [
      ["TERM", 143],
      ["SEGV", 139],
      ["KILL", 137],
    ] as const)
      expect((await box.run(["--init", "alpine", "sh", "-c", `kill -${name} $$; sleep 5`])).code).toBe(code);
    expect((await box.run(["alpine", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?"])).code).toBe(143);
  });

  test("a closed stdout ends the command and is no error of ours", async () => {
    const ended = await box.shell("$OCIBOX run --rm --init alpine yes | head -n 1");
    expect(ended).toEqual({ out: "y\n", err: "", code: 0 });
  });
});

describe("signals", () => {
  /** Waits for the container's "ready", then calls. */
  async function signalled(words: readonly string[], act: (child: Bun.Subprocess) => void): Promise<number> {
    const flag = folder(box, `flag-${crypto.randomUUID()}`);
    const [image = "", ...command] = words;
    const script = `touch /flag/ready; ${command.join(" ")}`;
    const ended = await box.run(["-v", `${flag}:/flag`, image, "sh", "-c", script], {
      started: async (child) => {
        expect(await until(() => Bun.file(`${flag}/ready`).exists())).toBe(true);
        await Bun.sleep(30);
        act(child);
      },
    });
    return ended.code;
  }

  test("SIGTERM is forwarded; a command without a handler ends with 143", async () => {
    expect(await signalled(["alpine", "exec sleep 60"], (child) => child.kill("SIGTERM"))).toBe(143);
    const trap = "trap 'exit 9' TERM; while :; do sleep 0.05; done";
    expect(await signalled(["alpine", trap], (child) => child.kill("SIGTERM"))).toBe(9);
    expect(box.leftovers()).toEqual([]);
  });

  test("SIGINT and SIGHUP too", async () => {
    expect(await signalled(["alpine", "exec sleep 60"], (child) => child.kill("SIGINT"))).toBe(130);
    expect(await signalled(["alpine", "exec sleep 60"], (child) => child.kill("SIGHUP"))).toBe(129);
  });

  test("SIGKILL of the container's process gives 137 and leaves nothing", async () => {
    const code = await signalled(["alpine", "exec sleep 61"], () => {
      const pid = /^\d+/.exec(Bun.spawnSync(["pgrep", "-x", "-f", "sleep 61"]).stdout.toString())?.[0];
      process.kill(Number(pid), "SIGKILL");
    });
    expect(code).toBe(137);
    expect(box.leftovers()).toEqual([]);
  });

  test("SIGKILL of ocibox ends the container, and the next command removes what is left", async () => {
    const code = await signalled(["alpine", "exec sleep 62"], (child) => child.kill("SIGKILL"));
    expect(code).toBe(137);
    const alive = (): boolean => Bun.spawnSync(["pgrep", "-x", "-f", "sleep 62"]).exitCode === 0;
    expect(await until(() => !alive())).toBe(true);
    expect(box.leftovers()).not.toEqual([]);
    expect((await box.ocibox(["ps", "-a"])).code).toBe(0);
    expect(box.leftovers()).toEqual([]);
    expect(inventory()).toEqual(before);
  });
});

describe("options", () => {
  const sh = async (options: readonly string[], script: string): Promise<string> => {
    const ended = await box.run([...options, "alpine", "sh", "-c", script]);
    expect(ended.err).toBe("");
    return ended.out;
  };

  test("-e, --env-file, in that order of weight", async () => {
    const file = join(folder(box, "env"), "file");
    writeFileSync(file, '# a comment\nA=file\nB="quoted"\n\nINHERITED\n');
    const ended = await box.run(["-e", "A=flag", "--env-file", file, "-e", "HERE", "alpine", "env"], {
      env: { INHERITED: "yes", HERE: "also" },
    });
    const lines = ended.out.split("\n");
    for (const line of ["A=flag", 'B="quoted"', "INHERITED=yes", "HERE=also"]) expect(lines).toContain(line);
    expect(lines).toContain("HOME=/root");
    expect(lines.some((line) => line.startsWith("HOSTNAME="))).toBe(true);
  });

  test("-v binds directories and files, read-only where asked", async () => {
    const dir = folder(box, "volume");
    writeFileSync(join(dir, "file"), "content\n");
    expect(await sh(["-v", `${dir}:/data`], "cat /data/file; echo made > /data/new")).toBe("content\n");
    expect(readFileSync(join(dir, "new"), "utf8")).toBe("made\n");
    expect(await sh(["-v", `${join(dir, "file")}:/etc/motd:ro`], "cat /etc/motd")).toBe("content\n");
    const refused = await box.run(["-v", `${dir}:/data:ro`, "alpine", "touch", "/data/x"]);
    expect(refused.code).toBe(1);
    expect(refused.err).toContain("Read-only file system");
    expect(await sh(["-v", `${dir}:/a/new/deep/place`], "cat /a/new/deep/place/file")).toBe("content\n");
  });

  test("-v with a source that is not there is an error", async () => {
    const ended = await box.run(["-v", `${box.dir}/nowhere:/x`, "alpine", "true"]);
    expect(ended.code).toBe(125);
    expect(ended.err).toContain("does not exist");
  });

  test("-w makes the directory where it is missing", async () => {
    expect(await sh(["-w", "/tmp"], "pwd")).toBe("/tmp\n");
    expect(await sh(["-w", "/made/for/it"], "pwd")).toBe("/made/for/it\n");
  });

  test("-u: a pipe can be opened by its name, /dev/stdout; a file stays whose it was", async () => {
    const call = "$OCIBOX run --rm -u 1234 alpine";
    const piped = await box.shell(`${call} sh -c 'echo there > /dev/stdout' | cat`);
    expect(piped).toEqual({ out: "there\n", err: "", code: 0 });
    const filed = await box.shell(`cd "$(mktemp -d)" && ${call} echo there > file && stat -c %u file && cat file`);
    expect(filed).toEqual({ out: "0\nthere\n", err: "", code: 0 });
  });

  test("-u by name, by number, with a group", async () => {
    expect(await sh(["-u", "nobody"], "id -u; id -g")).toBe("65534\n65534\n");
    expect(await sh(["-u", "1234"], "id -u; id -g")).toBe("1234\n0\n");
    expect(await sh(["-u", "1234:4321"], "id -u; id -g; id -G")).toBe("1234\n4321\n4321\n");
    const ended = await box.run(["-u", "stranger", "alpine", "true"]);
    expect(ended.code).toBe(125);
    expect(ended.err).toContain('"stranger"');
  });

  test("--entrypoint, --hostname, --name", async () => {
    expect((await box.run(["--entrypoint", "echo", "alpine", "a", "b"])).out).toBe("a b\n");
    expect(await sh(["-h", "box.example"], "hostname; cat /etc/hostname; grep -c box.example /etc/hosts")).toBe(
      "box.example\nbox.example\n1\n",
    );
    expect((await box.run(["--name", "first", "alpine", "true"])).code).toBe(0);
    expect((await box.run(["--name", "no/good", "alpine", "true"])).code).toBe(125);
  });

  test("--read-only and --tmpfs", async () => {
    const refused = await box.run(["--read-only", "alpine", "touch", "/x"]);
    expect(refused.err).toContain("Read-only file system");
    expect(await sh(["--read-only", "--tmpfs", "/run:size=1m,mode=700"], "touch /run/x && stat -c %a /run")).toBe(
      "700\n",
    );
  });

  test("capabilities: podman's eleven, less, more, none, all", async () => {
    const effective = async (...options: string[]): Promise<string> =>
      (await sh(options, "grep CapEff /proc/self/status")).split("\t")[1]?.trim() ?? "";
    expect(await effective()).toBe("00000000800405fb");
    expect(await effective("--cap-drop", "ALL")).toBe("0000000000000000");
    expect(await effective("--cap-drop", "ALL", "--cap-add", "net_admin")).toBe("0000000000001000");
    expect(await effective("--cap-add", "CAP_SYS_PTRACE")).toBe("00000000800c05fb");
    expect(await effective("-u", "1000")).toBe("0000000000000000");
    const unknown = await box.run(["--cap-add", "sys_wizard", "alpine", "true"]);
    expect(unknown.code).toBe(125);
    expect(unknown.err).toContain("sys_wizard");
  });

  test("--security strict", async () => {
    const status = await sh(
      ["--security", "strict"],
      "grep -E 'CapBnd|NoNewPrivs' /proc/self/status; touch /x 2>&1 || true",
    );
    expect(status).toContain("CapBnd:\t0000000000000000");
    expect(status).toContain("NoNewPrivs:\t1");
    expect(status).toContain("Read-only file system");
  });

  test("seccomp is on, off where asked, and takes a profile", async () => {
    expect(await sh([], "grep Seccomp: /proc/self/status")).toBe("Seccomp:\t2\n");
    expect(await sh(["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status")).toBe("Seccomp:\t0\n");
    const file = join(folder(box, "seccomp"), "profile.json");
    const rule = { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: 28 };
    writeFileSync(file, JSON.stringify({ defaultAction: "SCMP_ACT_ALLOW", syscalls: [rule] }));
    const ended = await box.run(["--security-opt", `seccomp=${file}`, "alpine", "mkdir", "/x"]);
    expect(ended.err).toContain("No space left on device");
  });

  test("an LSM that is not active is refused, not left out", async () => {
    const ended = await box.run(["--security-opt", "apparmor=my-profile", "alpine", "true"]);
    expect(ended.code).toBe(125);
    expect(ended.err).toContain("apparmor");
  });

  test("--ulimit", async () => {
    expect(await sh(["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn")).toBe("100\n200\n");
    expect(await sh(["--ulimit", "core=0"], "ulimit -c")).toBe("0\n");
  });

  test("--network: none has loopback alone, and it is up; host has the host's", async () => {
    expect(await sh([], "ls /sys/class/net; cat /sys/class/net/lo/flags")).toBe("lo\n0x9\n");
    const host = (await box.run(["--network", "host", "alpine", "ls", "/sys/class/net"])).out.trim().split("\n").sort();
    expect(host).toEqual(before.links);
  });

  test("limits are enforced by cgroups", async () => {
    const ended = await box.run([
      "--pids-limit",
      "5",
      "alpine",
      "sh",
      "-c",
      "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait",
    ]);
    expect(ended.err).toMatch(/can't fork|Resource temporarily unavailable/);
    const memory = await box.run([
      "--memory",
      "20m",
      "alpine",
      "sh",
      "-c",
      "dd if=/dev/zero of=/dev/null bs=64M count=1",
    ]);
    expect(memory.code).toBe(137);
    const read = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null";
    expect(await sh(["-m", "64m"], read)).toBe(`${64 << 20}\n`);
    const quota = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null";
    expect(await sh(["--cpus", "0.5"], quota)).toMatch(/^50000\b/);
  });

  test("--init reaps and forwards", async () => {
    expect(await sh(["--init"], "cat /proc/1/comm; echo $$")).toBe("ocibox-init\n2\n");
  });

  test("--name keeps a container without --rm; ps, rm", async () => {
    const ended = await box.ocibox(["run", "-q", "--name", "kept", "alpine", "sh", "-c", "echo x > /made; exit 3"]);
    expect(ended.code).toBe(3);
    try {
      const again = await box.run(["--name", "kept", "alpine", "true"]);
      expect(again.code).toBe(125);
      expect(again.err).toContain("ocibox rm kept");
      expect((await box.ocibox(["ps"])).out).not.toContain("kept");
      expect((await box.ocibox(["ps", "-a"])).out).toMatch(/kept/);
      const [shown] = JSON.parse((await box.ocibox(["inspect", "kept"])).out);
      expect(shown.State).toEqual({ Status: "exited", Running: false, Paused: false, ExitCode: 3 });
      const used = await box.ocibox(["rmi", "alpine"]);
      expect(used.code).not.toBe(0);
      expect(used.err).toContain(`ocibox rm ${shown.Id.slice(0, 12)}`);
    } finally {
      expect((await box.ocibox(["rm", "kept"])).code).toBe(0);
    }
    expect((await box.ocibox(["rm", "kept"])).code).not.toBe(0);
  });

  test("--explain prints the plan and runs nothing", async () => {
    const ended = await box.run(["--explain", "alpine", "touch", "/x"]);
    expect(ended.code).toBe(0);
    for (const word of ["clone3(", "pivot_root(", "execve", "mounts[0], /proc"]) expect(ended.out).toContain(word);
  });

  test("an image's own user, entrypoint, working directory and environment", async () => {
    mkdirSync(join(box.tree, "srv"), { recursive: true });
    writeFileSync(join(box.tree, "etc/group"), "root:x:0:\nnogroup:x:65534:\nextra:x:77:nobody\n");
    await box.push("app", {
      User: "nobody",
      WorkingDir: "/srv",
      Entrypoint: ["/bin/sh", "-c", 'echo "$0 $1 $X"; pwd; id -u; id -G'],
      Cmd: ["from", "image"],
      Env: ["PATH=/bin", "X=y"],
    });
    expect((await box.run(["app"])).out).toBe("from image y\n/srv\n65534\n65534 77\n");
    expect((await box.run(["app", "given", "here"])).out).toBe("given here y\n/srv\n65534\n65534 77\n");
    expect((await box.run(["-u", "0", "app"])).out).toContain("\n0\n");
  });
});

describe("what the container sees", () => {
  test("namespaces of its own, PID 1, no descriptor but three", async () => {
    const ended = await box.run([
      "alpine",
      "sh",
      "-c",
      "echo $$; for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done; ls /proc/self/fd",
    ]);
    const lines = ended.out.trim().split("\n");
    expect(lines[0]).toBe("1");
    for (const [index, name] of ["pid", "mnt", "uts", "ipc", "net", "cgroup"].entries()) {
      const own = Bun.spawnSync(["readlink", `/proc/self/ns/${name}`])
        .stdout.toString()
        .trim();
      expect(lines[index + 1]).toMatch(new RegExp(`^${name}:`));
      expect(lines[index + 1]).not.toBe(own);
    }
    // ls has the directory itself open as 3.
    expect(lines.slice(7)).toEqual(["0", "1", "2", "3"]);
  });

  test("/dev, /proc and /sys as the spec has them", async () => {
    const ended = await box.run([
      "alpine",
      "sh",
      "-c",
      "ls /dev; stat -c '%n %F %t:%T %a' /dev/null /dev/zero /dev/tty; mount | grep -c ' / '",
    ]);
    for (const name of [
      "fd",
      "full",
      "mqueue",
      "null",
      "ptmx",
      "pts",
      "random",
      "shm",
      "stderr",
      "stdin",
      "stdout",
      "tty",
      "urandom",
      "zero",
    ])
      expect(ended.out.split("\n")).toContain(name);
    expect(ended.out).toContain("/dev/null character special file 1:3 666");
    const masked = await box.run([
      "alpine",
      "sh",
      "-c",
      "wc -c < /proc/keys; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/printk",
    ]);
    expect(masked.out.replaceAll(/\s+/g, " ")).toBe("0 0 ");
    expect(masked.err).toContain("Read-only file system");
  });

  test("the store's directories are closed to others", () => {
    expect(statSync(box.root).mode & 0o777).toBe(0o700);
    expect(statSync(box.state).mode & 0o777).toBe(0o700);
  });
});

describe("many at once", () => {
  test("twenty containers side by side", async () => {
    const all = await Promise.all(
      Array.from({ length: 20 }, (_, index) => box.run(["alpine", "sh", "-c", `echo ${index}; exit ${index}`])),
    );
    expect(all.map((each) => each.code)).toEqual(Array.from({ length: 20 }, (_, index) => index));
    expect(all.map((each) => each.out)).toEqual(Array.from({ length: 20 }, (_, index) => `${index}\n`));
    expect(box.leftovers()).toEqual([]);
  });
});
