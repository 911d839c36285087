/** config.json: the specification's own examples, good and bad, and what is refused by its path. */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { decodeProcess, decodeSpec } from "../../src/spec/runtime-decode.ts";
import { violations } from "../lib/schema.ts";

const folder = "tests/fixtures/runtime-spec/test/config";

describe("the specification's own files", () => {
  for (const name of readdirSync(join(folder, "good")))
    test(`good: ${name}`, () => {
      const text = readFileSync(join(folder, "good", name), "utf8");
      expect(violations("config-schema.json", JSON.parse(text))).toEqual([]);
      const spec = decodeSpec(text);
      // Nothing is lost, fields of other systems neither.
      const asked = JSON.parse(text) as { process?: { user?: object } };
      if (asked.process !== undefined) asked.process.user = { uid: 0, gid: 0, ...asked.process.user };
      expect(spec as unknown).toEqual(asked);
    });

  const places: Readonly<Record<string, string>> = {
    "freebsd-vnet-disable.json": "freebsd.jail.vnet is ",
    "invalid-json.json": "config.json is no JSON",
    "linux-hugepage.json": "linux.resources.hugepageLimits[0].pageSize is ",
    "linux-netdevice.json": 'linux.netDevices["eth0"].name is 23, not a string',
    "linux-rdma.json": 'linux.resources.rdma["mlx5_1"].hcaHandles is ',
  };
  for (const name of readdirSync(join(folder, "bad")))
    test(`bad: ${name}`, () => {
      expect(() => decodeSpec(readFileSync(join(folder, "bad", name), "utf8"))).toThrow(places[name] as string);
    });
});

const bad: readonly (readonly [message: string, change: object])[] = [
  ["ociVersion is nothing, not there: it is required", { ociVersion: undefined }],
  ["ociVersion is 1, not a version", { ociVersion: 1 }],
  ['ociVersion is "", not a version', { ociVersion: "" }],
  ['ociVersion is "invalid", not a version', { ociVersion: "invalid" }],
  ['ociVersion is "2.0.0", not a version of the runtime specification', { ociVersion: "2.0.0" }],
  ['ociVersion is "1.0.0 ", not a version', { ociVersion: "1.0.0 " }],
  ["root.path is nothing", { root: {} }],
  ["root is [], not an object", { root: [] }],
  ['root.readonly is "yes", not a boolean', { root: { path: "x", readonly: "yes" } }],
  ["process.cwd is nothing", { process: {} }],
  ["process.args[1] is 5, not a string", { process: { cwd: "/", args: ["a", 5] } }],
  ["process.args is ", { process: { cwd: "/", args: "sh" } }],
  ["process.env[0] is null", { process: { cwd: "/", env: [null] } }],
  ["process.cwd is ", { process: { cwd: "/a\0b" } }],
  ["process.user.uid is -1", { process: { cwd: "/", user: { uid: -1 } } }],
  ["process.user.uid is 4294967296", { process: { cwd: "/", user: { uid: 2 ** 32 } } }],
  ["process.user.additionalGids[0] is ", { process: { cwd: "/", user: { additionalGids: ["5"] } } }],
  ["process.user.umask is ", { process: { cwd: "/", user: { umask: 1.5 } } }],
  ["process.capabilities.bounding is ", { process: { cwd: "/", capabilities: { bounding: {} } } }],
  ["process.rlimits[0].hard is nothing", { process: { cwd: "/", rlimits: [{ type: "RLIMIT_CPU", soft: 1 }] } }],
  ["process.oomScoreAdj is ", { process: { cwd: "/", oomScoreAdj: "0" } }],
  ["process.scheduler.policy is nothing", { process: { cwd: "/", scheduler: {} } }],
  ["process.ioPriority.class is nothing", { process: { cwd: "/", ioPriority: { priority: 3 } } }],
  ["process.consoleSize.width is nothing", { process: { cwd: "/", consoleSize: { height: 5 } } }],
  ["mounts is ", { mounts: {} }],
  ["mounts[0].destination is nothing", { mounts: [{ type: "tmpfs" }] }],
  ["mounts[0].options[0] is ", { mounts: [{ destination: "/a", options: [{}] }] }],
  [
    "mounts[0].uidMappings[0].size is nothing",
    { mounts: [{ destination: "/a", uidMappings: [{ containerID: 0, hostID: 0 }] }] },
  ],
  ["hooks.prestart[0].path is nothing", { hooks: { prestart: [{}] } }],
  [
    "hooks.poststop[0].timeout is 0, not a number greater than zero",
    { hooks: { poststop: [{ path: "/x", timeout: 0 }] } },
  ],
  ['annotations["a"] is 5', { annotations: { a: 5 } }],
  ["linux.namespaces[0].type is ", { linux: { namespaces: [{ type: "uid" }] } }],
  ["linux.uidMappings[0].hostID is ", { linux: { uidMappings: [{ containerID: 0, hostID: "1000", size: 1 }] } }],
  ['linux.timeOffsets["boottime"].secs is ', { linux: { timeOffsets: { boottime: { secs: "1" } } } }],
  ["linux.devices[0].type is ", { linux: { devices: [{ type: "x", path: "/dev/x" }] } }],
  ["linux.devices[0].path is nothing", { linux: { devices: [{ type: "c" }] } }],
  ["linux.seccomp.defaultAction is nothing", { linux: { seccomp: {} } }],
  [
    "linux.seccomp.syscalls[0].action is ",
    { linux: { seccomp: { defaultAction: "SCMP_ACT_ALLOW", syscalls: [{ names: ["read"], action: "ALLOW" }] } } },
  ],
  [
    "linux.seccomp.syscalls[0].args[0].index is ",
    {
      linux: {
        seccomp: {
          defaultAction: "SCMP_ACT_ALLOW",
          syscalls: [{ names: ["read"], action: "SCMP_ACT_LOG", args: [{ index: -1, value: 0, op: "SCMP_CMP_EQ" }] }],
        },
      },
    },
  ],
  ['linux.sysctl["net.core.somaxconn"] is 5', { linux: { sysctl: { "net.core.somaxconn": 5 } } }],
  ["linux.maskedPaths[0] is ", { linux: { maskedPaths: [true] } }],
  ["linux.resources.pids.limit is ", { linux: { resources: { pids: { limit: "5" } } } }],
  ["linux is 5, not an object", { linux: 5 }],
];

