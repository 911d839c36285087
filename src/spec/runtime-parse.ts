/** config.json, parsed: what is needed of its decoder where one of the kind was looked at before. */
import { OciboxError } from "../errors.ts";
import type { Process, Spec } from "./runtime.ts";
import { checkShape, type Shape } from "./shape.ts";

const strings: Shape = { list: "string" };

/** Numbers that only 64 bits hold stay exact where they are compared bit by bit: arguments of system calls. */
function exactly(this: unknown, key: string, value: unknown, context?: { source?: string }): unknown {
  const exact = typeof value !== "number" || Number.isSafeInteger(value) || (key !== "value" && key !== "valueTwo");
  return exact || !/^\d+$/.test(context?.source ?? "") ? value : BigInt(context?.source ?? 0);
}

/** @param name of the file, for errors @throws OciboxError INVALID */
export function parseJson(text: string, name: string): unknown {
  try {
    // A reviver is slow, and mostly there is no such number.
    return /\d{16}/.test(text) ? JSON.parse(text, exactly) : JSON.parse(text);
  } catch (error) {
    throw new OciboxError("INVALID", `${name} is no JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** The user is 0:0 where nothing is said, as runc has it. */
export function withUser(process: Process): void {
  process.user = { ...process.user, uid: process.user?.uid ?? 0, gid: process.user?.gid ?? 0 };
}

/**
 * config.json without a look at what most of it is, for somebody who may know already: see runtime/templates.ts. What is
 * taken for granted on the way is looked at.
 * @returns undefined for one that only the decoder can read
 * @throws OciboxError INVALID
 */
export function parsePlain(text: string): Spec | undefined {
  const spec = parseJson(text, "config.json") as Spec;
  const process = spec?.process;
  const plain =
    !text.includes("null") &&
    typeof spec === "object" &&
    typeof spec.root?.path === "string" &&
    typeof process === "object" &&
    typeof process.user === "object" &&
    Array.isArray(process.args) &&
    Array.isArray(process.env) &&
    Array.isArray(spec.mounts) &&
    typeof spec.linux === "object";
  if (!plain) return undefined;
  checkShape(process.args, strings, "process.args");
  checkShape(process.env, strings, "process.env");
  if (spec.annotations !== undefined) checkShape(spec.annotations, { map: "string" }, "annotations");
  withUser(process);
  return spec;
}
