/** Values that are seldom met: zeros and edges, what is given twice, names that lead elsewhere, what is left out. */
import type { Device, DeviceRule, LinuxSeccomp, Resources } from "../../src/spec/runtime.ts";
import type { Case, Full } from "./corpus.ts";

const cases: Case[] = [];

function add(name: string, change: Case["change"], extra?: string): void {
  cases.push({ name, change, ...(extra === undefined ? {} : { extra }) });
}

/** What is not of the field's type, too. */
function put(target: object, values: Readonly<Record<string, unknown>>): void {
  Object.assign(target, values);
}

function mount(name: string, entry: Full["mounts"][number], extra?: string): void {
  add(`mount ${name}`, (spec) => void spec.mounts.push(entry), extra);
}

/** Limits, and what the files of v1 say of them. */
function limits(name: string, more: Resources, files = ""): void {
  add(
    `resources ${name}`,
    (spec) => {
      spec.linux.resources = { ...spec.linux.resources, ...more };
      spec.mounts.push({ destination: "/cg", type: "cgroup", source: "cgroup", options: ["ro"] });
    },
    `cd /cg; for each in ${files}; do echo $each; cat $each; done`,
  );
}

const quota = "cpu/cpu.cfs_period_us cpu/cpu.cfs_quota_us";
const memory = "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes";
limits("pids.limit 0", { pids: { limit: 0 } }, "pids/pids.max");
for (const shares of [0, 2, 262_144]) limits(`cpu.shares ${shares}`, { cpu: { shares } }, "cpu/cpu.shares");
limits("cpu.quota 0", { cpu: { quota: 0 } }, quota);
limits("cpu.quota without a period", { cpu: { quota: 50_000 } }, quota);
limits("cpu.period without a quota", { cpu: { period: 50_000 } }, quota);
limits("cpu.period 0", { cpu: { period: 0, quota: 20_000 } }, quota);
limits("cpu.cpus and mems that are empty", { cpu: { cpus: "", mems: "" } }, "cpuset/cpuset.cpus cpuset/cpuset.mems");
limits("memory.swap", { memory: { limit: 100_000_000, swap: 200_000_000 } }, memory);
limits("memory.swap -1", { memory: { limit: 100_000_000, swap: -1 } }, memory);
limits("memory.swap without a limit", { memory: { swap: 200_000_000 } }, memory);
limits("memory.swap below the limit", { memory: { limit: 100_000_000, swap: 50_000_000 } });
limits("memory.swappiness 0", { memory: { swappiness: 0 } }, "memory/memory.swappiness");
limits("memory.useHierarchy", { memory: { limit: 100_000_000, useHierarchy: true } }, "memory/memory.use_hierarchy");
limits("blockIO.weight 0", { blockIO: { weight: 0 } });
limits("hugepageLimits of a size that is none", { hugepageLimits: [{ pageSize: "3MB", limit: 1 }] });
limits("network.priorities", { network: { priorities: [{ name: "lo", priority: 3 }] } });
limits("unified on v1", { unified: { "memory.max": "100000000" } });
limits("rdma without a device", { rdma: {} });

function rule(name: string, one: DeviceRule): void {
  add(`device rule ${name}`, (spec) => {
    spec.linux.resources = { devices: [{ allow: false, access: "rwm" }, one] };
  });
}

rule("whose access is empty", { allow: true, type: "c", major: 1, minor: 3, access: "" });
rule("without access", { allow: true, type: "c", major: 1, minor: 3 });
rule("for pipes", { allow: true, type: "p", major: 1, minor: 1, access: "r" });
rule("for u", { allow: true, type: "u", major: 5, minor: 6, access: "m" });

// process
add("a long argument", (spec) => {
  spec.process.args = ["sh", "-c", 'echo "$1" | wc', "x", "y".repeat(120_000)];
});
add("an argument that is too long", (spec) => {
  spec.process.args = ["sh", "-c", 'echo "$1" | wc', "x", "y".repeat(140_000)];
});
add("no env", (spec) => {
  put(spec.process, { env: undefined, args: ["/bin/sh", "-c", "/bin/env"] });
});
add("no PATH", (spec) => {
  put(spec.process, { env: [], args: ["sh", "-c", "/bin/env"] });
});
for (const env of [["PATH=::/bin"], ["PATH=/nowhere", "PATH=/bin"]])
  add(`env ${env.join(" ")}`, (spec) => {
    spec.process.env = env;
  });
