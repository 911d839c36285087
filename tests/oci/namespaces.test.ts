/** Namespaces that are joined by their path, the user namespace among them; mounts with other owners; clocks. */
import { describe, expect } from "bun:test";
import { chownSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Spec } from "../../src/spec/runtime.ts";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { testWith } from "../lib/needs.ts";
import { binary, inventory, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["busybox", "unshare"] };
const test = testWith(needs);
let box: Bundles;

around(needs, (owned) => {
  unchanged(owned, inventory);
  box = Bundles.ownedBy(owned, "stat", "date");
  // Root of a user namespace is somebody else to this tree, and cannot make them.
  for (const name of ["proc", "dev", "own", "theirs", "plain"]) mkdirSync(join(box.bundle, "rootfs", name));
});

function mapped(spec: Spec, hostID = 100_000, size = 65_536): void {
  if (spec.linux === undefined) return;
  spec.linux.namespaces?.push({ type: "user" });
  spec.linux.uidMappings = [{ containerID: 0, hostID, size }];
  spec.linux.gidMappings = [{ containerID: 0, hostID, size }];
  delete spec.linux.maskedPaths;
  delete spec.linux.readonlyPaths;
}

describe("a user namespace by its path", () => {
  test("what is made belongs to it; exec and delete go on as ever", async () => {
    box.write((spec) => {
      mapped(spec);
      if (spec.process !== undefined) spec.process.args = ["sleep", "1000"];
    });
    expect(await box.call("run", "-d", "first")).toMatchObject({ code: 0, err: "" });
    try {
      const pid = Number.parseInt(readFileSync(join(box.root, "first/process"), "utf8"), 10);
      const join_ = (spec: Spec, ...args: string[]): void => {
        if (spec.linux === undefined || spec.process === undefined) return;
        spec.process.args = args;
        spec.process.user = { uid: 5, gid: 6 };
        spec.linux.namespaces?.push({ type: "user", path: `/proc/${pid}/ns/user` });
        delete spec.linux.maskedPaths;
        delete spec.linux.readonlyPaths;
      };
      box.write((spec) =>
        join_(
          spec,
          "sh",
          "-c",
          "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user; hostname; echo $$; exit 3",
        ),
      );
      const user = readlinkSync(`/proc/${pid}/ns/user`);
      expect(await box.call("run", "second")).toEqual({
        out: `5\n         0     100000      65536\n${user}\nbundle\n1\n`,
        err: "",
        code: 3,
      });
      box.write((spec) => join_(spec, "sleep", "1000"));
      const pidFile = join(box.dir, "second.pid");
      expect(await box.call("create", "--pid-file", pidFile, "second")).toEqual({ out: "", err: "", code: 0 });
      const second = readFileSync(pidFile, "utf8");
      expect(readlinkSync(`/proc/${second}/ns/user`)).toBe(user);
      expect(readlinkSync(`/proc/${second}/ns/net`)).not.toBe(readlinkSync(`/proc/${pid}/ns/net`));
      expect(readFileSync(`/proc/${second}/status`, "utf8")).toMatch(/^Uid:\t100005\t/m);
      expect((await box.call("start", "second")).code).toBe(0);
      expect(await box.call("exec", "second", "id", "-u")).toEqual({ out: "5\n", err: "", code: 0 });
      expect(await box.call("delete", "-f", "second")).toEqual({ out: "", err: "", code: 0 });
      // Every step of it, failing.
      box.write((spec) => join_(spec, "true"));
      const steps = (await box.call("create", "--explain", "second")).out.split("\n").length;
      const wrong: string[] = [];
      const lane = async (first: number, id: string): Promise<void> => {
        for (let step = first; step < steps; step += 2) {
          const ended = await box.call("create", "--inject", `${step}=EIO`, id);
          if (ended.code !== 0 && !/failed: |cannot /.test(ended.err)) wrong.push(`step ${step}: ${ended.err}`);
          if (box.left().includes(id)) await box.call("delete", "-f", id);
          if (box.left().includes(id)) wrong.push(`step ${step}: it is still there`);
        }
      };
      await Promise.all([lane(0, "second-even"), lane(1, "second-odd")]);
      expect(wrong).toEqual([]);
      expect(box.left()).toEqual(["first"]);
    } finally {
      await box.call("delete", "-f", "first");
    }
  }, 120_000);
});

