/** What programs have come to rely on with runc, where the specification leaves it open or says it in few words. */
import { describe, expect } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Hook, Mount, Spec } from "../../src/spec/runtime.ts";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { testWith } from "../lib/needs.ts";
import { inventory, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["busybox", "setpriv", "taskset", "unshare"] };
const test = testWith(needs);
let box: Bundles;

around(needs, (owned) => {
  unchanged(owned, inventory);
  box = Bundles.ownedBy(owned, "grep", "stat", "rm");
});

type Full = Spec & { process: NonNullable<Spec["process"]>; linux: NonNullable<Spec["linux"]> };

/** A container of a shell's script, with what was changed. */
async function run(script: string, change: (spec: Full) => void = () => {}, ...flags: string[]) {
  box.write((spec) => {
    const full = spec as Full;
    full.process.args = ["sh", "-c", script];
    change(full);
  });
  return box.call("run", ...flags, "as-runc");
}

function sleeper(change: (spec: Full) => void = () => {}): void {
  box.write((spec) => {
    const full = spec as Full;
    full.process.args = ["sleep", "1000"];
    change(full);
  });
}

function pidOf(id: string): number {
  return Number.parseInt(readFileSync(join(box.root, id, "process"), "utf8"), 10);
}

/** A user namespace of the container's own. */
function mapped(spec: Full): void {
  spec.linux.namespaces?.push({ type: "user" });
  spec.linux.uidMappings = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
  spec.linux.gidMappings = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
  delete spec.linux.maskedPaths;
  delete spec.linux.readonlyPaths;
}

const rootfs = (path: string): string => join(box.bundle, "rootfs", path);

describe("the environment", () => {
  test("each variable once, the last that was given, and HOME in place of an empty one", async () => {
    const env = ["PATH=/bin", "ONE=1", "HOME=/first", "TWO=2", "ONE=three", "HOME="];
    const { out, err, code } = await run("env", (spec) => {
      spec.process.args = ["env"];
      spec.process.env = env;
    });
    expect([err, code]).toEqual(["", 0]);
    expect(out).toBe("PATH=/bin\nTWO=2\nONE=three\nHOME=/\n");
  });

  test("of exec, over the container's own", async () => {
    sleeper((spec) => spec.process.env?.push("ONE=1"));
    expect((await box.call("run", "-d", "as-runc")).code).toBe(0);
    try {
      const { out } = await box.call("exec", "-e", "ONE=2", "-e", "HOME=/tmp", "as-runc", "env");
      expect(out.trim().split("\n").sort()).toEqual(["HOME=/tmp", "ONE=2", "PATH=/bin"]);
    } finally {
      await box.call("delete", "-f", "as-runc");
    }
  });
});

