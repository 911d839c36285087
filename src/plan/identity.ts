/** process: who the command is, what it may do, and how it is found. The last part of a plan's child. */
import {
  CAP,
  O,
  PR,
  PR_CAP_AMBIENT_CLEAR_ALL,
  PR_CAP_AMBIENT_RAISE,
  RESOLVE,
  RLIMIT,
  SECCOMP,
  SECCOMP_FILTER_FLAG,
  SIG,
} from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import { keepGroups } from "../spec/annotations.ts";
import type { Capabilities, LinuxSeccomp, Process, Rlimit, Spec } from "../spec/runtime.ts";
import type { Builder } from "./builder.ts";
import type { HostFacts } from "./facts.ts";
import { filterFor } from "./seccomp/filter.ts";
import { asksListener } from "./seccomp/listener.ts";

const capabilityVersion3 = 0x20080522;
const infinity = 0xffff_ffff_ffff_ffffn;

function limitValue(value: number): bigint {
  return value >= Number.MAX_SAFE_INTEGER || value < 0 ? infinity : BigInt(value);
}

function setRlimits(b: Builder, rlimits: readonly Rlimit[]): void {
  rlimits.forEach((limit, index) => {
    b.p.field(`process.rlimits[${index}], ${limit.type}`);
    const resource = Object.hasOwn(RLIMIT, limit.type) ? RLIMIT[limit.type as keyof typeof RLIMIT] : undefined;
    if (resource === undefined)
      throw new OciboxError("INVALID", `process.rlimits[${index}]: there is no limit ${JSON.stringify(limit.type)}`);
    const value = struct<Slot>("rlimit64", { rlim_cur: limitValue(limit.soft), rlim_max: limitValue(limit.hard) });
    b.p.sys.prlimit64(0, resource, value, null);
  });
}

/** linux.seccomp.flags, but for those that belong to a listener. */
function filterFlags(names: readonly string[], listens: boolean): number {
  let flags = listens ? SECCOMP_FILTER_FLAG.SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;
  for (const name of names) {
    if (name === "SECCOMP_FILTER_FLAG_TSYNC") continue; // init has one thread, so that there is nothing to do
    if (name === "SECCOMP_FILTER_FLAG_LOG" || name === "SECCOMP_FILTER_FLAG_SPEC_ALLOW")
      flags |= SECCOMP_FILTER_FLAG[name];
    // Of a listener, without which it says nothing.
    else if (name === "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV") flags |= listens ? SECCOMP_FILTER_FLAG[name] : 0;
    else throw new OciboxError("INVALID", `linux.seccomp.flags: ${JSON.stringify(name)} is no flag of a filter`);
  }
  return flags;
}

function loadSeccomp(b: Builder, seccomp: LinuxSeccomp | undefined, facts: HostFacts, becoming: Becoming): void {
  if (seccomp === undefined) return;
  const listens = asksListener(seccomp);
  const { offer } = becoming;
  if (listens && offer === undefined)
    throw new OciboxError("UNSUPPORTED", "linux.seccomp: SCMP_ACT_NOTIFY is for the OCI runtime's containers alone");
  b.p.field("linux.seccomp");
  const filter = filterFor(seccomp, facts.machine);
  const program = struct<Slot>("sock_fprog", { len: filter.byteLength / 8, filter });
  const flags = filterFlags(seccomp.flags ?? [], listens);
  const listener = b.p.sys.seccomp(SECCOMP.SECCOMP_SET_MODE_FILTER, flags, program);
  if (listens) offer?.(listener);
}

/** @returns undefined for one that this kernel does not have */
function numberOf(name: string, lastCap: number): number | undefined {
  const number = Object.hasOwn(CAP, name) ? CAP[name as keyof typeof CAP] : undefined;
  return number === undefined || number > lastCap ? undefined : number;
}

/** The two words of a capability set. */
function words(names: readonly string[], lastCap: number): readonly [low: number, high: number] {
  let low = 0;
  let high = 0;
  for (const name of names) {
    const number = numberOf(name, lastCap);
    if (number === undefined) continue;
    if (number < 32) low |= 1 << number;
    else high |= 1 << (number - 32);
  }
  return [low >>> 0, high >>> 0];
}

