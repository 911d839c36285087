/** linux.resources: what is of the wrong type is refused by its path. */
import { expect, test } from "bun:test";
import { decodeResources } from "../../src/spec/resources-decode.ts";

test("what the specification shows is taken as it is", () => {
  const resources = {
    devices: [{ allow: false, access: "rwm" }],
    memory: { limit: 536_870_912, kernel: -1, swappiness: 0, disableOOMKiller: false },
    cpu: { shares: 1024, quota: -1, cpus: "2-3", idle: 0 },
    pids: { limit: -1 },
    blockIO: { weight: 10, weightDevice: [{ major: 8, minor: 0, weight: 500 }] },
    hugepageLimits: [{ pageSize: "2MB", limit: 209_715_200 }],
    network: { classID: 1_048_577, priorities: [{ name: "eth0", priority: 500 }] },
    rdma: { mlx5_1: { hcaHandles: 3 } },
    unified: { "io.max": "259:0 rbps=2097152" },
    later: { unknown: true },
  };
  expect(JSON.stringify(decodeResources(resources))).toBe(JSON.stringify(resources));
  expect(JSON.stringify(decodeResources({ memory: null, cpu: { shares: null } }))).toBe('{"cpu":{}}');
});

const bad: readonly (readonly [path: string, value: unknown])[] = [
  ["linux.resources", []],
  ["linux.resources.memory", { memory: 5 }],
  ["linux.resources.memory.limit", { memory: { limit: "5" } }],
  ["linux.resources.memory.limit", { memory: { limit: 1.5 } }],
  ["linux.resources.memory.limit", { memory: { limit: 2 ** 64 } }],
  ["linux.resources.memory.swappiness", { memory: { swappiness: -1 } }],
  ["linux.resources.memory.disableOOMKiller", { memory: { disableOOMKiller: 1 } }],
  ["linux.resources.cpu.cpus", { cpu: { cpus: 1 } }],
  ["linux.resources.cpu.cpus", { cpu: { cpus: "1\0" } }],
  ["linux.resources.devices[1].allow", { devices: [{ allow: true }, {}] }],
  ["linux.resources.blockIO.weight", { blockIO: { weight: 65_536 } }],
  [
    "linux.resources.blockIO.throttleReadBpsDevice[0].rate",
    { blockIO: { throttleReadBpsDevice: [{ major: 1, minor: 1 }] } },
  ],
  ["linux.resources.hugepageLimits[0].pageSize", { hugepageLimits: [{ limit: 1 }] }],
  ["linux.resources.network.priorities[0].priority", { network: { priorities: [{ name: "x", priority: -1 }] } }],
  ['linux.resources.rdma["a"].hcaObjects', { rdma: { a: { hcaObjects: true } } }],
  ['linux.resources.unified["a.b"]', { unified: { "a.b": 5 } }],
];

for (const [path, value] of bad)
  test(`refused: ${JSON.stringify(value)}`, () => {
    expect(() => decodeResources(value)).toThrow(`${path} is `);
  });
