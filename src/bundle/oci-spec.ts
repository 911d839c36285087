/** What `oci spec` writes: a config.json to start from, as runc's has it. Pure. */
import type { IdMapping, Mount, Namespace, Spec } from "../spec/runtime.ts";
import { runtimeSpecVersion } from "../spec/version.ts";

const capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
const maskedPaths = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/scsi",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/sched_debug",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
];
const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/** A user may not set gid 5, which he has not, and without a network of his own no sysfs is to be had. */
function mountsFor(rootless: boolean): Mount[] {
  const still = ["nosuid", "noexec", "nodev"];
  return [
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
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", ...(rootless ? [] : ["gid=5"])],
    },
    { destination: "/dev/shm", type: "tmpfs", source: "shm", options: [...still, "mode=1777", "size=65536k"] },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: still },
    rootless
      ? { destination: "/sys", type: "none", source: "/sys", options: ["rbind", ...still, "ro"] }
      : { destination: "/sys", type: "sysfs", source: "sysfs", options: [...still, "ro"] },
    { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: [...still, "relatime", "ro"] },
  ];
}

export interface ExampleFor {
  /** Whoever is to be root in the container, where it is for somebody who is not root. */
  readonly user: { readonly uid: number; readonly gid: number } | undefined;
  /** With v1 of cgroups runc's example has no namespace of them. */
  readonly cgroupV2: boolean;
}

export function exampleSpec({ user, cgroupV2 }: ExampleFor): Spec {
  const own: Namespace["type"][] = ["pid", "ipc", "uts", "mount"];
  own.push(...(user === undefined ? (["network"] as const) : []), ...(cgroupV2 ? (["cgroup"] as const) : []));
  if (user !== undefined) own.push("user");
  const only = (hostID: number): IdMapping[] => [{ containerID: 0, hostID, size: 1 }];
  return {
    ociVersion: runtimeSpecVersion,
    process: {
      terminal: true,
      user: { uid: 0, gid: 0 },
      args: ["sh"],
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      rlimits: [{ type: "RLIMIT_NOFILE", hard: 1024, soft: 1024 }],
      noNewPrivileges: true,
    },
    root: { path: "rootfs", readonly: true },
    hostname: "ocibox",
    mounts: mountsFor(user !== undefined),
    linux: {
      ...(user === undefined
        ? { resources: { devices: [{ allow: false, access: "rwm" }] } }
        : { uidMappings: only(user.uid), gidMappings: only(user.gid) }),
      namespaces: own.map((type) => ({ type })),
      maskedPaths,
      readonlyPaths,
    },
  };
}
