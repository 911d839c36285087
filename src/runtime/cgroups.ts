/** A container's cgroups from outside: who is in them, an end to all of it, and what is left removed. cgroups(7) */
import { AT, AT_FDCWD, O, SIG } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { isThere, namesIn, readText } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";
import type { CgroupPlan } from "../plan/cgroups/plan.ts";

export type Cgroups = Pick<CgroupPlan, "mode" | "directories">;

/** Writes to a file of a cgroup. @returns 0, or -errno */
export function writeCgroupFile(path: string, text: string): number {
  const fd = attempt("openat", AT_FDCWD, path, O.O_WRONLY | O.O_CLOEXEC, 0);
  if (fd < 0) return fd;
  using file = new OwnedFd(fd);
  const wrote = attempt("write", file.fd, new TextEncoder().encode(text), text.length);
  return Math.min(wrote, 0);
}

/** Directories below one, the deepest first, and itself. */
function cgroupTree(directory: string): string[] {
  const found: string[] = [];
  const walk = (path: string): void => {
    for (const name of namesIn(path)) {
      if (attempt("faccessat2", AT_FDCWD, `${path}/${name}/cgroup.procs`, 0, AT.AT_SYMLINK_NOFOLLOW) >= 0)
        walk(`${path}/${name}`);
    }
    found.push(path);
  };
  walk(directory);
  return found;
}

/** The hierarchy by which processes are found: the one of v2, or any of v1. */
function main({ directories }: Cgroups): string | undefined {
  for (const each of directories) if (each.includes("/pids/")) return each;
  return directories[0];
}

export function processesIn(cgroups: Cgroups): number[] {
  const top = main(cgroups);
  if (top === undefined) return [];
  const found = new Set<number>();
  for (const directory of cgroupTree(top))
    for (const line of (readText(`${directory}/cgroup.procs`) ?? "").split("\n"))
      if (line !== "" && line !== "0") found.add(Number(line));
  return [...found].sort((a, b) => a - b);
}

/**
 * Limits, signals and the end of a container are its cgroup's: what else is in there would share them.
 * @throws OciboxError IN_USE
 */
export function checkUnused(cgroups: Cgroups): void {
  const hint = "give it another one, in linux.cgroupsPath, or none";
  const top = main(cgroups);
  const there = top !== undefined && attempt("faccessat2", AT_FDCWD, top, 0, AT.AT_SYMLINK_NOFOLLOW) >= 0;
  const { length } = there ? processesIn(cgroups) : [];
  if (length > 0)
    throw new OciboxError("IN_USE", `container's cgroup is not empty: ${length} process(es) in "${top}"`, { hint });
  // In v1 a hierarchy of its own, where the others may have no such cgroup.
  const freezer = freezerOf(cgroups);
  if (freezer === undefined || !isThere(freezer)) return;
  const text = readText(`${freezer}/${cgroups.mode === "v2" ? "cgroup.freeze" : "freezer.state"}`) ?? "";
  if (["1", "FROZEN"].includes(text.trim()))
    throw new OciboxError("IN_USE", `container's cgroup unexpectedly frozen: "${freezer}"`, { hint });
}

function freezerOf({ mode, directories }: Cgroups): string | undefined {
  if (mode === "v2") return directories[0];
  for (const each of directories) if (each.startsWith("/sys/fs/cgroup/freezer/")) return each;
  return undefined;
}

/** Stops or continues everything in a container. @throws OciboxError HOST where this machine has no freezer */
export async function freeze(cgroups: Cgroups, frozen: boolean): Promise<void> {
  const directory = freezerOf(cgroups);
  if (directory === undefined)
    throw new OciboxError("HOST", "this machine has no freezer for the container: it has no cgroup with one");
  const v2 = cgroups.mode === "v2";
  const file = v2 ? `${directory}/cgroup.freeze` : `${directory}/freezer.state`;
  const word = v2 ? (frozen ? "1" : "0") : frozen ? "FROZEN" : "THAWED";
  for (let tries = 0; tries < 500; tries++) {
    const wrote = writeCgroupFile(file, word);
    if (wrote < 0) throw new OciboxError("HOST", `cannot write "${word}" to "${file}" (error ${-wrote})`);
    const now = v2
      ? /^frozen ([01])/m.exec(readText(`${directory}/cgroup.events`) ?? "")?.[1]
      : (readText(file) ?? "").trim();
    if (now === word) return;
    // v1: a process that is just starting another slips through; it is tried again, thawed in between now and then.
    if (!v2 && frozen && tries % 50 === 49) writeCgroupFile(file, "THAWED");
    await Bun.sleep(tries < 10 ? 1 : 10);
  }
  if (frozen) writeCgroupFile(file, v2 ? "0" : "THAWED");
  throw new OciboxError("HOST", `the processes of the container did not ${frozen ? "stop" : "go on"} within 5 seconds`);
}

/** Sends a signal to every process in a container; SIGKILL by cgroup.kill where there is one. */
export function signalAll(cgroups: Cgroups, number: number): void {
  const top = main(cgroups);
  if (top === undefined) return;
  if (number === SIG.SIGKILL && cgroups.mode === "v2" && writeCgroupFile(`${top}/cgroup.kill`, "1") === 0) return;
  const freezer = freezerOf(cgroups);
  // Stopped, so that none is made while they are gone through; a stopped process dies of a signal when it goes on.
  const stopped = cgroups.mode !== "v2" && freezer !== undefined && number === SIG.SIGKILL;
  if (stopped) writeCgroupFile(`${freezer}/freezer.state`, "FROZEN");
  for (const pid of processesIn(cgroups)) {
    const fd = attempt("pidfd_open", pid, 0);
    if (fd < 0) continue;
    using process = new OwnedFd(fd);
    // Only if it is still one of them: the number may be somebody else's by now.
    if (processesIn(cgroups).includes(pid)) attempt("pidfd_send_signal", process.fd, number, null, 0);
  }
  if (stopped) writeCgroupFile(`${freezer}/freezer.state`, "THAWED");
}

/** Ends what is left in the cgroups and removes them with those below; waits up to ten seconds. */
export function removeAll(cgroups: Cgroups): void {
  const start = performance.now();
  for (const directory of cgroups.directories) {
    if (attempt("faccessat2", AT_FDCWD, directory, 0, AT.AT_SYMLINK_NOFOLLOW) < 0) continue;
    for (;;) {
      let left = 0;
      // Mostly there is nothing below it, and nobody in it.
      if (attempt("unlinkat", AT_FDCWD, directory, AT.AT_REMOVEDIR) < 0)
        for (const each of cgroupTree(directory)) {
          const removed = attempt("unlinkat", AT_FDCWD, each, AT.AT_REMOVEDIR);
          if (removed < 0 && removed !== -2) left = removed;
        }
      if (left === 0) break;
      if (performance.now() - start > 10_000)
        throw new OciboxError("HOST", `cannot remove the cgroup "${directory}": it is in use (error ${-left})`);
      if (processesIn(cgroups).length > 0) signalAll(cgroups, SIG.SIGKILL);
      Bun.sleepSync(performance.now() - start < 50 ? 1 : 10);
    }
  }
}
