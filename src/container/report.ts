/** --report FILE: what a script wants to know of a run, whose exit code alone does not tell whose it is. */
import { OciboxError, reason } from "../errors.ts";
import type { HostFacts } from "../plan/facts.ts";
import type { Report } from "../plan/report.ts";
import { isolationOf } from "./isolation.ts";
import { rewrite } from "./names.ts";

export interface Reported {
  /** Absolute. */
  readonly path: string;
  /** ms since 1970. */
  readonly began: number;
}

/** What is known when the container is made. */
interface Known {
  readonly container: string;
  /** As it was named. */
  readonly image: string;
  readonly digest: string;
  readonly network: string;
  readonly facts: Pick<HostFacts, "ids">;
}

/** What is written down when the container has ended. Times are seconds, those of the clock since 1970. */
export function reportFor({ path, began }: Reported, { facts, ...known }: Known, now = Date.now()): Report {
  const fields = { ...known, isolation: isolationOf(facts), began: began / 1000, preparedIn: (now - began) / 1000 };
  return { path, head: `${JSON.stringify(fields).slice(0, -1)},` };
}

/** The file can be written: found out before anything else is done. @throws OciboxError USAGE */
function openReport({ path }: Reported): void {
  try {
    rewrite(path, "", 0o644);
  } catch (error) {
    throw new OciboxError("USAGE", `--report is "${path}", which cannot be written: ${reason(error)}`);
  }
}

/** There was no container, or none that began. */
function reportFailure({ path, began }: Reported, image: string, error: unknown): void {
  const exitCode = error instanceof OciboxError ? error.exitCode : 125;
  const finished = Math.floor(Date.now() / 1000);
  const fields = { image, began: began / 1000, error: reason(error), origin: "ocibox", finished, exitCode };
  rewrite(path, `${JSON.stringify(fields)}\n`, 0o644);
}

/** Does what leads to a container, and reports what keeps it from that. @throws what `run` throws */
export async function withReport(reported: Reported, image: string, run: () => Promise<number>): Promise<number> {
  openReport(reported);
  try {
    return await run();
  } catch (error) {
    reportFailure(reported, image, error);
    throw error;
  }
}
