/** The rarer flags of `ocibox run`, as the container sees them. */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { binary, type Ended, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

/** What a script prints in a container of these flags. */
async function sh(flags: readonly string[], script: string): Promise<string> {
  const ended = await box.run([...flags, "alpine", "sh", "-c", script]);
  expect([ended.err, ended.code]).toEqual(["", 0]);
  return ended.out;
}

function refused(...flags: string[]): Promise<Ended> {
  return box.run([...flags, "alpine", "true"]);
}

describe("mounts and files", () => {
  test("--mount: a bind, read-only, and a tmpfs", async () => {
    const dir = join(box.dir, "given");
    mkdirSync(dir);
    writeFileSync(join(dir, "file"), "given\n");
    const flags = ["--mount", `type=bind,src=${dir},dst=/in,ro`, "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m"];
    const script =
      "cat /in/file; touch /in/x 2> /dev/null || echo kept; df -k /t | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2";
    expect(await sh(flags, script)).toBe("given\nkept\n1024\n");
    const gone = await refused("--mount", `type=bind,src=${dir}/none,dst=/in`);
    expect([gone.code, gone.err]).toEqual([125, expect.stringContaining("does not exist")]);
  });

  test("--add-host, --dns, --dns-search, --dns-option", async () => {
    const flags = ["--add-host", "one.example:10.0.0.1", "--add-host", "two=::2", "--dns", "10.0.0.53"];
    expect(
      await sh(
        [...flags, "--dns-search", "example", "--dns-option", "ndots:3"],
        "tail -n 2 /etc/hosts; cat /etc/resolv.conf",
      ),
    ).toBe("10.0.0.1\tone.example\n::2\ttwo\nsearch example\nnameserver 10.0.0.53\noptions ndots:3\n");
  });

  test("--shm-size", async () => {
    expect(await sh(["--shm-size", "2m"], "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2")).toBe("2048\n");
  });
});

describe("who the command is", () => {
  test("--group-add, --umask, --oom-score-adj, --domainname", async () => {
    const flags = [
      "--group-add",
      "5",
      "--group-add",
      "77",
      "--umask",
      "027",
      "--oom-score-adj",
      "321",
      "--domainname",
      "d.example",
    ];
    const script = "id -G; umask; cat /proc/self/oom_score_adj /proc/sys/kernel/domainname";
    expect(await sh(flags, script)).toBe("0 5 77\n0027\n321\nd.example\n");
  });

  test("--ipc host, --uts host, --cgroupns host", async () => {
    const kinds = ["ipc", "uts", "cgroup"];
    const script = `hostname; echo $HOSTNAME; for each in ${kinds.join(" ")}; do readlink /proc/1/ns/$each; done`;
    const own = kinds.map((kind) => readlinkSync(`/proc/self/ns/${kind}`));
    expect(await sh(["--ipc", "host", "--uts", "host", "--cgroupns", "host"], script)).toBe(
      `${[hostname(), hostname(), ...own].join("\n")}\n`,
    );
    expect((await refused("--uts", "host", "-h", "other")).err).toContain("cannot both be had");
    const apart = (await sh(["--ipc", "private"], script)).split("\n");
    for (const link of own) expect(apart).not.toContain(link);
  });

  test("--sysctl of the container's namespaces, and of no other", async () => {
    const flags = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=1234"];
    expect(await sh(flags, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax")).toBe("1\n1234\n");
    expect((await refused("--sysctl", "vm.swappiness=1")).err).toContain('"vm.swappiness" is not of a namespace');
    expect((await refused("--network", "host", "--sysctl", "net.ipv4.ip_forward=1")).code).toBe(125);
  });
});

describe("limits", () => {
  test("memory, swap, reservation, shares, quota, processors: as the kernel has them", async () => {
    const flags = ["-m", "64m", "--memory-swap", "100m", "--memory-reservation", "32m"];
    const cpu = ["-c", "512", "--cpu-period", "50000", "--cpu-quota", "20000", "--cpuset-cpus", "0"];
    const files = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes"];
    const more = ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpuset.cpus"];
    const script = `cd /sys/fs/cgroup; for each in ${[...files, ...more].join(" ")}; do cat \${each%%.*}/$each; done`;
    expect(await sh([...flags, ...cpu], script)).toBe(
      `${[64 << 20, 100 << 20, 32 << 20, 512, 50_000, 20_000, 0].join("\n")}\n`,
    );
    expect((await refused("--cpuset-cpus", "4095")).err).toContain("linux.resources.cpu.cpus");
    expect((await refused("--cpus", "1", "--cpu-quota", "1000")).err).toContain("does not go with --cpu-quota");
  });

  test("--device: the host's, under another name, for what it is given; a directory's", async () => {
    const { rdev } = statSync("/dev/loop-control");
    const hex = (number: number): string => number.toString(16);
    const number = `${hex(rdev >>> 8)},${hex(rdev & 0xff)}`;
    const script =
      "stat -c '%F %t,%T' /dev/other; (: < /dev/other) && echo read; (: > /dev/other) 2> /dev/null || echo not written";
    expect(await sh(["--device", "/dev/loop-control:/dev/other:r"], script)).toBe(
      `character special file ${number}\nread\nnot written\n`,
    );
    const several = join(box.dir, "devices");
    mkdirSync(join(several, "in"), { recursive: true });
    for (const [name, minor] of [
      ["one", "3"],
      ["in/two", "5"],
    ])
      expect(Bun.spawnSync(["mknod", join(several, name ?? ""), "c", "1", minor ?? ""]).exitCode).toBe(0);
    writeFileSync(join(several, "file"), "");
    const found = await sh(["--device", `${several}:/dev/m`], "cd /dev/m; stat -c '%n %t,%T' * */*");
    expect(found).toBe("in 0,0\none 1,3\nin/two 1,5\n");
    expect((await refused("--device", "/etc/passwd")).err).toContain("is no device");
    const rules = await sh(["--device-cgroup-rule", "c 10:200 rw"], "cat /sys/fs/cgroup/devices/devices.list");
    expect(rules).toContain("c 10:200 rw\n");
  });

  test("--privileged: what root of the host has", async () => {
    const script = [
      "grep -E 'CapEff|Seccomp:' /proc/self/status",
      "mkdir /m && mount -t tmpfs x /m && echo mounted",
      "echo 1 > /proc/sys/net/ipv4/ip_forward && echo written",
      "(: < /dev/loop-control) && echo device",
      "ls /dev/pts",
    ].join("\n");
    const own = /^CapEff:\t(\w+)$/m.exec(await Bun.file("/proc/self/status").text())?.[1];
    expect(await sh(["--privileged"], script)).toBe(`CapEff:\t${own}\nSeccomp:\t0\nmounted\nwritten\ndevice\nptmx\n`);
    expect((await refused("--privileged", "--security", "strict")).err).toContain("cannot both be had");
  });
});

describe("what is said of a container", () => {
  test("--label, --annotation, --stop-timeout; what there is not has a hint", async () => {
    const flags = ["-d", "--name", "said", "--label", "a=b=c", "-l", "alone", "--annotation", "org.example=x"];
    expect((await box.ocibox(["run", ...flags, "--stop-timeout", "0", "alpine", "sleep", "1000"])).code).toBe(0);
    try {
      const [shown] = JSON.parse((await box.ocibox(["inspect", "said"])).out) as [Record<string, unknown>];
      expect(JSON.stringify(shown)).toContain('"Labels":{"a":"b=c","alone":""}');
      expect((await box.ocibox(["ps", "--format", "{{.Labels}}"])).out).toBe("a=b=c,alone=\n");
      const from = performance.now();
      expect((await box.ocibox(["stop", "said"])).code).toBe(0);
      expect(performance.now() - from).toBeLessThan(5000);
    } finally {
      await box.ocibox(["rm", "-f", "said"]);
    }
    for (const [flag, words] of [
      [["--network-alias", "db"], "ocibox run --network-alias is not there yet; containers know each other by address"],
      [["--health-cmd", "true"], "--health-cmd is not there yet"],
    ] as const)
      expect((await refused(...flag)).err).toContain(words);
  });
});

function childrenOf(pid: number): number[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === pid ? [Number(name)] : [];
    } catch {
      // It has ended meanwhile.
      return [];
    }
  });
}

