/** ocibox as an ordinary user: in a user namespace of one id, and of the ids that /etc/subuid gives. */
import { describe, expect } from "bun:test";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { writeLayout } from "../lib/oci-fixture.ts";
import { run } from "../lib/registry.ts";
import { binary, type Ended, inventory, type RunOptions, Sandbox, until } from "../lib/sandbox.ts";
import { tar } from "../lib/tar.ts";
import { comparable, describeTree } from "../lib/tree.ts";

const needs = {
  root: true,
  programs: ["docker-registry", "buildah", "skopeo", "umoci", "getfattr", "busybox", "setpriv", "unshare", "newuidmap"],
};
const test = testWith(needs);
/** Somebody with a name, who has no range of ids of their own but the one that is bound over /etc/subuid. */
const user = { name: "daemon", uid: 1, gid: 1 };
const range = { first: 200_000, size: 65_536 };
let box: Sandbox;
let rich: string;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  rich = await box.pushRich();
  chmodSync(box.dir, 0o711);
  writeFileSync(join(box.dir, "subids"), `${user.name}:${range.first}:${range.size}\n`);
  writeFileSync(join(box.dir, "none"), "");
});

/** A user with a home of their own, by whether they have more ids than one. */
class Person {
  readonly home: string;

  constructor(
    name: string,
    readonly ranges: boolean,
  ) {
    this.home = join(box.dir, name);
    mkdirSync(this.home);
    chownSync(this.home, user.uid, user.gid);
  }

  get root(): string {
    return join(this.home, ".local/share/ocibox");
  }

  /** A command that is called as this user. */
  as(command: readonly string[]): string[] {
    const file = join(box.dir, this.ranges ? "subids" : "none");
    const binds = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"';
    const become = ["setpriv", "--reuid", String(user.uid), "--regid", String(user.gid), "--clear-groups"];
    return ["unshare", "--mount", "sh", "-c", binds, file, ...become, ...command];
  }

  ocibox(words: readonly string[], options: RunOptions = {}): Promise<Ended> {
    return this.call([binary, ...words], options);
  }

  async call(command: readonly string[], { stdin, started }: RunOptions = {}): Promise<Ended> {
    const { OCIBOX_ROOT: _, OCIBOX_STATE: __, ...env } = box.env;
    const child = Bun.spawn(this.as(command), {
      stdin: stdin === undefined ? "ignore" : new TextEncoder().encode(stdin),
      stdout: "pipe",
      stderr: "pipe",
      cwd: this.home,
      env: { ...env, HOME: this.home },
    });
    const outputs = Promise.all([child.stdout.text(), child.stderr.text()]);
    await started?.(child);
    const [out, err] = await outputs;
    return { out, err, code: await child.exited };
  }

  /** What is left of containers and of unpacking. */
  left(): string[] {
    return ["containers", "names", "tmp", "trash", "state"].flatMap((folder) =>
      existsSync(join(this.root, folder)) ? readdirSync(join(this.root, folder)) : [],
    );
  }
}

