/** When and into what JSC compiles functions, for code that is hot for a second or two and then never again. */
import { noFTL } from "bun:jsc";

/**
 * Keeps functions from JSC's last compiler, FTL. It takes ten times as long as the one before it, in each thread anew,
 * and what it makes is a little faster: in the seconds of a pull that never comes back (docs/performance.md).
 */
export function withoutFtl(...functions: readonly ((...args: never[]) => unknown)[]): void {
  for (const each of functions) noFTL(each);
}

/**
 * Lets this thread compile functions when they were called this many times as often as they usually would have to be.
 * The main thread starts with a policy of its own (scripts/build), a worker with none.
 */
export function compileLater(times: number): void {
  Bun.unsafe.setJITPolicy(times);
}
