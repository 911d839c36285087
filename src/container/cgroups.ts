/** Ending whatever is left in a container's cgroups, and removing them: only for what a killed ocibox left behind. */
import { AT, AT_FDCWD, O, SIG } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { namesIn, readText } from "../../ffi/files.ts";
import { cgroupsPath, cgroupMount as mount } from "./cgroup-path.ts";
import type { ContainerId } from "./state.ts";

function directoriesOf(id: ContainerId): string[] {
  const found: string[] = [];
  for (const hierarchy of ["", ...namesIn(mount).map((name) => `/${name}`)]) {
    const path = `${mount}${hierarchy}${cgroupsPath(id)}`;
    if (attempt("faccessat2", AT_FDCWD, path, 0, AT.AT_SYMLINK_NOFOLLOW) >= 0) found.push(path);
  }
  return found;
}

function endProcessesIn(directory: string): boolean {
  const kill = attempt("openat", AT_FDCWD, `${directory}/cgroup.kill`, O.O_WRONLY | O.O_CLOEXEC, 0);
  if (kill >= 0) {
    using file = new OwnedFd(kill);
    // Its supervisor may be removing it meanwhile.
    attempt("write", file.fd, Uint8Array.of(0x31), 1);
  }
  const pids = (readText(`${directory}/cgroup.procs`) ?? "").split("\n").filter((line) => line !== "");
  for (const pid of pids) {
    // By pidfd, and only if it is still in the cgroup afterwards: a number may be somebody else's by now.
    const fd = attempt("pidfd_open", Number(pid), 0);
    if (fd < 0) continue;
    using process = new OwnedFd(fd);
    if ((readText(`${directory}/cgroup.procs`) ?? "").split("\n").includes(pid))
      attempt("pidfd_send_signal", process.fd, SIG.SIGKILL, null, 0);
  }
  return pids.length > 0;
}

/** SIGKILL to every process in the container's cgroups, then the cgroups are removed; waits up to two seconds. */
export function endLeftovers(id: ContainerId): void {
  for (const directory of directoriesOf(id)) {
    for (let tries = 0; tries < 200; tries++) {
      const busy = endProcessesIn(directory);
      // Seldom needed, by what every command begins with.
      if (busy) (require("./pause.ts") as typeof import("./pause.ts")).letGoOn(id);
      const removed = busy ? 0 : attempt("unlinkat", AT_FDCWD, directory, AT.AT_REMOVEDIR);
      // Its supervisor may have been quicker.
      if (!busy && (removed >= 0 || removed === -errnoOf("ENOENT"))) break;
      Bun.sleepSync(10);
    }
  }
}
