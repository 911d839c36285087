/** A host that is made up: plans and configurations depend on nothing else of the machine they are made on. */
import type { HostFacts } from "../../src/plan/facts.ts";

/** Linux 6.12 on x86_64 with cgroup v1, as root. */
export const facts: HostFacts = {
  machine: "x64",
  kernel: "6.12.0",
  cgroup: { mode: "v1", controllers: ["pids", "devices", "memory", "cpu", "cpuset"], writable: true },
  lastCap: 40,
  permitted: 2 ** 41 - 1,
  userNamespace: false,
  ids: undefined,
  apparmor: false,
  selinux: false,
  nofile: { soft: 1024, hard: 524_288 },
};

export const factsV2: HostFacts = {
  ...facts,
  cgroup: { mode: "v2", controllers: ["cpuset", "cpu", "io", "memory", "pids"], writable: true },
};
