/**
 * Bundles that runc, crun and ocibox are given alike: variations of every field of config.json, good and bad. What the
 * container sees is printed by one script; where the runtimes differ, differences.ts says why. "@/" stands for the
 * bundle's directory.
 */
import type { Spec } from "../../src/spec/runtime.ts";
import { oddCases } from "./corpus-odd.ts";

export interface Case {
  readonly name: string;
  change(spec: Full): void;
  /** What more the container prints, in shell. */
  readonly extra?: string;
  /** The configuration is to be refused, or the container to fail. */
  readonly fails?: boolean;
}

/** The base has all of these. */
export type Full = Spec & {
  process: NonNullable<Spec["process"]>;
  root: NonNullable<Spec["root"]>;
  mounts: NonNullable<Spec["mounts"]>;
  linux: NonNullable<Spec["linux"]>;
};

const capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/** What every case begins with. @param host the links of this process's own namespaces, to tell which are shared */
export function base(host: Readonly<Record<string, string>>): Full {
  return {
    ociVersion: "1.0.2",
    process: {
      user: { uid: 0, gid: 0 },
      args: ["sh", "/probe"],
      env: ["PATH=/bin", "HOME=/", ...Object.entries(host).map(([name, link]) => `NS_${name}=${link}`)],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      noNewPrivileges: true,
    },
    root: { path: "rootfs" },
    hostname: "corpus",
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      {
        destination: "/dev",
        type: "tmpfs",
        source: "tmpfs",
        options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
      },
      {
        destination: "/dev/pts",
        type: "devpts",
        source: "devpts",
        options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
      },
    ],
    linux: {
      namespaces: [{ type: "pid" }, { type: "network" }, { type: "ipc" }, { type: "uts" }, { type: "mount" }],
      resources: { devices: [{ allow: false, access: "rwm" }] },
    },
  };
}

/** Prints what can be seen from inside, in sections. `/extra` is the case's own. */
export const probe = `
status() { while read name rest; do case " $1 " in *" $name "*) echo "$name" $rest;; esac; done < /proc/self/status; }
echo "@ids"; id -u; id -g; status "Uid: Gid: Groups:"
echo "@capabilities"; status "CapInh: CapPrm: CapEff: CapBnd: CapAmb: NoNewPrivs:"
echo "@seccomp"; status "Seccomp:"
echo "@limits"; cat /proc/self/limits
echo "@environment"; env | sort | grep -v ^NS_
echo "@directory"; pwd; umask
echo "@descriptors"; ls /proc/self/fd
echo "@namespaces"
for each in cgroup ipc mnt net pid time user uts; do
  eval "host=\\$NS_$each"; [ "$(readlink /proc/self/ns/$each)" = "$host" ] && echo "$each host" || echo "$each own"
done
echo "@mounts"; cat /proc/self/mountinfo
echo "@devices"; for each in /dev/*; do stat -c '%n %F %a %u:%g %t,%T' "$each"; done; readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx
echo "@names"; hostname; cat /proc/sys/kernel/domainname
echo "@oom"; cat /proc/self/oom_score_adj
echo "@cpus"; status "Cpus_allowed_list: Mems_allowed_list:"
echo "@personality"; cat /proc/self/personality 2>/dev/null
echo "@scheduling"; chrt -p $$ 2>/dev/null | sed 's/pid [0-9]*//'; ionice -p $$ 2>/dev/null
echo "@cgroups"; cat /proc/self/cgroup
echo "@extra"; [ -f /extra ] && . /extra
echo "@end"
`;

const cases: Case[] = [];

function add(name: string, change: Case["change"], extra?: string): void {
  cases.push({ name, change, ...(extra === undefined ? {} : { extra }) });
}

function bad(name: string, change: Case["change"]): void {
  cases.push({ name, change, fails: true });
}

function mount(name: string, entry: Full["mounts"][number], extra?: string): void {
  add(`mount ${name}`, (spec) => spec.mounts.push(entry), extra);
}

// process
add("as it is", () => {});
for (const version of ["1.0", "1.0.2-dev"])
  add(`ociVersion ${version}`, (spec) => {
    spec.ociVersion = version;
  });
