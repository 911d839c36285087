/** `ocibox run` and all that it needs where a container of the kind was there before, in one piece. */
import { callCommand } from "./call.ts";
import type { Globals } from "./globals.ts";
import { command } from "./run.ts";
import { runCommand } from "./run-container.ts";

/** @returns the exit code, where there is no container to become @throws OciboxError */
export function callRun(globals: Globals, words: readonly string[]): Promise<number> {
  return callCommand(command(globals, runCommand), "run", words);
}