for (const [title, ranges] of [
  ["with one id", false],
  ["with a range of ids", true],
] as const) {
  describe(title, () => {
    let somebody: Person;
    const name = ranges ? "many" : "one";

    test("pull and run: standard streams, the exit code, a signal; files of a volume are the user's", async () => {
      somebody = new Person(name, ranges);
      const run_ = (...words: string[]): Promise<Ended> => somebody.ocibox(["run", "--rm", "-q", ...words]);
      const map = ranges
        ? `         0          ${user.uid}          1\n         1     ${range.first}      ${range.size}\n`
        : `         0          ${user.uid}          1\n`;
      expect(await run_("alpine", "sh", "-c", "id -u; id -g; cat /proc/self/uid_map; exit 7")).toEqual({
        out: `0\n0\n${map}`,
        err: "",
        code: 7,
      });
      // What there was before is kept as a plan.
      expect((await run_("alpine", "sh", "-c", "id -u; id -g; cat /proc/self/uid_map; exit 6")).code).toBe(6);
      const echoed = await somebody.ocibox(["run", "--rm", "-i", "alpine", "cat"], { stdin: "from outside\n" });
      expect(echoed).toEqual({ out: "from outside\n", err: "", code: 0 });
      const volume = join(somebody.home, "volume");
      mkdirSync(volume);
      chownSync(volume, user.uid, user.gid);
      expect((await run_("-v", `${volume}:/v`, "alpine", "touch", "/v/made")).code).toBe(0);
      expect(statSync(join(volume, "made")).uid).toBe(user.uid);
      const ended = await somebody.ocibox(
        ["run", "--rm", "alpine", "sh", "-c", "trap 'exit 5' TERM; touch /v/up; sleep 9 & wait"],
        {
          started: async (child) => {
            await Bun.sleep(400);
            child.kill("SIGTERM");
          },
        },
      );
      expect(ended.code).toBe(5);
      expect((await run_("alpine", "nope")).code).toBe(127);
      expect(somebody.left()).toEqual([]);
    });

    test("devices, mounts, masks, capabilities: what root has, but what root of a namespace cannot have", async () => {
      const script = [
        "echo >/dev/null && head -c 2 /dev/zero | wc -c",
        "stat -c %u:%g /dev/mqueue",
        "ls /sys/firmware | wc -l; echo x >/proc/sys/kernel/hostname",
        "grep -E 'CapEff|Seccomp:' /proc/self/status; readlink /proc/self/ns/net",
      ].join("; ");
      const { out, err } = await somebody.ocibox(["run", "--rm", "alpine", "sh", "-c", script]);
      const [zeros, queue, firmware, caps, filter, net] = out.split("\n");
      expect([zeros, queue, firmware, caps, filter]).toEqual([
        "2",
        "0:0",
        "0",
        "CapEff:\t00000000800405fb",
        "Seccomp:\t2",
      ]);
      expect(net).not.toBe((await somebody.call(["readlink", "/proc/self/ns/net"])).out.trim());
      expect(err).toContain("/proc/sys/kernel/hostname: Read-only file system");
      expect((await somebody.ocibox(["run", "--rm", "--network", "host", "alpine", "ls", "/sys/class/net"])).code).toBe(
        0,
      );
      const filled = await somebody.ocibox(["run", "--rm", "-v", "mine:/etc", "alpine", "ls", "/etc"]);
      expect([filled.err, filled.code, filled.out]).toEqual(["", 0, expect.stringContaining("passwd\n")]);
      expect(await somebody.ocibox(["volume", "rm", "mine"])).toEqual({ out: "mine\n", err: "", code: 0 });
      const flags = ["-d", "--name", "again", "--restart", "on-failure:1"];
      expect((await somebody.ocibox(["run", ...flags, "alpine", "sh", "-c", "echo run; exit 1"])).code).toBe(0);
      expect(await until(async () => (await somebody.ocibox(["logs", "again"])).out === "run\nrun\n")).toBe(true);
      expect((await somebody.ocibox(["rm", "-f", "again"])).code).toBe(0);
      const bridge = await somebody.ocibox(["run", "--rm", "--network", "bridge", "alpine", "true"]);
      expect([bridge.code, bridge.err]).toEqual([125, expect.stringContaining("--network bridge wants root")]);
    });

    test("whose ids are not there is told, and groups that cannot be had are not asked for", async () => {
      const other = await somebody.ocibox(["run", "--rm", "-u", "1000:1000", "alpine", "id", "-u"]);
      if (ranges) expect(other).toEqual({ out: "1000\n", err: "", code: 0 });
      else
        expect([other.code, other.err]).toEqual([
          125,
          "ocibox: the command cannot run as 1000:1000, whom this user has no ids for; install uidmap, and give the user ranges in /etc/subuid and /etc/subgid; or run it as root: -u 0\n",
        ]);
      const limited = await somebody.ocibox(["run", "--rm", "-m", "64m", "alpine", "true"]);
      expect(limited.err).toMatch(/^ocibox: --memory cannot be kept: this machine offers no writable cgroup/);
      const info = await somebody.ocibox(["info"]);
      expect(info.out).toMatch(new RegExp(`^user: ${user.uid}$`, "m"));
      expect(info.out).toContain(`isolation: user namespace of ${ranges ? "65537 ids" : "one id"}\n`);
      expect(info.out).toMatch(/^rootfs back ends: overlay copy; not erofs: /m);
    });

    test("whiteouts, opaque directories and devices of layers, by overlay and by copy", async () => {
      const lower = tar([
        { name: "bin/", type: "5" },
        { name: "bin/busybox", body: await Bun.file("/bin/busybox").bytes(), mode: 0o755 },
        { name: "bin/sh", type: "2", link: "busybox" },
        { name: "bin/ls", type: "2", link: "busybox" },
        { name: "bin/stat", type: "2", link: "busybox" },
        { name: "covered/", type: "5" },
        { name: "covered/below" },
        { name: "gone" },
        { name: "replaced", body: "below" },
        { name: "theirs", uid: 1000 },
      ]);
      const upper = tar([
        { name: "covered/", type: "5" },
        { name: "covered/.wh..wh..opq" },
        { name: "covered/above" },
        { name: ".wh.gone" },
        { name: "replaced", type: "3", major: 1, minor: 3 },
      ]);
      const layout = join(box.dir, `layout-${name}`);
      writeLayout(layout, [lower, upper]);
      const look = ["sh", "-c", "ls / /covered; stat -c '%F %s %u' /replaced /theirs"];
      for (const kind of ["overlay", "copy"] as const) {
        const seen = await somebody.ocibox(["--snapshotter", kind, "run", "--rm", "-q", `oci:${layout}`, ...look]);
        expect(seen.err).toBe("");
        expect(seen.out).toContain("/covered:\nabove\n");
        expect(seen.out).not.toContain("gone");
        expect(seen.out).toContain(`regular empty file 0 0\nregular empty file 0 ${ranges ? 1000 : 0}\n`);
      }
    });

    test("cp, unpack, export, diff, save, check, rmi and prune", async () => {
      const own = (...words: string[]): Promise<Ended> => somebody.ocibox(words);
      expect((await own("cp", "alpine:/etc/passwd", "passwd")).code).toBe(0);
      expect(statSync(join(somebody.home, "passwd")).uid).toBe(user.uid);
      expect((await own("run", "--name", "kept", "alpine", "sh", "-c", "echo new >/new")).code).toBe(0);
      expect((await own("diff", "kept")).out).toBe("A /new\n");
      expect((await own("export", "-o", "kept.tar", "kept")).code).toBe(0);
      expect((await run("tar", "-tf", join(somebody.home, "kept.tar"))).split("\n")).toContain("new");
      expect((await own("ps", "-a")).out).toContain("kept");
      expect((await own("rm", "kept")).code).toBe(0);
      expect((await own("save", "-o", "saved", "alpine")).code).toBe(0);
      expect((await own("check")).out).toBe("all is well\n");
      expect((await own("system", "df")).code).toBe(0);
      expect((await own("rmi", "alpine")).code).toBe(0);
      expect((await own("load", "-q", "-i", "saved")).code).toBe(0);
      expect((await own("images", "-q")).out).not.toBe("");
    });

    test("exec, stop and kill, from outside of the container's user namespace", async () => {
      const ended = somebody.ocibox([
        "run",
        "--rm",
        "-q",
        "--name",
        "one",
        "alpine",
        "sh",
        "-c",
        "trap 'exit 3' TERM; while true; do sleep 0.05; done",
      ]);
      const exec = (...words: string[]): Promise<Ended> => somebody.ocibox(["exec", ...words]);
      expect(await until(async () => (await exec("one", "true")).code === 0)).toBe(true);
      expect(await exec("one", "sh", "-c", "id -u; touch /made; readlink /proc/self/ns/user; exit 4")).toEqual({
        out: `0\n${(await exec("one", "readlink", "/proc/1/ns/user")).out}`,
        err: "",
        code: 4,
      });
      expect((await exec("-u", "1000:1000", "one", "id", "-u")).code).toBe(ranges ? 0 : 125);
      expect(await somebody.ocibox(["stop", "one"])).toEqual({ out: "one\n", err: "", code: 0 });
      expect((await ended).code).toBe(3);
      // As somebody whom the caller is not, even where there is somebody else.
      for (const words of [
        ["kill", "two"],
        ["rm", "-f", "two"],
        ["stop", "-t", "0", "two"],
      ]) {
        const killed = somebody.ocibox([
          "run",
          "--rm",
          "-q",
          "--name",
          "two",
          ...(ranges ? ["-u", "1000:1000"] : []),
          "alpine",
          "sleep",
          "1000",
        ]);
        expect(await until(async () => (await exec("two", "true")).code === 0)).toBe(true);
        expect((await somebody.ocibox(words)).err).toBe("");
        expect((await killed).code).toBe(137);
      }
      expect((await exec("two", "true")).err).toBe('ocibox: there is no container "two"; see: ocibox ps -a\n');
    });

    test("rarer flags: a device that is bound, shared memory, groups where there are ids for them", async () => {
      const sh = (flags: readonly string[], script: string): Promise<Ended> =>
        somebody.ocibox(["run", "--rm", "-q", ...flags, "alpine", "sh", "-c", script]);
      const flags = [
        "--device",
        "/dev/zero:/dev/other",
        "--shm-size",
        "1m",
        "--umask",
        "077",
        "--sysctl",
        "kernel.msgmax=99",
      ];
      const script = "head -c 3 /dev/other | wc -c; umask; cat /proc/sys/kernel/msgmax; df -k /dev/shm | grep -c 1024";
      expect(await sh(flags, script)).toEqual({ out: "3\n0077\n99\n1\n", err: "", code: 0 });
      const groups = await sh(["--group-add", "5"], "id -G");
      expect([groups.out, groups.code]).toEqual(ranges ? ["0 5\n", 0] : ["", 125]);
      expect(
        await sh(["--privileged"], "grep -c Seccomp:.0 /proc/self/status; [ -c /dev/zero ] && echo there"),
      ).toEqual({
        out: "1\nthere\n",
        err: "",
        code: 0,
      });
    });

    test("left to itself: its log, its exit code, and by whose id it is looked after", async () => {
      const call = (...words: string[]): Promise<Ended> => somebody.ocibox(words);
      const script = "echo up; echo err >&2; trap 'exit 3' TERM; while :; do sleep 0.05; done";
      for (const who of ranges ? [[], ["-u", "1000:1000"]] : [[]]) {
        const started = await call("run", "-d", "--name", "one", ...who, "alpine", "sh", "-c", script);
        expect([started.err, started.code]).toEqual(["", 0]);
        try {
          expect(await until(async () => (await call("logs", "one")).out === "up\n")).toBe(true);
          expect(await call("logs", "one")).toEqual({ out: "up\n", err: "err\n", code: 0 });
          expect((await call("ps", "--format", "{{.Names}}")).out).toBe("one\n");
          expect((await call("stop", "one")).code).toBe(0);
          expect(await call("wait", "one")).toEqual({ out: "3\n", err: "", code: 0 });
        } finally {
          expect((await call("rm", "-f", "one")).code).toBe(0);
        }
      }
    });

    test("an image with everything odd has the tree that umoci makes of it", async () => {
      expect((await somebody.ocibox(["pull", "-q", rich])).err).toBe("");
      expect((await somebody.ocibox(["unpack", rich, "tree"])).code).toBe(0);
      const layout = join(box.dir, `rich-${name}`);
      await run("skopeo", "copy", "-q", "--src-tls-verify=false", `docker://${rich}`, `oci:${layout}:rich`);
      await run("umoci", "unpack", "--image", `${layout}:rich`, join(box.dir, `bundle-${name}`));
      const known = (id: number): number => (ranges ? (id > range.size ? 0 : id) : 0);
      const inside = (id: number): number => (id === user.uid ? 0 : id - range.first + 1);
      const owners = (of: (id: number) => number) => (line: string) =>
        line
          .replace(/ (\d+):(\d+) (?=\S+\.\d{10})/, (_, uid, gid) => ` ${of(Number(uid))}:${of(Number(gid))} `)
          // On the host's side a capability names whose root it counts for.
          .replace(/security\.capability=\S+/, "security.capability");
      const expected = (await describeTree(join(box.dir, `bundle-${name}`, "rootfs"))).map(owners(known));
      const seen = (await describeTree(join(somebody.home, "tree"))).map(owners(inside));
      expect(comparable(seen, seen, true)).toEqual(comparable(expected, seen, true));
      const shown = await somebody.ocibox([
        "run",
        "--rm",
        rich,
        "sh",
        "-c",
        "cat /usr/lib/two; ls /var/lib/gone /var/lib/data",
      ]);
      expect(shown.out).toBe("two\n/var/lib/data:\n1\n3\n\n/var/lib/gone:\nnew\n");
    });

    test("in the end all of it can be removed", async () => {
      expect((await somebody.ocibox(["prune", "-a", "-f"])).code).toBe(0);
      expect(readdirSync(join(somebody.root, "image/blobs/sha256"))).toEqual([]);
      expect(readdirSync(join(somebody.root, "user-layers"))).toEqual([]);
      expect(somebody.left()).toEqual([]);
    });
  });
}