for (const version of ["invalid", "2.0.0"])
  bad(`ociVersion ${version}`, (spec) => {
    spec.ociVersion = version;
  });
for (const [uid, gid] of [
  [1, 1],
  [1000, 1000],
  [65_534, 0],
  [0, 7],
  [4_000_000_000, 4_000_000_000],
] as const)
  add(`user ${uid}:${gid}`, (spec) => {
    spec.process.user = { uid, gid };
  });
for (const gids of [[5], [5, 6, 7], [0], []])
  add(`additionalGids ${gids.join(",")}`, (spec) => {
    spec.process.user.additionalGids = gids;
  });
for (const umask of [0, 0o077, 0o777])
  add(
    `umask ${umask.toString(8)}`,
    (spec) => {
      spec.process.user.umask = umask;
    },
    "touch /tmp/umask; stat -c %a /tmp/umask; rm -f /tmp/umask",
  );
add("cwd", (spec) => {
  spec.process.cwd = "/tmp";
});
add(
  "cwd that is made",
  (spec) => {
    spec.process.cwd = "/made/deep";
  },
  "stat -c '%a %u %g' /made /made/deep",
);
add("env", (spec) => {
  spec.process.env = [...(spec.process.env ?? []), "A=1", "B=", "C=a=b", "D=with space", "E=ü"];
});
add("env given twice", (spec) => {
  spec.process.env = [...(spec.process.env ?? []), "A=1", "A=2"];
});
add("no HOME", (spec) => {
  spec.process.env = (spec.process.env ?? []).filter((each) => !each.startsWith("HOME="));
});
add("no HOME, another user", (spec) => {
  spec.process.env = (spec.process.env ?? []).filter((each) => !each.startsWith("HOME="));
  spec.process.user = { uid: 7, gid: 7 };
});
add("args with a path", (spec) => {
  spec.process.args = ["/bin/sh", "/probe"];
});
add("args with odd words", (spec) => {
  spec.process.args = ["sh", "-c", 'for each in "$@"; do echo "[$each]"; done', "x", "", "a b", "ü", "*", "$HOME"];
});
for (const code of [1, 3, 126, 127, 255])
  add(`exit ${code}`, (spec) => {
    spec.process.args = ["sh", "-c", `exit ${code}`];
  });
for (const signal of ["TERM", "KILL", "SEGV"])
  add(`a child ends by ${signal}`, (spec) => {
    spec.process.args = ["sh", "-c", `sh -c 'kill -${signal} $$'; exit $?`];
  });
bad("args empty", (spec) => {
  spec.process.args = [];
});
bad("a command that is not there", (spec) => {
  spec.process.args = ["nope"];
});
bad("a command by path that is not there", (spec) => {
  spec.process.args = ["/bin/nope"];
});
bad("a command that is a directory", (spec) => {
  spec.process.args = ["/tmp"];
});
bad("a command that may not be executed", (spec) => {
  spec.process.args = ["/probe"];
});
bad("cwd that is a file", (spec) => {
  spec.process.cwd = "/probe";
});
bad("cwd that is relative", (spec) => {
  spec.process.cwd = "tmp";
});
bad("cwd through a descriptor", (spec) => {
  spec.process.cwd = "/proc/self/fd/7";
});

// capabilities
const sets = ["bounding", "effective", "permitted", "inheritable", "ambient"] as const;
for (const set of sets)
  add(`capabilities without ${set}`, (spec) => {
    const all = {
      bounding: capabilities,
      effective: capabilities,
      permitted: capabilities,
      inheritable: capabilities,
      ambient: capabilities,
    };
    const { [set]: _, ...others } = all;
    // Nothing can be effective that is not permitted, nor ambient that is not inheritable.
    if (set === "permitted") spec.process.capabilities = { bounding: capabilities };
    else spec.process.capabilities = set === "inheritable" ? { ...others, ambient: [] } : others;
  });
