/**
 * Stopping a container's processes where they are, and letting them go on: cgroups(7), "freezer".
 *
 * With v2 that is a file of the container's cgroup. With v1 it is a hierarchy of its own, in which `run` makes no cgroup, for
 * few containers are ever paused: one is made when a container is, and goes when it goes on.
 */
import { AT, AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { failedBy } from "../../ffi/errno.ts";
import { isThere, readText } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";
import { type Cgroups, freeze, processesIn, writeCgroupFile } from "../runtime/cgroups.ts";
import { cgroupMount, cgroupsPath } from "./cgroup-path.ts";
import type { ContainerId } from "./state.ts";

function freezerOf(id: ContainerId): string {
  return `${cgroupMount}/freezer${cgroupsPath(id)}`;
}

/** Of v2 alone: in v1 there is no such file. */
function frozenFileOf(id: ContainerId): string {
  return `${cgroupMount}${cgroupsPath(id)}/cgroup.freeze`;
}

/** Whether a container that runs is paused. */
export function isPaused(id: ContainerId): boolean {
  return isThere(freezerOf(id)) || readText(frozenFileOf(id))?.trim() === "1";
}

function pidsIn(directory: string): number[] {
  return processesIn({ mode: "v1", directories: [directory] });
}

/** How often processes are looked for that were made meanwhile. */
const turns = 100;

/** Everybody of the container's is moved to where they stop. */
async function freezeInV1(id: ContainerId, cgroups: Cgroups): Promise<void> {
  const directory = freezerOf(id);
  const made = attempt("mkdirat", AT_FDCWD, directory, 0o755);
  if (made < 0 && !failedBy(made, "EEXIST"))
    throw new OciboxError("HOST", "this machine has no freezer: its cgroups can stop nobody", {
      hint: 'the hierarchy "freezer" of cgroup v1 is not mounted at /sys/fs/cgroup/freezer',
    });
  writeCgroupFile(`${directory}/freezer.state`, "FROZEN");
  for (let turn = 0; turn < turns; turn++) {
    const inside = new Set(pidsIn(directory));
    const others = processesIn(cgroups).filter((pid) => !inside.has(pid));
    if (others.length === 0) break;
    for (const pid of others) writeCgroupFile(`${directory}/cgroup.procs`, String(pid));
  }
  await freeze({ mode: "v1", directories: [directory] }, true);
  if (pidsIn(directory).length === 0) throw new OciboxError("INVALID", "the container has ended meanwhile");
}

/** Stops all of a container. @throws OciboxError HOST where that cannot be */
export async function pause(id: ContainerId, cgroups: Cgroups): Promise<void> {
  if (cgroups.mode === "v2") return freeze(cgroups, true);
  try {
    await freezeInV1(id, cgroups);
  } catch (error) {
    letGoOn(id);
    throw error;
  }
}

/** The cgroup of the freezer's that they came from: whoever looks after them is still there. */
function homeOf(pids: readonly number[]): string {
  for (const pid of pids) {
    const parent = Number(/^PPid:\s+(\d+)/m.exec(readText(`/proc/${pid}/status`) ?? "")?.[1]);
    if (!(parent > 0) || pids.includes(parent)) continue;
    const path = /^\d+:freezer:(.*)$/m.exec(readText(`/proc/${parent}/cgroup`) ?? "")?.[1];
    if (path !== undefined) return `${cgroupMount}/freezer${path === "/" ? "" : path}`;
  }
  return `${cgroupMount}/freezer`;
}

/** Lets a container go on that may be paused; what is to end hears of no signal before. Waits up to half a second. */
export function letGoOn(id: ContainerId): void {
  if (readText(frozenFileOf(id))?.trim() === "1") writeCgroupFile(frozenFileOf(id), "0");
  const directory = freezerOf(id);
  if (!isThere(directory)) return;
  const home = homeOf(pidsIn(directory));
  writeCgroupFile(`${directory}/freezer.state`, "THAWED");
  for (let turn = 0; turn < turns; turn++) {
    for (const pid of pidsIn(directory)) writeCgroupFile(`${home}/cgroup.procs`, String(pid));
    const removed = attempt("unlinkat", AT_FDCWD, directory, AT.AT_REMOVEDIR);
    if (removed >= 0 || failedBy(removed, "ENOENT")) return;
    Bun.sleepSync(5);
  }
}
