/** The flags of `ocibox run` that few containers have, read. Imported only where one of them is given. */
import { isIP } from "node:net";
import { AT_FDCWD, S } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { namesIn, readText } from "../../ffi/files.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import type { NetworkMode, RunOptions } from "../bundle/command.ts";
import type { DeviceFlag, MoreOptions } from "../bundle/more-options.ts";
import { parseMountFlag } from "../bundle/mount-flag.ts";
import { hostLine, resolverFlags } from "../bundle/names.ts";
import { parseExposed, parsePublish } from "../bundle/publish.ts";
import { cleanPath, numberOf, type Volume } from "../bundle/values.ts";
import { findRecord, isOwnVolume } from "../container/record.ts";
import { OciboxError } from "../errors.ts";
import { placed } from "./bind-source.ts";
import { absolute } from "./globals.ts";
import type { Given } from "./options.ts";
import { say } from "./output.ts";
import type { moreOptions } from "./run-more-options.ts";

type Flag = keyof typeof moreOptions;

function statOf(path: string, follow: boolean): Uint8Array<ArrayBuffer> | undefined {
  const stat = alloc(256);
  const AT_SYMLINK_NOFOLLOW = 0x100;
  return attempt("statx", AT_FDCWD, path, follow ? 0 : AT_SYMLINK_NOFOLLOW, 0x7ff, stat) < 0 ? undefined : stat;
}

function typeOf(stat: Uint8Array<ArrayBuffer>): number {
  return readField("statx", stat, "stx_mode") & S.S_IFMT;
}

function deviceOf(stat: Uint8Array<ArrayBuffer>, source: string, path: string, access: string): DeviceFlag {
  const get = (field: string): number => readField("statx", stat, field);
  return {
    source,
    path,
    type: typeOf(stat) === S.S_IFBLK ? "b" : "c",
    major: get("stx_rdev_major"),
    minor: get("stx_rdev_minor"),
    fileMode: get("stx_mode") & 0o777,
    uid: get("stx_uid"),
    gid: get("stx_gid"),
    access,
  };
}

/** Every device below a directory, by its place in the container; symlinks are passed by. */
function devicesBelow(directory: string, target: string, access: string, skip: ReadonlySet<string>): DeviceFlag[] {
  const found: DeviceFlag[] = [];
  for (const name of namesIn(directory).sort()) {
    const [path, place] = [`${directory}/${name}`, `${target}/${name}`];
    const stat = skip.has(place) ? undefined : statOf(path, false);
    if (stat === undefined) continue;
    const type = typeOf(stat);
    if (type === S.S_IFDIR) found.push(...devicesBelow(path, place, access, skip));
    else if (type === S.S_IFCHR || type === S.S_IFBLK) found.push(deviceOf(stat, path, place, access));
  }
  return found;
}

/** --device PATH[:PATH][:ACCESS]; a directory is all the devices in it. */
function parseDevice(text: string): DeviceFlag[] {
  const parts = text.split(":");
  const access = parts.length > 1 && /^[rwm]{1,3}$/.test(parts.at(-1) ?? "") ? (parts.pop() as string) : "rwm";
  const [source = "", target = source, ...more] = parts;
  if (more.length > 0) throw new OciboxError("USAGE", `--device is "${text}", which is not PATH[:PATH][:rwm]`);
  const [from, to] = [cleanPath(source, "the source of --device"), cleanPath(target, "the place of --device")];
  const stat = statOf(from, true);
  if (stat === undefined) throw new OciboxError("USAGE", `--device is "${text}", and there is no "${from}"`);
  const type = typeOf(stat);
  if (type === S.S_IFCHR || type === S.S_IFBLK) return [deviceOf(stat, from, to, access)];
  const below = type === S.S_IFDIR ? devicesBelow(from, to, access, new Set()) : [];
  if (below.length === 0) throw new OciboxError("USAGE", `--device is "${text}", and "${from}" is no device`);
  return below;
}

/** Of the container's own making, or somebody's terminal. */
const notTheHosts = new Set(["pts", "shm", "mqueue", "fd", "console", "ptmx", "tty"].map((name) => `/dev/${name}`));