describe("--timeout", () => {
  const words = "ocibox: the container was killed: it ran for 1 s, which is its --timeout\n";

  test("ends it when its time is over, says so, and lets what was quicker end as it does", async () => {
    const start = performance.now();
    const late = await box.run(["--timeout", "1", "alpine", "sh", "-c", "echo begun; sleep 100"]);
    const took = performance.now() - start;
    expect(late).toEqual({ out: "begun\n", err: words, code: 137 });
    expect(took).toBeGreaterThan(1000);
    expect(took).toBeLessThan(10_000);
    // A process 1 that takes no signals, too, and one that an init looks after.
    for (const flags of [["--timeout=1"], ["--timeout=1", "--init"]]) {
      const deaf = await box.run([...flags, "alpine", "sh", "-c", "trap '' TERM INT ALRM; while :; do sleep 1; done"]);
      expect([flags, deaf.code, deaf.err]).toEqual([flags, 137, words]);
    }
    const quick = performance.now();
    expect(await box.run(["--timeout", "100", "alpine", "sh", "-c", "exit 7"])).toEqual({ out: "", err: "", code: 7 });
    expect(await box.run(["--timeout", "0", "alpine", "true"])).toEqual({ out: "", err: "", code: 0 });
    expect(performance.now() - quick).toBeLessThan(10_000);
    for (const text of ["soon", "-1", "1.5", "99999999999"]) {
      const wrong = await refused("--timeout", text);
      expect([wrong.code, wrong.err]).toEqual([125, expect.stringContaining(`--timeout is "${text}"`)]);
    }
  });

  test("is kept with a container that is left to itself, and with one that is started later and again", async () => {
    const run = ["run", "-d", "--name", "late", "--timeout", "1", "alpine", "sleep", "100"];
    expect((await box.ocibox(run)).code).toBe(0);
    expect((await box.ocibox(["wait", "late"])).out).toBe("137\n");
    expect((await box.ocibox(["create", "--name", "later", "--timeout", "1", "alpine", "sleep", "100"])).code).toBe(0);
    for (const name of ["later", "late"]) {
      expect((await box.ocibox(["start", name])).code).toBe(0);
      expect((await box.ocibox(["wait", name])).out).toBe("137\n");
      expect((await box.ocibox(["rm", name])).code).toBe(0);
    }
  });

  test("what watches the clock goes with a supervisor that is killed", async () => {
    const held = Bun.spawn([binary, "run", "--rm", "--timeout", "1000", "alpine", "sleep", "1000"], {
      env: box.env,
      stdio: ["ignore", "ignore", "ignore"],
    });
    expect(await until(() => childrenOf(held.pid).length === 2)).toBe(true);
    const children = childrenOf(held.pid);
    held.kill("SIGKILL");
    await held.exited;
    expect(await until(() => children.every((pid) => !existsSync(`/proc/${pid}`)))).toBe(true);
    expect((await box.ocibox(["ps", "-aq"])).out).toBe("");
  });
});
