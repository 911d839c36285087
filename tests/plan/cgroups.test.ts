/** linux.resources as texts for files, device rules as a program, cgroupsPath as directories: nothing here makes a call. */
import { expect, test } from "bun:test";
import { explain } from "../../ffi/explain.ts";
import { Recorder } from "../../ffi/plan.ts";
import { Builder } from "../../src/plan/builder.ts";
import { compileDeviceFilter, defaultDevices, ruleTexts } from "../../src/plan/cgroups/device-program.ts";
import { type CgroupHost, cgroupIn, slicePath, systemdUnit } from "../../src/plan/cgroups/paths.ts";
import { makeCgroups, planCgroups, planOciCgroups } from "../../src/plan/cgroups/plan.ts";
import { settingsV1 } from "../../src/plan/cgroups/v1.ts";
import { ioWeightOf, settingsV2, weightOfShares } from "../../src/plan/cgroups/v2.ts";
import type { DeviceRule, Resources } from "../../src/spec/runtime.ts";
import { facts } from "../lib/facts.ts";

/** struct bpf_cgroup_dev_ctx through an interpreter of the few instructions that a filter is made of. */
function runFilter(program: Uint8Array, access: number, type: number, major: number, minor: number): number {
  const view = new DataView(program.buffer);
  const context = [(access << 16) | type, major, minor];
  const registers = new Array<number>(11).fill(0);
  for (let at = 0, steps = 0; steps < 10_000; at++, steps++) {
    const code = view.getUint8(at * 8);
    const dst = view.getUint8(at * 8 + 1) & 15;
    const src = view.getUint8(at * 8 + 1) >> 4;
    const off = view.getInt16(at * 8 + 2, true);
    const imm = view.getInt32(at * 8 + 4, true);
    const value = registers[dst] ?? 0;
    if (code === 0x61) registers[dst] = context[off / 4] ?? Number.NaN;
    else if (code === 0xbf) registers[dst] = registers[src] ?? 0;
    else if (code === 0xb7) registers[dst] = imm;
    else if (code === 0x57) registers[dst] = value & imm;
    else if (code === 0x77) registers[dst] = value >>> imm;
    else if (code === 0x55) at += value === imm ? 0 : off;
    else if (code === 0x45) at += (value & imm) === 0 ? 0 : off;
    else if (code === 0x05) at += off;
    else if (code === 0x95) return registers[0] ?? 0;
    else throw new Error(`no such instruction: ${code}`);
  }
  throw new Error("the program does not end");
}

const bits: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };

/** What the rules say in so many words: for each kind of access the last rule about the device decides. */
function allowed(rules: readonly DeviceRule[], access: string, type: string, major: number, minor: number): boolean {
  return [...access].every((letter) => {
    const rule = rules.findLast(
      (each) =>
        (each.type === undefined || each.type === "a" || each.type === type) &&
        (each.major === undefined || each.major === major) &&
        (each.minor === undefined || each.minor === minor) &&
        (each.access ?? "rwm").includes(letter),
    );
    return rule?.allow ?? false;
  });
}

const lists: Readonly<Record<string, readonly DeviceRule[]>> = {
  nothing: [],
  defaults: defaultDevices,
  "deny all, allow some": [
    { allow: false },
    { allow: true, type: "b", major: 8, minor: 0, access: "r" },
    ...defaultDevices,
  ],
  "allow all, deny writing to disks": [
    { allow: true, access: "rwm" },
    { allow: false, type: "b", access: "w" },
  ],
  "deny one access after all": [
    { allow: true, type: "c", major: 1, access: "rwm" },
    { allow: false, type: "c", major: 1, minor: 3, access: "w" },
    { allow: true, type: "c", major: 1, minor: 3, access: "m" },
  ],
  "a rule for both kinds": [{ allow: true, major: 8, minor: 0, access: "rw" }],
  "a sweeping rule forgets what was before": [
    { allow: true, type: "c", access: "rwm" },
    { allow: false, type: "a", access: "rwm" },
  ],
};

for (const [name, rules] of Object.entries(lists)) {
  test(`the device program: ${name}`, () => {
    const program = compileDeviceFilter(rules);
    for (const access of ["r", "w", "m", "rw", "rm", "wm", "rwm"])
      for (const type of ["b", "c"])
        for (const [major, minor] of [
          [1, 3],
          [1, 4],
          [8, 0],
          [8, 1],
          [136, 7],
          [5, 2],
        ] as const) {
          const mask = [...access].reduce((sum, letter) => sum | (bits[letter] ?? 0), 0);
          const found = runFilter(program, mask, type === "b" ? 1 : 2, major, minor);
          expect(`${access} ${type} ${major}:${minor} ${found}`).toBe(
            `${access} ${type} ${major}:${minor} ${allowed(rules, access, type, major, minor) ? 1 : 0}`,
          );
        }
  });
}

