/** Threads that unpack, one for each processor: what goes to which of them, and what they say. */
import { type ErrorCode, OciboxError } from "../errors.ts";
import { Abandoned, PullMemory } from "./pull-memory.ts";
import { Ring } from "./ring.ts";
import { type InflateJob, leavesHashing, type UnpackJob } from "./unpack-job.ts";

declare const OCIBOX_VERSION: string | undefined;

/** What a thread says. */
export type Told =
  | { readonly kind: "asleep" | "awake" | "done" | "abandoned" }
  | {
      readonly kind: "refused";
      readonly code: ErrorCode;
      readonly message: string;
      readonly hint: string | undefined;
    }
  | { readonly kind: "broken"; readonly message: string; readonly stack: string | undefined };

/** In the program all modules of the first import lie at its root, and this one where it does in the source. */
const module = typeof OCIBOX_VERSION === "undefined" ? "./unpack-worker.ts" : "./store/unpack-worker.ts";

/** Blobs of so many bytes are unpacked before a thread for it has started. */
const usuallyBrief = 1 << 20;

/** Whether a job waits for nobody. */
function isReady(job: UnpackJob): boolean {
  if (job.ring !== undefined) return false;
  const memory = new PullMemory(job.count, job.memory);
  const below = Array.from({ length: job.layers[0]?.index ?? 0 }, (_, layer) => layer);
  return (
    below.every((layer) => memory.isDone(layer)) &&
    job.layers.every(({ index, descriptor }) => memory.available(index) >= descriptor.size)
  );
}

async function unpackHere(job: UnpackJob): Promise<void> {
  const { unpack } = await import("./unpack.ts");
  unpack(job, () => {});
}

interface Waiting {
  readonly job: UnpackJob | InflateJob;
  readonly promise: PromiseWithResolvers<void>;
}

interface Lane {
  readonly worker: Worker;
  at: Waiting | undefined;
  asleep: boolean;
}

function errorOf(told: Told): Error {
  if (told.kind === "abandoned") return new Abandoned();
  if (told.kind === "refused")
    return new OciboxError(told.code, told.message, told.hint === undefined ? {} : { hint: told.hint });
  const error = new Error(told.kind === "broken" ? told.message : "a thread has ended");
  if (told.kind === "broken" && told.stack !== undefined) error.stack = told.stack;
  return error;
}

export class Lanes implements Disposable {
  readonly #lanes: Lane[] = [];
  readonly #queue: Waiting[] = [];

  /**
   * @param most how many work at a time; those that sleep do not count
   * @param brief bytes of blobs that are unpacked without a thread, as a start of one takes longer
   */
  constructor(
    readonly most = Math.max(1, Math.min(navigator.hardwareConcurrency, 4)),
    readonly brief = usuallyBrief,
  ) {}

  /**
   * The same with two threads, for the last of an image's layers, where there would be nothing for the other to do. There
   * must be two: each waits for the other.
   * @throws what the work throws: OciboxError, Abandoned
   */
  async runSplit(job: UnpackJob): Promise<void> {
    const ring = new Ring();
    const files: UnpackJob = { ...job, ring: ring.buffer };
    const hashes = leavesHashing(files);
    const both = [this.run(files), this.run({ ...job, kind: "inflate", ring: ring.buffer, hashes })];
    const ends = await Promise.allSettled(both);
    const reasons = ends.flatMap((each) => (each.status === "rejected" ? [each.reason as unknown] : []));
    // One that was only told to stop knows less, and the digest of the blob says most.
    const isAbout = (code: string) => (each: unknown) => each instanceof OciboxError && each.code === code;
    const told = reasons.find(isAbout("DIGEST_MISMATCH")) ?? reasons.find((each) => !(each instanceof Abandoned));
    if (reasons.length > 0) throw told ?? reasons[0];
  }

  /** Does it in a thread, or at once and here where it is short and waits for nobody. @throws what the work throws: OciboxError, Abandoned */
  run(job: UnpackJob | InflateJob): Promise<void> {
    const size = job.layers.reduce((sum, { descriptor }) => sum + descriptor.size, 0);
    if (size <= this.brief && job.kind !== "inflate" && isReady(job)) return unpackHere(job);
    const promise = Promise.withResolvers<void>();
    this.#queue.push({ job, promise });
    this.#next();
    return promise.promise;
  }

  #next(): void {
    while (
      this.#queue.length > 0 &&
      this.#lanes.filter((lane) => lane.at !== undefined && !lane.asleep).length < this.most
    ) {
      const lane = this.#lanes.find((each) => each.at === undefined) ?? this.#start();
      lane.at = this.#queue.shift() as Waiting;
      lane.worker.postMessage(lane.at.job);
    }
  }

  #start(): Lane {
    const lane: Lane = { worker: new Worker(new URL(module, import.meta.url).href), at: undefined, asleep: false };
    lane.worker.onmessage = ({ data }: MessageEvent<Told>) => this.#heard(lane, data);
    lane.worker.onerror = ({ message }) => this.#heard(lane, { kind: "broken", message, stack: undefined });
    this.#lanes.push(lane);
    return lane;
  }

  #heard(lane: Lane, told: Told): void {
    if (told.kind === "asleep" || told.kind === "awake") lane.asleep = told.kind === "asleep";
    else {
      const ended = lane.at;
      lane.at = undefined;
      lane.asleep = false;
      if (told.kind === "done") ended?.promise.resolve();
      else ended?.promise.reject(errorOf(told));
    }
    this.#next();
  }

  /** Ends the threads; whatever they do should have ended before. */
  [Symbol.dispose](): void {
    for (const { worker } of this.#lanes) worker.terminate();
    this.#lanes.length = 0;
  }
}
