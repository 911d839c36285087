/** The tables of the machine this program was built for; the bundler drops the other one. */
import * as arm64 from "./arch/arm64.ts";
import * as x64 from "./arch/x64.ts";

const machine = process.arch === "arm64" ? arm64 : x64;

/** System call numbers by name. */
export const nr: Readonly<Record<keyof typeof x64.nr, number>> = machine.nr;

/** Constants that differ by machine. */
export const arch: Readonly<Record<keyof typeof x64.arch, number>> = machine.arch;
