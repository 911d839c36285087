/**
 * linux.resources out of config.json, or out of the file that `update` is given: every field is looked at, and one of
 * the wrong type is refused by its path. runtime-spec, config-linux.md; schema/config-linux.json
 */
import type { Resources } from "./runtime.ts";
import { checkShape, type Shape } from "./shape.ts";

const weightDevice: Shape = {
  fields: { major: "int64", minor: "int64", weight: "uint16", leafWeight: "uint16" },
  required: ["major", "minor"],
};
const throttle: Shape = {
  list: { fields: { major: "int64", minor: "int64", rate: "uint64" }, required: ["major", "minor", "rate"] },
};

export const resourcesShape: Shape = {
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
      list: {
        fields: {
          pageSize: { matches: /^[1-9][0-9]*[KMG]B$/, wanted: 'a size of pages such as "2MB"' },
          limit: "uint64",
        },
        required: ["pageSize", "limit"],
      },
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

/**
 * @param value as JSON.parse gives it, and nobody else's; fields that the specification has not are kept
 * @param path what errors begin with
 * @throws OciboxError INVALID naming the path
 */
export function decodeResources(value: unknown, path = "linux.resources"): Resources {
  checkShape(value, resourcesShape, path);
  return value as Resources;
}