function devicesOf(given: Given): DeviceFlag[] {
  const all = given.flag("privileged") ? devicesBelow("/dev", "/dev", "rwm", notTheHosts) : [];
  return [...all, ...given.all("device").flatMap(parseDevice)];
}

/** A century or so. */
const mostSeconds = 2 ** 31 - 1;
const ipcPlaces = ["/dev/shm", "/dev/mqueue"];

/** What is given as a word each. */
const words = {
  umask: "umask",
  domainname: "domainname",
  memorySwap: "memory-swap",
  memoryReservation: "memory-reservation",
  cpuShares: "cpu-shares",
  cpuPeriod: "cpu-period",
  cpuQuota: "cpu-quota",
  cpusetCpus: "cpuset-cpus",
  cpusetMems: "cpuset-mems",
  oomScoreAdj: "oom-score-adj",
  shmSize: "shm-size",
} as const satisfies Partial<Record<keyof MoreOptions, Flag>>;

const lists = {
  groups: "group-add",
  annotations: "annotation",
  sysctls: "sysctl",
  deviceRules: "device-cgroup-rule",
} as const satisfies Partial<Record<keyof MoreOptions, Flag>>;

/** --report: where, and of what began when. */
export function reported(path: string): NonNullable<MoreOptions["report"]> {
  return { path: absolute(path, "--report"), began: performance.timeOrigin };
}

/** Files that are written for the caller. */
function pathsOf(given: Given): Pick<MoreOptions, "report" | "pidFile"> {
  const [report, pidFile] = [given.text("report"), given.text("pidfile")];
  return {
    ...(report === undefined ? {} : { report: reported(report) }),
    ...(pidFile === undefined ? {} : { pidFile: absolute(pidFile, "--pidfile") }),
  };
}

/** @param may whether it is left to itself. @throws OciboxError USAGE */
function restartOf(given: Given, may: boolean): { readonly restart?: string } {
  const text = given.text("restart");
  if (text === undefined || text === "no") return {};
  if (!/^(?:always|unless-stopped|on-failure(?::\d{1,6})?)$/.test(text))
    throw new OciboxError(
      "USAGE",
      `--restart is "${text}", which is none of no, on-failure[:N], always, unless-stopped`,
    );
  if (given.text("report") !== undefined)
    throw new OciboxError("USAGE", "--report and --restart cannot both be had: it would tell of the first run alone");
  if (given.flag("rm")) throw new OciboxError("USAGE", "--restart and --rm cannot both be had");
  if (!may) throw new OciboxError("USAGE", `--restart ${text} is for a container that is left to itself: add -d`);
  // Of which there is nothing to be tried.
  return text === "on-failure:0" ? { restart: "on-failure" } : { restart: text };
}

/** --volumes-from CONTAINER[:ro|:rw]: what it mounts of the host's, and its volumes. @throws OciboxError */
function mountsOf(root: string, text: string): Volume[] {
  const [word = "", access, ...rest] = text.split(":");
  if (rest.length > 0 || (access !== undefined && access !== "ro" && access !== "rw"))
    throw new OciboxError("USAGE", `--volumes-from is "${text}", which is not CONTAINER[:ro]`);
  const owner = findRecord(root, word);
  const { mounts = [], autoRemove } = owner;
  const own = mounts.find(({ source }) => isOwnVolume(owner, source));
  if (own !== undefined && autoRemove)
    throw new OciboxError(
      "USAGE",
      `--volumes-from is "${text}", whose volume at "${own.destination}" goes with it: it was run with --rm`,
      { hint: "give the volume a name: -v NAME:DIR" },
    );
  return mounts.map(({ options, ...mount }) => ({
    ...mount,
    options: access === "ro" ? [...options.filter((each) => each !== "rw"), "ro"] : options,
    nocopy: true,
  }));
}

/** What others mount where there is nothing of one's own; of two of them the later. */
function withOthers(own: readonly Volume[], others: readonly Volume[]): Volume[] {
  const found = new Map<string, Volume>();
  for (const each of others) found.set(each.destination, each);
  for (const { destination } of own) found.delete(destination);
  return [...own, ...found.values()];
}

