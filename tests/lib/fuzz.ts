/**
 * Fuzzing by a seed: rounds until the time is over, each with random numbers of its own, so that a failing one can be
 * had again by itself. OCIBOX_TEST_FUZZ=60 is a minute for each fuzzer; OCIBOX_TEST_FUZZ_ROUND=SEED:ROUND one round.
 */

/** Random numbers that are the same for the same seed and round. splitmix32 */
export class Dice {
  #state: number;

  constructor(seed: number, round: number) {
    this.#state = (Math.imul(seed, 0x9e3779b1) ^ Math.imul(round, 0x85ebca6b)) >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  }

  /** A number from 0 to most - 1. */
  below(most: number): number {
    return this.next() % most;
  }

  /** Whether something happens that does once in so many times. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }

  pick<T>(among: readonly T[]): T {
    return among[this.below(among.length)] as T;
  }

  /** So many of something, from none to most. */
  some<T>(most: number, make: () => T): T[] {
    return Array.from({ length: this.below(most + 1) }, make);
  }

  text(alphabet: string, most: number): string {
    return this.some(most, () => alphabet[this.below(alphabet.length)] ?? "").join("");
  }

  /** Bytes damaged in a few places: set, doubled, cut out, cut off, replaced by what stands elsewhere. */
  damage(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
    let own = Buffer.from(bytes);
    for (let times = 1 + this.below(4); times > 0 && own.byteLength > 0; times--) {
      const at = this.below(own.byteLength);
      const end = Math.min(own.byteLength, at + 1 + this.below(64));
      switch (this.below(6)) {
        case 0:
          own[at] = this.below(256);
          break;
        case 1:
          own[at] = (own[at] ?? 0) ^ (1 << this.below(8));
          break;
        case 2:
          own = Buffer.concat([own.subarray(0, end), own.subarray(at)]);
          break;
        case 3:
          own = Buffer.concat([own.subarray(0, at), own.subarray(end)]);
          break;
        case 4:
          own = own.subarray(0, at);
          break;
        default:
          own.copy(own, this.below(own.byteLength), at, end);
      }
    }
    return new Uint8Array(own);
  }
}

const seconds = Number(process.env.OCIBOX_TEST_FUZZ ?? "3");
const wanted = /^([0-9]+):([0-9]+)$/.exec(process.env.OCIBOX_TEST_FUZZ_ROUND ?? "");

/** What bun's test has to wait for. Milliseconds. */
export const fuzzTimeout = seconds * 1000 + 60_000;

/**
 * Calls with dice until the time is over.
 * @returns how many rounds there were, and the seed, for what a test says of them
 * @throws Error naming seed and round, with what the round has thrown as its cause
 */
export async function fuzz(round: (dice: Dice) => void | Promise<void>): Promise<{ rounds: number; seed: number }> {
  const seed = wanted === null ? Math.floor(Math.random() * 2 ** 31) : Number(wanted[1]);
  const end = performance.now() + seconds * 1000;
  let rounds = wanted === null ? 0 : Number(wanted[2]);
  for (; performance.now() < end; rounds++) {
    try {
      await round(new Dice(seed, rounds));
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new Error(`OCIBOX_TEST_FUZZ_ROUND=${seed}:${rounds}: ${why}`, { cause: error });
    }
    if (wanted !== null) break;
  }
  return { rounds, seed };
}
