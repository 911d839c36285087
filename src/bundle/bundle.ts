/**
 * An image's configuration and the flags of `run` become a runtime-spec config.json. Pure: files of the image and facts
 * of the host come in as values.
 */
import { isMapped } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";
import type { HostFacts } from "../plan/facts.ts";
import { defaultProfile } from "../plan/seccomp/filter.ts";
import type { ContainerDefaults } from "../spec/image.ts";
import type { Linux, LinuxSeccomp, Mount, Process, Rlimit, Spec } from "../spec/runtime.ts";
import { runtimeSpecVersion } from "../spec/version.ts";
import { argsOf, type CommandInput, environmentOf, hostnameOf, parseHostname, type RunOptions } from "./command.ts";
import { resourcesOf } from "./limits.ts";
import type { DeviceFlag, MoreOptions } from "./more-options.ts";
import { type Account, lookUpGroup, lookUpUser } from "./user.ts";
import {
  capabilities,
  cleanPath,
  numberOf,
  parseSize,
  parseUlimit,
  tmpfsMount,
  usualCapabilities,
  volumeMount,
} from "./values.ts";

export interface BundleInput extends CommandInput {
  readonly image: ContainerDefaults;
  readonly passwd: Uint8Array | undefined;
  readonly group: Uint8Array | undefined;
  readonly facts: HostFacts;
  readonly cgroupsPath: string;
  /** Directory with hostname, hosts and resolv.conf. */
  readonly files: string;
  /** The network namespace that the container joins, where it is made before it. */
  readonly networkPath: string;
}

/** docker's and podman's lists together; docs/security.md. */
const maskedPaths = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/sys/dev/block",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
  "/sys/fs/selinux",
];
const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/** The group of terminals, everywhere. */
const ttyGroup = 5;

/** Queues of messages are those of the IPC namespace that the container is in; who is not its root has them from the host. */
function ipcMounts(facts: HostFacts, { hostIpc, shmSize = "64m" }: MoreOptions): Mount[] {
  const flags = ["nosuid", "noexec", "nodev"];
  const bytes = parseSize(shmSize, "--shm-size");
  const size = bytes % 1024 === 0 ? `size=${bytes / 1024}k` : `size=${bytes}`;
  const queues: Mount = { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: flags };
  const memory: Mount = {
    destination: "/dev/shm",
    type: "tmpfs",
    source: "shm",
    options: [...flags, "mode=1777", size],
  };
  if (hostIpc === undefined) return [queues, memory];
  const bound = hostIpc.map((path) => ({
    destination: path,
    type: "bind",
    source: path,
    options: ["rbind", ...flags],
  }));
  return [
    ...bound,
    ...(hostIpc.includes("/dev/mqueue") || facts.userNamespace ? [] : [queues]),
    ...(hostIpc.includes("/dev/shm") ? [] : [memory]),
  ];
}

