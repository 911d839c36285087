/** Starting init: the binary and the plan each in a sealed memfd, and this process replaced by the first. */
import { F, F_SEAL, MFD } from "./constants.ts";
import { attempt, direct, SyscallError } from "./direct.ts";
import { OwnedFd } from "./fd.ts";
import { initBinary } from "./init/blob.gen.ts";

const seals = F_SEAL.F_SEAL_SEAL | F_SEAL.F_SEAL_SHRINK | F_SEAL.F_SEAL_GROW | F_SEAL.F_SEAL_WRITE;

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.byteLength; ) at += direct.write(fd, bytes.subarray(at), bytes.byteLength - at);
}

/** Bytes in a memfd that nobody can change any more. Memory is not given back until the last descriptor is closed. */
function sealed(name: string, bytes: Uint8Array, flags: number): OwnedFd {
  const fd = new OwnedFd(direct.memfd_create(name, flags | MFD.MFD_ALLOW_SEALING));
  try {
    writeAll(fd.fd, bytes);
    direct.fcntl(fd.fd, F.F_ADD_SEALS, seals);
    return fd;
  } catch (error) {
    fd[Symbol.dispose]();
    throw error;
  }
}

/**
 * The init program, executable. Whatever a container does to its /proc/self/exe, this is what it finds.
 * @throws Error where the kernel forbids executable memory files (vm.memfd_noexec=2), or this machine has no init
 */
export function createInit(): OwnedFd {
  const text = initBinary[process.arch === "arm64" ? "arm64" : "x64"];
  if (text === null) throw new Error(`this ocibox was built without an init for ${process.arch}`);
  const bytes = Uint8Array.fromBase64(text);
  try {
    return sealed("ocibox-init", bytes, MFD.MFD_CLOEXEC | MFD.MFD_EXEC);
  } catch (error) {
    if (!(error instanceof SyscallError) || error.call !== "memfd_create") throw error;
    if (error.code === "EACCES")
      throw new Error("this system forbids executable memory files, which ocibox starts containers from; set vm.memfd_noexec=1 with sysctl");
    // Before Linux 6.3 there is no MFD_EXEC, and every memfd may be executed.
    if (error.code !== "EINVAL") throw error;
    return sealed("ocibox-init", bytes, MFD.MFD_CLOEXEC);
  }
}

/** The plan's image; stays open across execve, for init to read. */
export function createPlan(image: Uint8Array): OwnedFd {
  const flags = MFD.MFD_NOEXEC_SEAL;
  try {
    return sealed("ocibox-plan", image, flags);
  } catch (error) {
    if (!(error instanceof SyscallError) || error.code !== "EINVAL") throw error;
    return sealed("ocibox-plan", image, 0);
  }
}

/**
 * Replaces this process by init, which runs the plan; descriptors without CLOEXEC go along.
 * @throws SyscallError where the kernel refuses; all is as it was then
 */
export function execInit(image: Uint8Array): never {
  using init = createInit();
  using plan = createPlan(image);
  const result = attempt("execveat", init.fd, "", ["ocibox", String(plan.fd)], [], 0x1000);
  throw new SyscallError("execveat", [init.fd, "", ["ocibox", String(plan.fd)], [], 0x1000], -result);
}
