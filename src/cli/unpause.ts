import type { Globals } from "./globals.ts";
import type { Command } from "./options.ts";
import { pausing } from "./pause.ts";

export function command(globals: Globals): Command {
  return pausing(globals, false, "unpause", "Let the processes of paused containers go on");
}