function baseMounts(facts: HostFacts, { network, more }: RunOptions): Mount[] {
  const access = more.privileged === true ? "rw" : "ro";
  const mounts: Mount[] = [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: [
        ...["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ...(facts.ids === undefined || isMapped(facts.ids.gids, ttyGroup) ? [`gid=${ttyGroup}`] : []),
      ],
    },
    // With the host's network namespace, sysfs would show its devices all the same: it is read-only in either case. Who may
    // not mount one, as the network is not theirs, has the host's.
    facts.userNamespace && network === "host"
      ? { destination: "/sys", type: "bind", source: "/sys", options: ["rbind", "nosuid", "noexec", "nodev", "rro"] }
      : { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", access] },
    ...ipcMounts(facts, more),
  ];
  if (facts.cgroup.mode !== "none")
    mounts.push({
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: ["nosuid", "noexec", "nodev", access],
    });
  return mounts;
}

function fileMounts(input: BundleInput, taken: ReadonlySet<string>): Mount[] {
  const mounts: Mount[] = [];
  for (const name of ["hostname", "hosts", "resolv.conf"]) {
    const destination = `/etc/${name}`;
    if (taken.has(destination)) continue;
    mounts.push({
      destination,
      type: "bind",
      source: `${input.files}/${name}`,
      options: ["bind", "nodev", "nosuid", "rprivate"],
    });
  }
  return mounts;
}

function mountsOf(input: BundleInput): Mount[] {
  const { options } = input;
  const own = [
    ...options.volumes.map((each, index) => volumeMount(each, input.files, index)),
    ...options.tmpfs.map(tmpfsMount),
    // Who may not make one binds the host's.
    ...(input.facts.userNamespace ? (options.more.devices ?? []).map(deviceMount) : []),
  ];
  const taken = new Set(own.map((mount) => mount.destination));
  if (taken.size !== own.length) throw new OciboxError("USAGE", "two mounts have the same destination");
  const base = baseMounts(input.facts, options).filter((mount) => !taken.has(mount.destination));
  // A mount on a directory must come before the mounts below it.
  own.sort((a, b) => a.destination.split("/").length - b.destination.split("/").length);
  return [...base, ...fileMounts(input, taken), ...own];
}

function deviceMount({ source, path, access }: DeviceFlag): Mount {
  const options = ["bind", "nosuid", "noexec", ...(access.includes("w") ? [] : ["ro"])];
  return { destination: path, type: "bind", source, options };
}

interface Security {
  noNewPrivileges: boolean;
  seccomp: LinuxSeccomp | undefined;
}

function securityOf(options: RunOptions, facts: HostFacts, bounding: readonly string[]): Security {
  const found: Security = { noNewPrivileges: options.strict, seccomp: undefined };
  let unconfined = false;
  for (const option of options.securityOpt) {
    const [key = "", ...rest] = option.split(/[=:]/);
    const value = option.slice(key.length + 1);
    if (key === "no-new-privileges" && ["", "true", "false"].includes(value)) found.noNewPrivileges = value !== "false";
    else if (key === "seccomp" && value === "unconfined") unconfined = true;
    else if (key === "seccomp" && rest.length > 0) found.seccomp = readProfile(value);
    else if (key === "apparmor" && value === "unconfined") continue;
    else if (key === "label" && value === "disable") continue;
    else if (key === "apparmor" || key === "label")
      throw new OciboxError(
        "UNSUPPORTED",
        `--security-opt ${option}: ${key === "apparmor" ? "AppArmor" : "SELinux"} ${
          (key === "apparmor" ? facts.apparmor : facts.selinux)
            ? "profiles are not there yet"
            : "is not active on this machine"
        }`,
      );
    else throw new OciboxError("USAGE", `--security-opt has no "${option}"`);
  }
  if (!unconfined) found.seccomp ??= defaultProfile(facts.machine, bounding, isUsual(bounding));
  return found;
}

function isUsual(bounding: readonly string[]): boolean {
  return bounding.length === usualCapabilities.length && usualCapabilities.every((each) => bounding.includes(each));
}

function readProfile(text: string): LinuxSeccomp {
  try {
    const profile = JSON.parse(text) as LinuxSeccomp;
    if (typeof profile.defaultAction === "string") return profile;
  } catch {
    // said below
  }
  throw new OciboxError("INVALID", "the seccomp profile is not JSON with a defaultAction");
}

function rlimitsOf(options: RunOptions, facts: HostFacts): Rlimit[] {
  const given = options.ulimits.map(parseUlimit);
  if (given.some((each) => each.type === "RLIMIT_NOFILE")) return given;
  return [{ type: "RLIMIT_NOFILE", ...facts.nofile }, ...given];
}

/** KEY=VALUE each. */
function pairsOf(items: readonly string[], flag: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const item of items) {
    const equals = item.indexOf("=");
    if (equals < 1) throw new OciboxError("USAGE", `${flag} is "${item}", which is not NAME=VALUE`);
    found[item.slice(0, equals)] = item.slice(equals + 1);
  }
  return found;
}

/** What of the rarer flags is no more than a value. */
function moreOf({ more }: RunOptions): {
  readonly umask: number | undefined;
  readonly oomScoreAdj: number | undefined;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
} {
  const { umask, oomScoreAdj, sysctls = [], annotations = [] } = more;
  if (umask !== undefined && !/^0?[0-7]{1,3}$/.test(umask))
    throw new OciboxError("USAGE", `--umask is "${umask}", which is not octal like 0022`);
  return {
    umask: umask === undefined ? undefined : Number.parseInt(umask, 8),
    oomScoreAdj: oomScoreAdj === undefined ? undefined : numberOf(oomScoreAdj, "--oom-score-adj", -1000, 1000),
    sysctls: pairsOf(sysctls, "--sysctl"),
    annotations: pairsOf(annotations, "--annotation"),
  };
}

/**
 * Whether the options make sense, whatever the image is: a mistyped flag should not cost a pull.
 * @throws OciboxError as createSpec does
 */
export function checkOptions(options: RunOptions, facts: HostFacts): void {
  resourcesOf(options, facts);
  rlimitsOf(options, facts);
  moreOf(options);
  baseMounts(facts, options);
  const bounding = capabilities(options.capAdd, options.capDrop, options.strict, facts.permitted);
  securityOf(options, facts, bounding);
  for (const each of options.volumes) volumeMount(each, "", 0);
  for (const text of options.tmpfs) tmpfsMount(text);
  if (options.hostname !== undefined) parseHostname(options.hostname);
  if (options.workdir !== undefined) cleanPath(options.workdir, "the working directory");
}