for (const [message, change] of bad)
  test(`refused: ${JSON.stringify(change)}`, () => {
    expect(() => decodeSpec(JSON.stringify({ ociVersion: "1.3.0", ...change }))).toThrow(message);
  });

test.each(["0.5.0-dev", "1.0", "1.0.0-rc.5", "1.0.2-dev", "1.2.1+dev", "1.3.0"])(
  "version %s is known",
  (ociVersion) => {
    expect(decodeSpec(JSON.stringify({ ociVersion })).ociVersion).toBe(ociVersion);
  },
);

test("nulls are nothing, unknown fields are kept, the user is 0:0 by default", () => {
  const spec = decodeSpec(
    '{"ociVersion":"1.3.0","hostname":null,"process":{"cwd":"/","rlimits":null,"later":1},"later":{"a":null}}',
  );
  expect(spec as unknown).toEqual({
    ociVersion: "1.3.0",
    process: { cwd: "/", later: 1, user: { uid: 0, gid: 0 } },
    later: { a: null },
  });
});

test("64 bits of a system call's argument stay whole", () => {
  const arg = '{"index":0,"value":18446744073709551615,"valueTwo":9007199254740993,"op":"SCMP_CMP_EQ"}';
  const spec = decodeSpec(
    `{"ociVersion":"1.3.0","linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[${arg}]}]}}}`,
  );
  const read = spec.linux?.seccomp?.syscalls?.[0]?.args?.[0];
  expect([read?.value, read?.valueTwo, read?.index]).toEqual([18446744073709551615n, 9007199254740993n, 0]);
});

test("a process alone", () => {
  expect(decodeProcess('{"cwd":"/","args":["a"]}', "p.json").user).toEqual({ uid: 0, gid: 0 });
  expect(() => decodeProcess('{"cwd":5}', "p.json")).toThrow("process.cwd is 5, not a string");
  expect(() => decodeProcess("{", "p.json")).toThrow("p.json is no JSON");
});