/** What is published and where. @throws OciboxError USAGE where there is no bridge to do so */
function networkMore(given: Given, network: NetworkMode): MoreOptions {
  const publish = given.all("publish").flatMap(parsePublish);
  const expose = given.all("expose");
  for (const each of expose) parseExposed(each);
  const publishAll = given.flag("publish-all");
  const address = given.text("ip");
  if (address !== undefined && isIP(address) !== 4)
    throw new OciboxError("USAGE", `--ip is "${address}", which is no IPv4 address`);
  const foreign = given.all("sysctl").find((each) => /^net[./]/.test(each));
  if (foreign !== undefined && network !== "none" && network !== "bridge")
    throw new OciboxError("USAGE", `--sysctl is "${foreign}", and the network is another's: "${network}"`);
  if (network === "host" && address === undefined && (publish.length > 0 || publishAll)) {
    // docker's words are a warning, too: what is asked for is so, but for the numbers.
    if (!given.flag("quiet")) say("ocibox: with --network host a container's ports are the host's: none is published");
    return {};
  }
  if (network !== "bridge" && (publish.length > 0 || publishAll || address !== undefined))
    throw new OciboxError(
      "USAGE",
      `${address === undefined ? "--publish" : "--ip"} wants --network bridge, and the network is "${network}"`,
    );
  return {
    ...(publish.length === 0 ? {} : { publish }),
    ...(publishAll ? { publishAll } : {}),
    ...(expose.length === 0 ? {} : { expose }),
    ...(address === undefined ? {} : { address }),
  };
}

/** The rarer flags, and what of them is said in other words as well. */
export function withMore(given: Given, options: RunOptions, root: string, mayRestart: boolean): RunOptions {
  const more: Record<string, unknown> = {};
  for (const [key, flag] of Object.entries(words)) if (given.text(flag) !== undefined) more[key] = given.text(flag);
  for (const [key, flag] of Object.entries(lists)) if (given.all(flag).length > 0) more[key] = given.all(flag);
  const privileged = given.flag("privileged");
  if (privileged && options.strict)
    throw new OciboxError("USAGE", "--privileged and --security strict cannot both be had");
  const devices = devicesOf(given);
  const mounts = given.all("mount").map((text) => parseMountFlag(text, process.cwd()));
  const [dns, search, dnsOptions] = [given.all("dns"), given.all("dns-search"), given.all("dns-option")];
  const timeout = numberOf(given.text("timeout") ?? "0", "--timeout", 0, mostSeconds);
  const isHosts = (flag: Flag): boolean => given.text(flag) === "host";
  if (isHosts("uts") && options.hostname !== undefined)
    throw new OciboxError("USAGE", "--hostname and --uts host cannot both be had");
  const hostname = isHosts("uts") ? (readText("/proc/sys/kernel/hostname") ?? "").trim() : options.hostname;
  return {
    ...options,
    hostname,
    volumes: withOthers(
      [...options.volumes, ...mounts.flatMap((each) => ("volume" in each ? [placed(each.volume, root)] : []))],
      given.all("volumes-from").flatMap((text) => mountsOf(root, text)),
    ),
    tmpfs: [...options.tmpfs, ...mounts.flatMap((each) => ("tmpfs" in each ? [each.tmpfs] : []))],
    capAdd: privileged ? ["ALL", ...options.capAdd] : options.capAdd,
    securityOpt: privileged ? ["seccomp=unconfined", ...options.securityOpt] : options.securityOpt,
    more: {
      ...(more as MoreOptions),
      ...(privileged ? { privileged } : {}),
      ...(timeout === 0 ? {} : { timeout }),
      ...restartOf(given, mayRestart),
      ...pathsOf(given),
      ...(devices.length === 0 ? {} : { devices }),
      ...(isHosts("ipc") ? { hostIpc: ipcPlaces.filter((path) => statOf(path, false) !== undefined) } : {}),
      ...(isHosts("uts") ? { hostUts: true } : {}),
      ...(isHosts("cgroupns") ? { hostCgroups: true } : {}),
      ...(given.all("add-host").length === 0 ? {} : { hosts: given.all("add-host").map(hostLine) }),
      ...(dns.length + search.length + dnsOptions.length === 0
        ? {}
        : { resolver: resolverFlags(dns, search, dnsOptions) }),
      ...networkMore(given, options.network),
    },
  };
}
