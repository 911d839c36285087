/** `ocibox --help` and `ocibox help COMMAND`. */
import type { Globals } from "./globals.ts";
import { showHelp } from "./help.ts";
import type { Command } from "./options.ts";

/** Prints the help of one command, or the list of them all. */
export async function showOverview<Name extends string>(
  word: string | undefined,
  version: string,
  commands: readonly Name[],
  load: (name: Name) => Promise<{ command: (globals: Globals) => Command }>,
  globals: Globals,
): Promise<void> {
  const definition = async (name: Name): Promise<Command["def"]> => (await load(name)).command(globals).def;
  const chosen = commands.find((name) => name === word);
  if (chosen !== undefined) {
    await showHelp(await definition(chosen), { meta: { name: "ocibox" } });
    return;
  }
  const subCommands: Record<string, Command["def"]> = {};
  for (const name of commands) subCommands[name] = await definition(name);
  await showHelp({
    meta: {
      name: "ocibox",
      version,
      description: "Run containers from one file: no daemon, no helper, nothing to install",
    },
    args: {
      root: {
        type: "string",
        valueHint: "DIR",
        description: "Where images and containers are kept; $OCIBOX_ROOT (/var/lib/ocibox, or ~/.local/share/ocibox)",
      },
      state: {
        type: "string",
        valueHint: "DIR",
        description:
          "Where the state of running containers is kept; $OCIBOX_STATE (/run/ocibox, or state below the root)",
      },
      snapshotter: {
        type: "string",
        valueHint: "NAME",
        description: "How layers are kept: overlay, erofs or copy; $OCIBOX_SNAPSHOTTER (what works)",
      },
      "additional-store": {
        type: "string",
        valueHint: "DIR",
        description: "A root whose images are used and never changed; may be repeated; $OCIBOX_ADDITIONAL_STORES",
      },
      "store-max": {
        type: "string",
        valueHint: "SIZE",
        description:
          "What images may take on the disk after a pull: 20g; the least recently used go then; $OCIBOX_STORE_MAX (no limit)",
      },
      debug: { type: "boolean", alias: "D", description: "After an error, show what led to it" },
      version: { type: "boolean", alias: "v", description: "Print the version" },
    },
    subCommands,
  });
}
