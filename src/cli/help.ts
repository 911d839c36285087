/** Help texts, by citty; loaded only when help is asked for. */
import { type CommandDef, renderUsage } from "citty";
import { isTerminal, print } from "./output.ts";

const escapes = /\u001b\[[0-9;]*m/g;

/** Prints a command's help on stdout, in colour only where that is a terminal that wants it. */
export async function showHelp(def: CommandDef, parent?: CommandDef): Promise<void> {
  const text = await renderUsage(def, parent);
  const plain = !isTerminal(1) || (Bun.env.NO_COLOR ?? "") !== "" || Bun.env.TERM === "dumb";
  print(plain ? text.replaceAll(escapes, "") : text);
}
