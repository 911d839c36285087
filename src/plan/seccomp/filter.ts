/**
 * The default profile and the filters of profiles. For the usual capabilities both were made when ocibox was built: the
 * profile is 400 names and its filter takes 2 ms to compile, which every start would pay.
 */
import type { LinuxSeccomp } from "../../spec/runtime.ts";
import { compileSeccomp } from "./compile.ts";
import { usual } from "./default.gen.ts";
import { makeProfile } from "./profile.ts";

/** Profiles that are known to be the one that was made beforehand. */
const madeBefore = new WeakSet<LinuxSeccomp>();

/** The default profile. @param usualOnes whether the capabilities are the usual ones, for which it is ready */
export function defaultProfile(
  machine: "x64" | "arm64",
  capabilities: readonly string[],
  usualOnes: boolean,
): LinuxSeccomp {
  if (!usualOnes) return makeProfile(machine, capabilities);
  const profile = JSON.parse(usual[machine].profile) as LinuxSeccomp;
  madeBefore.add(profile);
  return profile;
}

/**
 * The program for seccomp(2).
 * @throws OciboxError INVALID or UNSUPPORTED naming the part of the profile
 */
export function filterFor(seccomp: LinuxSeccomp, machine: "x64" | "arm64"): Uint8Array<ArrayBuffer> {
  if (madeBefore.has(seccomp)) return Uint8Array.fromBase64(usual[machine].filter);
  return compileSeccomp(seccomp, machine);
}
