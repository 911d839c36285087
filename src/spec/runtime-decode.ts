/** config.json, decoded: runtime-spec 1.3, config.md and config-linux.md. What is refused is named by its path. */
import { resourcesShape } from "./resources-decode.ts";
import type { Process, Spec } from "./runtime.ts";
import { parseJson, withUser } from "./runtime-parse.ts";
import { checkShape, type Shape } from "./shape.ts";

const strings: Shape = { list: "string" };

const mappings: Shape = {
  list: {
    fields: { containerID: "uint32", hostID: "uint32", size: "uint32" },
    required: ["containerID", "hostID", "size"],
  },
};

const processShape: Shape = {
  fields: {
    terminal: "boolean",
    consoleSize: { fields: { height: "uint16", width: "uint16" }, required: ["height", "width"] },
    user: {
      fields: { uid: "uint32", gid: "uint32", umask: "uint32", additionalGids: { list: "uint32" }, username: "string" },
    },
    args: strings,
    commandLine: "string",
    env: strings,
    cwd: "string",
    capabilities: {
      fields: { bounding: strings, effective: strings, inheritable: strings, permitted: strings, ambient: strings },
    },
    rlimits: {
      list: { fields: { type: "string", soft: "uint64", hard: "uint64" }, required: ["type", "soft", "hard"] },
    },
    noNewPrivileges: "boolean",
    apparmorProfile: "string",
    selinuxLabel: "string",
    oomScoreAdj: "int32",
    scheduler: {
      fields: {
        policy: "string",
        nice: "int32",
        priority: "int32",
        flags: strings,
        runtime: "uint64",
        deadline: "uint64",
        period: "uint64",
      },
      required: ["policy"],
    },
    ioPriority: { fields: { class: "string", priority: "int32" }, required: ["class"] },
    execCPUAffinity: { fields: { initial: "string", final: "string" } },
  },
  required: ["cwd"],
};

const hooks: Shape = {
  list: { fields: { path: "string", args: strings, env: strings, timeout: "positive" }, required: ["path"] },
};

const seccompActions = ["KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG", "NOTIFY"];
const action: Shape = { oneOf: seccompActions.map((name) => `SCMP_ACT_${name}`) };

const seccomp: Shape = {
  fields: {
    defaultAction: action,
    defaultErrnoRet: "uint32",
    architectures: strings,
    flags: strings,
    listenerPath: "string",
    listenerMetadata: "string",
    syscalls: {
      list: {
        fields: {
          names: strings,
          action,
          errnoRet: "uint32",
          args: {
            list: {
              fields: { index: "uint32", value: "uint64", valueTwo: "uint64", op: "string" },
              required: ["index", "op"],
            },
          },
        },
        required: ["names", "action"],
      },
    },
  },
  required: ["defaultAction"],
};

const linux: Shape = {
  fields: {
    namespaces: {
      list: {
        fields: {
          type: { oneOf: ["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"] },
          path: "string",
        },
        required: ["type"],
      },
    },
    uidMappings: mappings,
    gidMappings: mappings,
    timeOffsets: { map: { fields: { secs: "int64", nanosecs: "uint32" } } },
    devices: {
      list: {
        fields: {
          type: { oneOf: ["c", "b", "u", "p"] },
          path: "string",
          major: "int64",
          minor: "int64",
          fileMode: "uint32",
          uid: "uint32",
          gid: "uint32",
        },
        required: ["type", "path"],
      },
    },
    netDevices: { map: { fields: { name: "string" } } },
    cgroupsPath: "string",
    resources: resourcesShape,
    rootfsPropagation: "string",
    seccomp,
    sysctl: { map: "string" },
    maskedPaths: strings,
    readonlyPaths: strings,
    mountLabel: "string",
    personality: { fields: { domain: "string", flags: strings } },
    memoryPolicy: { fields: { mode: "string", nodes: "string", flags: strings } },
    intelRdt: {
      fields: {
        closID: "string",
        schemata: strings,
        l3CacheSchema: "string",
        memBwSchema: "string",
        enableMonitoring: "boolean",
      },
    },
  },
};

/** FreeBSD's part has rules of its own, which a file for all systems may be checked by. schema/config-freebsd.json */
const sharing: Shape = { oneOf: ["disable", "new", "inherit"] };
const sharingOrNew: Shape = { oneOf: ["new", "inherit"] };
const freebsd: Shape = {
  fields: {
    devices: { list: { fields: { path: "string", mode: "uint32" } } },
    jail: {
      fields: {
        parent: "string",
        host: sharingOrNew,
        ip4: sharing,
        ip4Addr: strings,
        ip6: sharing,
        ip6Addr: strings,
        vnet: sharingOrNew,
        interface: "string",
        vnetInterfaces: strings,
        sysvmsg: sharing,
        sysvsem: sharing,
        sysvshm: sharing,
        enforceStatfs: "uint8",
      },
    },
  },
};

/** A draft's version counts, too, and so does one without its last number, as "1.0": both are met with. */
const ociVersion: Shape = {
  matches: /^[01]\.\d+(\.\d+)?([-+][0-9A-Za-z.+-]+)?$/,
  wanted: "a version of the runtime specification that ocibox knows, such as 1.3.0",
};

const specShape: Shape = {
  fields: {
    ociVersion,
    process: processShape,
    root: { fields: { path: "string", readonly: "boolean" }, required: ["path"] },
    hostname: "string",
    domainname: "string",
    mounts: {
      list: {
        fields: {
          destination: "string",
          type: "string",
          source: "string",
          options: strings,
          uidMappings: mappings,
          gidMappings: mappings,
        },
        required: ["destination"],
      },
    },
    hooks: {
      fields: {
        prestart: hooks,
        createRuntime: hooks,
        createContainer: hooks,
        startContainer: hooks,
        poststart: hooks,
        poststop: hooks,
      },
    },
    annotations: { map: "string" },
    linux,
    freebsd,
  },
  required: ["ociVersion"],
};

/** @throws OciboxError INVALID naming the path in the document */
export function checkSpec(spec: Spec): void {
  checkShape(spec, specShape, "");
}

/** @throws OciboxError INVALID naming the path in the document */
export function decodeSpec(text: string): Spec {
  const value = parseJson(text, "config.json");
  checkSpec(value as Spec);
  const spec = value as Spec;
  if (spec.process !== undefined) withUser(spec.process);
  return spec;
}

/** A process alone, as `exec --process` is given one. @param name of the file @throws OciboxError INVALID */
export function decodeProcess(text: string, name: string): Process {
  const value = parseJson(text, name);
  checkShape(value, processShape, "process");
  const process = value as Process;
  withUser(process);
  return process;
}
