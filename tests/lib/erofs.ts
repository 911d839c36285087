/** Whether this machine mounts EROFS of plain files. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { whyNot } from "../../src/store/probe.ts";
import { openStore } from "../../src/store/store.ts";

/** @returns why not, in words, for root alone: anybody else is told by the test's other needs */
export function whyErofsFails(): string | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const dir = mkdtempSync(join(tmpdir(), "ocibox-probe-"));
  try {
    const store = openStore(join(dir, "root"));
    store.prepare();
    const why = whyNot(store, "erofs");
    return why === undefined ? undefined : `EROFS is not mounted here: ${why}`;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