test("v1's words for device rules", () => {
  expect(ruleTexts({ allow: false })).toEqual(["a"]);
  expect(ruleTexts({ allow: false, type: "a", access: "rwm" })).toEqual(["a"]);
  expect(ruleTexts({ allow: true, type: "c", major: 1, minor: 3, access: "rw" })).toEqual(["c 1:3 rw"]);
  expect(ruleTexts({ allow: false, type: "b", major: 8 })).toEqual(["b 8:* rwm"]);
  for (const access of [undefined, ""])
    expect(() => ruleTexts({ allow: true, type: "b", ...(access === undefined ? {} : { access }) })).toThrow(
      "is empty",
    );
  expect(ruleTexts({ allow: false, access: "w" })).toEqual(["b *:* w", "c *:* w"]);
  expect(() => ruleTexts({ allow: true, type: "x", access: "r" }, 3)).toThrow("linux.resources.devices[3].type");
  expect(() => ruleTexts({ allow: true, type: "c", access: "rx" }, 1)).toThrow("linux.resources.devices[1].access");
});

test("v1's numbers as v2's", () => {
  expect([2, 10, 512, 1024, 2048, 262_144].map(weightOfShares)).toEqual([1, 1, 20, 39, 79, 10_000]);
  expect([10, 100, 500, 1000].map(ioWeightOf)).toEqual([1, 910, 4950, 10_000]);
});

/** "file = text" of each setting, with its field where that is not plain. */
const written = (settings: ReturnType<typeof settingsV1>) => settings.map(({ file, text }) => `${file} = ${text}`);

test("memory and swap: v2 counts swap alone", () => {
  const memory = (limit: number | undefined, swap: number | undefined) => {
    const given = { ...(limit === undefined ? {} : { limit }), ...(swap === undefined ? {} : { swap }) };
    return written(settingsV2({ memory: given }));
  };
  expect(memory(100, 300)).toEqual(["memory.swap.max = 200", "memory.max = 100"]);
  expect(memory(100, 100)).toEqual(["memory.swap.max = 0", "memory.max = 100"]);
  expect(memory(100, -1)).toEqual(["memory.swap.max = max", "memory.max = 100"]);
  expect(memory(-1, undefined)).toEqual(["memory.swap.max = max", "memory.max = max"]);
  expect(memory(-1, 300)).toEqual(["memory.swap.max = 300", "memory.max = max"]);
  expect(memory(100, undefined)).toEqual(["memory.max = 100"]);
  expect(() => memory(undefined, 300)).toThrow("linux.resources.memory.swap");
  expect(() => memory(400, 300)).toThrow("linux.resources.memory.swap: 300 is less than the limit, 400");
});

const everything: Resources = {
  cpu: { shares: 512, quota: 50_000, period: 100_000, burst: 1000, idle: 0, cpus: "0-1", mems: "0" },
  memory: { limit: 1 << 26, swap: 1 << 27, reservation: 1 << 25 },
  pids: { limit: 7 },
  blockIO: {
    weight: 500,
    weightDevice: [{ major: 8, minor: 0, weight: 100 }],
    throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 1000 }],
    throttleWriteIOPSDevice: [{ major: 8, minor: 16, rate: 0 }],
  },
  hugepageLimits: [{ pageSize: "2MB", limit: 4194304 }],
  rdma: { mlx5_0: { hcaHandles: 3 } },
};

test("every resource of v1", () => {
  const more: Resources = {
    ...everything,
    memory: { ...everything.memory, kernelTCP: 1000, swappiness: 0, disableOOMKiller: true, useHierarchy: true },
    network: { classID: 1_048_577, priorities: [{ name: "lo", priority: 5 }] },
  };
  expect(written(settingsV1(more))).toMatchSnapshot();
});

test("every resource of v2; what v2 has not is refused by name", () => {
  const unified = { "memory.high": "1000", "io.max": "8:0 rbps=5\n8:16 rbps=6" };
  expect(written(settingsV2({ ...everything, unified }))).toMatchSnapshot();
  const refusals: readonly (readonly [string, Resources])[] = [
    ["memory.kernel", { memory: { kernel: 5 } }],
    ["memory.kernelTCP", { memory: { kernelTCP: 5 } }],
    ["memory.swappiness", { memory: { swappiness: 5 } }],
    ["memory.disableOOMKiller", { memory: { disableOOMKiller: true } }],
    ["memory.useHierarchy", { memory: { useHierarchy: false } }],
    ["cpu.realtimeRuntime", { cpu: { realtimeRuntime: 5 } }],
    ["cpu.realtimePeriod", { cpu: { realtimePeriod: 5 } }],
    ["cpu.burst", { cpu: { quota: 5, burst: 6 } }],
    ["blockIO.leafWeight", { blockIO: { leafWeight: 5 } }],
    ["blockIO.weightDevice[0].leafWeight", { blockIO: { weightDevice: [{ major: 8, minor: 0, leafWeight: 5 }] } }],
    ["network.classID", { network: { classID: 5 } }],
    ["network.priorities", { network: { priorities: [{ name: "lo", priority: 1 }] } }],
    ["unified[../x.y]", { unified: { "../x.y": "1" } }],
    ["pids.limit", { pids: { limit: -2 } }],
    ["rdma[x]", { rdma: { x: {} } }],
  ];
  for (const [field, resources] of refusals) expect(() => settingsV2(resources)).toThrow(`linux.resources.${field}: `);
  expect(() => settingsV1({ unified: { "memory.high": "1" } })).toThrow("linux.resources.unified[memory.high]: ");
});

