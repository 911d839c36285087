/** What a plan depends on besides the configuration. Gathered by runtime/host.ts, made up by tests. */
import type { IdRow } from "../../ffi/user.ts";

export type CgroupMode = "v2" | "v1" | "hybrid" | "none";

/** Of a user namespace: user_namespaces(7). */
export interface HostIds {
  readonly uids: readonly IdRow[];
  readonly gids: readonly IdRow[];
  /** Whether a process may change its supplementary groups. */
  readonly setgroups: boolean;
}

export interface HostFacts {
  readonly machine: "x64" | "arm64";
  /** uname(2)'s release. */
  readonly kernel: string;
  readonly cgroup: {
    readonly mode: CgroupMode;
    /** Controllers that a container can be given: hierarchies of v1, or what v2's root offers. */
    readonly controllers: readonly string[];
    /** Whether cgroups can be made. */
    readonly writable: boolean;
  };
  /** Number of the last capability the kernel knows. */
  readonly lastCap: number;
  /** The capabilities that ocibox itself has, as the sum of their bits: a container can have no others. capabilities(7) */
  readonly permitted: number;
  /** Whether ocibox is in a user namespace already, where no device can be made: user_namespaces(7). */
  readonly userNamespace: boolean;
  /** The ids that there are in ocibox's user namespace; undefined where that is the first one, which has all. */
  readonly ids: HostIds | undefined;
  readonly apparmor: boolean;
  readonly selinux: boolean;
  /** RLIMIT_NOFILE as ocibox was started with: Bun raises its own. */
  readonly nofile: { readonly soft: number; readonly hard: number };
}