/** Whoever the command is to run as is somebody here. @throws OciboxError HOST */
export function checkIds({ uid, gid }: Account, { ids }: HostFacts): void {
  if (ids === undefined || (isMapped(ids.uids, uid) && isMapped(ids.gids, gid))) return;
  throw new OciboxError("HOST", `the command cannot run as ${uid}:${gid}, whom this user has no ids for`, {
    hint: "install uidmap, and give the user ranges in /etc/subuid and /etc/subgid; or run it as root: -u 0",
  });
}

function processOf(input: BundleInput, account: Account, bounding: string[], noNewPrivileges: boolean): Process {
  const { image, options, facts } = input;
  // As docker: what a user who is not root may have, it has to get by a file's capabilities.
  const held = account.uid === 0 ? bounding : [];
  checkIds(account, facts);
  // Where they cannot be had, as with a user's own id alone, they are the user's own groups, which nothing is lost by.
  const { umask, oomScoreAdj } = moreOf(options);
  const given = (options.more.groups ?? []).map((each) => lookUpGroup(each, input.group));
  if (given.length > 0 && facts.ids?.setgroups === false)
    throw new OciboxError("HOST", "--group-add cannot be had: groups are not this user's to change", {
      hint: "install uidmap, and give the user ranges in /etc/subuid and /etc/subgid",
    });
  const groups = facts.ids?.setgroups === false ? [] : [...new Set([...account.additionalGids, ...given])];
  return {
    terminal: options.tty,
    user: {
      uid: account.uid,
      gid: account.gid,
      ...(groups.length > 0 ? { additionalGids: groups } : {}),
      ...(umask === undefined ? {} : { umask }),
    },
    args: argsOf(input),
    env: environmentOf(input, account.home),
    cwd: cleanPath(options.workdir ?? (image.WorkingDir || "/"), "the working directory"),
    capabilities: { bounding, effective: held, permitted: held, inheritable: [], ambient: [] },
    rlimits: rlimitsOf(options, facts),
    noNewPrivileges,
    // A user may not lower what a session has set.
    ...(facts.userNamespace && oomScoreAdj === undefined ? {} : { oomScoreAdj: oomScoreAdj ?? 0 }),
  };
}

function linuxOf(input: BundleInput, seccomp: LinuxSeccomp | undefined): Linux {
  const { options, facts } = input;
  const { network } = options;
  const isOwn = network === "none" || network === "bridge";
  const { hostIpc, hostUts, hostCgroups, privileged, devices = [] } = options.more;
  const sysctl = {
    ...(isOwn ? { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 0" } : {}),
    ...moreOf(options).sysctls,
  };
  return {
    namespaces: [
      { type: "pid" },
      ...(hostIpc === undefined ? [{ type: "ipc" } as const] : []),
      ...(hostUts === true ? [] : [{ type: "uts" } as const]),
      { type: "mount" },
      ...(network === "none" ? [{ type: "network" } as const] : []),
      ...(network === "none" || network === "host" ? [] : [{ type: "network", path: input.networkPath } as const]),
      ...(facts.cgroup.mode === "none" || hostCgroups === true ? [] : [{ type: "cgroup" } as const]),
    ],
    cgroupsPath: input.cgroupsPath,
    resources: resourcesOf(options, facts),
    ...(seccomp === undefined ? {} : { seccomp }),
    ...(Object.keys(sysctl).length === 0 ? {} : { sysctl }),
    ...(devices.length === 0 || facts.userNamespace
      ? {}
      : { devices: devices.map(({ access, source, ...device }) => device) }),
    ...(privileged === true ? {} : { maskedPaths, readonlyPaths }),
  };
}

/** Who the command runs as, by the image's own passwd and group. @throws OciboxError INVALID */
export function accountOf({ image, options, passwd, group }: BundleInput): Account {
  return lookUpUser(options.user ?? image.User ?? "", passwd, group);
}

/**
 * The config.json of a container.
 * @throws OciboxError USAGE or INVALID naming the flag or the image's field, HOST for a limit that cannot be had
 */
export function createSpec(input: BundleInput, account = accountOf(input)): Spec {
  const { options, facts } = input;
  const bounding = capabilities(options.capAdd, options.capDrop, options.strict, facts.permitted);
  const security = securityOf(options, facts, bounding);
  const { annotations } = moreOf(options);
  return {
    ociVersion: runtimeSpecVersion,
    process: processOf(input, account, bounding, security.noNewPrivileges),
    root: { path: "rootfs", readonly: options.readOnly || options.strict },
    ...(options.more.hostUts === true ? {} : { hostname: hostnameOf(input) }),
    ...(options.more.domainname === undefined ? {} : { domainname: options.more.domainname }),
    mounts: mountsOf(input),
    linux: linuxOf(input, security.seccomp),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations: { ...annotations } }),
  };
}