describe("capabilities", () => {
  test("one that the kernel does not have, and an ambient one that cannot be, are warned of and left out", async () => {
    const log = join(box.dir, "capabilities.log");
    const change = (spec: Full): void => {
      const names = ["CAP_KILL", "CAP_CHOWN", "CAP_NEVER"];
      spec.process.capabilities = {
        bounding: [...names],
        effective: [...names],
        permitted: [...names],
        inheritable: ["CAP_KILL"],
        ambient: ["CAP_KILL", "CAP_CHOWN"],
      };
    };
    const ended = await run("grep Cap /proc/self/status", change);
    expect(ended.code).toBe(0);
    const unknown =
      'level=warning msg="warning: process.capabilities: ignoring what this kernel does not have: CAP_NEVER"\n';
    expect(ended.err.replaceAll(/time="[^"]*" /g, "")).toBe(unknown);
    expect((await box.call("--log", log, "run", "as-runc")).code).toBe(0);
    expect(readFileSync(log, "utf8").replaceAll(/time="[^"]*" /g, "")).toBe(
      `${unknown}level=warning msg="warning: process.capabilities.ambient: ignoring what is not permitted and inheritable as well: CAP_CHOWN"\n`,
    );
    expect(ended.out).toMatch(/CapInh:\t0{14}20\n.*CapEff:\t0{14}21\nCapBnd:\t0{14}21\nCapAmb:\t0{14}20\n/s);
  });

  test("exec --cap: ambient, too, where the container has inheritable ones", async () => {
    sleeper((spec) => {
      const all = ["CAP_KILL", "CAP_CHOWN"];
      spec.process.capabilities = { bounding: all, effective: all, permitted: all, inheritable: all };
    });
    expect((await box.call("run", "-d", "as-runc")).code).toBe(0);
    try {
      const { out } = await box.call("exec", "--cap", "CAP_CHOWN", "as-runc", "grep", "CapAmb", "/proc/self/status");
      expect(out).toBe(`CapAmb:\t${"0".repeat(15)}1\n`);
    } finally {
      await box.call("delete", "-f", "as-runc");
    }
  });
});

describe("hooks", () => {
  const sh = (script: string): Hook => ({ path: "/bin/sh", args: ["sh", "-c", script] });

  test("what one prints is told where it fails, in each format of the log, and nowhere else", async () => {
    const hooks = {
      createRuntime: [sh("echo unheard; echo unheard >&2"), sh("echo out; echo 'an \"err\"' >&2; exit 3")],
    };
    const log = join(box.dir, "log");
    box.write((spec) => Object.assign(spec, { hooks }));
    const ended = await box.call("--log", log, "--log-format", "json", "create", "as-runc");
    const words = 'error running createRuntime hook #1: "/bin/sh" ended with exit status 3: out\nan "err"';
    expect([ended.code, (JSON.parse(readFileSync(log, "utf8")) as { msg: string }).msg]).toEqual([1, words]);
    expect(ended.err).not.toContain("unheard");
    const killed = await run("true", (spec) => Object.assign(spec, { hooks: { createContainer: [sh("kill -9 $$")] } }));
    expect(killed.err).toContain('createContainer hook #0: \\"/bin/sh\\" was killed by signal 9"');
  });

  test("without an environment the runtime's hooks have the runtime's", async () => {
    const hook = sh('test "$PATH" = "$EXPECTED" || exit 9');
    const given = { ...hook, env: [`EXPECTED=${process.env.PATH}`] };
    const inherits = sh(`test "$PATH" = '${process.env.PATH}'`);
    for (const kind of ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] as const) {
      expect(await run("true", (spec) => void Object.assign(spec, { hooks: { [kind]: [inherits] } }))).toEqual({
        out: "",
        err: "",
        code: 0,
      });
    }
    const ended = await run("true", (spec) => Object.assign(spec, { hooks: { createRuntime: [given] } }));
    expect(ended.err).toContain("ended with exit status 9");
  });

  test("the runtime's environment is not to be found in the process that waits to be started", async () => {
    sleeper((spec) => void Object.assign(spec, { hooks: { createRuntime: [sh("true")] } }));
    expect((await box.call("create", "as-runc")).code).toBe(0);
    try {
      expect(readFileSync(`/proc/${pidOf("as-runc")}/environ`, "utf8").replaceAll("\u0000", "")).toBe("");
    } finally {
      await box.call("delete", "-f", "as-runc");
    }
  });

  test("createContainer's begins in the root, startContainer's has the process's environment", async () => {
    const ended = await run("cat /tmp/made /tmp/env; rm /tmp/made /tmp/env", (spec) => {
      spec.process.env?.push("ONE=1");
      spec.hooks = {
        createContainer: [sh("echo made > tmp/made")],
        startContainer: [sh("echo $ONE $PATH > /tmp/env"), { ...sh("echo $ONE none >> /tmp/env"), env: ["TWO=2"] }],
      };
    });
    expect(ended).toEqual({ out: "made\n1 /bin\nnone\n", err: "", code: 0 });
  });

  test("startContainer's is behind the process's filter", async () => {
    for (const noNewPrivileges of [true, false]) {
      const ended = await run("true", (spec) => {
        Object.assign(spec.process, { noNewPrivileges });
        spec.linux.seccomp = {
          defaultAction: "SCMP_ACT_ALLOW",
          syscalls: [
            { names: ["mkdir", "mkdirat"], action: "SCMP_ACT_KILL_PROCESS" },
            { names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: 38 },
          ],
        };
        spec.hooks = { startContainer: [{ path: "/bin/mkdir", args: ["mkdir", "/tmp/never"] }] };
      });
      expect([ended.code, ended.err]).toEqual([1, expect.stringContaining('"/bin/mkdir\\" was killed by signal 31"')]);
      expect(existsSync(rootfs("tmp/never"))).toBe(false);
    }
  });

  test("poststart's that fails ends the container", async () => {
    const failing = (spec: Full): void => void Object.assign(spec, { hooks: { poststart: [sh("exit 4")] } });
    const words = 'error running poststart hook #0: \\"/bin/sh\\" ended with exit status 4"';
    for (const flags of [[], ["-d"]]) {
      const ended = await run("sleep 1000", failing, ...flags);
      expect([ended.code, ended.err, box.left()]).toEqual([1, expect.stringContaining(words), []]);
    }
    sleeper(failing);
    expect((await box.call("create", "as-runc")).code).toBe(0);
    const started = await box.call("start", "as-runc");
    expect([started.code, started.err]).toEqual([1, expect.stringContaining(words)]);
    expect(await until(async () => (await box.status("as-runc")) === "stopped")).toBe(true);
    expect((await box.call("delete", "as-runc")).code).toBe(0);
  });
});

