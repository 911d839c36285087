/**
 * Makes Bun's own environment variables inert in a compiled program: they could turn it into another one, load code
 * into it, print its secrets or take its TLS checks away. Each name is overwritten by one of the same length, which
 * nobody sets. usage: bun scripts/seal.ts FILE
 */
import { closeSync, openSync, writeSync } from "node:fs";

const names = ["BUN_BE_BUN", "BUN_OPTIONS", "BUN_INSPECT", "BUN_CONFIG_VERBOSE_FETCH", "NODE_TLS_REJECT_UNAUTHORIZED"];

const [path] = process.argv.slice(2);
if (path === undefined) throw new Error("usage: bun scripts/seal.ts FILE");
const bytes = Buffer.from(await Bun.file(path).arrayBuffer());
// In place: a file that is written anew starts a millisecond slower, as long as it lies in the page cache like that.
const file = openSync(path, "r+");
for (const name of names) {
  // A "-" cannot stand in a variable that a shell sets.
  const replacement = Buffer.from(`-${name.slice(1).replaceAll(/[A-Z]/g, "x")}`, "latin1");
  let found = 0;
  for (let at = bytes.indexOf(name); at >= 0; at = bytes.indexOf(name, at + name.length)) {
    writeSync(file, replacement, 0, replacement.byteLength, at);
    found++;
  }
  if (found === 0) console.error(`seal: "${name}" is not in ${path}: look whether Bun still reads it`);
}
closeSync(file);
