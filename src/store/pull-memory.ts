/**
 * What the threads of a pull tell each other while they work: how much of each blob is on the disk, and which layers are
 * done. A thread that unpacks sleeps in Atomics.wait until there is more.
 */
const pending = 0;
const done = 1;
const failed = 2;
/** Milliseconds; nobody is to sleep for ever. */
const nap = 1000;

export class PullMemory {
  /** Bytes of each blob that can be read. */
  readonly #bytes: BigInt64Array<SharedArrayBuffer>;
  /** One more than there are layers: the last is that of the pull itself. */
  readonly #states: Int32Array<SharedArrayBuffer>;

  constructor(
    readonly layers: number,
    readonly buffer: SharedArrayBuffer = new SharedArrayBuffer(layers * 12 + 4),
  ) {
    this.#bytes = new BigInt64Array(buffer, 0, layers);
    this.#states = new Int32Array(buffer, layers * 8, layers + 1);
  }

  available(layer: number): number {
    return Number(Atomics.load(this.#bytes, layer));
  }

  /** More of a blob can be read. */
  arrived(layer: number, bytes: number): void {
    Atomics.store(this.#bytes, layer, BigInt(bytes));
    Atomics.notify(this.#bytes, layer);
  }

  finished(layer: number): void {
    this.#settle(layer, done);
  }

  /** A layer will never be there: those that wait for it end. */
  failed(layer: number): void {
    this.#settle(layer, failed);
    Atomics.notify(this.#bytes, layer);
  }

  /** The whole pull ends: everybody stops at the next opportunity. */
  abandon(): void {
    for (let layer = 0; layer < this.layers; layer++)
      if (Atomics.load(this.#states, layer) === pending) this.failed(layer);
    this.#settle(this.layers, failed);
  }

  #settle(layer: number, state: number): void {
    Atomics.store(this.#states, layer, state);
    Atomics.notify(this.#states, layer);
  }

  isDone(layer: number): boolean {
    return Atomics.load(this.#states, layer) === done;
  }

  /** @throws Abandoned where the pull, or this layer, has ended */
  check(layer: number): void {
    if (Atomics.load(this.#states, this.layers) === failed || Atomics.load(this.#states, layer) === failed)
      throw new Abandoned();
  }

  /** Sleeps until more than `had` bytes of a blob can be read. @returns how many @throws Abandoned */
  more(layer: number, had: number): number {
    for (;;) {
      this.check(layer);
      const now = this.available(layer);
      if (now > had) return now;
      Atomics.wait(this.#bytes, layer, BigInt(now), nap);
    }
  }

  /** Sleeps until a layer is done. @throws Abandoned where it never will be */
  whole(layer: number): void {
    for (;;) {
      this.check(layer);
      if (this.isDone(layer)) return;
      Atomics.wait(this.#states, layer, pending, nap);
    }
  }
}

/** The work was given up because of another error, which says more. */
export class Abandoned extends Error {
  override readonly name = "Abandoned";
}
