/** What is needed of kept plans where one is made, or where its container has another command: see plan-cache.ts. */
import { dataOfPart, type EncodedPart } from "../../ffi/encode.ts";
import { writeKept } from "../runtime/kept.ts";
import { commandTemplate, withCommand } from "../runtime/template-make.ts";
import { packed, shapeOf } from "../runtime/templates.ts";
import type { Spec } from "../spec/runtime.ts";
import { atomsOf, commandName, folder, headBytes, type KeptPlan, noCommand, shortId } from "./plan-cache.ts";
import type { ContainerId } from "./state.ts";

const utf8 = new TextEncoder();

/** config.json with arguments and environment left out, to be put in by `specOf`. */
export function specTemplate(spec: Spec): string {
  return JSON.stringify({ ...spec, process: { ...spec.process, args: ["\u0001"], env: ["\u0001"] } });
}

function placesOf(part: EncodedPart, id: ContainerId): KeptPlan["places"] {
  const data = dataOfPart(part);
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const full: number[] = [];
  const short: number[] = [];
  for (let at = bytes.indexOf(id.slice(0, shortId)); at >= 0; at = bytes.indexOf(id.slice(0, shortId), at + shortId))
    (bytes.toString("latin1", at, at + id.length) === id ? full : short).push(at);
  return { full, short };
}

/**
 * Keeps a plan, and the whole of it for commands like this one; that it cannot be kept is no error.
 * @param name of the kind
 */
export function remember(
  root: string,
  name: string,
  plan: Omit<KeptPlan, "places">,
  args: readonly string[],
  env: readonly string[],
): void {
  if (!plan.spec.includes(noCommand)) return;
  const { part, ...own } = plan;
  const kept: Omit<KeptPlan, "part"> = { ...own, places: placesOf(part, plan.id) };
  const text = utf8.encode(JSON.stringify(kept));
  const bytes = new Uint8Array(new ArrayBuffer(headBytes + text.byteLength + part.byteLength));
  bytes.set(text, headBytes);
  bytes.set(part, headBytes + text.byteLength);
  new DataView(bytes.buffer).setUint32(0, text.byteLength, true);
  writeKept(root, folder, name, bytes, plan.id);
  const shape = shapeOf(args, env);
  const atoms = atomsOf(plan.id);
  const command = shape && commandTemplate({ part, atoms, markers: atoms }, shape.key);
  if (command === undefined) return;
  writeKept(root, folder, commandName(name, shape?.key ?? ""), packed(command), plan.id);
}

/** The kept part with another container's id in it. */
function partFor({ part, places }: KeptPlan, id: ContainerId): EncodedPart {
  const data = dataOfPart(part);
  const bytes = utf8.encode(id);
  for (const at of places.full) data.set(bytes, at);
  const short = bytes.subarray(0, shortId);
  for (const at of places.short) data.set(short, at);
  return part;
}

/** The image of a kept plan for a container whose command is of another shape than what was kept whole. */
export function imageOfPart(
  kept: KeptPlan,
  id: ContainerId,
  args: readonly string[],
  env: readonly string[],
): Uint8Array<ArrayBuffer> {
  return withCommand(partFor(kept, id), args, env);
}
