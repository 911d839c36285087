import { asRoot, type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { command as run } from "./run.ts";

/** Everything of `run` but the running. */
export function command(globals: Globals): Command {
  const { def, ...rest } = run(globals);
  const { detach, ...args } = def.args;
  void detach;
  return {
    ...rest,
    def: { meta: { name: "create", description: "Make a container as run does, for start to begin with" }, args },
    async run(given) {
      await asRoot(globals);
      const { runCommand } = await import("./run-container.ts");
      return runCommand(given, places(globals), true);
    },
  };
}