test("in a user namespace that root has made: the oom score, and message queues, which are its root's", async () => {
  const look = (spec: Spec, namespace: object): void => {
    if (spec.linux === undefined || spec.process === undefined) return;
    spec.process.oomScoreAdj = 123;
    spec.process.args = ["sh", "-c", "cat /proc/self/oom_score_adj; stat -c %u:%g /dev/mqueue"];
    spec.mounts?.push({ destination: "/dev/mqueue", type: "mqueue", source: "mqueue" });
    Object.assign(spec.linux, namespace);
  };
  const seen = { out: "123\n0:0\n", err: "", code: 0 };
  box.write((spec) => {
    mapped(spec);
    look(spec, {});
  });
  expect(await box.call("run", "new")).toEqual(seen);
  box.write((spec) => {
    mapped(spec);
    if (spec.process !== undefined) spec.process.args = ["sleep", "1000"];
  });
  expect((await box.call("run", "-d", "first")).code).toBe(0);
  try {
    const pid = Number.parseInt(readFileSync(join(box.root, "first/process"), "utf8"), 10);
    box.write((spec) => {
      spec.linux?.namespaces?.push({ type: "user", path: `/proc/${pid}/ns/user` });
      look(spec, { maskedPaths: [], readonlyPaths: [] });
    });
    expect(await box.call("run", "joined")).toEqual(seen);
  } finally {
    await box.call("delete", "-f", "first");
  }
});

test("a user namespace's path that leads to another namespace, or to none, is an error", async () => {
  for (const [path, why] of [
    ["/proc/self/ns/uts", "invalid argument"],
    ["/etc/passwd", "inappropriate ioctl for device"],
  ] as const) {
    box.write((spec) => {
      if (spec.process !== undefined) spec.process.args = ["true"];
      spec.linux?.namespaces?.push({ type: "user", path });
    });
    const ended = await box.call("run", "wrong");
    expect(ended.code).toBe(1);
    expect(ended.err).toContain(
      `cannot join linux.namespaces[user].path, as \\"${path}\\" is no user namespace: ${why}`,
    );
  }
  // The one that it is in already is no error.
  box.write((spec) => {
    if (spec.process !== undefined) spec.process.args = ["readlink", "/proc/self/ns/user"];
    spec.linux?.namespaces?.push({ type: "user", path: "/proc/self/ns/user" });
  });
  const own = await box.call("run", "own");
  expect(own).toEqual({ out: `${readlinkSync("/proc/self/ns/user")}\n`, err: "", code: 0 });
});

test("a pid, a network, an ipc and an uts namespace of another container", async () => {
  box.command("sleep", "1000");
  expect((await box.call("run", "-d", "pause")).code).toBe(0);
  try {
    const pid = Number.parseInt(readFileSync(join(box.root, "pause/process"), "utf8"), 10);
    box.write((spec) => {
      if (spec.linux === undefined || spec.process === undefined) return;
      delete spec.hostname;
      spec.process.args = [
        "sh",
        "-c",
        "for each in pid net ipc uts; do readlink /proc/self/ns/$each; done; [ $$ != 1 ] && echo a child",
      ];
      spec.linux.namespaces = [
        { type: "mount" },
        ...(["pid", "network", "ipc", "uts"] as const).map((type) => ({
          type,
          path: `/proc/${pid}/ns/${type === "network" ? "net" : type}`,
        })),
      ];
    });
    const own = ["pid", "net", "ipc", "uts"].map((kind) => readlinkSync(`/proc/${pid}/ns/${kind}`));
    expect(await box.call("run", "sidecar")).toEqual({ out: `${[...own, "a child"].join("\n")}\n`, err: "", code: 0 });
  } finally {
    await box.call("delete", "-f", "pause");
  }
});

