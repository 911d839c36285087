/** A program that was laid out for huge pages: it runs as before, and lies in the file as in memory, to 2 MiB. */
import { afterAll, beforeAll, expect } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { forHugePages, piecesOf } from "../../scripts/huge-pages.ts";
import { testWith } from "../lib/needs.ts";
import { binary } from "../lib/sandbox.ts";

const huge = 2 << 20;
const test = testWith({ programs: ["gcc", "readelf"] });
let dir: string;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "ocibox-pages-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function run(...command: string[]): string {
  const { stdout, stderr, exitCode } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
  return stdout.toString();
}

interface Load {
  readonly offset: number;
  readonly vaddr: number;
  readonly flags: string;
}

function loads(path: string): Load[] {
  return run("readelf", "-lW", path)
    .split("\n")
    .flatMap((line) => {
      const [type, offset, vaddr, , , , ...flags] = line.trim().split(/\s+/);
      return type === "LOAD"
        ? [{ offset: Number(offset), vaddr: Number(vaddr), flags: flags.slice(0, -1).join("") }]
        : [];
    });
}

const source = `
#include <stdio.h>
static int changed = 40;
static const char text[] = "well";
int many[1000];
int main(void) { changed += 2; many[999] = changed; printf("%s %d\\n", text, many[999]); return 0; }
`;

test("segments keep their addresses, contents and rights", () => {
  writeFileSync(join(dir, "a.c"), source);
  // Data that is elsewhere in its 2 MiB than in the file.
  const flags = ["-no-pie", "-Wl,-z,separate-code", "-Wl,-Ttext-segment=0x1200000", "-Wl,-z,max-page-size=4096"];
  run("gcc", "-O1", ...flags, "-o", join(dir, "a"), join(dir, "a.c"));
  const plain = new Uint8Array(readFileSync(join(dir, "a")));
  const before = loads(join(dir, "a"));
  expect(before.some(({ offset, vaddr }) => (vaddr - offset) % huge !== 0)).toBe(true);
  const program = forHugePages(plain);
  writeFileSync(join(dir, "b"), program);
  chmodSync(join(dir, "b"), 0o755);
  const after = loads(join(dir, "b"));
  expect(after.map(({ offset, vaddr }) => (vaddr - offset) % huge)).toEqual(before.map(() => 0));
  expect(after.map(({ flags }) => flags)).toEqual(before.map(({ flags }) => flags));
  expect(run(join(dir, "b"))).toBe("well 42\n");
  expect(() => run("readelf", "-aW", join(dir, "b"))).not.toThrow();
  // A program that begins elsewhere in its 2 MiB stays as it is.
  run("gcc", "-O1", "-no-pie", "-Wl,-Ttext-segment=0x1234000", "-o", join(dir, "c"), join(dir, "a.c"));
  const odd = new Uint8Array(readFileSync(join(dir, "c")));
  expect(Buffer.compare(forHugePages(odd), odd)).toBe(0);
  // A second time there is nothing to be done.
  expect(Buffer.compare(forHugePages(program), program)).toBe(0);
});

test("pieces are all of a file, in order, those that are hot as long as a huge page", () => {
  const program = forHugePages(new Uint8Array(readFileSync(binary)));
  const [, code] = loads(binary);
  if (code === undefined) throw new Error("the program has no code");
  const at = code.vaddr - (code.vaddr % huge);
  let end = 0;
  const long: number[] = [];
  for (const [offset, piece] of piecesOf(program, [at + huge])) {
    expect(offset).toBe(end);
    end += piece.byteLength;
    if (piece.byteLength === huge) long.push(offset);
  }
  expect(end).toBe(program.byteLength);
  expect(long).toEqual([code.offset + huge - (code.vaddr - at)]);
});

test("ocibox itself is laid out so", () => {
  const all = loads(binary);
  expect(all.length).toBeGreaterThan(2);
  expect(all.map(({ offset, vaddr }) => (vaddr - offset) % huge)).toEqual(all.map(() => 0));
  // What is only read is not writable, and what is written not code.
  expect(all.map(({ flags }) => flags)).toEqual(["R", "RE", "RW"]);
});
