/** Cgroups on the real kernel, made by the plan's own steps or by hand: limits, freezer, kill, statistics, removal. */
import { afterEach, expect } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { encodePlan } from "../../../ffi/encode.ts";
import { spawnInit } from "../../../ffi/launch.ts";
import { Recorder } from "../../../ffi/plan.ts";
import { Builder } from "../../../src/plan/builder.ts";
import { joinCgroups, makeCgroups, openCgroup, planOciCgroups, removeCgroups } from "../../../src/plan/cgroups/plan.ts";
import { cgroupHost } from "../../../src/runtime/cgroup-host.ts";
import { jsonOf, oomKills, statsOf } from "../../../src/runtime/cgroup-stats.ts";
import { updateCgroups } from "../../../src/runtime/cgroup-update.ts";
import { type Cgroups, freeze, processesIn, removeAll, signalAll } from "../../../src/runtime/cgroups.ts";
import { hostFacts } from "../../../src/runtime/host.ts";
import type { DeviceRule, Resources } from "../../../src/spec/runtime.ts";
import { cannotRun, testWith } from "../../lib/needs.ts";

const { cgroup } = hostFacts();
const { mode } = cgroup;
const needs = {
  root: true,
  missing: mode === "v1" || mode === "hybrid" ? undefined : "needs cgroup v1 (v2: tests/vm)",
};
const test1 = testWith(needs);
const host = cannotRun(needs) ? undefined : cgroupHost(cgroup);
const top = `/ocibox-test-${process.pid}`;

/** Runs a plan to its end. */
async function run(fill: (p: Recorder) => void): Promise<{ code: number; err: string }> {
  const p = new Recorder();
  fill(p);
  p.add({ op: "exit", code: 0 });
  const init = spawnInit(encodePlan(p.steps));
  const err = await new Response(init.stderr as ReadableStream).text();
  return { code: await init.exited, err };
}

function planFor(path: string, resources: Resources) {
  if (host === undefined) throw new Error("there is no host");
  const spec = { ociVersion: "1.3.0", linux: { cgroupsPath: path, resources } };
  return planOciCgroups(spec, host, { id: "x", manager: "cgroupfs", privileged: true });
}

const made: Cgroups[] = [];
const children: Bun.Subprocess[] = [];

async function make(path: string, resources: Resources = {}): Promise<Cgroups> {
  const plan = planFor(path, resources);
  made.push(plan);
  expect(await run((p) => makeCgroups(new Builder(p, 3), plan))).toEqual({ code: 0, err: "" });
  return plan;
}

/** A process in the cgroups: it joins as the container's does. */
function start(cgroups: Cgroups, script: string): Bun.Subprocess {
  const joins = cgroups.directories.map((each) => `echo 0 > ${each}/cgroup.procs`).join("; ");
  const child = Bun.spawn(["sh", "-c", `${joins}; ${script}`], { stdout: "ignore", stderr: "ignore" });
  children.push(child);
  return child;
}

async function until(what: () => boolean): Promise<void> {
  for (let tries = 0; !what(); tries++) {
    if (tries > 500) throw new Error(`it does not come: ${what}`);
    await Bun.sleep(10);
  }
}

const read = (cgroups: Cgroups, controller: string, file: string): string => {
  const directory = cgroups.directories.find((each) => each.startsWith(`/sys/fs/cgroup/${controller}/`)) ?? "";
  return readFileSync(`${directory}/${file}`, "utf8").trim();
};

afterEach(async () => {
  for (const cgroups of made.splice(0)) removeAll(cgroups);
  for (const child of children.splice(0)) {
    child.kill("SIGKILL");
    await child.exited;
  }
  for (const { mount } of host?.hierarchies ?? []) if (existsSync(mount + top)) rmdirSync(mount + top);
});

