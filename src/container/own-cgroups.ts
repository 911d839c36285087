/** The cgroups of a container of `ocibox run`, as its plan has made them. */
import { OciboxError } from "../errors.ts";
import { planCgroups } from "../plan/cgroups/plan.ts";
import type { Cgroups } from "../runtime/cgroups.ts";
import { hostFacts } from "../runtime/host.ts";
import type { ContainerStatus } from "./record.ts";
import { notRunning } from "./running.ts";
import { readSpec } from "./spec.ts";

/** @throws OciboxError INVALID for one that does not run, HOST where it has none, as a user's */
export function ownCgroups(root: string, container: ContainerStatus): Cgroups {
  if (!container.running) throw notRunning(container);
  const { mode, directories } = planCgroups(readSpec(root, container), hostFacts());
  if (directories.length > 0) return { mode, directories };
  throw new OciboxError("HOST", `the container "${container.name}" has no cgroup: none can be made here`, {
    hint: "an ordinary user has none, and nobody where /sys/fs/cgroup cannot be written",
  });
}
