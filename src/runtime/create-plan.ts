/** The plan of an OCI container out of what is known of it: what `create` needs where there is no template. */
import { AT, AT_FDCWD, MNT } from "../../ffi/constants.ts";
import { encodePart, encodePlan, type Fault } from "../../ffi/encode.ts";
import type { Recorder, Step } from "../../ffi/plan.ts";
import type { CgroupHost } from "../plan/cgroups/paths.ts";
import { type CgroupChoice, type CgroupPlan, planOciCgroups } from "../plan/cgroups/plan.ts";
import { compile, compileSetUp } from "../plan/compile.ts";
import type { OciContext, PlanContext } from "../plan/context.ts";
import type { CopyUpEntry } from "../plan/devices.ts";
import { runHooks } from "../plan/hooks.ts";
import type { NetDevice } from "../plan/net-devices.ts";
import { checkSpec } from "../spec/runtime-decode.ts";
import { hasOwnMounts } from "./bundle.ts";
import { mountsOnPlace, rootPlace, type StateOf, stateFiles, stateText } from "./state.ts";
import type { PlanCompiler, PlanInputs } from "./templates.ts";

/** The files of a state directory, removed by the plan itself. */
function forgetSteps(
  p: Recorder,
  directory: string,
  ownMounts: boolean,
  note: (result: ReturnType<Recorder["slot"]>) => void,
): void {
  if (!ownMounts) {
    const place = rootPlace(directory);
    const flags = MNT.MNT_DETACH | MNT.UMOUNT_NOFOLLOW;
    for (let each = 0; each < mountsOnPlace; each++) note(p.carryOn("EINVAL", "ENOENT").umount2(place, flags));
    note(p.carryOn("ENOENT").unlinkat(AT_FDCWD, place, AT.AT_REMOVEDIR));
  }
  for (const name of stateFiles) note(p.carryOn("ENOENT").unlinkat(AT_FDCWD, `${directory}/${name}`, 0));
  note(p.carryOn("ENOENT").unlinkat(AT_FDCWD, directory, AT.AT_REMOVEDIR));
}

/** What the plan is made of: values alone, so that they can be a key. */
export interface Inputs extends PlanInputs {
  readonly rootfs: string;
  readonly sources: readonly (readonly [path: string, kind: "directory" | "file"])[];
  readonly copyUp: readonly (readonly [path: string, entries: readonly CopyUpEntry[]])[];
  readonly cgroups: { readonly host: CgroupHost; readonly choice: CgroupChoice };
  readonly state: StateOf;
  readonly oci: Omit<OciContext, "state" | "copyUp">;
  readonly netDevices: readonly NetDevice[];
}

function cgroupsOf({ spec, cgroups }: Inputs): CgroupPlan {
  return planOciCgroups(spec, cgroups.host, cgroups.choice);
}

function contextOf(inputs: Inputs): PlanContext {
  const { spec, rootfs, sources, copyUp, state, oci, netDevices } = inputs;
  const ownMounts = hasOwnMounts(spec);
  return {
    rootfs,
    netDevices,
    noted: oci.directory,
    mountpoint: ownMounts ? rootfs : rootPlace(oci.directory),
    interactive: true,
    init: false,
    sources: new Map(sources),
    oci: { ...oci, state: (status) => stateText(state, status), copyUp: new Map(copyUp) },
    cgroups: cgroupsOf(inputs),
    cleanup(p, _code, note) {
      forgetSteps(p, oci.directory, ownMounts, note);
    },
    forget(p) {
      const hooks = spec.hooks?.poststop ?? [];
      if (hooks.length === 0) return;
      const gone = p.slot("no process");
      p.add({ op: "set", slot: gone, value: 0 });
      runHooks(p, "poststop", hooks, stateText(state, "stopped"), gone, { lenient: true });
    },
  };
}

/** @throws OciboxError naming the field of config.json */
export function compileInputs(inputs: Inputs): Recorder {
  return compile(inputs.spec, inputs.facts, contextOf(inputs));
}

export function imageOfSteps(steps: readonly Step[], fault: Fault | undefined): Uint8Array<ArrayBuffer> {
  return encodePlan(steps, { fault });
}

/** What a container's record has of its cgroups. */
export type Derived = Pick<CgroupPlan, "mode" | "directories">;

export const compiler: PlanCompiler<Inputs, Derived> = {
  derive(inputs) {
    const { mode, directories } = cgroupsOf(inputs);
    return { mode, directories };
  },
  whole(inputs) {
    checkSpec(inputs.spec);
    return encodePlan(compileInputs(inputs));
  },
  setUp: (inputs) => encodePart(compileSetUp(inputs.spec, inputs.facts, contextOf(inputs)).steps),
};