for (const command of ["", ".", "./bin/sh", "bin/sh", "/bin/../bin/sh"])
  add(`the command ${JSON.stringify(command)}`, (spec) => {
    spec.process.args = [command, "/probe"];
  });
add("a command below the working directory", (spec) => {
  put(spec.process, { cwd: "/bin", args: ["./sh", "/probe"] });
});
for (const cwd of ["", "/etc/../bin"])
  add(`the working directory ${JSON.stringify(cwd)}`, (spec) => {
    spec.process.cwd = cwd;
  });
for (const path of ["@/rootfs", "given/../rootfs/", ""])
  add(`root.path ${JSON.stringify(path)}`, (spec) => {
    put(spec, { root: { path } });
  });
add("a hostname of other letters", (spec) => {
  spec.hostname = "a b_ü";
});
add("a domainname that is empty", (spec) => put(spec, { domainname: "" }));
add("no capabilities", (spec) => put(spec.process, { capabilities: undefined }));
add("a capability that is none", (spec) => {
  const none = ["CAP_FOO"];
  spec.process.capabilities = { bounding: none, effective: none, permitted: none };
});
add("ambient capabilities that are not inheritable", (spec) => {
  const one = ["CAP_KILL"];
  spec.process.capabilities = { bounding: one, effective: one, permitted: one, ambient: one };
});
add("no user", (spec) => put(spec.process, { user: undefined }));
add("no noNewPrivileges", (spec) => put(spec.process, { noNewPrivileges: undefined }));
add("a user's name", (spec) => put(spec.process.user, { username: "seven" }));
add("rlimits given twice", (spec) => {
  spec.process.rlimits = [1, 2].map((value) => ({ type: "RLIMIT_CORE", soft: value, hard: value }));
});
add("rlimit by another name", (spec) => put(spec.process, { rlimits: [{ type: "nofile", soft: 1, hard: 1 }] }));
add("umask with more bits", (spec) => {
  spec.process.user.umask = 0o1777;
});
add("consoleSize without a terminal", (spec) => put(spec.process, { consoleSize: { height: 5, width: 6 } }));

