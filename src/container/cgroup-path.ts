/** Where the cgroups of a container of `ocibox run` are. */
import type { ContainerId } from "./state.ts";

export const cgroupMount = "/sys/fs/cgroup";

/** The path of a container's cgroup in every hierarchy: linux.cgroupsPath of its config.json. */
export function cgroupsPath(id: ContainerId): string {
  return `/ocibox-${id}`;
}
