/**
 * `ocibox run` in the foreground: an image and options become a folder, a mounted tree, a config.json, a plan; then
 * this process becomes init, which runs the plan. Nothing after that is JavaScript.
 */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { encodePlan } from "../../ffi/encode.ts";
import { explain } from "../../ffi/explain.ts";
import { execInit } from "../../ffi/launch.ts";
import { createSpec, type RunOptions } from "../bundle/bundle.ts";
import { OciboxError } from "../errors.ts";
import { compile } from "../plan/compile.ts";
import { prepareOverlay } from "../rootfs/overlay.ts";
import { readInRoot } from "../rootfs/read.ts";
import { hostFacts } from "../runtime/host.ts";
import type { Spec } from "../spec/runtime.ts";
import type { Store, StoredImage } from "../store/store.ts";
import { cgroupsPath, endLeftovers } from "./cgroups.ts";
import { makeDirectories, readText, writeNew } from "./files.ts";
import {
  type ContainerRecord,
  containerDirectory,
  containersDirectory,
  removeContainer,
  takeName,
  tidyAfterReboot,
  tidyUp,
} from "./record.ts";
import { type Claim, claim } from "./state.ts";

export interface RunRequest {
  readonly image: StoredImage;
  /** As the user named it. */
  readonly imageName: string;
  readonly store: Store;
  readonly root: string;
  readonly state: string;
  /** What the bundle is made by; id, hostname and the like are filled in here. */
  readonly options: RunOptions;
  readonly name: string | undefined;
  readonly autoRemove: boolean;
  readonly interactive: boolean;
  /** Print the plan and run nothing. */
  readonly explain: boolean;
  readonly fault: { readonly step: number; readonly errno: number } | undefined;
}

/** passwd and group files larger than this are refused, unread. */
const mostAccounts = 4 << 20;

const namePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/** Removes what killed commands and reboots have left; cheap where there is nothing. */
export function tidy(root: string, state: string): void {
  if (attempt("faccessat2", AT_FDCWD, state, 0, 0) < 0) {
    makeDirectories(state);
    tidyAfterReboot(root, state);
    return;
  }
  tidyUp(root, state, endLeftovers);
}

function hostsFile(hostname: string): string {
  return `127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t${hostname}\n`;
}

/** hosts, hostname and resolv.conf of a container; with the host's network, the host's own words. */
function writeNetworkFiles(directory: string, hostname: string, host: boolean): void {
  writeNew(`${directory}/hostname`, `${hostname}\n`, 0o644);
  writeNew(`${directory}/hosts`, (host ? readText("/etc/hosts") : undefined) ?? hostsFile(hostname), 0o644);
  writeNew(`${directory}/resolv.conf`, (host ? readText("/etc/resolv.conf") : undefined) ?? "", 0o644);
}

function makeFolder(root: string, directory: string): void {
  makeDirectories(containersDirectory(root));
  direct.mkdirat(AT_FDCWD, directory, 0o700);
  direct.mkdirat(AT_FDCWD, `${directory}/upper`, 0o755);
  direct.mkdirat(AT_FDCWD, `${directory}/work`, 0o700);
}
