/** Starts init on a plan: from sealed memory, so that nothing in a container can reach a file of ours through it. */
import { AT, F, F_SEAL, MFD } from "./constants.ts";
import { attempt, direct, SyscallError } from "./direct.ts";
import { failedBy } from "./errno.ts";
import { OwnedFd } from "./fd.ts";
import { initBinary } from "./init/blob.gen.ts";

const seals = F_SEAL.F_SEAL_SEAL | F_SEAL.F_SEAL_SHRINK | F_SEAL.F_SEAL_GROW | F_SEAL.F_SEAL_WRITE;

/** This machine cannot run init. */
class LaunchError extends Error {
  override readonly name = "LaunchError";
}

function fill(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.byteLength; ) {
    // A copy of the rest: pwrite64 takes a whole array.
    const rest = done === 0 ? bytes : bytes.slice(done);
    done += direct.pwrite64(fd, rest, rest.byteLength, done);
  }
  direct.fcntl(fd, F.F_ADD_SEALS, seals);
}

/**
 * init's program in a sealed memfd, closed on exec.
 * @throws LaunchError where this machine is not one init was built for, or vm.memfd_noexec is 2
 */
export function createInit(): OwnedFd {
  const text = initBinary[process.arch === "arm64" ? "arm64" : "x64"];
  if (text === null) throw new LaunchError(`this ocibox was built without init for ${process.arch}`);
  const flags = MFD.MFD_CLOEXEC | MFD.MFD_ALLOW_SEALING;
  let fd = attempt("memfd_create", "ocibox-init", flags | MFD.MFD_EXEC);
  // Linux before 6.3 does not know MFD_EXEC: every memfd is executable there.
  if (failedBy(fd, "EINVAL")) fd = attempt("memfd_create", "ocibox-init", flags);
  if (failedBy(fd, "EACCES"))
    throw new LaunchError("programs in memory are forbidden here (vm.memfd_noexec is 2): set it to 1 or 0 with sysctl");
  if (fd < 0) throw new SyscallError("memfd_create", ["ocibox-init", flags], -fd);
  const memory = new OwnedFd(fd);
  fill(fd, Uint8Array.fromBase64(text));
  return memory;
}

/** A plan's image in a sealed memfd that init inherits. @throws SyscallError */
function createPlan(image: Uint8Array<ArrayBuffer>): OwnedFd {
  const flags = MFD.MFD_ALLOW_SEALING;
  // MFD_NOEXEC_SEAL is refused before 6.3.
  let fd = attempt("memfd_create", "ocibox-plan", flags | MFD.MFD_NOEXEC_SEAL);
  if (failedBy(fd, "EINVAL")) fd = attempt("memfd_create", "ocibox-plan", flags);
  if (fd < 0) throw new SyscallError("memfd_create", ["ocibox-plan", flags], -fd);
  const memory = new OwnedFd(fd);
  fill(fd, image);
  return memory;
}

/**
 * Becomes init, with an empty environment unless a step asks for it (`ownEnvironment`); descriptors that are not closed on
 * exec are kept.
 * @throws LaunchError, SyscallError where that fails: then nothing has changed
 */
export function execInit(
  image: Uint8Array<ArrayBuffer>,
  options?: { readonly argv0?: string; readonly env?: readonly string[] },
): never {
  using init = createInit();
  using plan = createPlan(image);
  const argv = [options?.argv0 ?? "ocibox-init", String(plan.fd)];
  direct.execveat(init.fd, "", argv, options?.env ?? [], AT.AT_EMPTY_PATH);
  throw new LaunchError("execveat came back");
}

type Stdio = "pipe" | "inherit" | "ignore" | number;

/** Runs init on a plan as a child of this process. `extraFds` become 3, 4, … in it; the plan comes after them. */
export function spawnInit(
  image: Uint8Array<ArrayBuffer>,
  options?: { readonly stdio?: readonly [Stdio, Stdio, Stdio]; readonly extraFds?: readonly number[] },
): Bun.Subprocess {
  using init = createInit();
  using plan = createPlan(image);
  const extra = options?.extraFds ?? [];
  const [input, output, errors] = options?.stdio ?? ["ignore", "pipe", "pipe"];
  return Bun.spawn([`/proc/${process.pid}/fd/${init.fd}`, String(3 + extra.length)], {
    argv0: "ocibox-init",
    stdio: [input, output, errors, ...extra, plan.fd],
    env: {},
  });
}
