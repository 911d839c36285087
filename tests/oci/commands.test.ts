/** spec, features, update, events, checkpoint: what they print, and what they do to a container that runs. */
import { describe, expect } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { testWith } from "../lib/needs.ts";
import { binary, inventory, until } from "../lib/sandbox.ts";
import { violations } from "../lib/schema.ts";

const needs = { root: true, programs: ["busybox", "runc"] };
const test = testWith(needs);
let box: Bundles;

around(needs, (owned) => {
  unchanged(owned, inventory);
  box = Bundles.ownedBy(owned);
});

interface Spec {
  process: { args: string[]; terminal: boolean };
  linux: { namespaces: { type: string }[]; uidMappings?: object[] };
}

describe("spec", () => {
  test("is valid, runs, and has what runc's has", async () => {
    const config = join(box.bundle, "config.json");
    for (const flags of [[], ["--rootless"]]) {
      rmSync(config, { force: true });
      expect(await box.call("spec", ...flags)).toEqual({ out: "", err: "", code: 0 });
      const ours = JSON.parse(readFileSync(config, "utf8")) as Spec;
      expect(violations("config-schema.json", ours)).toEqual([]);
      const again = await box.call("spec");
      expect([again.code, again.err]).toEqual([1, expect.stringContaining("File config.json exists. Remove it first")]);
      rmSync(config);
      Bun.spawnSync(["runc", "spec", ...flags], { cwd: box.bundle });
      const theirs = JSON.parse(readFileSync(config, "utf8")) as Spec;
      // Newer runcs have a cgroup namespace and two masks more than Debian's.
      expect(
        ours.linux.namespaces
          .map(({ type }) => type)
          .filter((type) => type !== "cgroup")
          .sort(),
      ).toEqual(
        theirs.linux.namespaces
          .map(({ type }) => type)
          .filter((type) => type !== "cgroup")
          .sort(),
      );
      expect(Object.keys(ours).sort()).toEqual(Object.keys(theirs).sort());
      expect(ours.linux.uidMappings).toEqual(theirs.linux.uidMappings as object[]);
    }
    rmSync(config);
    await box.call("spec", "-b", box.bundle);
    const spec = JSON.parse(readFileSync(config, "utf8")) as Spec;
    spec.process.args = ["echo", "as it comes"];
    spec.process.terminal = false;
    writeFileSync(config, JSON.stringify(spec));
    expect(await box.call("run", "example")).toEqual({ out: "as it comes\n", err: "", code: 0 });
  });
});

describe("features", () => {
  test("is valid, and knows all that runc knows", async () => {
    const { out, code } = await box.call("features");
    expect(code).toBe(0);
    const ours = JSON.parse(out) as { mountOptions: string[]; linux: { namespaces: string[]; capabilities: string[] } };
    expect(violations("features-schema.json", ours)).toEqual([]);
    const theirs = JSON.parse(Bun.spawnSync(["runc", "features"]).stdout.toString()) as typeof ours;
    for (const option of theirs.mountOptions) expect(ours.mountOptions).toContain(option);
    for (const name of theirs.linux.namespaces) expect(ours.linux.namespaces).toContain(name);
    expect(ours.linux.capabilities).toEqual(expect.arrayContaining(theirs.linux.capabilities));
  });

  test("the schema's own good and bad", () => {
    const folder = "tests/fixtures/runtime-spec/test/features";
    for (const name of readdirSync(join(folder, "good")))
      expect(violations("features-schema.json", JSON.parse(readFileSync(join(folder, "good", name), "utf8")))).toEqual(
        [],
      );
    for (const name of readdirSync(join(folder, "bad")))
      expect(
        violations("features-schema.json", JSON.parse(readFileSync(join(folder, "bad", name), "utf8"))),
      ).not.toEqual([]);
  });
});

function cgroupFile(id: string, controller: string, v1: string, v2: string): string {
  const { cgroups } = JSON.parse(readFileSync(join(box.root, id, "state.json"), "utf8")) as {
    cgroups: { mode: string; directories: string[] };
  };
  const directory =
    cgroups.mode === "v2"
      ? cgroups.directories[0]
      : cgroups.directories.find((each) => (each.split("/")[4] ?? "").split(",").includes(controller));
  return readFileSync(join(directory ?? "", cgroups.mode === "v2" ? v2 : v1), "utf8").trim();
}