test("cgroupsPath", () => {
  const v1 = { name: "cpu,cpuacct", mount: "/sys/fs/cgroup/cpu,cpuacct", own: "/a/b" };
  const v2 = { name: "", mount: "/sys/fs/cgroup", own: "/a/b" };
  const path = (text: string | undefined, hierarchy = v1) => cgroupIn(hierarchy, text, "id").path;
  expect([path("/x//y/../z/"), path("x"), path(undefined), path("../../x")]).toEqual([
    "/x/z",
    "/a/b/x",
    "/a/b/id",
    "/a/b/x",
  ]);
  // No process may be in an inner cgroup of v2: beside ocibox's own, not below it.
  expect([path("/x", v2), path("x", v2), path(undefined, v2)]).toEqual(["/x", "/a/x", "/a/id"]);
  expect(() => path("/..")).toThrow("linux.cgroupsPath");
});

test("systemd's units", () => {
  expect(systemdUnit("machine.slice:libpod:abc", "id", false)).toEqual({
    slice: "machine.slice",
    name: "libpod-abc.scope",
  });
  expect(systemdUnit(undefined, "id", false)).toEqual({ slice: "system.slice", name: "ocibox-id.scope" });
  expect(systemdUnit("::id", "id", true)).toEqual({ slice: "user.slice", name: "id.scope" });
  expect(systemdUnit("a.slice::b.slice", "id", false)).toEqual({ slice: "a.slice", name: "b.slice" });
  for (const bad of ["/a/b", "a:b", "a:b:", "a:b:c:d", "x:b:c", "a--b.slice:b:c", "/x.slice:b:c", "a.slice:b:c/d"])
    expect(() => systemdUnit(bad, "id", false)).toThrow("linux.cgroupsPath");
  expect(["a-b-c.slice", "-.slice", "user.slice"].map(slicePath)).toEqual([
    "/a.slice/a-b.slice/a-b-c.slice",
    "",
    "/user.slice",
  ]);
});

const spec = { ociVersion: "1.3.0", linux: { cgroupsPath: "/x/y", resources: { pids: { limit: 7 } } } };
const hostV1: CgroupHost = {
  mode: "hybrid",
  hierarchies: [
    ...["pids", "cpuset", "devices", "name=systemd"].map((name) => ({
      name,
      mount: `/sys/fs/cgroup/${name.replace("name=", "")}`,
      own: "/",
    })),
    { name: "", mount: "/sys/fs/cgroup/unified", own: "/" },
  ],
  controllers: [],
  writable: true,
};
const hostV2: CgroupHost = {
  mode: "v2",
  hierarchies: [{ name: "", mount: "/sys/fs/cgroup", own: "/" }],
  controllers: ["cpu", "pids"],
  writable: true,
};
const choice = { id: "c1", manager: "cgroupfs", privileged: true } as const;

function steps(host: CgroupHost, more: typeof spec | object = {}): string {
  const p = new Recorder();
  makeCgroups(new Builder(p, 3), planOciCgroups({ ...spec, ...more }, host, choice));
  return explain(p.steps);
}

test("an OCI container joins every hierarchy; what is missing on the way is made", () => {
  expect(steps(hostV1)).toMatchSnapshot();
  expect(steps(hostV2)).toMatchSnapshot();
});

test("a limit that cannot be had is an error that names it", () => {
  const memory = { linux: { resources: { memory: { limit: 5 } } } };
  expect(() => steps(hostV1, memory)).toThrow("linux.resources.memory.limit: this host has no memory controller");
  expect(() => steps(hostV2, memory)).toThrow("linux.resources.memory.limit: this host has no memory controller");
  expect(() => steps({ ...hostV2, writable: false })).toThrow("linux.resources.pids.limit: no cgroup can be made here");
  const disabled = () => planOciCgroups(spec, hostV2, { ...choice, manager: "disabled" });
  expect(disabled).toThrow("linux.resources.pids.limit: cgroups are disabled");
  expect(planOciCgroups({ ociVersion: "1.3.0" }, { ...hostV2, writable: false }, choice).joined).toEqual([]);
});

test("`ocibox run` joins what its limits want, and no more", () => {
  const plan = planCgroups({ ...spec, linux: { ...spec.linux, cgroupsPath: "/ocibox-x" } }, facts);
  expect(plan.joined.map(({ hierarchy }) => hierarchy)).toEqual(["pids"]);
});
