/** `update`: other limits for a container, in the kernel and, where systemd has made its unit, with systemd too. */
import { OciboxError } from "../errors.ts";
import type { Resources } from "../spec/runtime.ts";
import { updateCgroups } from "./cgroup-update.ts";
import { lockContainer, needContainer } from "./state.ts";

/** @throws OciboxError */
export async function updateContainer(root: string, id: string, resources: Resources): Promise<void> {
  const container = needContainer(root, id);
  using lock = container.alive ? lockContainer(container.directory) : undefined;
  if (lock === undefined) throw new OciboxError("INVALID", "container not running");
  const { cgroups, unit } = container.record;
  if (unit !== undefined) {
    const { updateUnit } = await import("./systemd.ts");
    await updateUnit(unit, resources, cgroups.mode);
  }
  updateCgroups(cgroups, resources);
}