describe("refused", () => {
  test("where no user namespace can be made: as in a chroot", async () => {
    const somebody = new Person("none-at-all", false);
    const place = join(box.dir, "chroot");
    mkdirSync(place);
    const script = `mount --rbind / ${place} && exec chroot ${place} "$@"`;
    const inside = (...words: string[]): Bun.Subprocess<"ignore", "pipe", "pipe"> =>
      Bun.spawn(["unshare", "--mount", "sh", "-c", script, "sh", ...somebody.as([binary, ...words]).slice(6)], {
        stdio: ["ignore", "pipe", "pipe"],
        env: { PATH: process.env.PATH ?? "", HOME: somebody.home },
      });
    const told = inside("info");
    expect(await told.stdout.text()).toMatch(
      new RegExp(`^user: ${user.uid}\nisolation: none: no user namespace can be made, and so no container$`, "m"),
    );
    expect(await told.exited).toBe(0);
    const child = inside("run", "--rm", "alpine", "true");
    expect([await child.stderr.text(), await child.exited]).toEqual([
      "ocibox: cannot make a user namespace, which an ordinary user needs to be root of a container (user.max_user_namespaces, kernel.unprivileged_userns_clone or AppArmor may forbid it): operation not permitted\n",
      125,
    ]);
  });

  test("where there is no home", async () => {
    const child = Bun.spawn(new Person("homeless", false).as([binary, "run", "alpine", "true"]), {
      stdio: ["ignore", "pipe", "pipe"],
      env: { PATH: process.env.PATH ?? "" },
    });
    expect([await child.stderr.text(), await child.exited]).toEqual([
      "ocibox: there is no place for images: neither HOME nor XDG_DATA_HOME is set; set one of them, or OCIBOX_ROOT\n",
      125,
    ]);
  });
});
