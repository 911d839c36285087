/**
 * Makes Bun's own environment variables inert in a compiled program: they could turn it into another one, load code
 * into it, print its secrets or take its TLS checks away. Each name is overwritten by one of the same length, which
 * nobody sets. And lays the program out for huge pages, those of LIST (scripts/huge-pages.ts).
 * usage: bun scripts/seal.ts FILE OUTPUT [LIST]
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { forHugePages, piecesOf, readHot } from "./huge-pages.ts";

const names = ["BUN_BE_BUN", "BUN_OPTIONS", "BUN_INSPECT", "BUN_CONFIG_VERBOSE_FETCH", "NODE_TLS_REJECT_UNAUTHORIZED"];

const [path, output, list] = process.argv.slice(2);
if (path === undefined || output === undefined) throw new Error("usage: bun scripts/seal.ts FILE OUTPUT [LIST]");
const bytes = Buffer.from(await Bun.file(path).arrayBuffer());
for (const name of names) {
  // A "-" cannot stand in a variable that a shell sets.
  const replacement = Buffer.from(`-${name.slice(1).replaceAll(/[A-Z]/g, "x")}`, "latin1");
  let found = 0;
  for (let at = bytes.indexOf(name); at >= 0; at = bytes.indexOf(name, at + name.length)) {
    replacement.copy(bytes, at);
    found++;
  }
  if (found === 0) console.error(`seal: "${name}" is not in ${path}: look whether Bun still reads it`);
}
const program = forHugePages(bytes);
const file = openSync(output, "wx", 0o755);
for (const [offset, piece] of piecesOf(program, list === undefined ? [] : await readHot(list)))
  if (writeSync(file, piece, 0, piece.byteLength, offset) !== piece.byteLength)
    throw new Error(`${output}: a short write`);
closeSync(file);