add("capabilities: none", (spec) => {
  spec.process.capabilities = {};
});
add("capabilities: all five sets", (spec) => {
  spec.process.capabilities = {
    bounding: capabilities,
    effective: capabilities,
    permitted: capabilities,
    inheritable: capabilities,
    ambient: capabilities,
  };
  spec.process.user = { uid: 9, gid: 9 };
});
add("capabilities of another user, without ambient", (spec) => {
  spec.process.user = { uid: 9, gid: 9 };
});
add("new privileges are allowed", (spec) => {
  spec.process.noNewPrivileges = false;
});
bad("a capability that ocibox's caller has not", (spec) => {
  for (const set of ["bounding", "effective", "permitted"] as const)
    spec.process.capabilities = { ...spec.process.capabilities, [set]: ["CAP_SYS_RESOURCE"] };
});

// rlimits
for (const [type, soft, hard] of [
  ["RLIMIT_NOFILE", 50, 60],
  ["RLIMIT_NOFILE", 3, 1000],
  ["RLIMIT_CORE", 0, 0],
  ["RLIMIT_CPU", 100, 200],
  ["RLIMIT_FSIZE", 1_000_000, 2_000_000],
  ["RLIMIT_STACK", 4_000_000, 8_000_000],
  ["RLIMIT_AS", 1_000_000_000, 2_000_000_000],
  ["RLIMIT_DATA", 500_000_000, 600_000_000],
  ["RLIMIT_MEMLOCK", 1024, 2048],
  ["RLIMIT_NPROC", 500, 600],
  ["RLIMIT_RSS", 1_000_000, 1_000_000],
  ["RLIMIT_LOCKS", 5, 6],
  ["RLIMIT_SIGPENDING", 7, 8],
  ["RLIMIT_MSGQUEUE", 9, 10],
  ["RLIMIT_NICE", 0, 0],
  ["RLIMIT_RTPRIO", 0, 0],
  ["RLIMIT_RTTIME", 1_000_000, 2_000_000],
] as const)
  add(`rlimit ${type} ${soft}`, (spec) => {
    spec.process.rlimits = [{ type, soft, hard }];
  });
bad("rlimit that is none", (spec) => {
  spec.process.rlimits = [{ type: "RLIMIT_NOTHING", soft: 1, hard: 1 }];
});
bad("rlimit whose soft is above its hard", (spec) => {
  spec.process.rlimits = [{ type: "RLIMIT_NOFILE", soft: 100, hard: 50 }];
});
bad("rlimit above what the caller has", (spec) => {
  spec.process.rlimits = [{ type: "RLIMIT_NOFILE", soft: 1_000_000, hard: 1_000_000 }];
});

for (const score of [0, 100, 1000])
  add(`oomScoreAdj ${score}`, (spec) => {
    spec.process.oomScoreAdj = score;
  });
bad("oomScoreAdj 1001", (spec) => {
  spec.process.oomScoreAdj = 1001;
});
bad("an AppArmor profile without AppArmor", (spec) => {
  spec.process.apparmorProfile = "corpus";
});
bad("a SELinux label without SELinux", (spec) => {
  spec.process.selinuxLabel = "system_u:system_r:corpus_t:s0";
});

// root and names
add(
  "root.readonly",
  (spec) => {
    spec.root.readonly = true;
  },
  "touch /x 2>&1; touch /tmp/x 2>&1; touch /dev/x && echo dev is writable",
);
bad("root.path that is not there", (spec) => {
  spec.root.path = "nowhere";
});
bad("root.path that is a file", (spec) => {
  spec.root.path = "config.json";
});
add("hostname empty", (spec) => {
  spec.hostname = "";
});
add("hostname of 64", (spec) => {
  spec.hostname = "h".repeat(64);
});
bad("hostname of 65", (spec) => {
  spec.hostname = "h".repeat(65);
});
bad("hostname without a uts namespace", (spec) => {
  spec.linux.namespaces = spec.linux.namespaces?.filter(({ type }) => type !== "uts") ?? [];
});
add("annotations", (spec) => {
  spec.annotations = { "org.example": "value", empty: "" };
});

