/** What is needed of kept plans where one is made, or where its container has another command: see plan-cache.ts. */
import { writeKept } from "../runtime/kept.ts";
import { commandTemplate, placesOf, withCommand } from "../runtime/template-make.ts";
import { instance, packed, shapeOf } from "../runtime/templates.ts";
import type { Spec } from "../spec/runtime.ts";
import { atomsOf, commandName, folder, type KeptPlan, noCommand } from "./plan-cache.ts";
import type { ContainerId } from "./state.ts";

/** config.json with arguments and environment left out, to be put in by `specOf`. */
export function specTemplate(spec: Spec): string {
  return JSON.stringify({ ...spec, process: { ...spec.process, args: ["\u0001"], env: ["\u0001"] } });
}

/**
 * Keeps a plan, and the whole of it for commands like this one; that it cannot be kept is no error.
 * @param name of the kind
 */
export function remember(
  root: string,
  name: string,
  plan: Omit<KeptPlan, "atoms" | "texts">,
  args: readonly string[],
  env: readonly string[],
): void {
  if (!plan.spec.includes(noCommand)) return;
  const atoms = atomsOf(plan.id);
  const kept: KeptPlan = { ...plan, atoms: placesOf(plan.bytes, atoms), texts: [] };
  writeKept(root, folder, name, packed(kept), plan.id);
  const shape = shapeOf(args, env);
  const command = shape && commandTemplate({ part: plan.bytes, atoms, markers: atoms }, shape.key);
  if (command === undefined) return;
  writeKept(root, folder, commandName(name, shape?.key ?? ""), packed(command), plan.id);
}

/** The image of a kept plan for a container whose command is of another shape than what was kept whole. */
export function imageOfPart(
  kept: KeptPlan,
  id: ContainerId,
  args: readonly string[],
  env: readonly string[],
): Uint8Array<ArrayBuffer> {
  instance(kept, atomsOf(id), []);
  return withCommand(kept.bytes, args, env);
}
