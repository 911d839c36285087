/** Starting several containers. */
import type { Globals } from "./globals.ts";

/** The flags that stand before a command, as they were given, but for what is of no matter to a start. */
function globalWords(globals: Globals): string[] {
  const words: string[] = globals.debug ? ["--debug"] : [];
  for (const name of ["root", "state", "snapshotter"] as const) {
    const value = globals[name];
    if (value !== undefined) words.push(`--${name}=${value}`);
  }
  for (const each of globals["additional-store"] ?? []) words.push(`--additional-store=${each}`);
  return words;
}

/**
 * Starts containers one after the other, each by a process of its own: one that starts a container becomes its supervisor.
 * @returns 0, or the exit code of the last that could not be started, which says why
 */
export async function startEach(globals: Globals, words: readonly string[]): Promise<number> {
  let code = 0;
  for (const word of words) {
    const start = Bun.spawn([process.execPath, ...globalWords(globals), "start", word], {
      stdio: ["ignore", "inherit", "inherit"],
    });
    const ended = await start.exited;
    if (ended !== 0) code = ended;
  }
  return code;
}
