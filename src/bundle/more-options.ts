/** The flags of `run` that few containers have, as they were given. */
import type { PublishFlag } from "./publish.ts";
import type { ResolverFlags } from "./resolver.ts";

export interface DeviceFlag {
  /** The host's. */
  readonly source: string;
  /** In the container. */
  readonly path: string;
  readonly type: "b" | "c";
  readonly major: number;
  readonly minor: number;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
  /** Of r, w and m. */
  readonly access: string;
}

export interface MoreOptions {
  readonly groups?: readonly string[];
  readonly umask?: string;
  readonly domainname?: string;
  /** KEY=VALUE */
  readonly annotations?: readonly string[];
  /** NAME=VALUE */
  readonly sysctls?: readonly string[];
  readonly memorySwap?: string;
  readonly memoryReservation?: string;
  readonly cpuShares?: string;
  readonly cpuPeriod?: string;
  readonly cpuQuota?: string;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  readonly oomScoreAdj?: string;
  readonly shmSize?: string;
  readonly devices?: readonly DeviceFlag[];
  /** "c 1:3 rwm" */
  readonly deviceRules?: readonly string[];
  readonly privileged?: boolean;
  /** Seconds. */
  readonly timeout?: number;
  /** --report: an absolute path, and when the run began, ms since 1970. */
  readonly report?: { readonly path: string; readonly began: number };
  /** --pidfile: an absolute path. */
  readonly pidFile?: string;
  /** always, unless-stopped, on-failure, on-failure:N */
  readonly restart?: string;
  /** Which of /dev/shm and /dev/mqueue the host has. */
  readonly hostIpc?: readonly string[];
  readonly hostUts?: boolean;
  readonly hostCgroups?: boolean;
  /** Lines of /etc/hosts, "host-gateway" for an address among them. */
  readonly hosts?: readonly string[];
  readonly resolver?: ResolverFlags;
  readonly publish?: readonly PublishFlag[];
  /** -P */
  readonly publishAll?: boolean;
  /** PORT[/PROTOCOL] */
  readonly expose?: readonly string[];
  /** --ip */
  readonly address?: string;
}
