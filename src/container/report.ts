/** --report FILE: what a script wants to know of a run, whose exit code alone does not tell whose it is. */
import { AT, AT_FDCWD, O, S } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { errnoWords } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { OciboxError, reason } from "../errors.ts";
import type { HostFacts } from "../plan/facts.ts";
import type { Report } from "../plan/report.ts";
import { isolationOf } from "./isolation.ts";

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

/** The file, empty; what it was before is of no more use. @throws OciboxError USAGE where it cannot be written, or is no file */
function openReport({ path }: Reported): OwnedFd {
  const flags = O.O_WRONLY | O.O_CREAT | O.O_NOFOLLOW | O.O_NONBLOCK | O.O_CLOEXEC;
  const fd = attempt("openat", AT_FDCWD, path, flags, 0o644);
  const refuse = (why: string): never => {
    throw new OciboxError("USAGE", `--report is "${path}", which cannot be written: ${why}`);
  };
  if (fd < 0) return refuse(errnoWords(-fd));
  const file = new OwnedFd(fd);
  const stat = alloc(256);
  const STATX_TYPE = 1;
  direct.statx(file.fd, "", AT.AT_EMPTY_PATH, STATX_TYPE, stat);
  if ((readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFREG) {
    direct.ftruncate(file.fd, 0);
    return file;
  }
  file[Symbol.dispose]();
  return refuse("it is no file");
}

/** There was no container, or none that began. */
function failureOf({ began }: Reported, image: string, error: unknown): string {
  const exitCode = error instanceof OciboxError ? error.exitCode : 125;
  const finished = Math.floor(Date.now() / 1000);
  const fields = { image, began: began / 1000, error: reason(error), origin: "ocibox", finished, exitCode };
  return `${JSON.stringify(fields)}\n`;
}

/** Does what leads to a container, and reports what keeps it from that. @throws what `run` throws */
export async function withReport(reported: Reported, image: string, run: () => Promise<number>): Promise<number> {
  using file = openReport(reported);
  try {
    return await run();
  } catch (error) {
    // What is thrown is what has happened, whether it can be written down or not.
    const bytes = new TextEncoder().encode(failureOf(reported, image, error));
    attempt("pwrite64", file.fd, bytes, bytes.byteLength, 0);
    throw error;
  }
}
