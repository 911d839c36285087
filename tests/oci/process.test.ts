/** What config.json says of the process, looked up in the kernel; what is handed to it; hooks where they run. */
import { describe, expect } from "bun:test";
import { chmodSync, existsSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Spec } from "../../src/spec/runtime.ts";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { receiver } from "../lib/console.ts";
import { testWith } from "../lib/needs.ts";
import { binary, inventory } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["busybox", "python3", "ionice"] };
const test = testWith(needs);
let box: Bundles;

around(needs, (owned) => {
  unchanged(owned, inventory);
  box = Bundles.ownedBy(owned, "grep", "stat");
});

type Running = Spec & { process: NonNullable<Spec["process"]>; linux: NonNullable<Spec["linux"]> };

/** Runs `sleep` with what was changed, calls with its pid, and deletes it. */
async function sleeping<T>(change: (spec: Running) => void, look: (pid: number) => T | Promise<T>): Promise<T> {
  box.write((spec) => {
    const full = spec as Running;
    full.process.args = ["sleep", "1000"];
    change(full);
  });
  expect(await box.call("run", "-d", "looked-at")).toEqual({ out: "", err: "", code: 0 });
  try {
    return await look(Number.parseInt(readFileSync(join(box.root, "looked-at/process"), "utf8"), 10));
  } finally {
    await box.call("delete", "-f", "looked-at");
  }
}

/** A field of proc_pid_stat(5), by its number. */
function stat(pid: number, field: number): string {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  return text.slice(text.lastIndexOf(")") + 2).split(" ")[field - 3] ?? "";
}

async function refused(change: (spec: Running) => void): Promise<string> {
  box.write((spec) => change(spec as Running));
  const ended = await box.call("create", "refused");
  expect([ended.code, box.left()]).toEqual([1, []]);
  return ended.err;
}

