/** A question at the terminal. */
import { IOCTL } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { writeFully } from "../../ffi/files.ts";
import { alloc } from "../../ffi/structs.ts";
import { OciboxError } from "../errors.ts";
import { isTerminal, say } from "./output.ts";

/** termios(3): c_lflag is the fourth word; what a terminal does by itself. */
const localFlags = 12;
const ISIG = 1;
const ICANON = 2;
const ECHO = 8;
const interrupt = 3;
const end = 4;
const erase = [8, 127];

/** The next byte of stdin, undefined at its end. */
function nextByte(): number | undefined {
  const byte = alloc(1);
  return direct.read(0, byte, 1) === 1 ? byte[0] : undefined;
}

/** Bytes up to the end of the line. @throws OciboxError INTERRUPTED for ctrl-c where the terminal hands it on */
function readLine(): string {
  const bytes: number[] = [];
  for (;;) {
    const byte = nextByte();
    if (byte === undefined || byte === 10 || byte === 13 || byte === end) break;
    if (byte === interrupt) throw new OciboxError("INTERRUPTED", "the question was broken off");
    if (erase.includes(byte)) bytes.pop();
    else bytes.push(byte);
  }
  return new TextDecoder().decode(new Uint8Array(bytes));
}

/** A line that was typed. @param secret whether it is not to be seen */
export function ask(prompt: string, secret = false): string {
  writeFully(2, prompt);
  if (!secret) return readLine();
  const before = alloc(64);
  direct.ioctl(0, IOCTL.TCGETS, before);
  const silent = before.slice();
  const view = new DataView(silent.buffer);
  view.setUint32(localFlags, view.getUint32(localFlags, true) & ~(ECHO | ICANON | ISIG), true);
  direct.ioctl(0, IOCTL.TCSETS, silent);
  try {
    return readLine();
  } finally {
    attempt("ioctl", 0, IOCTL.TCSETS, before);
    say("");
  }
}

/**
 * Whether what is to go may go: asked at a terminal, where a script says -f.
 * @param kind of what goes @throws OciboxError USAGE where there is nobody to ask
 */
export function agreed(kind: string, what: string): boolean {
  if (!isTerminal(0))
    throw new OciboxError("USAGE", `this removes ${kind}, and there is no terminal to ask at`, {
      hint: "say so with -f",
    });
  return /^y(es)?$/i.test(ask(`This removes ${what}. Go on? [y/N] `).trim());
}
