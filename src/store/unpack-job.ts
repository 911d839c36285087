/** What is told to a thread that unpacks: plain data, for it goes from one thread to another. */
import type { ChainId, DiffId } from "../spec/digest.ts";
import type { Descriptor } from "../spec/image.ts";
import type { Snapshotter } from "./snapshotter.ts";

export interface Layer {
  readonly descriptor: Descriptor;
  readonly diffId: DiffId;
  readonly chainId: ChainId;
  /** From the lowest, which is 0. */
  readonly index: number;
}

export interface UnpackJob {
  readonly kind: Snapshotter;
  /** The one that is unpacked; for a copy all of them, the lowest first. */
  readonly layers: readonly Layer[];
  /** Where the blob of each is, or is growing. */
  readonly blobs: readonly string[];
  /** A name that nothing has yet, on the store's file system. */
  readonly place: string;
  /** The layers below, the lowest first: what is mounted. */
  readonly lowers: readonly string[];
  readonly memory: SharedArrayBuffer;
  /** How many layers the memory is for. */
  readonly count: number;
  /** Where another thread puts the plain archive, which has an eye on the blob; without it all is done in this one. */
  readonly ring?: SharedArrayBuffer;
}

/** The other thread's part of a job: from the blob to the plain archive. */
export type InflateJob = Omit<UnpackJob, "kind" | "ring"> & {
  readonly kind: "inflate";
  readonly ring: SharedArrayBuffer;
  /** Whether the DiffID is checked here: making files takes the other thread longer, and an index less long. */
  readonly hashes: boolean;
};

/** Whether the thread that makes files of an archive leaves its DiffID to the other. */
export function leavesHashing(job: UnpackJob): boolean {
  return job.ring !== undefined && job.kind === "overlay";
}