describe("the kernel's attention", () => {
  test("scheduler", async () => {
    const nice = 19;
    const priority = 40;
    const policy = 41;
    for (const [scheduler, expected] of [
      [{ policy: "SCHED_OTHER", nice: 7 }, ["7", "0", "0"]],
      [{ policy: "SCHED_BATCH", nice: 3 }, ["3", "0", "3"]],
      [{ policy: "SCHED_IDLE" }, ["0", "0", "5"]],
      [{ policy: "SCHED_FIFO", priority: 11 }, ["0", "11", "1"]],
      [{ policy: "SCHED_RR", priority: 12, flags: ["SCHED_FLAG_RESET_ON_FORK"] }, ["0", "12", "2"]],
    ] as const) {
      const seen = await sleeping(
        (spec) => {
          spec.process.scheduler = {
            ...scheduler,
            ...("flags" in scheduler ? { flags: [...scheduler.flags] } : {}),
          } as NonNullable<Running["process"]["scheduler"]>;
          // A kernel that shares real time out by cgroups gives a new one none.
          if ("priority" in scheduler && existsSync("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"))
            spec.linux.resources = { cpu: { realtimePeriod: 1_000_000, realtimeRuntime: 10_000 } };
        },
        (pid) => [stat(pid, nice), stat(pid, priority), stat(pid, policy)],
      );
      expect([scheduler.policy, ...seen]).toEqual([scheduler.policy, ...expected]);
    }
    expect(
      await refused((spec) => {
        spec.process.scheduler = { policy: "SCHED_FAST" };
      }),
    ).toContain("process.scheduler.policy: there is no");
    expect(
      await refused((spec) => {
        spec.process.scheduler = { policy: "SCHED_FIFO", priority: 200 };
      }),
    ).toMatch(/sched_setattr\(.*asked for by process\.scheduler/);
  });

  test("ioPriority", async () => {
    for (const [ioClass, level, told] of [
      ["IOPRIO_CLASS_BE", 3, "best-effort: prio 3"],
      ["IOPRIO_CLASS_RT", 1, "realtime: prio 1"],
      ["IOPRIO_CLASS_IDLE", 0, "idle"],
    ] as const)
      expect(
        await sleeping(
          (spec) => {
            spec.process.ioPriority = { class: ioClass, priority: level };
          },
          (pid) =>
            Bun.spawnSync(["ionice", "-p", String(pid)])
              .stdout.toString()
              .trim(),
        ),
      ).toBe(told);
    expect(
      await refused((spec) => {
        spec.process.ioPriority = { class: "IOPRIO_CLASS_NONE_SUCH" };
      }),
    ).toContain("process.ioPriority.class");
  });

  test("personality, execCPUAffinity, oomScoreAdj", async () => {
    const seen = await sleeping(
      (spec) => {
        spec.linux.personality = { domain: "LINUX32" };
        spec.process.execCPUAffinity = { initial: "0", final: "1" };
        spec.process.oomScoreAdj = 123;
      },
      (pid) => [
        readFileSync(`/proc/${pid}/personality`, "utf8").trim(),
        /^Cpus_allowed_list:\t(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1],
        readFileSync(`/proc/${pid}/oom_score_adj`, "utf8").trim(),
      ],
    );
    expect(seen).toEqual(["00000008", "1", "123"]);
    expect(
      await refused((spec) => {
        spec.linux.personality = { domain: "BSD" };
      }),
    ).toContain("linux.personality.domain");
    expect(
      await refused((spec) => {
        spec.process.execCPUAffinity = { final: "0-x" };
      }),
    ).toContain("process.execCPUAffinity.final");
  });

  test("memoryPolicy", async () => {
    if (existsSync("/proc/self/numa_maps")) {
      const seen = await sleeping(
        (spec) => {
          spec.linux.memoryPolicy = { mode: "MPOL_BIND", nodes: "0", flags: ["MPOL_F_STATIC_NODES"] };
        },
        (pid) => readFileSync(`/proc/${pid}/numa_maps`, "utf8"),
      );
      expect(seen).toMatch(/ bind=static:0 /);
    } else {
      // A kernel without NUMA says so, by the call and the field.
      expect(
        await refused((spec) => {
          spec.linux.memoryPolicy = { mode: "MPOL_BIND", nodes: "0" };
        }),
      ).toMatch(/set_mempolicy\(.*function not implemented.*linux\.memoryPolicy/);
    }
    expect(
      await refused((spec) => {
        spec.linux.memoryPolicy = { mode: "MPOL_NEAR" };
      }),
    ).toContain("linux.memoryPolicy.mode");
  });

  test("a session keyring of its own, which exec shares; none with --no-new-keyring", async () => {
    if (!existsSync("/proc/keys")) {
      box.command("true");
      // Without keys in the kernel there is nothing to join, and that is no error.
      expect(await box.call("run", "keyless")).toEqual({ out: "", err: "", code: 0 });
      return;
    }
    const names = (text: string): string[] => text.split("\n").filter((line) => line.includes("_ses."));
    box.command("sleep", "1000");
    expect((await box.call("run", "-d", "keyed")).code).toBe(0);
    try {
      const shown = names((await box.call("exec", "keyed", "cat", "/proc/keys")).out);
      expect(shown.some((line) => line.includes("_ses.keyed"))).toBe(true);
    } finally {
      await box.call("delete", "-f", "keyed");
    }
    box.command("cat", "/proc/keys");
    expect(
      names((await box.call("run", "--no-new-keyring", "unkeyed")).out).some((line) => line.includes("_ses.unkeyed")),
    ).toBe(false);
  });
});

describe("what is handed to it", () => {
  test("LISTEN_FDS and NOTIFY_SOCKET", async () => {
    box.command(
      "sh",
      "-c",
      "echo $LISTEN_FDS $LISTEN_PID $NOTIFY_SOCKET; cat <&3; ls /proc/self/fd | head -n 9; test -S /run/notify/notify.sock && echo a socket",
    );
    const socket = join(box.dir, "notify");
    const server = Bun.spawn(
      [
        "python3",
        "-c",
        "import socket,sys,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.bind(sys.argv[1])\nprint('there',flush=True)\ntime.sleep(60)",
        socket,
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    try {
      await server.stdout.getReader().read();
      const script = `exec 3<<< handed; LISTEN_FDS=1 LISTEN_PID=$$ NOTIFY_SOCKET=${socket} exec ${binary} oci --root ${box.root} run handed`;
      const ran = Bun.spawnSync(["bash", "-c", script], { cwd: box.bundle });
      expect(ran.stderr.toString()).toBe("");
      expect(ran.stdout.toString()).toBe("1 1 /run/notify/notify.sock\nhanded\n0\n1\n2\n3\n4\na socket\n");
    } finally {
      server.kill();
      await server.exited;
      rmSync(socket, { force: true });
      rmSync(join(box.bundle, "rootfs/run"), { recursive: true, force: true });
    }
  });

  test("standard streams that it can open by their names, whoever it is, as under runc and crun", async () => {
    const command = ["sh", "-c", "echo out > /proc/self/fd/1 && echo err > /proc/self/fd/2"];
    const through = (words: string): Promise<string> =>
      Bun.$`sh -c ${`${binary} oci --root ${box.root} ${words} 2> ${box.dir}/err | cat`}`.cwd(box.bundle).text();
    const both = async (words: string): Promise<string> =>
      `${await through(words)}${readFileSync(`${box.dir}/err`, "utf8")}`;
    for (const user of [
      { uid: 0, gid: 0 },
      { uid: 1000, gid: 1000 },
    ]) {
      box.write((spec) => Object.assign(spec.process ?? {}, { user, args: command }));
      expect(await both("run streams")).toBe("out\nerr\n");
    }
    box.command("sleep", "1000");
    expect((await box.call("run", "-d", "streams")).code).toBe(0);
    try {
      expect(await both(`exec -u 1000 streams ${command.map((word) => `'${word}'`).join(" ")}`)).toBe("out\nerr\n");
    } finally {
      await box.call("delete", "-f", "streams");
    }
    // What another's user namespace has no right to is left alone.
    box.write((spec) => {
      Object.assign(spec.process ?? {}, { user: { uid: 7, gid: 7 }, args: ["sh", "-c", "echo up"] });
      spec.linux?.namespaces?.push({ type: "user" });
      const mapping = [{ containerID: 0, hostID: 200_000, size: 10 }];
      Object.assign(spec.linux ?? {}, { uidMappings: mapping, gidMappings: mapping });
    });
    expect(await both("run streams")).toBe("up\n");
  });

  test("a terminal over a console socket, of the size that was asked for; a pidfd over its socket", async () => {
    box.write((spec) => {
      const { process } = spec as Running;
      process.terminal = true;
      process.consoleSize = { height: 22, width: 99 };
      process.args = ["sh", "-c", "read line; echo got $line; tty; ls -l /dev/console | head -c 1; stat -c %u $(tty)"];
      process.user = { uid: 5, gid: 5 };
    });
    const console = await receiver(box.dir, "typed\n");
    const pidfd = await receiver(box.dir, "pid");
    const pidFile = join(box.dir, "console.pid");
    const created = await box.call(
      "create",
      "--console-socket",
      console.path,
      "--pidfd-socket",
      pidfd.path,
      "--pid-file",
      pidFile,
      "console",
    );
    expect(created).toEqual({ out: "", err: "", code: 0 });
    expect((await pidfd.heard()).trim()).toBe(readFileSync(pidFile, "utf8"));
    expect((await box.call("start", "console")).code).toBe(0);
    expect(await console.heard()).toBe("/dev/ptmx\n22x99\ntyped\ngot typed\n/dev/pts/0\nc5\n");
    expect((await box.call("delete", "-f", "console")).code).toBe(0);
    expect((await box.call("create", "console")).err).toContain("cannot allocate tty if runc will detach");
    box.command("true");
    expect((await box.call("create", "--console-socket", "/nowhere", "console")).err).toContain(
      "cannot use console socket",
    );
    expect((await box.call("create", "--pidfd-socket", "/nowhere", "console")).err).toContain(
      'cannot connect to \\"/nowhere\\"',
    );
    expect((await box.call("create", "--preserve-fds", "5", "console")).err).toContain(
      "--preserve-fds: the descriptor",
    );
    expect(box.left()).toEqual([]);
  });

  test("domainname and annotations", async () => {
    box.write((spec) => {
      const full = spec as Running;
      full.domainname = "example.org";
      full.annotations = { "org.example.key": "value" };
      full.process.args = ["cat", "/proc/sys/kernel/domainname"];
    });
    expect((await box.call("run", "named")).out).toBe("example.org\n");
    expect((await box.call("create", "named")).code).toBe(0);
    const { annotations } = JSON.parse((await box.call("state", "named")).out) as { annotations: object };
    expect(annotations).toEqual({ "org.example.key": "value" });
    await box.call("delete", "-f", "named");
  });
});

describe("hooks", () => {
  test("each in the namespaces that runtime-spec gives it, and createContainer's before the root is changed", async () => {
    const log = join(box.dir, "where.log");
    rmSync(log, { force: true });
    const script = join(box.bundle, "rootfs/hook");
    // Seen from the runtime's side the script is in the bundle, from the container's in its root; the log is beside it.
    writeFileSync(
      script,
      `#!/bin/sh\nout=${log}; [ -d ${box.dir} ] || out=/hook.log\nread state\necho "$1 $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/net)" >> $out\n`,
    );
    chmodSync(script, 0o755);
    const hook = (name: string, path = script) => [{ path, args: ["hook", name], env: ["PATH=/bin:/usr/bin"] }];
    const own = await sleeping(
      (spec) => {
        spec.hooks = {
          prestart: hook("prestart"),
          createRuntime: hook("createRuntime"),
          createContainer: hook("createContainer"),
          startContainer: hook("startContainer", "/hook"),
          poststart: hook("poststart"),
          poststop: hook("poststop"),
        };
      },
      (pid) => ["mnt", "net"].map((kind) => readlinkSync(`/proc/${pid}/ns/${kind}`)),
    );
    const host = ["mnt", "net"].map((kind) => readlinkSync(`/proc/self/ns/${kind}`));
    const [mnt, net] = own;
    const runtime = readFileSync(log, "utf8").trim().split("\n");
    expect(runtime).toEqual([
      `prestart ${host.join(" ")}`,
      `createRuntime ${host.join(" ")}`,
      `createContainer ${mnt} ${net}`,
      `poststart ${host.join(" ")}`,
      `poststop ${host.join(" ")}`,
    ]);
    expect(readFileSync(join(box.bundle, "rootfs/hook.log"), "utf8").trim()).toBe(`startContainer ${mnt} ${net}`);
  });
});

describe("what the kernel refuses names the call and the field", () => {
  const cases: readonly (readonly [title: string, change: (spec: Running) => void, words: RegExp])[] = [
    [
      "a mount option",
      (spec) => void spec.mounts?.push({ destination: "/x", type: "tmpfs", source: "x", options: ["mode=x"] }),
      /fsconfig\(.*mode.*asked for by mounts\[3\], \/x/,
    ],
    [
      "a file system",
      (spec) => void spec.mounts?.push({ destination: "/x", type: "nofs", source: "x" }),
      /fsopen\(\\"nofs\\".*no such device.*mounts\[3\], \/x/,
    ],
    [
      "a bind's source",
      (spec) => void spec.mounts?.push({ destination: "/x", type: "bind", source: "/nowhere", options: ["bind"] }),
      /open_tree\(.*\/nowhere.*no such file or directory.*mounts\[3\], \/x/,
    ],
    [
      "a capability that is not held",
      (spec) => {
        spec.process.capabilities = {
          permitted: ["CAP_SYS_RESOURCE"],
          effective: ["CAP_SYS_RESOURCE"],
          bounding: ["CAP_SYS_RESOURCE"],
        };
      },
      /capset\(.*operation not permitted.*process\.capabilities/,
    ],
    [
      "a limit",
      (spec) => {
        spec.process.rlimits = [{ type: "RLIMIT_NOFILE", soft: 2_000_000, hard: 2_000_000 }];
      },
      /prlimit64\(.*operation not permitted.*process\.rlimits\[0\], RLIMIT_NOFILE/,
    ],
    [
      "a namespace's path",
      (spec) => {
        spec.linux.namespaces = [{ type: "mount" }, { type: "pid" }, { type: "network", path: "/nowhere" }];
        delete spec.hostname;
      },
      /openat\(.*\/nowhere.*no such file or directory.*linux\.namespaces\[network\]\.path/,
    ],
    [
      "a sysctl's value",
      (spec) => {
        spec.linux.sysctl = { "net.ipv4.ip_forward": "much" };
      },
      /write\(.*much.*invalid argument.*linux\.sysctl\[net\.ipv4\.ip_forward\]/,
    ],
    [
      "a cgroup's limit",
      (spec) => {
        spec.linux.resources = { cpu: { quota: 1 } };
      },
      /write\(.*invalid argument.*linux\.resources\.cpu/,
    ],
    [
      "AppArmor that is not there",
      (spec) => {
        spec.process.apparmorProfile = "x";
      },
      /process\.apparmorProfile asks for AppArmor, which is not active/,
    ],
    [
      "SELinux that is not there",
      (spec) => {
        spec.process.selinuxLabel = "x";
      },
      /process\.selinuxLabel asks for SELinux, which is not active/,
    ],
    [
      "a label for mounts",
      (spec) => {
        spec.linux.mountLabel = "x";
      },
      /linux\.mountLabel is not supported/,
    ],
    [
      "Intel RDT",
      (spec) => {
        spec.linux.intelRdt = { closID: "x" };
      },
      /linux\.intelRdt is not supported/,
    ],
  ];
  for (const [title, change, words] of cases)
    test(title, async () => {
      expect(await refused(change)).toMatch(words);
    });
});