test1("every hierarchy gets the cgroup, and those above it; limits are as asked", async () => {
  const cgroups = await make(`${top}/a`, {
    cpu: { shares: 512, quota: 50_000, period: 100_000, cpus: "0", mems: "0" },
    memory: { limit: 1 << 26, swap: 1 << 27, reservation: 1 << 25, swappiness: 10, disableOOMKiller: true },
    pids: { limit: 50 },
    blockIO: { weight: 500 },
    devices: [{ allow: false }, { allow: true, type: "c", major: 10, minor: 229, access: "rw" }],
  });
  expect(cgroups.directories.length).toBe(host?.hierarchies.length ?? 0);
  for (const directory of cgroups.directories) expect(existsSync(directory)).toBe(true);
  expect(read(cgroups, "cpu", "cpu.shares")).toBe("512");
  expect(read(cgroups, "cpu", "cpu.cfs_quota_us")).toBe("50000");
  expect(read(cgroups, "cpuset", "cpuset.cpus")).toBe("0");
  // What lies between has its parent's.
  expect(readFileSync(`/sys/fs/cgroup/cpuset${top}/cpuset.cpus`, "utf8")).toBe(
    readFileSync("/sys/fs/cgroup/cpuset/cpuset.cpus", "utf8"),
  );
  expect(read(cgroups, "memory", "memory.limit_in_bytes")).toBe(String(1 << 26));
  expect(read(cgroups, "memory", "memory.memsw.limit_in_bytes")).toBe(String(1 << 27));
  expect(read(cgroups, "memory", "memory.soft_limit_in_bytes")).toBe(String(1 << 25));
  expect(read(cgroups, "memory", "memory.swappiness")).toBe("10");
  expect(read(cgroups, "memory", "memory.oom_control")).toContain("oom_kill_disable 1");
  expect(read(cgroups, "pids", "pids.max")).toBe("50");
  expect(read(cgroups, "devices", "devices.list").split("\n")).toContain("c 10:229 rw");
  expect(read(cgroups, "devices", "devices.list")).not.toContain("a *:* rwm");
});

test1("init joins and removes them", async () => {
  const plan = planFor(`${top}/b`, {});
  made.push(plan);
  const ended = await run((p) => {
    const b = new Builder(p, 3);
    makeCgroups(b, plan);
    p.sys.close(openCgroup(b, plan) ?? -1);
    joinCgroups(b, plan);
    const file = p.sys.openat(-100, "/proc/self/cgroup", 0, 0);
    const text = p.memory("cgroup", 4096);
    p.sys.write(2, text, p.sys.read(file, text, 4096));
  });
  expect(ended.code).toBe(0);
  for (const { name } of host?.hierarchies ?? []) if (name !== "") expect(ended.err).toContain(`:${name}:${top}/b\n`);
  for (const directory of plan.directories) mkdirSync(`${directory}/below/deeper/still`, { recursive: true });
  for (const directory of plan.directories) mkdirSync(`${directory}/beside`);
  expect((await run((p) => removeCgroups(new Builder(p, 3), plan, () => undefined))).err).toBe("");
  for (const directory of plan.directories) expect(existsSync(directory)).toBe(false);
});

test1("a limit that the kernel refuses names the call and the field", async () => {
  const plan = planFor(`${top}/c`, { cpu: { cpus: "4000" } });
  made.push(plan);
  const { code, err } = await run((p) => makeCgroups(new Builder(p, 3), plan));
  expect(code).toBe(125);
  expect(err).toContain("write(");
  expect(err).toContain("asked for by linux.resources.cpu.cpus in config.json");
});

test1("the freezer stops everything, and lets it go on", async () => {
  const cgroups = await make(`${top}/d`);
  const count = `/tmp/ocibox-count-${process.pid}`;
  const child = start(cgroups, `while :; do echo x >> ${count}; sleep 0.01; done`);
  await until(() => existsSync(count));
  await freeze(cgroups, true);
  const size = readFileSync(count).length;
  await Bun.sleep(100);
  expect(readFileSync(count).length).toBe(size);
  expect(processesIn(cgroups)).toContain(child.pid);
  await freeze(cgroups, false);
  await until(() => readFileSync(count).length > size);
  await freeze(cgroups, true);
  // Also what is stopped ends at once.
  signalAll(cgroups, 9);
  await child.exited;
  await Bun.file(count).delete();
});

test1("kill reaches all, and removal takes the cgroups that were made below", async () => {
  const cgroups = await make(`${top}/e`);
  start(cgroups, "sleep 100 & sleep 100 & wait");
  await until(() => processesIn(cgroups).length >= 3);
  for (const directory of cgroups.directories) mkdirSync(`${directory}/below/deeper`, { recursive: true });
  const pids = cgroups.directories.find((each) => each.includes("/pids/")) ?? "";
  writeFileSync(`${pids}/below/deeper/cgroup.procs`, String(processesIn(cgroups).at(-1)));
  removeAll(cgroups);
  expect(processesIn(cgroups)).toEqual([]);
  for (const directory of cgroups.directories) expect(existsSync(directory)).toBe(false);
});