describe("update", () => {
  test("by flags, by a file, by stdin", async () => {
    box.command("sleep", "1000");
    expect((await box.call("run", "-d", "changing")).code).toBe(0);
    try {
      const memory = (): string => cgroupFile("changing", "memory", "memory.limit_in_bytes", "memory.max");
      const pids = (): string => cgroupFile("changing", "pids", "pids.max", "pids.max");
      expect(await box.call("update", "--memory", "50M", "--pids-limit", "33", "changing")).toMatchObject({
        code: 0,
        err: "",
      });
      expect([memory(), pids()]).toEqual([String(50 << 20), "33"]);
      const file = join(box.dir, "resources.json");
      writeFileSync(file, JSON.stringify({ memory: { limit: 64 << 20 }, pids: { limit: 44 } }));
      expect(await box.call("update", "-r", file, "changing")).toMatchObject({ code: 0, err: "" });
      expect([memory(), pids()]).toEqual([String(64 << 20), "44"]);
      const child = Bun.spawn([binary, "oci", "--root", box.root, "update", "-r", "-", "changing"], {
        stdin: new Blob(['{"pids":{"limit":-1}}']),
      });
      expect(await child.exited).toBe(0);
      // What was not named is as it was.
      expect([memory(), pids()]).toEqual([String(64 << 20), "max"]);
      expect((await box.call("update", "--memory", "lots", "changing")).err).toContain("--memory");
      writeFileSync(file, '{"pids":{"limit":"5"}}');
      expect((await box.call("update", "-r", file, "changing")).err).toContain("resources.pids.limit is");
      expect((await box.call("update", "-r", "/nowhere", "changing")).err).toContain("no such file or directory");
      expect((await box.call("update", "--l3-cache-schema", "L3:0=f", "changing")).err).toContain(
        "Intel RDT is not supported",
      );
    } finally {
      await box.call("delete", "-f", "changing");
    }
    expect((await box.call("update", "--memory", "5M", "changing")).err).toContain("container does not exist");
  });
});

describe("events", () => {
  test("--stats once, and statistics until the container ends, with its oom kills", async () => {
    box.write((spec) => {
      if (spec.process === undefined || spec.linux === undefined) return;
      // The shell outlives its child, which is ended for want of memory.
      spec.process.args = [
        "sh",
        "-c",
        "read go < /fifo; head -c 60000000 /dev/zero | sort > /dev/null; sleep 1; exit 0",
      ];
      spec.linux.resources = { memory: { limit: 20 << 20, swap: 20 << 20 } };
    });
    Bun.spawnSync(["mkfifo", join(box.bundle, "rootfs/fifo")]);
    expect((await box.call("run", "-d", "watched")).code).toBe(0);
    try {
      const once = await box.call("events", "--stats", "watched");
      expect(once.code).toBe(0);
      const told = JSON.parse(once.out) as {
        type: string;
        id: string;
        data: { memory: { usage: { limit: number } }; pids: { current: number } };
      };
      expect([told.type, told.id, told.data.memory.usage.limit, told.data.pids.current]).toEqual([
        "stats",
        "watched",
        20 << 20,
        1,
      ]);
      const watch = Bun.spawn([binary, "oci", "--root", box.root, "events", "--interval", "200ms", "watched"], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      await Bun.sleep(300);
      writeFileSync(join(box.bundle, "rootfs/fifo"), "go\n");
      const lines = (await watch.stdout.text())
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as { type: string }).type);
      expect(await watch.exited).toBe(0);
      expect(lines.filter((type) => type === "stats").length).toBeGreaterThan(3);
      expect(lines).toContain("oom");
      expect(await until(async () => (await box.status("watched")) === "stopped")).toBe(true);
      expect((await box.call("events", "watched")).err).toContain("is not running");
    } finally {
      await box.call("delete", "-f", "watched");
      rmSync(join(box.bundle, "rootfs/fifo"));
    }
    expect((await box.call("events", "--interval", "soon", "watched")).err).toContain("--interval");
  });
});

describe("what is not there", () => {
  test("checkpoint and restore, with runc's flags", async () => {
    for (const words of [
      ["checkpoint", "--image-path", "/x", "--leave-running", "c"],
      ["restore", "--bundle", "/x", "c"],
    ]) {
      const ended = await box.call(...words);
      expect([ended.code, ended.err]).toEqual([1, expect.stringContaining("checkpoint and restore are not supported")]);
    }
    expect(existsSync("/x")).toBe(false);
  });

  test("the systemd driver without systemd", async () => {
    box.command("true");
    const ended = await box.call("--systemd-cgroup", "run", "unit");
    if (existsSync("/run/systemd/private")) return;
    expect([ended.code, ended.err]).toEqual([1, expect.stringContaining("--systemd-cgroup: ")]);
    expect(ended.err).toContain("use --cgroup-manager cgroupfs");
    expect(box.left()).toEqual([]);
  });
});
