/**
 * linux.resources out of config.json, or out of the file that `update` is given: every field is looked at, and one of
 * the wrong type is refused by its path. runtime-spec, config-linux.md; schema/config-linux.json
 */
import { OciboxError } from "../errors.ts";
import type { Resources } from "./runtime.ts";

/** What a field may be. A list is of one kind, an object has these fields, a map has any names. */
type Shape =
  | "boolean"
  | "string"
  | "int64"
  | "uint64"
  | "uint32"
  | "uint16"
  | { readonly list: Shape }
  | { readonly map: Shape }
  | { readonly fields: Readonly<Record<string, Shape>>; readonly required?: readonly string[] };

const weightDevice: Shape = {
  fields: { major: "int64", minor: "int64", weight: "uint16", leafWeight: "uint16" },
  required: ["major", "minor"],
};
const throttle: Shape = {
  list: { fields: { major: "int64", minor: "int64", rate: "uint64" }, required: ["major", "minor", "rate"] },
};

const shape: Shape = {
  fields: {
    devices: {
      list: {
        fields: { allow: "boolean", type: "string", major: "int64", minor: "int64", access: "string" },
        required: ["allow"],
      },
    },
    memory: {
      fields: {
        limit: "int64",
        reservation: "int64",
        swap: "int64",
        kernel: "int64",
        kernelTCP: "int64",
        swappiness: "uint64",
        disableOOMKiller: "boolean",
        useHierarchy: "boolean",
        checkBeforeUpdate: "boolean",
      },
    },
    cpu: {
      fields: {
        shares: "uint64",
        quota: "int64",
        burst: "uint64",
        period: "uint64",
        realtimeRuntime: "int64",
        realtimePeriod: "uint64",
        cpus: "string",
        mems: "string",
        idle: "int64",
      },
    },
    pids: { fields: { limit: "int64" } },
    blockIO: {
      fields: {
        weight: "uint16",
        leafWeight: "uint16",
        weightDevice: { list: weightDevice },
        throttleReadBpsDevice: throttle,
        throttleWriteBpsDevice: throttle,
        throttleReadIOPSDevice: throttle,
        throttleWriteIOPSDevice: throttle,
      },
    },
    hugepageLimits: {
      list: { fields: { pageSize: "string", limit: "uint64" }, required: ["pageSize", "limit"] },
    },
    network: {
      fields: {
        classID: "uint32",
        priorities: { list: { fields: { name: "string", priority: "uint32" }, required: ["name", "priority"] } },
      },
    },
    rdma: { map: { fields: { hcaHandles: "uint32", hcaObjects: "uint32" } } },
    unified: { map: "string" },
  },
};

const bounds = {
  int64: [-(2 ** 63), 2 ** 63],
  uint64: [0, 2 ** 64],
  uint32: [0, 2 ** 32 - 1],
  uint16: [0, 65_535],
} as const;

function refuse(path: string, value: unknown, wanted: string): never {
  const shown = JSON.stringify(value) ?? "nothing";
  const short = shown.length > 80 ? `${shown.slice(0, 80)}…` : shown;
  throw new OciboxError("INVALID", `${path} is ${short}, not ${wanted}`);
}

function checkPlain(value: unknown, kind: Exclude<Shape, object>, path: string): void {
  if (kind === "boolean" || kind === "string") {
    if (typeof value !== kind) refuse(path, value, `a ${kind}`);
    // A NUL would end it for the kernel, and nobody else.
    if (typeof value === "string" && value.includes("\0")) refuse(path, value, "a string without NUL");
    return;
  }
  const [least, most] = bounds[kind];
  if (typeof value !== "number" || !Number.isInteger(value) || value < least || value > most)
    refuse(path, value, `an integer (${kind})`);
}

/** Whether it can be had from JSON at all is left to JSON.parse; null is as good as nothing, for Go writes it. */
function check(value: unknown, as: Shape, path: string): void {
  if (typeof as === "string") {
    checkPlain(value, as, path);
    return;
  }
  if ("list" in as) {
    if (!Array.isArray(value)) refuse(path, value, "an array");
    value.forEach((item, index) => {
      check(item, as.list, `${path}[${index}]`);
    });
    return;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) refuse(path, value, "an object");
  const found: Readonly<Record<string, unknown>> = value as Record<string, unknown>;
  if ("map" in as) {
    for (const key in found) check(found[key], as.map, `${path}[${JSON.stringify(key)}]`);
    return;
  }
  for (const key of as.required ?? [])
    if (found[key] === undefined || found[key] === null) refuse(`${path}.${key}`, undefined, "there: it is required");
  for (const key in as.fields) {
    const field = found[key];
    if (field !== undefined && field !== null) check(field, as.fields[key] as Shape, `${path}.${key}`);
  }
}

function withoutNull(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNull);
  if (typeof value !== "object" || value === null) return value;
  const kept: Record<string, unknown> = Object.create(null);
  for (const [key, field] of Object.entries(value)) if (field !== null) kept[key] = withoutNull(field);
  return kept;
}

/**
 * @param value as JSON.parse gives it; fields that the specification has not are kept
 * @param path what errors begin with
 * @throws OciboxError INVALID naming the path
 */
export function decodeResources(value: unknown, path = "linux.resources"): Resources {
  const plain = withoutNull(value);
  check(plain, shape, path);
  return plain as Resources;
}