describe("mounts with mapped ids", () => {
  test("by mappings of their own, and by the container's", async () => {
    const source = join(box.dir, "shared");
    mkdirSync(source);
    writeFileSync(join(source, "file"), "x");
    chownSync(join(source, "file"), 0, 0);
    box.write((spec) => {
      mapped(spec);
      if (spec.process !== undefined)
        spec.process.args = ["sh", "-c", "stat -c %u:%g /own/file /theirs/file /plain/file; touch /own/new"];
      const mappings = [{ containerID: 0, hostID: 100_000, size: 1000 }];
      spec.mounts?.push(
        { destination: "/own", type: "bind", source, options: ["bind"], uidMappings: mappings, gidMappings: mappings },
        { destination: "/theirs", type: "bind", source, options: ["rbind", "ridmap", "ro"] },
        { destination: "/plain", type: "bind", source, options: ["bind"] },
      );
    });
    expect(await box.call("run", "idmapped")).toEqual({ out: "0:0\n0:0\n65534:65534\n", err: "", code: 0 });
    // What root of the container makes there is root's on the host.
    expect(Bun.spawnSync(["stat", "-c", "%u:%g", join(source, "new")]).stdout.toString()).toBe("0:0\n");
  });

  test("without any mapping, and for what is no bind: refused by their place", async () => {
    box.write((spec) =>
      spec.mounts?.push({ destination: "/x", type: "bind", source: "/tmp", options: ["bind", "idmap"] }),
    );
    expect((await box.call("create", "wrong")).err).toContain("mounts[3].options: idmap wants mappings");
    box.write((spec) => spec.mounts?.push({ destination: "/x", type: "tmpfs", source: "x", options: ["idmap"] }));
    expect((await box.call("create", "wrong")).err).toContain("mounts[3]: ids are mapped for bind mounts alone");
    expect(box.left()).toEqual([]);
  });
});

test("timeOffsets", async () => {
  box.write((spec) => {
    if (spec.linux === undefined || spec.process === undefined) return;
    spec.linux.namespaces?.push({ type: "time" });
    spec.linux.timeOffsets = { monotonic: { secs: 1000, nanosecs: 5 }, boottime: { secs: 1_000_000 } };
    spec.process.args = ["sh", "-c", "cat /proc/self/timens_offsets; cat /proc/uptime"];
  });
  const { out, code } = await box.call("run", "clocks");
  expect(code).toBe(0);
  expect(out).toMatch(/^monotonic +1000 +5\nboottime +1000000 +0\n/);
  expect(Number(out.split("\n")[2]?.split(" ")[0])).toBeGreaterThan(1_000_000);
  expect(await until(() => box.left().length === 0)).toBe(true);
});

