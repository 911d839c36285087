/** A stream of bytes from one thread to another: a few pieces of shared memory, which each sleeps for in Atomics.wait. */
import { Abandoned } from "./pull-memory.ts";

const pieces = 4;
const pieceSize = 1 << 20;
/** Words of the head: how many pieces were put and taken, how it stands; then the length of each piece. */
const putAt = 0;
const takenAt = 1;
const stateAt = 2;
const lengthsAt = 3;
const headSize = 64;
/** Milliseconds; nobody is to sleep for ever. */
const nap = 1000;

const running = 0;
const ended = 1;
const broken = 2;

export class Ring {
  readonly #words: Int32Array<SharedArrayBuffer>;

  constructor(readonly buffer: SharedArrayBuffer = new SharedArrayBuffer(headSize + pieces * pieceSize)) {
    this.#words = new Int32Array(buffer, 0, headSize / 4);
  }

  #get(at: number): number {
    return Atomics.load(this.#words, at);
  }

  #set(at: number, value: number): void {
    Atomics.store(this.#words, at, value);
    Atomics.notify(this.#words, at);
  }

  #piece(count: number, length: number): Uint8Array<SharedArrayBuffer> {
    return new Uint8Array(this.buffer, headSize + (count % pieces) * pieceSize, length);
  }

  /** @param bytes at most a piece's size @throws Abandoned where nobody takes any more */
  put(bytes: Uint8Array): void {
    const count = this.#get(putAt);
    for (;;) {
      const taken = this.#get(takenAt);
      if (this.#get(stateAt) === broken) throw new Abandoned();
      if (count - taken < pieces) break;
      Atomics.wait(this.#words, takenAt, taken, nap);
    }
    this.#piece(count, bytes.byteLength).set(bytes);
    Atomics.store(this.#words, lengthsAt + (count % pieces), bytes.byteLength);
    this.#set(putAt, count + 1);
  }

  /** All has been put. */
  end(): void {
    this.#settle(ended);
  }

  /** One side cannot go on: the other is told. */
  break(): void {
    this.#settle(broken);
  }

  #settle(state: number): void {
    Atomics.compareExchange(this.#words, stateAt, running, state);
    if (state === broken) this.#set(stateAt, broken);
    // Whoever sleeps looks again.
    Atomics.notify(this.#words, putAt);
    Atomics.notify(this.#words, takenAt);
  }

  /** What is put, in pieces that are valid until the next. @throws Abandoned where there is no more and no end */
  *taken(): Generator<Uint8Array> {
    for (let count = 0; ; count++) {
      for (;;) {
        const put = this.#get(putAt);
        if (put > count) break;
        const state = this.#get(stateAt);
        // What was put just before the end.
        if (state === ended && this.#get(putAt) === count) return;
        if (state === broken) throw new Abandoned();
        if (state === running) Atomics.wait(this.#words, putAt, put, nap);
      }
      yield this.#piece(count, this.#get(lengthsAt + (count % pieces)));
      this.#set(takenAt, count + 1);
    }
  }
}