describe("cgroups", () => {
  const hierarchy = existsSync("/sys/fs/cgroup/cgroup.controllers") ? "" : "freezer/";
  const state = hierarchy === "" ? "cgroup.freeze" : "freezer.state";

  test("one with somebody in it, or that is frozen, is no container's", async () => {
    const path = `/ocibox-as-runc-${process.pid}`;
    sleeper((spec) => void Object.assign(spec.linux, { cgroupsPath: path }));
    expect((await box.call("run", "-d", "as-runc")).code).toBe(0);
    try {
      for (const verb of ["create", "run"]) {
        const { err, code } = await box.call(verb, "other");
        expect([code, err]).toEqual([1, expect.stringMatching(/container's cgroup is not empty: 1 process/)]);
      }
      expect(box.left()).toEqual(["as-runc"]);
    } finally {
      await box.call("delete", "-f", "as-runc");
    }
    const frozen = `/sys/fs/cgroup/${hierarchy}${path.slice(1)}`;
    mkdirSync(frozen);
    try {
      writeFileSync(join(frozen, state), hierarchy === "" ? "1" : "FROZEN");
      expect((await box.call("run", "other")).err).toContain("container's cgroup unexpectedly frozen");
      expect(box.left()).toEqual([]);
    } finally {
      rmdirSync(frozen);
    }
  });

  test("a container has the processors of its cgroup, whatever the runtime was bound to", async () => {
    const script = "grep Cpus_allowed_list /proc/self/status";
    const all = (await run(script)).out;
    expect(all).toMatch(/^Cpus_allowed_list:\t\d/);
    box.within = ["taskset", "-c", "0"];
    try {
      expect((await run(script)).out).toBe(all);
      sleeper();
      expect((await box.call("run", "-d", "as-runc")).code).toBe(0);
      expect((await box.call("exec", "as-runc", "sh", "-c", script)).out).toBe(all);
    } finally {
      box.within = [];
      await box.call("delete", "-f", "as-runc");
    }
  });
});

describe("mounts", () => {
  const add =
    (...mounts: Mount[]) =>
    (spec: Full): void =>
      void spec.mounts?.push(...mounts);

  test("a tmpfs without a mode has that of the directory it covers, where there is one", async () => {
    mkdirSync(rootfs("covered"));
    chmodSync(rootfs("covered"), 0o2710);
    const at = (destination: string, ...options: string[]): Mount => ({
      destination,
      type: "tmpfs",
      source: "t",
      options,
    });
    const mounts = add(at("/covered"), at("/made"), at("/covered/inner"), at("/asked", "mode=0555"));
    expect((await run("stat -c %a /covered /made /covered/inner /asked", mounts)).out).toBe("2710\n1777\n1777\n555\n");
    for (const name of ["covered", "made", "asked"]) rmSync(rootfs(name), { recursive: true });
  });

  test("a tmpfs that is read-only, /dev as well, has all that was made in it", async () => {
    const ended = await run("cat /ro/file; ls /dev/null /dev/pts/ptmx; touch /ro/new; touch /dev/new", (spec) => {
      for (const mount of spec.mounts ?? []) if (mount.destination === "/dev") mount.options?.push("ro");
      add(
        { destination: "/ro", type: "tmpfs", source: "t", options: ["ro"] },
        { destination: "/ro/file", type: "bind", source: join(box.bundle, "config.json"), options: ["bind"] },
      )(spec);
    });
    expect(ended.out).toMatch(/^\{.*\}\/dev\/null\n\/dev\/pts\/ptmx\n$/s);
    expect(ended.err.match(/Read-only file system/g)?.length).toBe(2);
    rmSync(rootfs("ro"), { recursive: true });
  });

  test("proc and sysfs are mounted where no link of the image's leads", async () => {
    rmdirSync(rootfs("proc"));
    mkdirSync(rootfs("elsewhere"));
    symlinkSync("elsewhere", rootfs("proc"));
    try {
      const ended = await run("true");
      expect([ended.code, ended.err]).toEqual([
        1,
        expect.stringContaining("proc must be mounted on ordinary directory"),
      ]);
    } finally {
      rmSync(rootfs("proc"));
      rmdirSync(rootfs("elsewhere"));
      mkdirSync(rootfs("proc"));
    }
  });

  test("what is mounted on a link that leads to nothing is where it leads, and never outside", async () => {
    const links = {
      "file-link": "/new/dir/file",
      relative: "../../../up/here/./file",
      "dir-link": "chain",
      chain: "new/tree",
    };
    for (const [name, target] of Object.entries(links)) symlinkSync(target, rootfs(name));
    symlinkSync("circle", rootfs("circle"));
    const file = (destination: string): Mount => ({
      destination,
      type: "bind",
      source: join(box.bundle, "config.json"),
      options: ["bind"],
    });
    try {
      const ended = await run(
        "for each in /new/dir/file /up/here/file /new/tree/below; do test -s $each && echo $each; done",
        add(file("/file-link"), file("/relative"), file("/dir-link/below")),
      );
      expect(ended).toEqual({ out: "/new/dir/file\n/up/here/file\n/new/tree/below\n", err: "", code: 0 });
      expect(lstatSync(rootfs("file-link")).isSymbolicLink()).toBe(true);
      const circle = await run("true", add(file("/circle")));
      expect(circle.err).toMatch(/openat2\(\d+, \\"circle\\"\) failed: too many levels .*asked for by mounts\[3\]/);
    } finally {
      for (const name of [...Object.keys(links), "circle", "new", "up"])
        rmSync(rootfs(name), { recursive: true, force: true });
    }
  });

  test("in a user namespace a bind's source may lie where its root cannot go", async () => {
    const hidden = join(box.dir, "hidden");
    mkdirSync(join(hidden, "deep"), { recursive: true });
    chmodSync(hidden, 0o700);
    writeFileSync(join(hidden, "deep/file"), "found\n");
    chownSync(rootfs(""), 100_000, 100_000);
    try {
      const ended = await run("cat /seen/file; id -u", (spec) => {
        mapped(spec);
        add({ destination: "/seen", type: "bind", source: join(hidden, "deep"), options: ["rbind"] })(spec);
      });
      expect(ended).toEqual({ out: "found\n0\n", err: "", code: 0 });
    } finally {
      chownSync(rootfs(""), 0, 0);
    }
  });
});

describe("a user namespace of the container's own", () => {
  test("its time namespace is its own, for root and for an ordinary user", async () => {
    const place = join(box.dir, "user");
    const nobody = 65_534;
    mkdirSync(place);
    chownSync(place, nobody, nobody);
    const clocks = (spec: Full): void => {
      mapped(spec);
      spec.linux.namespaces?.push({ type: "time" });
      spec.linux.timeOffsets = { monotonic: { secs: 1000, nanosecs: 5 } };
    };
    chownSync(rootfs(""), 100_000, 100_000);
    const script =
      "cat /proc/self/timens_offsets; [ $(readlink /proc/self/ns/time) = $(readlink /proc/1/ns/time) ] && echo same";
    const expected = /^monotonic +1000 +5\nboottime +0 +0\nsame\n$/;
    try {
      const { out, err } = await run(script, clocks);
      expect([out, err]).toEqual([expect.stringMatching(expected), ""]);
      chownSync(rootfs(""), nobody, nobody);
      box.within = ["setpriv", "--reuid", String(nobody), "--regid", String(nobody), "--clear-groups"];
      box.write((spec) => {
        clocks(spec as Full);
        for (const mount of spec.mounts ?? []) mount.options = mount.options?.filter((each) => each !== "gid=5") ?? [];
        Object.assign(spec.linux ?? {}, {
          uidMappings: [{ containerID: 0, hostID: nobody, size: 1 }],
          gidMappings: [{ containerID: 0, hostID: nobody, size: 1 }],
        });
        Object.assign(spec.process ?? {}, { args: ["sh", "-c", script] });
      });
      const own = await box.call("--root", join(place, "state"), "run", "as-runc");
      expect([own.out, own.err]).toEqual([expect.stringMatching(expected), ""]);
    } finally {
      box.within = [];
      chownSync(rootfs(""), 0, 0);
    }
  });

  test("tmpcopyup: owners as the container has them", async () => {
    mkdirSync(rootfs("copied"));
    for (const [name, owner] of [
      ["mine", 100_000],
      ["theirs", 100_007],
      ["nobodys", 5],
    ] as const) {
      writeFileSync(rootfs(`copied/${name}`), "");
      chownSync(rootfs(`copied/${name}`), owner, owner);
    }
    chownSync(rootfs(""), 100_000, 100_000);
    try {
      const ended = await run("cd /copied; stat -c '%n %u:%g' *", (spec) => {
        mapped(spec);
        spec.mounts?.push({ destination: "/copied", type: "tmpfs", source: "t", options: ["tmpcopyup"] });
      });
      expect(ended).toEqual({ out: "mine 0:0\nnobodys 0:0\ntheirs 7:7\n", err: "", code: 0 });
    } finally {
      rmSync(rootfs("copied"), { recursive: true });
      chownSync(rootfs(""), 0, 0);
    }
  });
});

describe("namespaces by their paths", () => {
  test("a user and a PID namespace together: the process is known by its number on the host", async () => {
    chownSync(rootfs(""), 100_000, 100_000);
    sleeper(mapped);
    try {
      expect(await box.call("run", "-d", "first")).toEqual({ out: "", err: "", code: 0 });
      const first = pidOf("first");
      const kinds = ["user", "pid", "network", "ipc", "uts"] as const;
      const name = (kind: string): string => (kind === "network" ? "net" : kind);
      sleeper((spec) => {
        delete spec.hostname;
        spec.linux.namespaces = [
          { type: "mount" },
          ...kinds.map((type) => ({ type, path: `/proc/${first}/ns/${name(type)}` })),
        ];
        delete spec.linux.maskedPaths;
        delete spec.linux.readonlyPaths;
      });
      expect(await box.call("run", "-d", "second")).toEqual({ out: "", err: "", code: 0 });
      const second = pidOf("second");
      for (const kind of kinds)
        expect(readlinkSync(`/proc/${second}/ns/${name(kind)}`)).toBe(readlinkSync(`/proc/${first}/ns/${name(kind)}`));
      expect(readFileSync(`/proc/${second}/cmdline`, "utf8")).toBe("sleep\u00001000\u0000");
      const seen = await box.call(
        "exec",
        "second",
        "sh",
        "-c",
        "readlink /proc/self/ns/user; readlink /proc/self/ns/mnt",
      );
      expect(seen.out).toBe(["user", "mnt"].map((kind) => `${readlinkSync(`/proc/${second}/ns/${kind}`)}\n`).join(""));
      expect((await box.call("kill", "second", "KILL")).code).toBe(0);
      expect(await until(async () => (await box.status("second")) === "stopped")).toBe(true);
      expect(await box.status("first")).toBe("running");
    } finally {
      for (const id of ["second", "first"]) await box.call("delete", "-f", id);
      chownSync(rootfs(""), 0, 0);
    }
  });

  test("a network of the host's for a container with a user namespace, new or another's", async () => {
    const keeper = Bun.spawn(["unshare", "--net", "sleep", "1000"]);
    chownSync(rootfs(""), 100_000, 100_000);
    const net = `/proc/${keeper.pid}/ns/net`;
    try {
      expect(await until(() => readlinkSync(net) !== readlinkSync("/proc/self/ns/net"))).toBe(true);
      const join_ = (spec: Full): void => {
        for (const each of spec.linux.namespaces ?? []) if (each.type === "network") each.path = net;
      };
      const script = "readlink /proc/self/ns/net";
      const made = await run(script, (spec) => {
        mapped(spec);
        join_(spec);
      });
      expect(made).toEqual({ out: `${readlinkSync(net)}\n`, err: "", code: 0 });
      sleeper(mapped);
      expect((await box.call("run", "-d", "first")).code).toBe(0);
      const joined = await run(script, (spec) => {
        join_(spec);
        spec.linux.namespaces?.push({ type: "user", path: `/proc/${pidOf("first")}/ns/user` });
        delete spec.linux.maskedPaths;
        delete spec.linux.readonlyPaths;
      });
      expect(joined).toEqual({ out: `${readlinkSync(net)}\n`, err: "", code: 0 });
    } finally {
      await box.call("delete", "-f", "first");
      keeper.kill();
      await keeper.exited;
      chownSync(rootfs(""), 0, 0);
    }
  });

  test("ids of a mount are mapped as in the user namespace that is joined", async () => {
    const source = join(box.dir, "idmapped");
    mkdirSync(source);
    writeFileSync(join(source, "file"), "");
    chownSync(join(source, "file"), 7, 8);
    chownSync(rootfs(""), 100_000, 100_000);
    sleeper(mapped);
    try {
      expect((await box.call("run", "-d", "first")).code).toBe(0);
      const ended = await run("stat -c %u:%g /seen/file", (spec) => {
        spec.linux.namespaces?.push({ type: "user", path: `/proc/${pidOf("first")}/ns/user` });
        delete spec.linux.maskedPaths;
        delete spec.linux.readonlyPaths;
        spec.mounts?.push({ destination: "/seen", type: "bind", source, options: ["bind", "idmap"] });
      });
      expect(ended).toEqual({ out: "7:8\n", err: "", code: 0 });
    } finally {
      await box.call("delete", "-f", "first");
      chownSync(rootfs(""), 0, 0);
    }
  });
});

test("run.oci.keep_original_groups leaves the runtime's own groups, for exec as well", async () => {
  const write = (annotations: Record<string, string>): void =>
    box.write((spec) => {
      if (spec.process === undefined) return;
      spec.process.args = ["id", "-G"];
      spec.process.user = { uid: 0, gid: 0, additionalGids: [7] };
      spec.annotations = annotations;
    });
  box.within = ["setpriv", "--groups", "5,6"];
  try {
    // Three times each: the last is made by a template, of which there is one for either kind.
    for (let round = 0; round < 3; round++)
      for (const [annotations, seen] of [
        [{}, "0 7"],
        [{ "run.oci.keep_original_groups": "1" }, "0 5 6"],
      ] as const) {
        write(annotations);
        expect(await box.call("run", "as-runc")).toEqual({ out: `${seen}\n`, err: "", code: 0 });
      }
    box.write((spec) => {
      if (spec.process !== undefined) spec.process.args = ["sleep", "1000"];
      spec.annotations = { "run.oci.keep_original_groups": "1" };
    });
    expect((await box.call("run", "-d", "as-runc")).code).toBe(0);
    expect((await box.call("exec", "as-runc", "id", "-G")).out).toBe("0 5 6\n");
  } finally {
    box.within = [];
    await box.call("delete", "-f", "as-runc");
  }
});

describe("kill", () => {
  test("TERM ends a container that waits to be started", async () => {
    sleeper();
    expect((await box.call("create", "as-runc")).code).toBe(0);
    expect(await box.call("kill", "as-runc", "USR1")).toEqual({ out: "", err: "", code: 0 });
    expect(await box.status("as-runc")).toBe("created");
    expect(await box.call("kill", "as-runc")).toEqual({ out: "", err: "", code: 0 });
    expect(await until(async () => (await box.status("as-runc")) === "stopped")).toBe(true);
    expect((await box.call("delete", "as-runc")).code).toBe(0);
  });

  test("KILL reaches those who are left where the first process is gone", async () => {
    sleeper((spec) => {
      spec.linux.namespaces = spec.linux.namespaces?.filter(({ type }) => type !== "pid") ?? [];
    });
    expect((await box.call("run", "-d", "as-runc")).code).toBe(0);
    try {
      const file = join(box.dir, "other.pid");
      expect((await box.call("exec", "-d", "--pid-file", file, "as-runc", "sleep", "1000")).code).toBe(0);
      const other = readFileSync(file, "utf8");
      const ended = (pid: number | string): boolean =>
        !existsSync(`/proc/${pid}`) || / [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
      const first = pidOf("as-runc");
      process.kill(first, "SIGKILL");
      expect(await until(() => ended(first))).toBe(true);
      expect([await box.status("as-runc"), ended(other)]).toEqual(["stopped", false]);
      expect(await box.call("kill", "as-runc", "KILL")).toEqual({ out: "", err: "", code: 0 });
      expect(await until(() => ended(other))).toBe(true);
      expect(await until(async () => (await box.call("kill", "as-runc", "KILL")).code === 1)).toBe(true);
    } finally {
      await box.call("delete", "-f", "as-runc");
    }
  });
});

describe("words", () => {
  test("--debug says what is done, on stderr or in the log", async () => {
    box.command("true");
    const { err, code } = await box.call("--debug", "run", "as-runc");
    expect([code, err]).toEqual([0, expect.stringMatching(/^time="[^"]+" level=debug msg="ocibox .*: run as-runc"\n/)]);
    const log = join(box.dir, "debug.log");
    expect(await box.call("--debug", "--log", log, "run", "as-runc")).toEqual({ out: "", err: "", code: 0 });
    expect(readFileSync(log, "utf8")).toContain("level=debug");
  });

  test("checkpoint's help is help", async () => {
    expect(await box.call("checkpoint", "-h")).toMatchObject({
      code: 0,
      err: "",
      out: expect.stringContaining("checkpoint"),
    });
  });
});
