/** What this host is, asked of the kernel in as few calls as can be. */
import { CAP, MAGIC, PR, RLIMIT } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { isThere, isWritable, readText } from "../../ffi/files.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { idRows, inUserNamespace } from "../../ffi/user.ts";
import type { CgroupMode, HostFacts, HostIds } from "../plan/facts.ts";

const cgroupMount = "/sys/fs/cgroup";

function fileSystem(path: string): number {
  const stat = alloc(120);
  return attempt("statfs", path, stat) < 0 ? 0 : readField("statfs", stat, "f_type");
}

/** The hierarchies of v1 that a container may be put in; others (blkio, freezer, …) are not joined. */
const joined = ["pids", "devices", "memory", "cpu", "cpuset"] as const;

function cgroupsV2(): HostFacts["cgroup"] {
  const text = (readText(`${cgroupMount}/cgroup.controllers`) ?? "").trim();
  const controllers = text === "" ? [] : text.split(" ");
  return { mode: "v2", controllers, writable: isWritable(cgroupMount) };
}

function cgroups(): HostFacts["cgroup"] {
  if (fileSystem(cgroupMount) === MAGIC.CGROUP2_SUPER_MAGIC) {
    return cgroupsV2();
  }
  const controllers: string[] = [];
  for (const name of joined) if (isThere(`${cgroupMount}/${name}/tasks`)) controllers.push(name);
  let mode: CgroupMode = controllers.length === 0 ? "none" : "v1";
  if (mode === "v1" && isThere(`${cgroupMount}/unified/cgroup.procs`)) mode = "hybrid";
  const [first] = controllers;
  return { mode, controllers, writable: first !== undefined && isWritable(`${cgroupMount}/${first}`) };
}

/** The limit that the caller has: prlimit(2) of the parent, for Bun has raised this process's own. */
function nofile(): HostFacts["nofile"] {
  const limit = alloc(16);
  const own = alloc(16);
  direct.prlimit64(0, RLIMIT.RLIMIT_NOFILE, null, own);
  const hard = readField("rlimit64", own, "rlim_max");
  if (attempt("prlimit64", process.ppid, RLIMIT.RLIMIT_NOFILE, null, limit) < 0) return { soft: 1024, hard };
  return { soft: Math.min(readField("rlimit64", limit, "rlim_cur"), hard), hard };
}

function release(): string {
  const buffer = alloc(390);
  direct.uname(buffer);
  const text = new TextDecoder().decode(buffer.subarray(130, 195));
  return text.slice(0, text.indexOf("\0"));
}

/** The number of the last capability there is: prctl(2) refuses the next. As cap_last_cap, without reading a file. */
function lastCap(): number {
  const exists = (number: number): boolean => attempt("prctl", PR.PR_CAPBSET_READ, number, 0, 0, 0) >= 0;
  let last = CAP.CAP_CHECKPOINT_RESTORE;
  while (exists(last + 1) && last < 63) last++;
  while (!exists(last) && last > 0) last--;
  return last;
}

const capabilityVersion = 0x20080522;

/** capget(2): two halves of three words, the permitted set being the second. */
function permitted(): number {
  const header = alloc(8);
  const words = new Uint32Array(alloc(24).buffer);
  new DataView(header.buffer).setUint32(0, capabilityVersion, true);
  direct.capget(header, new Uint8Array(words.buffer));
  return (words[1] ?? 0) + (words[4] ?? 0) * 2 ** 32;
}

function ids(): HostIds {
  const setgroups = (readText("/proc/self/setgroups") ?? "").trim() !== "deny";
  return { uids: idRows("uid_map"), gids: idRows("gid_map"), setgroups };
}

/**
 * @param labels whether AppArmor and SELinux are looked for: where nothing asks for either, neither need be known
 * @throws SyscallError where even uname(2) is refused
 */
export function hostFacts(labels = true): HostFacts {
  return {
    machine: process.arch === "arm64" ? "arm64" : "x64",
    kernel: release(),
    cgroup: cgroups(),
    lastCap: lastCap(),
    permitted: permitted(),
    userNamespace: inUserNamespace(),
    ids: inUserNamespace() ? ids() : undefined,
    apparmor: labels && (readText("/sys/module/apparmor/parameters/enabled") ?? "").startsWith("Y"),
    selinux: labels && isThere("/sys/fs/selinux/enforce"),
    nofile: nofile(),
  };
}
