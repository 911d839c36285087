/**
 * What a document of the specifications may look like, as data, and the check of one against it. What is refused is named
 * by its path. Fields that a shape has not are kept; a null is as good as nothing, for Go writes it.
 */
import { OciboxError } from "../errors.ts";

/** What a field may be. A list is of one kind, an object has these fields, a map has any names. */
export type Shape =
  | "boolean"
  | "string"
  | keyof typeof bounds
  | { readonly oneOf: readonly string[] }
  | { readonly matches: RegExp; readonly wanted: string }
  | { readonly list: Shape }
  | { readonly map: Shape }
  | { readonly fields: Readonly<Record<string, Shape>>; readonly required?: readonly string[] };

const bounds = {
  int64: [-(2 ** 63), 2 ** 63],
  uint64: [0, 2 ** 64],
  int32: [-(2 ** 31), 2 ** 31 - 1],
  uint32: [0, 2 ** 32 - 1],
  uint16: [0, 65_535],
  uint8: [0, 255],
  /** Seconds, of which there is at least one. */
  positive: [1, 2 ** 31 - 1],
} as const;

function refuse(path: string, value: unknown, wanted: string): never {
  const shown = typeof value === "bigint" ? String(value) : (JSON.stringify(value) ?? "nothing");
  const short = shown.length > 80 ? `${shown.slice(0, 80)}…` : shown;
  throw new OciboxError("INVALID", `${path} is ${short}, not ${wanted}`);
}

function checkPlain(value: unknown, kind: Extract<Shape, string>, path: string): void {
  if (kind === "boolean" || kind === "string") {
    if (typeof value !== kind) refuse(path, value, `a ${kind}`);
    // A NUL would end it for the kernel, and nobody else.
    if (typeof value === "string" && value.includes("\0")) refuse(path, value, "a string without NUL");
    return;
  }
  const [least, most] = bounds[kind];
  const whole = typeof value === "bigint" || (typeof value === "number" && Number.isInteger(value));
  if (!whole || value < least || value > most)
    refuse(path, value, kind === "positive" ? "a number greater than zero" : `an integer (${kind})`);
}

function checkObject(value: unknown, as: Extract<Shape, { fields: unknown } | { map: unknown }>, path: string): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) refuse(path, value, "an object");
  const found = value as Record<string, unknown>;
  if ("map" in as) {
    for (const key in found) {
      if (found[key] === null) delete found[key];
      else checkShape(found[key], as.map, `${path}[${JSON.stringify(key)}]`);
    }
    return;
  }
  const prefix = path === "" ? "" : `${path}.`;
  for (const key of as.required ?? [])
    if (found[key] === undefined || found[key] === null) refuse(`${prefix}${key}`, undefined, "there: it is required");
  for (const key in as.fields) {
    const field = found[key];
    if (field === undefined) continue;
    if (field === null) delete found[key];
    else checkShape(field, as.fields[key] as Shape, `${prefix}${key}`);
  }
}

/**
 * Checks a value that nobody else has: fields that are null are removed from it.
 * @param path what errors begin with
 * @throws OciboxError INVALID naming the path
 */
export function checkShape(value: unknown, as: Shape, path: string): void {
  if (typeof as === "string") checkPlain(value, as, path);
  else if ("list" in as) {
    if (!Array.isArray(value)) refuse(path, value, "an array");
    for (let index = 0; index < value.length; index++) checkShape(value[index], as.list, `${path}[${index}]`);
  } else if ("oneOf" in as) {
    if (!as.oneOf.includes(value as string)) refuse(path, value, `one of ${as.oneOf.join(", ")}`);
  } else if ("matches" in as) {
    if (typeof value !== "string" || !as.matches.test(value)) refuse(path, value, as.wanted);
  } else checkObject(value, as, path);
}