function dropBounding(b: Builder, bounding: readonly string[], lastCap: number): void {
  b.p.field("process.capabilities.bounding");
  const [low, high] = words(bounding, lastCap);
  for (let number = 0; number <= lastCap; number++) {
    const held = number < 32 ? (low >>> number) & 1 : (high >>> (number - 32)) & 1;
    if (held === 0) b.p.sys.prctl(PR.PR_CAPBSET_DROP, number, 0, 0, 0);
  }
}

function setIds(b: Builder, process: Process, groups: Becoming["groups"]): void {
  const { p } = b;
  const { uid, gid, additionalGids = [], umask = 0o022 } = process.user;
  p.field("process.user.additionalGids");
  const list = new Uint8Array(new Uint32Array(additionalGids).buffer);
  const sys = groups === "set if permitted" && additionalGids.length === 0 ? p.tolerate("EPERM") : p.sys;
  if (groups !== "keep") sys.setgroups(additionalGids.length, list.byteLength === 0 ? null : list);
  p.field("process.user.gid");
  p.sys.setresgid(gid, gid, gid);
  p.field("process.user.uid");
  // Capabilities outlive the change of uid, and are then set to what was asked for.
  if (uid !== 0) p.sys.prctl(PR.PR_SET_KEEPCAPS, 1, 0, 0, 0);
  p.sys.setresuid(uid, uid, uid);
  p.field("process.user.umask");
  p.sys.umask(umask);
}

/** The kernel takes only what is permitted and inheritable. capabilities(7) */
function canBeAmbient(name: string, sets: Capabilities): boolean {
  return sets.permitted?.includes(name) === true && sets.inheritable?.includes(name) === true;
}

/**
 * Says which capabilities the process will not have: such as this kernel does not know, and ambient ones that cannot be.
 * config.md#linux-process: what cannot be mapped to the kernel's, or granted, MUST be logged as a warning.
 * @param logs whether there is a log. Ambient ones that are not inheritable are in every configuration that a runc before
 * 1.2 has made: of them nothing is said where it would be said among the container's own output.
 */
export function warnOfCapabilities(p: Recorder, { capabilities = {} }: Process, lastCap: number, logs: boolean): void {
  const warn = (field: string, words: string, names: readonly string[]): void => {
    if (names.length === 0) return;
    const says = `warning: process.capabilities${field}: ${words}: ${names.join(", ")}`;
    p.add({ op: "fail", errno: errnoOf("EINVAL"), says, blame: "ocibox", warning: true });
  };
  const all = new Set(Object.values(capabilities as Record<string, readonly string[]>).flat());
  const unknown = [...all].filter((name) => numberOf(name, lastCap) === undefined);
  const ambient = logs ? (capabilities.ambient ?? []).filter((name) => !unknown.includes(name)) : [];
  p.field("process.capabilities");
  warn("", "ignoring what this kernel does not have", unknown);
  warn(
    ".ambient",
    "ignoring what is not permitted and inheritable as well",
    ambient.filter((name) => !canBeAmbient(name, capabilities)),
  );
  p.field("");
}