test1("update: in whatever order the kernel takes it", async () => {
  const cgroups = await make(`${top}/f`, {
    memory: { limit: 1 << 26, swap: 1 << 26 },
    cpu: { quota: 20_000, period: 100_000 },
  });
  const memory = () =>
    ["limit_in_bytes", "memsw.limit_in_bytes"].map((file) => Number(read(cgroups, "memory", `memory.${file}`)));
  updateCgroups(cgroups, { memory: { limit: 1 << 28, swap: 1 << 29 } });
  expect(memory()).toEqual([1 << 28, 1 << 29]);
  updateCgroups(cgroups, { memory: { limit: 1 << 25, swap: 1 << 26 }, pids: { limit: 9 }, cpu: { shares: 77 } });
  expect(memory()).toEqual([1 << 25, 1 << 26]);
  expect([read(cgroups, "pids", "pids.max"), read(cgroups, "cpu", "cpu.shares")]).toEqual(["9", "77"]);
  // What is not named stays.
  expect(read(cgroups, "cpu", "cpu.cfs_quota_us")).toBe("20000");
  expect(() => updateCgroups(cgroups, { memory: { limit: 1 << 29 } })).toThrow(
    "linux.resources.memory.limit: cannot write",
  );
  expect(() => updateCgroups(cgroups, { unified: { "memory.high": "5" } })).toThrow(
    "linux.resources.unified[memory.high]",
  );
});

test1("statistics are the kernel's numbers, whole", async () => {
  const cgroups = await make(`${top}/g`, { pids: { limit: 50 }, memory: { limit: 1 << 26 } });
  start(cgroups, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100");
  await until(() => Number(read(cgroups, "cpuacct", "cpuacct.usage")) > 1_000_000);
  const text = jsonOf(statsOf(cgroups));
  const stats = JSON.parse(text);
  expect(stats.pids).toEqual({ current: expect.any(Number), limit: 50 });
  expect(stats.memory.usage.limit).toBe(1 << 26);
  expect(stats.memory.raw.hierarchical_memory_limit).toBe(1 << 26);
  expect(stats.cpu.usage.total).toBeGreaterThan(1_000_000);
  // 2^63 less a page: no number of JavaScript's.
  expect(text).toContain('"kernelTCP":{"limit":9223372036854771712');
});

test1("processes that the kernel ends for want of memory are counted", async () => {
  const cgroups = await make(`${top}/h`, { memory: { limit: 8 << 20, swap: 8 << 20 } });
  expect(oomKills(cgroups)).toBe(0n);
  const child = start(cgroups, "exec dd if=/dev/zero of=/dev/null bs=64M count=1");
  await child.exited;
  expect(child.signalCode).toBe("SIGKILL");
  expect(oomKills(cgroups)).toBe(1n);
});

const unified = "/sys/fs/cgroup/unified";
const hybrid = existsSync(`${unified}/cgroup.procs`) ? needs.missing : "needs cgroup v2 beside v1 (v2 alone: tests/vm)";
const testBpf = testWith({ root: true, missing: hybrid });

testBpf("v2's device program, as the kernel runs it", async () => {
  const hierarchies = [{ name: "", mount: unified, own: "/" }];
  const v2 = { mode: "v2", hierarchies, controllers: [], writable: true } as const;
  const outcome = async (name: string, devices: DeviceRule[] | undefined): Promise<string> => {
    const resources = devices === undefined ? {} : { resources: { devices } };
    const spec = { ociVersion: "1.3.0", linux: { cgroupsPath: `${top}/${name}`, ...resources } };
    const plan = planOciCgroups(spec, v2, { id: "x", manager: "cgroupfs", privileged: true });
    made.push(plan);
    expect(await run((p) => makeCgroups(new Builder(p, 3), plan))).toEqual({ code: 0, err: "" });
    const tries = ["reads </dev/kmsg", "writes >>/dev/kmsg", "null </dev/null"].map((each) => {
      const [word, opens] = each.split(" ");
      return `(: ${opens}) 2>/dev/null && echo ${word}`;
    });
    const script = [`echo 0 > ${plan.directories[0]}/cgroup.procs`, ...tries].join("\n");
    const child = Bun.spawn(["sh", "-c", script], { stdout: "pipe" });
    return (await child.stdout.text()).trim().replaceAll("\n", " ");
  };
  const log = { type: "c", major: 1, minor: 11 };
  expect(await outcome("i", [{ allow: true, access: "rwm" }])).toBe("reads writes null");
  expect(await outcome("j", [{ allow: false }, { allow: true, ...log, access: "r" }])).toBe("reads null");
  expect(
    await outcome("k", [
      { allow: true, access: "rwm" },
      { allow: false, ...log, access: "w" },
    ]),
  ).toBe("reads null");
  // Nothing said: what is not allowed by default is denied.
  expect(await outcome("l", undefined)).toBe("null");
});

test1("every hierarchy of /proc/self/cgroup is found where it is mounted", () => {
  const names = readFileSync("/proc/self/cgroup", "utf8")
    .trim()
    .split("\n")
    .map((line) => line.split(":")[1] ?? "");
  expect(host?.hierarchies.map(({ name }) => name).sort()).toEqual(names.sort());
  for (const { name, mount } of host?.hierarchies ?? [])
    expect(existsSync(`${mount}/${name === "" ? "cgroup.procs" : "tasks"}`)).toBe(true);
});