// mounts
mount("at a symlink", { destination: "/link-to-etc", type: "tmpfs", source: "x" }, "ls /etc /link-to-etc");
mount("at a symlink that climbs", { destination: "/climbs/here", type: "tmpfs", source: "x" });
mount(
  "at a symlink to nowhere",
  { destination: "/dangling", type: "bind", source: "@/given/file", options: ["bind"] },
  "cat /dangling",
);
mount("at /proc/sys", { destination: "/proc/sys", type: "tmpfs", source: "x" });
mount(
  "at /proc/cpuinfo",
  { destination: "/proc/cpuinfo", type: "bind", source: "@/given/file", options: ["bind", "ro"] },
  "cat /proc/cpuinfo",
);
mount("of proc elsewhere", { destination: "/tmp", type: "proc", source: "proc" }, "cat /tmp/self/comm");
mount("of proc with hidepid", { destination: "/tmp", type: "proc", source: "proc", options: ["hidepid=2"] });
mount("of the host's proc", { destination: "/tmp", type: "bind", source: "/proc", options: ["rbind", "ro"] });
mount("through dots", { destination: "/tmp/../etc/./x", type: "tmpfs", source: "x" });
mount("of tmpfs with words that are none", { destination: "/tmp", type: "tmpfs", source: "x", options: ["foo=bar"] });
mount("of tmpfs with words without effect", {
  destination: "/tmp",
  type: "tmpfs",
  source: "x",
  options: ["lazytime", "iversion", "defaults", "nomand", "loud", "nolazytime", "noiversion"],
});
mount("of tmpfs without a source", { destination: "/tmp", type: "tmpfs" });
mount(
  "of a file, read-only",
  { destination: "/bound", type: "bind", source: "@/given/file", options: ["bind", "ro"] },
  "cat /bound; (echo x > /bound) 2>/dev/null || echo kept",
);
mount("of a file on a directory", { destination: "/etc", type: "bind", source: "@/given/file", options: ["bind"] });
mount(
  "of a symlink",
  { destination: "/bound", type: "bind", source: "@/linked", options: ["bind"] },
  "ls /bound | head -n 1",
);
mount(
  "of a directory with what is mounted in it",
  { destination: "/bound", type: "bind", source: "/dev", options: ["rbind", "ro"] },
  "ls /bound/pts > /dev/null && echo pts",
);
mount("bound, with words for a file system", {
  destination: "/bound",
  type: "bind",
  source: "@/given",
  options: ["bind", "size=5"],
});
mount("without a type and without bind", { destination: "/bound", source: "@/given" });
mount("of devpts twice", { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance"] });
add("/dev as the host has it", (spec) => {
  spec.mounts = spec.mounts.filter(({ destination }) => !destination.startsWith("/dev"));
  spec.mounts.push({ destination: "/dev", type: "bind", source: "/dev", options: ["rbind"] });
});
add("no /dev", (spec) => {
  spec.mounts = spec.mounts.filter(({ destination }) => !destination.startsWith("/dev"));
});

// devices and paths
function device(name: string, one: Device): void {
  add(`device ${name}`, (spec) => {
    spec.linux.devices = [one];
    spec.linux.resources = { devices: [{ allow: true, access: "rwm" }] };
  });
}

device("that is a pipe", { path: "/dev/fifo", type: "p", fileMode: 0o622 });
device("without a mode", { path: "/dev/x", type: "c", major: 1, minor: 3 });
device("of mode 0", { path: "/dev/x", type: "c", major: 1, minor: 3, fileMode: 0 });
device("of type u", { path: "/dev/x", type: "u", major: 1, minor: 3, fileMode: 0o600, uid: 5, gid: 6 });
device("outside of /dev", { path: "/x", type: "c", major: 1, minor: 3, fileMode: 0o600 });
device("whose mode has its type", { path: "/dev/x", type: "c", major: 1, minor: 3, fileMode: 0o20600 });
add(
  "readonlyPaths that are not there, given twice, through a symlink",
  (spec) => {
    spec.linux.readonlyPaths = ["/nowhere", "/proc/sys", "/proc/sys", "/link-to-etc"];
  },
  "touch /etc/x 2>&1",
);
add(
  "readonlyPaths /",
  (spec) => {
    spec.linux.readonlyPaths = ["/"];
  },
  "touch /x 2>&1",
);

// seccomp
function filter(name: string, more: Partial<LinuxSeccomp>, extra?: string): void {
  add(`seccomp ${name}`, (spec) => put(spec.linux, { seccomp: { defaultAction: "SCMP_ACT_ALLOW", ...more } }), extra);
}

const names = ["mkdir", "mkdirat"];
filter("whose rule is the default", { syscalls: [{ names, action: "SCMP_ACT_ALLOW" }] }, "mkdir /made && echo made");
filter("without names", { syscalls: [{ names: [], action: "SCMP_ACT_ERRNO" }] });
filter("by trace", { syscalls: [{ names, action: "SCMP_ACT_TRACE", errnoRet: 3 }] }, "mkdir /made 2>&1");
filter("of an architecture that is none", { architectures: ["SCMP_ARCH_FOO"] });
filter("with a flag that is none", { flags: ["FOO"] });
filter("of an argument that is none", {
  syscalls: [{ names, action: "SCMP_ACT_ERRNO", args: [{ index: 6, value: 1, op: "SCMP_CMP_EQ" }] }],
});

// documents
add("null for what is not there", (spec) => {
  put(spec, { hooks: null, annotations: null });
  put(spec.linux, { seccomp: null, devices: null, sysctl: null, maskedPaths: null });
  put(spec.process, { rlimits: null });
});
add("fields that nobody knows", (spec) => {
  put(spec, { foo: { bar: 1 } });
  put(spec.linux, { foo: 1 });
});
add("a sysctl without a value", (spec) => put(spec.linux, { sysctl: { "net.ipv4.ip_forward": "" } }));

export const oddCases: readonly Case[] = cases;
