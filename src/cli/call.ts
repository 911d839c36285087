/** Calling a command with what was given. */
import { attempt } from "../../ffi/direct.ts";
import { OciboxError } from "../errors.ts";
import { type Command, HelpAsked, readOptions } from "./options.ts";

/** A setuid or setgid start would lend its rights to whoever calls: refused (getauxval(3), AT_SECURE). */
function refuseSetuid(): void {
  if (attempt("getuid") !== attempt("geteuid") || attempt("getgid") !== attempt("getegid"))
    throw new OciboxError("PERMISSION", "ocibox must not be installed setuid or setgid", {
      hint: "remove the bit with chmod u-s,g-s and run it as root or as yourself",
    });
}

/** @returns the exit code @throws OciboxError */
export async function callCommand(command: Command, name: string, words: readonly string[]): Promise<number> {
  refuseSetuid();
  try {
    return await command.run(readOptions(words, command, name));
  } catch (error) {
    if (!(error instanceof HelpAsked)) throw error;
    const { showHelp } = await import("./help.ts");
    await showHelp(command.def, { meta: { name: "ocibox" } });
    return 0;
  }
}
