/** What a hostile image, a hostile command or a careless caller may not get out of a container. docs/security.md */
import { describe, expect } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Canary } from "../lib/canary.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { binary, folder, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "gcc", "script"] };
const test = testWith(needs);
let box: Sandbox;
let canary: Canary;
let hash: string;

function hashOf(path: string): string {
  return new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex");
}

around(needs, async (owned) => {
  unchanged(owned, inventory);
  hash = unchanged(owned, () => hashOf(binary));
  box = await Sandbox.ownedBy(owned);
  canary = new Canary(join(box.dir, "canary"));
  unchanged(owned, () => canary.now());
  const attack = join(box.tree, "attack");
  await run("gcc", "-static", "-O1", "-w", "-o", attack, resolve("tests/fixtures/attack.c"));
  const flags = ["-static", "-no-pie", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-O1", "-w"];
  await run("gcc", ...flags, "-o", join(box.dir, "loader"), resolve("tests/fixtures/loader.c"));
  await box.push("hostile");
  expect((await box.ocibox(["pull", "-q", "hostile"])).code).toBe(0);
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

/** An image made of the tree as `change` leaves it; the tree is as before afterwards. */
async function imageWith(
  name: string,
  change: (root: string) => void,
  settings?: Record<string, unknown>,
): Promise<string> {
  const saved = `${box.tree}.saved`;
  cpSync(box.tree, saved, { recursive: true, verbatimSymlinks: true });
  try {
    change(box.tree);
    await box.push(name, settings);
  } finally {
    rmSync(box.tree, { recursive: true });
    await run("mv", saved, box.tree);
  }
  return name;
}

describe("overwriting the runtime's own binary (2019-5736)", () => {
  test("/proc/self/exe as the command, and as a script's interpreter", async () => {
    for (const init of [[], ["--init"]]) {
      const self = await box.run([...init, "hostile", "/proc/self/exe"]);
      expect(self.code).not.toBe(0);
      expect(self.out).toBe("");
    }
    const script = await imageWith("script", (root) => {
      writeFileSync(join(root, "entry"), "#!/proc/self/exe\n", { mode: 0o755 });
    });
    const ended = await box.run([script, "/entry"]);
    expect(ended.code).not.toBe(0);
    expect(hashOf(binary)).toBe(hash);
  });

  test("a hostile interpreter of every program, while it is executed", async () => {
    // The dynamic loader of a program is the attack: it is executed in place of what the command was.
    const name = await imageWith("loader", (root) => {
      mkdirSync(join(root, "lib64"), { recursive: true });
      cpSync(join(box.dir, "loader"), join(root, "lib64/ld-linux-x86-64.so.2"));
      mkdirSync(join(root, "lib"), { recursive: true });
      cpSync(join(box.dir, "loader"), join(root, "lib/ld-linux-aarch64.so.1"));
      cpSync("/bin/true", join(root, "dynamic"));
    });
    const ended = await box.run([name, "/dynamic"]);
    // As PID 1 both names lead to it: the hostile program, which is being executed.
    expect(ended.out).toBe("refused\nrefused\n");
    expect((await box.run(["--init", name, "/dynamic"])).out).toBe("refused\nrefused\n");
    expect(hashOf(binary)).toBe(hash);
    expect(hashOf("/bin/true")).toBe(hashOf("/usr/bin/true"));
  });

  test("PID 1 of ours is a sealed copy in memory: it cannot be written, nor can its directory be reached", async () => {
    const ended = await box.run([
      "--init",
      "--cap-add",
      "ALL",
      "--security-opt",
      "seccomp=unconfined",
      "hostile",
      "/attack",
      "/proc/1/exe",
    ]);
    expect(ended.out).toMatch(/\/proc\/1\/exe: (?:Text file busy|Operation not permitted|Permission denied)/);
    expect(ended.out).not.toContain("overwrote");
    const link = await box.run(["--init", "--cap-add", "ALL", "alpine", "readlink", "/proc/1/exe"]);
    expect(link.out).toMatch(/^\/memfd:/);
    expect(hashOf(binary)).toBe(hash);
  });

  test("the copy carries all four seals", async () => {
    await box.run(["alpine", "sleep", "3333"], {
      started: async (child) => {
        const init = `/proc/${child.pid}/exe`;
        expect(await until(() => Bun.spawnSync(["readlink", init]).stdout.toString().startsWith("/memfd:"))).toBe(true);
        // F_GET_SEALS of what the supervisor runs from: SEAL, SHRINK, GROW, WRITE (fcntl(2)).
        const asked = "import fcntl,os,sys; print(fcntl.fcntl(os.open(sys.argv[1], os.O_RDONLY), 1034))";
        const seals = Number(Bun.spawnSync(["python3", "-c", asked, init]).stdout.toString());
        expect(seals & 15).toBe(15);
        child.kill("SIGTERM");
      },
    });
  });
});

describe("leaked descriptors and working directories (2016-9962, 2024-21626)", () => {
  test("the caller's descriptors stay with the caller", async () => {
    const ended = await box.shell("exec 5</etc/shadow 7</ 9<.; exec $OCIBOX run --rm hostile /attack fds");
    expect(ended.out).toBe("0 1 2 \n");
    const init = await box.shell("exec 7</ 9<.; exec $OCIBOX run --rm --init hostile /attack fds");
    expect(init.out).toBe("0 1 2 \n");
  });

  test("a working directory through /proc/self/fd is refused, whatever the number", async () => {
    for (let fd = 0; fd < 40; fd++) {
      const ended = await box.shell(`exec 9</; exec $OCIBOX run --rm -w /proc/self/fd/${fd} alpine sh -c 'ls ..'`);
      expect([fd, ended.code, ended.out]).toEqual([fd, 125, ""]);
      expect(ended.err).toMatch(/^ocibox: [^\n]*\n$/);
    }
  });

  test("the same through symlinks of the image, and as its own WORKDIR", async () => {
    const name = await imageWith("cwd", (root) => symlinkSync("/proc/self/fd/9/", join(root, "way")), {
      WorkingDir: "/way",
    });
    for (const more of [[], ["-w", "/way/.."], ["-w", "/proc/1/cwd"], ["-w", "/proc/self/root/way"]]) {
      const ended = await box.shell(`exec 9</; exec $OCIBOX run -q --rm ${more.join(" ")} ${name} sh -c 'pwd; ls'`);
      if (ended.code === 0) expect(ended.out).toMatch(/^\/\n(?:.*\n)*attack/);
      else expect([ended.code, ended.out]).toEqual([125, ""]);
    }
  });
});

describe("set-up through symlinks in the rootfs (2021-30465, 2019-18837, 2019-19921, 2023-27561, 2023-28642, 2024-45310, 2024-9341)", () => {
  const targets = [
    "proc",
    "sys",
    "dev",
    "dev/pts",
    "dev/shm",
    "etc",
    "etc/hosts",
    "etc/resolv.conf",
    "work/dir",
    "vol",
    "vol/sub",
  ];

  function replace(root: string, path: string, kind: string): void {
    const full = join(root, path);
    rmSync(full, { recursive: true, force: true });
    mkdirSync(join(full, ".."), { recursive: true });
    if (kind === "fifo") Bun.spawnSync(["mkfifo", full]);
    else if (kind === "absolute") symlinkSync(canary.dir, full);
    else if (kind === "climbing") symlinkSync(`${"../".repeat(40)}${canary.dir}/sub`, full);
    else if (kind === "file") symlinkSync(`${canary.dir}/file`, full);
    else symlinkSync(`${canary.dir}/made-by-attack`, full);
  }

  for (const kind of ["absolute", "climbing", "dangling", "file", "fifo"]) {
    test(`${kind} links in the way of every mount`, async () => {
      for (const path of targets) {
        const name = await imageWith(`link-${kind}-${path.replaceAll("/", "-").replaceAll(".", "-")}`, (root) =>
          replace(root, path, kind),
        );
        const volume = folder(box, "volume");
        const options = ["-v", `${volume}:/vol/sub/target`, "-w", "/work/dir", "--tmpfs", "/vol/tmp"];
        const ended = await box.run([
          ...options,
          name,
          "sh",
          "-c",
          `ls ${canary.dir} 2>/dev/null; echo x > /etc/written; echo ran`,
        ]);
        expect([path, canary.now()]).toEqual([path, [...canary.before]]);
        // It runs inside its own tree, or not at all.
        if (ended.code === 0) expect(ended.out).not.toContain("secret");
        else expect([path, ended.code, ended.err]).toEqual([path, 125, expect.stringMatching(/^ocibox: [^\n]*\n$/)]);
        expect((await box.ocibox(["rmi", name])).code).toBe(0);
      }
    }, 60_000);
  }

  test("a neighbour that flips a volume's directory with a link during 200 starts", async () => {
    const shared = folder(box, "shared");
    mkdirSync(join(shared, "way/deep"), { recursive: true });
    symlinkSync(canary.dir, join(shared, "trap"));
    chmodSync(shared, 0o777);
    const flipper = Bun.spawn([join(box.tree, "attack"), "flip", join(shared, "way"), join(shared, "trap")], {
      stdio: ["ignore", "ignore", "ignore"],
    });
    try {
      const source = folder(box, "source");
      writeFileSync(join(source, "marker"), "mine\n");
      const one = async (): Promise<void> => {
        const ended = await box.run([
          "-v",
          `${shared}:/shared`,
          "-v",
          `${source}:/shared/way/made`,
          "alpine",
          "sh",
          "-c",
          `cat ${canary.dir}/file 2>/dev/null; echo done`,
        ]);
        expect(ended.out === "done\n" || (ended.code === 125 && ended.out === "")).toBe(true);
      };
      for (let turn = 0; turn < 50; turn++) await Promise.all([one(), one(), one(), one()]);
    } finally {
      flipper.kill("SIGKILL");
      await flipper.exited;
    }
    expect(canary.now()).toEqual([...canary.before]);
  }, 60_000);
});

describe("mask and console sources (2025-31133, 2025-52565)", () => {
  const pattern = (): string => readFileSync("/proc/sys/kernel/core_pattern", "utf8");

  test("the image's /dev/null is never what a mask is made of", async () => {
    const was = pattern();
    const kinds: Record<string, (path: string) => void> = {
      absent: (path) => rmSync(path, { force: true }),
      file: (path) => writeFileSync(path, "a file\n"),
      link: (path) => symlinkSync("/proc/sys/kernel/core_pattern", path),
      directory: (path) => mkdirSync(path),
    };
    for (const [kind, make] of Object.entries(kinds)) {
      const name = await imageWith(`null-${kind}`, (root) => {
        mkdirSync(join(root, "dev"), { recursive: true });
        rmSync(join(root, "dev/null"), { recursive: true, force: true });
        make(join(root, "dev/null"));
      });
      const script =
        "stat -c '%t:%T' /proc/keys /dev/null; wc -c < /proc/keys; echo pwned > /proc/keys; echo > /dev/null";
      const ended = await box.run([name, "sh", "-c", script]);
      expect([kind, ended.out.replaceAll(/\s+/g, " ")]).toEqual([kind, "1:3 1:3 0 "]);
      expect(pattern()).toBe(was);
    }
  });

  test("the console is the pty that was made, not what a name in the image leads to", async () => {
    const was = pattern();
    const name = await imageWith("console", (root) => {
      mkdirSync(join(root, "dev/pts"), { recursive: true });
      symlinkSync("/proc/sys/kernel/core_pattern", join(root, "dev/pts/0"));
      symlinkSync("/proc/sys/kernel/core_pattern", join(root, "dev/console"));
      rmSync(join(root, "dev/ptmx"), { force: true });
      symlinkSync("/proc/sys/kernel/core_pattern", join(root, "dev/ptmx"));
    });
    const ended = await box.shell(
      `script -qec "$OCIBOX run -q --rm -t ${name} sh -c 'tty; stat -c %F /dev/console; echo pwned > /dev/console'" /dev/null`,
    );
    expect(ended.out.replaceAll("\r", "")).toBe("/dev/pts/0\ncharacter special file\npwned\n");
    expect(pattern()).toBe(was);
  });

  test("what must not be written cannot be", async () => {
    const paths = [
      "/proc/sys/kernel/core_pattern",
      "/proc/sysrq-trigger",
      "/proc/irq/default_smp_affinity",
      "/sys/kernel/uevent_helper",
    ];
    for (const path of paths) {
      const ended = await box.run(["alpine", "sh", "-c", `echo x > ${path}`]);
      expect([path, ended.code]).toEqual([path, 1]);
    }
  });
});

describe("cgroups and the network (2022-0492, 2020-15257)", () => {
  test("release_agent and the cgroup file systems are not writable, and cannot be mounted anew", async () => {
    const script =
      "find /sys/fs/cgroup -name release_agent -o -name cgroup.procs -o -name tasks | while read f; do echo 0 > $f && echo wrote $f; done; mkdir /x; mount -t cgroup -o pids none /x && echo mounted; mount -t cgroup2 none /x && echo mounted; unshare -rm true && echo unshared; true";
    const ended = await box.run(["alpine", "sh", "-c", script]);
    expect(ended.out).toBe("");
  });

  test("abstract sockets of the host are out of reach", async () => {
    const name = `ocibox-test-${crypto.randomUUID()}`;
    const server = Bun.listen({ unix: `\0${name}`, socket: { data() {} } });
    try {
      expect(readFileSync("/proc/net/unix", "utf8")).toContain(`@${name}`);
      expect((await box.run(["alpine", "grep", "-c", name, "/proc/net/unix"])).out).toBe("0\n");
    } finally {
      server.stop(true);
    }
  });
});

describe("capabilities and groups (2022-29162, 2022-27651, 2022-2989)", () => {
  test("nothing is inheritable or ambient, and groups are exact", async () => {
    for (const user of ["0", "1000:1000", "nobody"]) {
      const ended = await box.run(["-u", user, "alpine", "grep", "-E", "^(CapInh|CapAmb|Groups)", "/proc/self/status"]);
      expect(ended.out.replaceAll(/[\t ]+/g, " ").replaceAll(/ $/gm, "")).toMatch(
        /^Groups:(?: \d+)?\nCapInh: 0{16}\nCapAmb: 0{16}\n$/,
      );
    }
  });

  test("a file that a group is denied stays denied", async () => {
    const dir = folder(box, "denied");
    writeFileSync(join(dir, "file"), "others may\n");
    chmodSync(join(dir, "file"), 0o604);
    await run("chgrp", "2000", join(dir, "file"));
    const ended = await box.run(["-u", "1000:2000", "-v", `${dir}:/d`, "alpine", "cat", "/d/file"]);
    expect(ended.code).toBe(1);
    expect((await box.run(["-u", "1000:1000", "-v", `${dir}:/d`, "alpine", "cat", "/d/file"])).out).toBe(
      "others may\n",
    );
  });
});

describe("permissions at rest (2021-41091)", () => {
  test("another user reaches no file of an image", async () => {
    const find = Bun.spawnSync([
      "setpriv",
      "--reuid=65534",
      "--regid=65534",
      "--clear-groups",
      "ls",
      box.root,
      join(box.root, "layers"),
    ]);
    expect(find.exitCode).not.toBe(0);
    expect(find.stdout.toString()).toBe("");
  });

  test("it refuses to run setuid", async () => {
    const directory = folder(box, "setuid");
    const copy = join(directory, "ocibox");
    const runtime = join(directory, "runc");
    const log = join(directory, "log");
    chmodSync(box.dir, 0o755);
    cpSync(binary, copy);
    chmodSync(copy, 0o4755);
    linkSync(copy, runtime);
    const asNobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    const calls = [
      [copy, "images"],
      [copy, "oci", "--log", log, "state", "nobody"],
      [runtime, "--log", log, "--root", directory, "run", "nobody"],
    ];
    const ended = calls.map((words) => Bun.spawnSync([...asNobody, ...words]));
    for (const file of [copy, runtime]) rmSync(file);
    for (const { exitCode, stderr } of ended)
      expect([exitCode, stderr.toString()]).toEqual([125, expect.stringMatching(/setuid/)]);
    // Nothing was done with the rights of the file's owner: the runtime's log is not there.
    expect(existsSync(log)).toBe(false);
  });
});
