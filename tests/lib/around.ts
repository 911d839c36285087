/** What all tests of a file stand in: made before the first, gone after the last, and nothing left of it. */
import { afterAll, beforeAll, expect } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cannotRun, type Needs } from "./needs.ts";
import { untilNoProcesses } from "./processes.ts";

/** All that went wrong at an end: a stack hangs each error upon the one before. */
function errorsOf(error: unknown): unknown[] {
  return error instanceof SuppressedError ? [...errorsOf(error.suppressed), error.error] : [error];
}

/**
 * Declares the hooks of a file. `owned` ends what was given to it after the last test, the last first, and goes on where
 * something fails; also where `make` itself has failed half-way.
 * @param needs of the file; where they are missing nothing is made
 */
export function around(needs: Needs, make: (owned: AsyncDisposableStack) => Promise<void> | void): void {
  if (cannotRun(needs)) return;
  const owned = new AsyncDisposableStack();
  beforeAll(async () => {
    await untilNoProcesses();
    await make(owned);
  }, 120_000);
  afterAll(async () => {
    try {
      await owned.disposeAsync();
    } catch (error) {
      const [first, ...more] = errorsOf(error);
      throw more.length === 0 ? first : new AggregateError([first, ...more]);
    }
  }, 60_000);
}

/** What `look` sees when the tests have ended, and all that was made after this call is gone, is what it sees now. */
export function unchanged<T>(owned: AsyncDisposableStack, look: () => T): T {
  const before = look();
  owned.defer(() => {
    expect(look()).toEqual(before);
  });
  return before;
}

/** A directory of the tests' own. @param name what it is known by while it is there */
export function temporary(owned: AsyncDisposableStack, name: string): string {
  const dir = mkdtempSync(join(tmpdir(), `ocibox-${name}-`));
  owned.defer(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
