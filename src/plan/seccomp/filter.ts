/** The filter of a profile: the default one is compiled when ocibox is built, any other when it is used. */
import type { LinuxSeccomp } from "../../spec/runtime.ts";
import { compileSeccomp } from "./compile.ts";

/** @throws OciboxError INVALID or UNSUPPORTED naming the part of the profile */
export function filterFor(seccomp: LinuxSeccomp, machine: "x64" | "arm64"): Uint8Array<ArrayBuffer> {
  return compileSeccomp(seccomp, machine);
}
