/** Calling a command with what was given. */
import { type Command, HelpAsked, readOptions } from "./options.ts";

/** @returns the exit code @throws OciboxError */
export async function callCommand(command: Command, name: string, words: readonly string[]): Promise<number> {
  try {
    return await command.run(readOptions(words, command, name));
  } catch (error) {
    if (!(error instanceof HelpAsked)) throw error;
    const { showHelp } = await import("./help.ts");
    await showHelp(command.def, { meta: { name: "ocibox" } });
    return 0;
  }
}
