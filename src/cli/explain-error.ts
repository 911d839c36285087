/** Turning whatever was thrown into the one line that a user reads. */
import { SyscallError } from "../../ffi/direct.ts";
import { OciboxError } from "../errors.ts";

const causes: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full: free some space, or choose another place with --root",
  EDQUOT: "the disk quota is used up: free some space, or choose another place with --root",
  EROFS: "the file system is read-only: choose another place with --root",
  EMFILE: "too many files are open: raise the limit with ulimit -n",
};

/** `ocibox: what failed; what to do`. Control characters of foreign text are shown, not sent to the terminal. */
export function oneLine(error: unknown): { text: string; exitCode: number } {
  if (error instanceof OciboxError) {
    const hint = error.hint === undefined ? "" : `; ${error.hint}`;
    return { text: clean(`ocibox: ${error.message}${hint}`), exitCode: error.exitCode };
  }
  if (error instanceof SyscallError) {
    const hint = causes[error.code ?? ""];
    return { text: clean(`ocibox: ${error.message}${hint === undefined ? "" : `; ${hint}`}`), exitCode: 125 };
  }
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return { text: clean(`ocibox: this should not happen: ${message}; --debug shows more`), exitCode: 125 };
}

function clean(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, (found) =>
    found === "\n" ? " " : JSON.stringify(found).slice(1, -1),
  );
}