describe("without a mount namespace", () => {
  const mounts = (): string => readFileSync("/proc/self/mountinfo", "utf8");
  /** With a mount that is shared above the root's place, as systemd has them. */
  const mountless = (spec: Spec, ...args: string[]): void => {
    if (spec.linux === undefined || spec.process === undefined) return;
    spec.linux.namespaces = spec.linux.namespaces?.filter(({ type }) => type !== "mount") ?? [];
    spec.process.args = args;
    spec.linux.maskedPaths = ["/proc/kcore", "/proc/irq"];
  };

  test("its root is the bundle's, in the host's namespace; what is mounted goes with it", async () => {
    const before = mounts();
    box.write((spec) => mountless(spec, "sh", "-c", "readlink /proc/self/ns/mnt; ls /; ls /proc/irq; exit 3"));
    const names = readdirSync(join(box.bundle, "rootfs")).sort().join("\n");
    expect(await box.call("run", "mountless")).toEqual({
      out: `${readlinkSync("/proc/self/ns/mnt")}\n${names}\n`,
      err: "",
      code: 3,
    });
    expect(mounts()).toBe(before);
  });

  test("create, start, exec, delete; one that was never started; one whose supervisor was killed", async () => {
    const before = mounts();
    box.write((spec) => mountless(spec, "sleep", "1000"));
    try {
      expect(await box.call("create", "mountless")).toEqual({ out: "", err: "", code: 0 });
      expect(mounts()).toContain(` ${box.root}/mountless/root `);
      expect((await box.call("start", "mountless")).code).toBe(0);
      const inside = await box.call(
        "exec",
        "mountless",
        "sh",
        "-c",
        "test -e /bin/busybox && pwd; ls -d /../proc; test -e /etc || echo no host",
      );
      expect(inside).toEqual({ out: "/\n/../proc\nno host\n", err: "", code: 0 });
      expect(await box.call("delete", "-f", "mountless")).toEqual({ out: "", err: "", code: 0 });
      expect(mounts()).toBe(before);
      expect((await box.call("create", "mountless")).code).toBe(0);
      expect(await box.call("delete", "mountless")).toEqual({ out: "", err: "", code: 0 });
      expect(mounts()).toBe(before);
      const supervised = Bun.spawn([binary, "oci", "--root", box.root, "run", "mountless"], {
        cwd: box.bundle,
        stdio: ["ignore", "ignore", "ignore"],
      });
      expect(await until(async () => (await box.status("mountless")) === "running")).toBe(true);
      supervised.kill("SIGKILL");
      await supervised.exited;
      expect((await box.call("delete", "-f", "mountless")).code).toBe(0);
      expect(mounts()).toBe(before);
    } finally {
      await box.call("delete", "-f", "mountless");
    }
    expect(box.left()).toEqual([]);
  });

  test("where the host's mounts are shared with another namespace, that one sees nothing of it in the end", async () => {
    box.write((spec) => mountless(spec, "cat", "/proc/self/mountinfo"));
    const script = [
      "mount --make-rshared / && before=$(cat /proc/self/mountinfo)",
      "unshare --mount --propagation unchanged sleep 1000 & peer=$!",
      'while [ "$(readlink /proc/$peer/ns/mnt)" = "$(readlink /proc/self/ns/mnt)" ]; do sleep 0.01; done',
      "there=$(cat /proc/$peer/mountinfo)",
      '"$@"; code=$?',
      '[ "$before" = "$(cat /proc/self/mountinfo)" ] || echo "left here"',
      '[ "$there" = "$(cat /proc/$peer/mountinfo)" ] || echo "left there"',
      "kill $peer; exit $code",
    ].join("\n");
    const [out, err] = [join(box.dir, "shared.out"), join(box.dir, "shared.err")];
    const child = Bun.spawn(
      ["unshare", "--mount", "sh", "-c", script, "sh", binary, "oci", "--root", box.root, "run", "mountless"],
      { cwd: box.bundle, stdio: ["ignore", Bun.file(out), Bun.file(err)] },
    );
    expect([await child.exited, readFileSync(err, "utf8")]).toEqual([0, ""]);
    // The root is not shared, or all that is mounted in it would be there twice.
    const seen = readFileSync(out, "utf8");
    expect(seen).toMatch(/ \/proc rw,relatime - proc /);
    expect(seen).not.toMatch(/left|shared:/);
  });

  test("a step that fails, whichever it is, leaves no mount", async () => {
    box.write((spec) => mountless(spec, "true"));
    const steps = (await box.call("create", "--explain", "mountless")).out.split("\n").length;
    expect(steps).toBeGreaterThan(200);
    const wrong: string[] = [];
    const lane = async (first: number, id: string): Promise<void> => {
      for (let step = first; step < steps; step += 2) {
        const ended = await box.call("create", "--inject", `${step}=EIO`, id);
        if (ended.code === 0) await box.call("delete", "-f", id);
        else if (box.left().includes(id) && (await box.call("delete", "-f", id)).code !== 0)
          wrong.push(`step ${step}: it cannot be deleted`);
        if (mounts().includes(`/${id}/root`)) wrong.push(`step ${step}: ${ended.err}`);
      }
    };
    await Promise.all([lane(0, "mountless-even"), lane(1, "mountless-odd")]);
    expect(wrong).toEqual([]);
    expect(box.left()).toEqual([]);
  }, 120_000);

  test("what it contradicts is refused", async () => {
    box.write((spec) => {
      mapped(spec);
      mountless(spec, "true");
    });
    expect((await box.call("run", "mountless")).err).toContain("a user namespace and no mount namespace");
    box.write((spec) => {
      mountless(spec, "true");
      if (spec.linux !== undefined) spec.linux.rootfsPropagation = "private";
    });
    expect((await box.call("run", "mountless")).err).toContain("linux.rootfsPropagation wants a mount namespace");
  });
});