function setCapabilities(b: Builder, process: Process, lastCap: number): void {
  const { p } = b;
  const sets = process.capabilities ?? {};
  const [effective0, effective1] = words(sets.effective ?? [], lastCap);
  const [permitted0, permitted1] = words(sets.permitted ?? [], lastCap);
  const [inheritable0, inheritable1] = words(sets.inheritable ?? [], lastCap);
  p.field("process.capabilities");
  p.sys.capset(
    struct<Slot>("__user_cap_header_struct", { version: capabilityVersion3 }),
    struct<Slot>("__user_cap_data_struct_v3", {
      effective0,
      permitted0,
      inheritable0,
      effective1,
      permitted1,
      inheritable1,
    }),
  );
  p.field("process.capabilities.ambient");
  p.tolerate("EINVAL").prctl(PR.PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  for (const name of sets.ambient ?? []) {
    const number = numberOf(name, lastCap);
    if (number === undefined || !canBeAmbient(name, sets)) continue;
    p.sys.prctl(PR.PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0);
  }
}

/**
 * process.cwd, found without /proc's magic links: /proc/self/fd/N would lead out by a descriptor that was left open
 * (CVE-2024-21626). Opened before a filter could forbid it, entered as the user, who must be allowed to.
 */
function openCwd(b: Builder, cwd: string): Slot {
  b.p.field("process.cwd");
  const how = struct<Slot>("open_how", {
    flags: O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC,
    resolve: RESOLVE.RESOLVE_NO_MAGICLINKS | RESOLVE.RESOLVE_IN_ROOT,
  });
  return b.p.with({ says: cannotEnter(cwd) }).sys.openat2(-100, cwd, how, 24);
}

/** config.md#process: it MUST be an absolute path. @throws OciboxError INVALID */
export function checkCwd(cwd: string): void {
  if (!cwd.startsWith("/"))
    throw new OciboxError("INVALID", `process.cwd is ${JSON.stringify(cwd)}, which is not an absolute path`);
}

function cannotEnter(cwd: string): string {
  return `cannot enter the working directory ${JSON.stringify(cwd)}`;
}

/** What of the way to the command is not the same for every kind of container. */
export interface Becoming {
  /** Whether the process is killed when its parent ends. */
  readonly diesWithParent: boolean;
  /**
   * What becomes of ocibox's own supplementary groups. A user's namespace may forbid setgroups(2), so that they stay unless
   * others are asked for; user_namespaces(7). "keep" is asked for by an annotation.
   */
  readonly groups: "set" | "set if permitted" | "keep";
  /** Called where the process is all that was asked for but for the filter: what it does then the filter cannot forbid. */
  readonly beforeFilter?: () => void;
  /** Called when there is nothing left to be done but the command. */
  readonly last?: () => void;
  /** Called with the filter's listener, where the filter has one: it is loaded before the process is ready then. */
  readonly offer?: (listener: Slot) => void;
}

/** @param permitted whether this process may change its groups */
export function groupsOf({ annotations }: Spec, permitted: boolean): Becoming["groups"] {
  if (annotations?.[keepGroups] === "1") return "keep";
  return permitted ? "set" : "set if permitted";
}

/**
 * From root in the container to the process that was asked for, short of execve. A filter needs CAP_SYS_ADMIN or no
 * new privileges: without the latter it is loaded while the former is still there.
 */
export function becomeUser(
  b: Builder,
  process: Process,
  seccomp: LinuxSeccomp | undefined,
  facts: HostFacts,
  becoming: Becoming,
): void {
  const { p } = b;
  const strict = process.noNewPrivileges === true;
  const cwd = openCwd(b, process.cwd);
  // When nearly all is closed again: RLIMIT_NOFILE may be lower than what was open for the mounts.
  setRlimits(b, process.rlimits ?? []);
  const listens = asksListener(seccomp);
  if (!strict) loadSeccomp(b, seccomp, facts, becoming);
  // Where none are named there are none, as under runc and crun.
  dropBounding(b, process.capabilities?.bounding ?? [], facts.lastCap);
  setIds(b, process, becoming.groups);
  p.field("process.cwd");
  p.with({ says: cannotEnter(process.cwd) }).sys.fchdir(cwd);
  setCapabilities(b, process, facts.lastCap);
  p.field("process.noNewPrivileges");
  if (strict) p.sys.prctl(PR.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  p.field("");
  // The change of ids has cleared it; prctl(2), PR_SET_PDEATHSIG.
  if (becoming.diesWithParent) p.sys.prctl(PR.PR_SET_PDEATHSIG, SIG.SIGKILL, 0, 0, 0);
  if (strict && listens) loadSeccomp(b, seccomp, facts, becoming);
  becoming.beforeFilter?.();
  if (strict && !listens) loadSeccomp(b, seccomp, facts, becoming);
  becoming.last?.();
}