// namespaces
for (const type of ["pid", "network", "ipc", "mount"] as const)
  add(`without a ${type} namespace`, (spec) => {
    spec.linux.namespaces = spec.linux.namespaces?.filter((each) => each.type !== type) ?? [];
  });
add("without a uts namespace and hostname", (spec) => {
  spec.linux.namespaces = spec.linux.namespaces?.filter((each) => each.type !== "uts") ?? [];
  delete spec.hostname;
});
add("a cgroup namespace", (spec) => {
  spec.linux.namespaces?.push({ type: "cgroup" });
});
for (const [type, file] of [
  ["network", "net"],
  ["ipc", "ipc"],
  ["uts", "uts"],
  ["pid", "pid"],
] as const)
  add(`the host's ${type} namespace by its path`, (spec) => {
    spec.linux.namespaces =
      spec.linux.namespaces?.map((each) => (each.type === type ? { type, path: `/proc/1/ns/${file}` } : each)) ?? [];
    if (type === "uts") delete spec.hostname;
  });
bad("a namespace whose path is not there", (spec) => {
  spec.linux.namespaces = [
    ...(spec.linux.namespaces ?? []).filter(({ type }) => type !== "network"),
    { type: "network", path: "/nowhere" },
  ];
});
bad("a namespace whose path is another kind", (spec) => {
  spec.linux.namespaces = [
    ...(spec.linux.namespaces ?? []).filter(({ type }) => type !== "network"),
    { type: "network", path: "/proc/1/ns/uts" },
  ];
});
bad("a namespace given twice", (spec) => {
  spec.linux.namespaces?.push({ type: "pid" });
});
bad("a namespace that is none", (spec) => {
  spec.linux.namespaces?.push({ type: "nothing" as "pid" });
});
function withUser(spec: Full, size = 65_536): void {
  spec.linux.namespaces?.push({ type: "user" });
  spec.linux.uidMappings = [{ containerID: 0, hostID: 100_000, size }];
  spec.linux.gidMappings = [{ containerID: 0, hostID: 200_000, size }];
}
add(
  "a user namespace",
  (spec) => withUser(spec),
  "cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups",
);
add(
  "a user namespace, another user",
  (spec) => {
    withUser(spec);
    spec.process.user = { uid: 5, gid: 6, additionalGids: [7] };
  },
  "cat /proc/self/uid_map",
);
add(
  "a user namespace of two ranges",
  (spec) => {
    withUser(spec, 10);
    spec.linux.uidMappings?.push({ containerID: 10, hostID: 300_000, size: 10 });
  },
  "cat /proc/self/uid_map",
);
bad("a user namespace without mappings", (spec) => {
  spec.linux.namespaces?.push({ type: "user" });
});
bad("mappings without a user namespace", (spec) => {
  spec.linux.uidMappings = [{ containerID: 0, hostID: 100_000, size: 10 }];
  spec.linux.gidMappings = [{ containerID: 0, hostID: 100_000, size: 10 }];
});

// mounts
mount("tmpfs", { destination: "/tmp", type: "tmpfs", source: "tmpfs" }, "stat -c '%a %u %g' /tmp");
mount(
  "tmpfs with options",
  {
    destination: "/tmp",
    type: "tmpfs",
    source: "here",
    options: ["nosuid", "nodev", "noexec", "size=1m", "mode=1770", "uid=5", "gid=6", "nr_inodes=50"],
  },
  "stat -c '%a %u %g' /tmp; df /tmp | tail -n 1 | while read a b c; do echo $b; done",
);
for (const option of [
  "ro",
  "nosuid",
  "nodev",
  "noexec",
  "noatime",
  "nodiratime",
  "relatime",
  "strictatime",
  "sync",
  "dirsync",
  "suid",
  "dev",
  "exec",
  "rw",
  "async",
  "nosymfollow",
])
  mount(`tmpfs ${option}`, { destination: "/tmp", type: "tmpfs", source: "tmpfs", options: [option] });
