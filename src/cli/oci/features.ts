import { CAP } from "../../../ffi/constants.ts";
import { mountOptionNames } from "../../plan/options.ts";
import { seccompFeatures } from "../../plan/seccomp/compile.ts";
import { runtimeSpecVersion } from "../../spec/version.ts";
import { print } from "../output.ts";
import type { OciCommand } from "./options.ts";

/** What ocibox can do, by its own code: not what this host or its kernel can. runtime-spec, features.md */
function features(version: string): object {
  return {
    ociVersionMin: "1.0.0",
    ociVersionMax: runtimeSpecVersion,
    hooks: ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
    mountOptions: mountOptionNames(),
    linux: {
      namespaces: ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
      capabilities: Object.keys(CAP),
      cgroup: { v1: true, v2: true, systemd: true, systemdUser: true, rdma: true },
      seccomp: { enabled: true, ...seccompFeatures(process.arch === "arm64" ? "arm64" : "x64") },
      apparmor: { enabled: true },
      selinux: { enabled: true },
      intelRdt: { enabled: false },
      memoryPolicy: {
        modes: [
          "MPOL_DEFAULT",
          "MPOL_BIND",
          "MPOL_INTERLEAVE",
          "MPOL_WEIGHTED_INTERLEAVE",
          "MPOL_PREFERRED",
          "MPOL_PREFERRED_MANY",
          "MPOL_LOCAL",
        ],
        flags: ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
      },
      mountExtensions: { idmap: { enabled: true } },
      netDevices: { enabled: true },
    },
    annotations: { "org.ocibox.version": version, "org.opencontainers.runc.checkpoint.enabled": "false" },
    potentiallyUnsafeConfigAnnotations: [],
  };
}

export const command: OciCommand = {
  usage: "[arguments...]",
  summary: "show the enabled features",
  description: "Prints what this runtime can do, in the structure of runtime-spec's features document.",
  flags: {},
  words: [0, 0],
  run(_, globals) {
    print(JSON.stringify(features(globals.version), null, 2));
    return 0;
  },
};
