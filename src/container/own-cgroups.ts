/** The cgroups of a container of `ocibox run`, as its plan has made them. */
import { readText } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";
import { planCgroups } from "../plan/cgroups/plan.ts";
import type { Cgroups } from "../runtime/cgroups.ts";
import { hostFacts } from "../runtime/host.ts";
import { decodeSpec } from "../spec/runtime-decode.ts";
import { type ContainerStatus, containerDirectory } from "./record.ts";
import { notRunning } from "./running.ts";

const mostConfig = 16 << 20;

/** @throws OciboxError INVALID for one that does not run, HOST where it has none, as a user's */
export function ownCgroups(root: string, container: ContainerStatus): Cgroups {
  if (!container.running) throw notRunning(container);
  const config = readText(`${containerDirectory(root, container.id)}/config.json`, mostConfig);
  if (config === undefined)
    throw new OciboxError("STORE", `the container "${container.name}" has lost its config.json`);
  const { mode, directories } = planCgroups(decodeSpec(config), hostFacts());
  if (directories.length > 0) return { mode, directories };
  throw new OciboxError("HOST", `the container "${container.name}" has no cgroup: it is an ordinary user's`, {
    hint: "run it as root for limits, pauses and statistics",
  });
}