mount(
  "tmpfs at a place that is made",
  { destination: "/new/deep/place", type: "tmpfs", source: "tmpfs" },
  "stat -c '%a %u %g' /new /new/deep",
);
mount(
  "tmpcopyup",
  { destination: "/etc", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup"] },
  "ls -ln /etc | while read a b c d e f; do echo $a $c $d; done; cat /etc/passwd",
);
mount(
  "a directory bound",
  { destination: "/bound", type: "bind", source: "@/given", options: ["bind"] },
  "ls -n /bound; touch /bound/x && rm /bound/x",
);
mount(
  "a file bound",
  { destination: "/bound/file", type: "bind", source: "@/given/file", options: ["bind"] },
  "cat /bound/file",
);
for (const options of [
  ["bind", "ro"],
  ["rbind", "ro"],
  ["rbind", "rro"],
  ["bind", "nosuid", "nodev", "noexec"],
  ["rbind", "rprivate"],
  ["bind", "private"],
  ["rbind", "rslave"],
  ["rbind", "rshared"],
  ["bind", "unbindable"],
  ["bind", "noatime"],
])
  mount(
    `bind ${options.join(",")}`,
    { destination: "/bound", type: "bind", source: "@/given", options },
    "touch /bound/x 2>&1 && rm /bound/x",
  );
mount("a relative source", { destination: "/bound", type: "bind", source: "given", options: ["bind"] }, "ls /bound");
mount("bind without a type", { destination: "/bound", source: "@/given", options: ["bind"] });
mount("type none with bind", {
  destination: "/bound",
  type: "none",
  source: "@/given",
  options: ["rbind"],
});
mount(
  "sysfs",
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
  "ls /sys/class/net",
);
mount("mqueue", {
  destination: "/dev/mqueue",
  type: "mqueue",
  source: "mqueue",
  options: ["nosuid", "noexec", "nodev"],
});
mount(
  "shm",
  {
    destination: "/dev/shm",
    type: "tmpfs",
    source: "shm",
    options: ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
  },
  "stat -c %a /dev/shm",
);
mount(
  "cgroup",
  {
    destination: "/sys/fs/cgroup",
    type: "cgroup",
    source: "cgroup",
    options: ["nosuid", "noexec", "nodev", "relatime", "ro"],
  },
  "ls /sys/fs/cgroup; touch /sys/fs/cgroup/x 2>/dev/null || echo kept",
);
mount(
  "overlay",
  {
    destination: "/over",
    type: "overlay",
    source: "overlay",
    options: ["lowerdir=@/given:@/given2"],
  },
  "ls /over",
);
add(
  "mounts upon each other",
  (spec) => {
    spec.mounts.push(
      { destination: "/tmp", type: "tmpfs", source: "one" },
      { destination: "/tmp/in", type: "tmpfs", source: "two" },
      { destination: "/tmp/in/file", type: "bind", source: "@/given/file", options: ["bind", "ro"] },
    );
  },
  "cat /tmp/in/file",
);
add(
  "remount",
  (spec) => {
    spec.mounts.push(
      { destination: "/tmp", type: "tmpfs", source: "tmpfs" },
      { destination: "/tmp", type: "none", source: "/tmp", options: ["bind", "remount", "ro", "nosuid"] },
    );
  },
  "touch /tmp/x 2>&1",
);
bad("mount of a type that is none", (spec) => spec.mounts.push({ destination: "/x", type: "nothing", source: "x" }));
bad("mount with an option that is none", (spec) =>
  spec.mounts.push({ destination: "/x", type: "tmpfs", source: "x", options: ["size=lots"] }),
);
bad("bind of what is not there", (spec) =>
  spec.mounts.push({ destination: "/x", type: "bind", source: "/nowhere", options: ["bind"] }),
);
bad("bind of a directory on a file", (spec) =>
  spec.mounts.push({ destination: "/probe", type: "bind", source: "@/given", options: ["bind"] }),
);
bad("mount without a destination", (spec) =>
  spec.mounts.push({ type: "tmpfs", source: "x" } as Full["mounts"][number]),
);
for (const propagation of ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"])
  add(`rootfsPropagation ${propagation}`, (spec) => {
    spec.linux.rootfsPropagation = propagation;
  });
bad("rootfsPropagation that is none", (spec) => {
  spec.linux.rootfsPropagation = "everywhere";
});

// devices
add("devices", (spec) => {
  spec.linux.devices = [
    { type: "c", path: "/dev/other", major: 1, minor: 3, fileMode: 0o640, uid: 5, gid: 6 },
    { type: "b", path: "/dev/loopy", major: 7, minor: 200, fileMode: 0o600, uid: 0, gid: 0 },
    { type: "p", path: "/dev/fifo", fileMode: 0o622, uid: 1, gid: 2 },
  ];
});
add(
  "a device in a directory of its own",
  (spec) => {
    spec.linux.devices = [
      { type: "u", path: "/dev/deep/er/null", major: 1, minor: 3, fileMode: 0o666, uid: 0, gid: 0 },
    ];
  },
  "stat -c '%a %t,%T' /dev/deep /dev/deep/er/null",
);
add(
  "devices that are allowed and denied",
  (spec) => {
    spec.linux.resources = {
      devices: [
        { allow: false, access: "rwm" },
        { allow: true, type: "c", major: 1, minor: 11, access: "r" },
      ],
    };
    spec.linux.devices = [
      { type: "c", path: "/dev/kmsg", major: 1, minor: 11, fileMode: 0o666, uid: 0, gid: 0 },
      { type: "c", path: "/dev/mem", major: 1, minor: 1, fileMode: 0o666, uid: 0, gid: 0 },
    ];
  },
  "for each in null zero full random urandom tty kmsg mem; do (head -c 0 < /dev/$each) 2>/dev/null && echo $each can be read || echo $each cannot; (: > /dev/$each) 2>/dev/null && echo $each can be written || echo $each cannot; done",
);
bad("a device where there is a file", (spec) => {
  spec.linux.devices = [{ type: "c", path: "/probe2", major: 1, minor: 3, fileMode: 0o666, uid: 0, gid: 0 }];
});
bad("a device of a kind that is none", (spec) => {
  spec.linux.devices = [{ type: "x", path: "/dev/x", major: 1, minor: 3 }];
});

// resources
bad("a user namespace's path that leads to another namespace", (spec) => {
  spec.linux.namespaces?.push({ type: "user", path: "/proc/self/ns/uts" });
});
const cgroupMount = { destination: "/cgroup", type: "cgroup", source: "cgroup", options: ["ro"] };
function limits(name: string, resources: NonNullable<Full["linux"]["resources"]>, ...files: string[]): void {
  add(
    `resources ${name}`,
    (spec) => {
      spec.linux.resources = { ...spec.linux.resources, ...resources };
      spec.mounts.push(cgroupMount);
    },
    files.map((file) => `echo ${file}; cat /cgroup/${file}`).join("\n"),
  );
}
limits("memory.limit", { memory: { limit: 64 << 20 } }, "memory/memory.limit_in_bytes");
limits("memory.limit -1", { memory: { limit: -1 } }, "memory/memory.limit_in_bytes");
limits("memory.reservation", { memory: { reservation: 32 << 20 } }, "memory/memory.soft_limit_in_bytes");
limits("memory.swappiness", { memory: { swappiness: 7 } }, "memory/memory.swappiness");
limits(
  "memory.disableOOMKiller",
  { memory: { limit: 64 << 20, disableOOMKiller: true } },
  "memory/memory.oom_control | head -n 1",
);
limits("memory.kernelTCP", { memory: { kernelTCP: 32 << 20 } }, "memory/memory.kmem.tcp.limit_in_bytes");
limits("cpu.shares", { cpu: { shares: 512 } }, "cpu/cpu.shares");
limits(
  "cpu.quota and period",
  { cpu: { quota: 20_000, period: 50_000 } },
  "cpu/cpu.cfs_quota_us",
  "cpu/cpu.cfs_period_us",
);
limits("cpu.quota -1", { cpu: { quota: -1 } }, "cpu/cpu.cfs_quota_us");
limits("cpu.cpus and mems", { cpu: { cpus: "0", mems: "0" } }, "cpuset/cpuset.cpus", "cpuset/cpuset.mems");
limits("pids.limit", { pids: { limit: 50 } }, "pids/pids.max");
limits("pids.limit -1", { pids: { limit: -1 } }, "pids/pids.max");
limits(
  "hugepageLimits",
  { hugepageLimits: [{ pageSize: "2MB", limit: 4 << 20 }] },
  "hugetlb/hugetlb.2MB.limit_in_bytes",
);
limits(
  "network",
  { network: { classID: 65_537, priorities: [{ name: "lo", priority: 3 }] } },
  "net_cls/net_cls.classid",
  "net_prio/net_prio.ifpriomap",
);
limits("blockIO.weight", { blockIO: { weight: 100 } }, "blkio/blkio.bfq.weight");
limits(
  "blockIO throttles",
  {
    blockIO: {
      throttleReadBpsDevice: [{ major: 254, minor: 0, rate: 1_000_000 }],
      throttleWriteIOPSDevice: [{ major: 254, minor: 0, rate: 500 }],
    },
  },
  "blkio/blkio.throttle.read_bps_device",
  "blkio/blkio.throttle.write_iops_device",
);
limits("nothing", {}, "pids/pids.max");
bad("resources cpu.cpus that are not there", (spec) => {
  spec.linux.resources = { cpu: { cpus: "900" } };
});
bad("resources cpu.quota that is too small", (spec) => {
  spec.linux.resources = { cpu: { quota: 1 } };
});
bad("resources of the wrong kind", (spec) => {
  spec.linux.resources = { pids: { limit: "many" as unknown as number } };
});
for (const path of ["/ocibox-corpus/place", "ocibox-corpus/place", "/ocibox-corpus/../ocibox-corpus/place"])
  add(`cgroupsPath ${path}`, (spec) => {
    spec.linux.cgroupsPath = path;
  });

// sysctl
for (const [key, value] of [
  ["net.ipv4.ip_forward", "1"],
  ["net.core.somaxconn", "256"],
  ["kernel.shmmax", "65536"],
  ["kernel.sem", "1 2 3 4"],
  ["fs.mqueue.msg_max", "5"],
  ["kernel.domainname", "example.org"],
  ["net/ipv4/ip_forward", "1"],
] as const)
  add(
    `sysctl ${key}`,
    (spec) => {
      spec.linux.sysctl = { [key]: value };
    },
    `cat /proc/sys/${key.replaceAll(".", "/")}`,
  );
bad("sysctl of the host's", (spec) => {
  spec.linux.sysctl = { "vm.swappiness": "10" };
});
bad("sysctl of the network without its namespace", (spec) => {
  spec.linux.namespaces = spec.linux.namespaces?.filter(({ type }) => type !== "network") ?? [];
  spec.linux.sysctl = { "net.ipv4.ip_forward": "1" };
});
bad("sysctl of the hostname", (spec) => {
  spec.linux.sysctl = { "kernel.hostname": "other" };
});
bad("sysctl that is none", (spec) => {
  spec.linux.sysctl = { "net.nothing": "1" };
});

// masked and read-only paths
add(
  "maskedPaths",
  (spec) => {
    spec.linux.maskedPaths = ["/proc/kcore", "/proc/keys", "/proc/scsi", "/etc", "/nothing/there", "/probe2"];
  },
  "wc -c < /proc/keys; ls -a /proc/scsi /etc; wc -c < /probe2; touch /etc/x 2>&1",
);
add(
  "readonlyPaths",
  (spec) => {
    spec.linux.readonlyPaths = ["/proc/sys", "/etc", "/nothing/there", "/probe2"];
  },
  "touch /etc/x 2>&1; echo x 2>&1 > /probe2; echo 1 2>&1 > /proc/sys/kernel/shm_rmid_forced",
);

// seccomp
const allow = "SCMP_ACT_ALLOW";
function seccomp(name: string, profile: NonNullable<Full["linux"]["seccomp"]>, extra?: string): void {
  add(
    `seccomp ${name}`,
    (spec) => {
      spec.linux.seccomp = profile;
    },
    extra,
  );
}
const tries =
  "mkdir /tmp/sec 2>&1; rmdir /tmp/sec 2>/dev/null; mkdir -m 700 /tmp/sec 2>&1; rmdir /tmp/sec 2>/dev/null; true";
seccomp("allow all", { defaultAction: allow }, tries);
seccomp(
  "errno",
  { defaultAction: allow, syscalls: [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO" }] },
  tries,
);
seccomp(
  "errno of its own",
  { defaultAction: allow, syscalls: [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: 28 }] },
  tries,
);
seccomp("log", { defaultAction: allow, syscalls: [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_LOG" }] }, tries);
for (const action of ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
  seccomp(
    action,
    { defaultAction: allow, syscalls: [{ names: ["mkdir", "mkdirat"], action }] },
    "mkdir /tmp/sec; echo $?",
  );
for (const [op, value, valueTwo] of [
  ["SCMP_CMP_EQ", 0o700, 0],
  ["SCMP_CMP_NE", 0o700, 0],
  ["SCMP_CMP_LT", 0o777, 0],
  ["SCMP_CMP_LE", 0o700, 0],
  ["SCMP_CMP_GT", 0o700, 0],
  ["SCMP_CMP_GE", 0o777, 0],
  ["SCMP_CMP_MASKED_EQ", 0o077, 0],
] as const)
  seccomp(
    op,
    {
      defaultAction: allow,
      syscalls: [
        { names: ["mkdir"], action: "SCMP_ACT_ERRNO", errnoRet: 99, args: [{ index: 1, value, valueTwo, op }] },
      ],
    },
    tries,
  );
seccomp(
  "two rules for one call",
  {
    defaultAction: allow,
    syscalls: [
      {
        names: ["mkdir"],
        action: "SCMP_ACT_ERRNO",
        errnoRet: 28,
        args: [{ index: 1, value: 0o700, op: "SCMP_CMP_EQ" }],
      },
      {
        names: ["mkdir"],
        action: "SCMP_ACT_ERRNO",
        errnoRet: 17,
        args: [{ index: 1, value: 0o777, op: "SCMP_CMP_EQ" }],
      },
    ],
  },
  tries,
);
seccomp(
  "names that are none",
  { defaultAction: allow, syscalls: [{ names: ["no_such_call", "mkdir"], action: "SCMP_ACT_ERRNO" }] },
  tries,
);
seccomp(
  "architectures",
  {
    defaultAction: allow,
    architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_ERRNO" }],
  },
  tries,
);
seccomp(
  "flags",
  {
    defaultAction: allow,
    flags: ["SECCOMP_FILTER_FLAG_LOG"],
    syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_ERRNO" }],
  },
  tries,
);
bad("seccomp with an action that is none", (spec) => {
  spec.linux.seccomp = { defaultAction: "SCMP_ACT_NOTHING" };
});
bad("seccomp with an operator that is none", (spec) => {
  spec.linux.seccomp = {
    defaultAction: allow,
    syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_ERRNO", args: [{ index: 0, value: 1, op: "SCMP_CMP_XX" }] }],
  };
});

// hooks
const hook = (path: string, ...args: string[]) => [{ path, args: [path, ...args] }];
for (const kind of [
  "prestart",
  "createRuntime",
  "createContainer",
  "startContainer",
  "poststart",
  "poststop",
] as const) {
  add(`hooks ${kind}`, (spec) => {
    spec.hooks = { [kind]: hook(kind === "startContainer" ? "/bin/true" : "/bin/true") };
  });
  if (kind !== "poststart" && kind !== "poststop")
    bad(`hooks ${kind} that fails`, (spec) => {
      spec.hooks = { [kind]: hook(kind === "startContainer" ? "/bin/false" : "/bin/false") };
    });
}
bad("hooks of a program that is not there", (spec) => {
  spec.hooks = { createRuntime: hook("/nowhere") };
});

// documents
bad("a field of the wrong kind", (spec) => {
  (spec.process as { args: unknown }).args = "sh";
});
bad("no process", (spec) => {
  delete (spec as Spec).process;
});
bad("no root", (spec) => {
  delete (spec as Spec).root;
});

export const corpus: readonly Case[] = [...cases, ...oddCases];
