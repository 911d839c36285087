/** What every command does first: what a killed ocibox or a reboot has left is removed. */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { makeDirectories } from "../../ffi/files.ts";
import { endLeftovers } from "./cgroups.ts";
import { disconnect } from "./network.ts";
import { tidyAfterReboot, tidyUp } from "./record.ts";

/** Removes what killed commands and reboots have left; cheap where there is nothing. */
export function tidy(root: string, state: string): void {
  if (attempt("faccessat2", AT_FDCWD, state, 0, 0) >= 0) {
    tidyUp(root, state, (id) => {
      endLeftovers(id);
      disconnect(root, id);
    });
    return;
  }
  if (attempt("faccessat2", AT_FDCWD, root, 0, 0) < 0) return;
  makeDirectories(state);
  tidyAfterReboot(root, state);
}
