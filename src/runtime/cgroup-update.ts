/** `update`: other limits for a container that runs. What is not named stays as it is. */
import { errnoName, errnoWords } from "../../ffi/errno.ts";
import { readText } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";
import type { Setting } from "../plan/cgroups/settings.ts";
import { settingsV1 } from "../plan/cgroups/v1.ts";
import { settingsV2 } from "../plan/cgroups/v2.ts";
import type { Resources } from "../spec/runtime.ts";
import { directoryFor } from "./cgroup-files.ts";
import { type Cgroups, writeCgroupFile } from "./cgroups.ts";

const ENOENT = -2;

/** v2 reckons with values that are not named: swap with the limit of memory, and a period goes with its quota. */
function completed(resources: Resources, directory: string): Resources {
  const { memory, cpu } = resources;
  let full = resources;
  if (memory?.swap !== undefined && memory.swap > 0 && memory.limit === undefined) {
    const limit = (readText(`${directory}/memory.max`) ?? "").trim();
    full = { ...full, memory: { ...memory, limit: limit === "max" ? -1 : Number(limit) } };
  }
  if (cpu?.period !== undefined && cpu.quota === undefined) {
    const quota = (readText(`${directory}/cpu.max`) ?? "").split(" ")[0];
    if (quota !== undefined && /^\d+$/.test(quota)) full = { ...full, cpu: { ...cpu, quota: Number(quota) } };
  }
  return full;
}

/** config-linux.md#memory: v1's kernel refuses a limit that is below what is used, v2's would end processes for it. */
function checkUsage(resources: Resources, directory: string): void {
  const { limit, checkBeforeUpdate } = resources.memory ?? {};
  if (checkBeforeUpdate !== true || limit === undefined || limit <= 0) return;
  const used = Number(readText(`${directory}/memory.current`) ?? "0");
  if (used > limit)
    throw new OciboxError("INVALID", `linux.resources.memory.limit: ${limit} is less than what is used, ${used}`);
}

/** @returns 0, or -errno */
function write(directory: string, { file, text, instead, absent = [] }: Setting): number {
  const wrote = writeCgroupFile(`${directory}/${file}`, text);
  if (wrote === ENOENT && instead !== undefined) return writeCgroupFile(`${directory}/${instead.file}`, instead.text);
  return absent.some((name) => name === errnoName(-wrote)) ? 0 : wrote;
}

/** Settings by their meaning: a limit that the kernel does not take before another is tried again after it. */
function writeAll(cgroups: Cgroups, settings: readonly Setting[]): void {
  let left = settings.map((setting) => {
    const directory = directoryFor(cgroups, setting.controller);
    if (directory === undefined)
      throw new OciboxError("UNSUPPORTED", `${setting.field}: the container is in no cgroup of ${setting.controller}`);
    return { setting, directory, wrote: 0 };
  });
  for (;;) {
    const failed = [];
    for (const each of left) {
      const wrote = write(each.directory, each.setting);
      if (wrote < 0) failed.push({ ...each, wrote });
    }
    const [first] = failed;
    if (first === undefined) return;
    if (failed.length === left.length) {
      const { setting, directory, wrote } = first;
      throw new OciboxError(
        "HOST",
        `${setting.field}: cannot write ${JSON.stringify(setting.text)} to "${directory}/${setting.file}": ${errnoWords(-wrote)}`,
      );
    }
    left = failed;
  }
}

/** @throws OciboxError naming the field that could not be had */
export function updateCgroups(cgroups: Cgroups, resources: Resources): void {
  if (cgroups.mode !== "v2") {
    writeAll(cgroups, settingsV1(resources));
    return;
  }
  const [directory = ""] = cgroups.directories;
  checkUsage(resources, directory);
  writeAll(cgroups, settingsV2(completed(resources, directory)));
}
