/** Tests that cannot run everywhere: each says why, and scripts/test prints it at the end. */
import { test } from "bun:test";

export interface Needs {
  readonly root?: boolean;
  /** Programs that must be in PATH. */
  readonly programs?: readonly string[];
  /** Anything else, in words, where it is missing. */
  readonly missing?: string | undefined;
}

/** Why a test cannot run here, or undefined where it can. */
function missing(needs: Needs): string | undefined {
  if (needs.missing !== undefined) return needs.missing;
  if (needs.root === true && process.getuid?.() !== 0) return "needs root";
  const absent = (needs.programs ?? []).filter((name) => Bun.which(name) === null);
  return absent.length === 0 ? undefined : `needs ${absent.join(", ")}`;
}

/** `test`, or `test.skip` with the reason in the title. */
export function testWith(needs: Needs): (title: string, body: () => Promise<void> | void, timeout?: number) => void {
  const reason = missing(needs);
  return (title, body, timeout) => {
    if (reason === undefined) test(title, body, timeout);
    else test.skip(`${title} (skipped: ${reason})`, body);
  };
}

/** Why a whole file cannot run here: its beforeAll must look, too. */
export function cannotRun(needs: Needs): boolean {
  return missing(needs) !== undefined;
}
