/** What a plan is compiled from, beside config.json and the host's facts. */
import type { Recorder, Slot } from "../../ffi/plan.ts";
import type { CgroupPlan } from "./cgroups/plan.ts";
import type { Detached } from "./detach.ts";
import type { CopyUpEntry } from "./devices.ts";
import type { StateText } from "./hooks.ts";
import type { SourceKinds } from "./mounts.ts";
import type { NetDevice } from "./net-devices.ts";
import type { Report } from "./report.ts";
import type { Restart } from "./restart.ts";

/** Where failures and warnings are told, in place of a line on stderr. */
export interface ErrorSink {
  readonly fd: number;
  readonly prefix: string;
  readonly warning: string;
  readonly suffix: string;
}

/** What an OCI runtime's container has that one of `ocibox run` has not. */
export interface OciContext {
  readonly id: string;
  /** The container's directory among the runtime's states. */
  readonly directory: string;
  /** --pid-file */
  readonly pidFile: string | undefined;
  /**
   * - create: the process waits on exec.fifo, and the runtime ends
   * - detach: the process runs, and the runtime ends
   * - foreground: the runtime supervises
   */
  readonly mode: "create" | "detach" | "foreground";
  /** --keep: the state stays when a supervised container has ended. */
  readonly keep: boolean;
  /** A connected socket, to which the terminal's master is sent. */
  readonly consoleSocket: number | undefined;
  /** A connected socket, to which a pidfd of the process is sent. */
  readonly pidfdSocket: number | undefined;
  /** Descriptors from 3 on that the process inherits. */
  readonly keepFds: number;
  readonly newKeyring: boolean;
  readonly sinks: readonly ErrorSink[];
  /** A connected socket to linux.seccomp.listenerPath, where the filter asks a listener. */
  readonly seccompSocket: number | undefined;
  /** The state of the container with each status, for hooks. */
  state(status: "creating" | "created" | "running" | "stopped"): StateText;
  readonly copyUp: ReadonlyMap<string, readonly CopyUpEntry[]>;
  /** Whether this process is root, of the host or of a user namespace; else it maps only itself, and drops no groups. */
  readonly privileged: boolean;
}

export interface PlanContext {
  /** A detached mount (a descriptor that init inherits), or root.path: a directory of the host's. */
  readonly rootfs: number | string;
  /**
   * A directory of the host's that the root is mounted on, in the container's namespace alone, until it is pivoted to. Where
   * the container has the host's mount namespace it stays there.
   */
  readonly mountpoint: string;
  /** Where the container's process is noted (plan/pid.ts), for those who look for it later. */
  readonly noted: string;
  /** Whether stdin is the container's; else it has /dev/null. */
  readonly interactive: boolean;
  /** --timeout: seconds after which it is killed. */
  readonly timeout?: number | undefined;
  /** Whether init is process 1 in the container, with the command as its child. */
  readonly init: boolean;
  readonly sources: SourceKinds;
  readonly oci?: OciContext;
  /** --detach: nobody waits for its end, and its output is kept. */
  readonly detached?: Detached | undefined;
  /** --report */
  readonly report?: Report | undefined;
  /** --pidfile */
  readonly pidFile?: string | undefined;
  /** --restart: how it is started once more. */
  readonly restart?: Restart | undefined;
  /** All that linux.netDevices names. */
  readonly netDevices?: readonly NetDevice[];
  /** The container's cgroups, where they are not those of `ocibox run`. */
  readonly cgroups?: CgroupPlan;
  /**
   * The last steps of the parent, with the exit code: `note` takes results that must not be negative, and `trouble` is
   * set where something is left. All of it may be done a second time.
   */
  cleanup(p: Recorder, code: Slot, note: (result: Slot) => void, trouble: Slot): void;
  /** What is done only when all before went well. */
  forget(p: Recorder, note: (result: Slot) => void): void;
}
