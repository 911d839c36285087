/**
 * Lays out an ELF program so that the kernel can map it by huge pages: each loaded segment has, in the file, the place in
 * 2 MiB that it has in memory. A start of Bun touches 430 places of its 80 MB; each is a page fault, or one for 2 MiB where
 * the file lies in the page cache in such pieces, as one does that was written so (docs/performance.md). elf(5)
 * usage: bun scripts/huge-pages.ts PID: which 2 MiB a process has touched much of
 */

import { closeSync, openSync, readFileSync, readlinkSync, readSync } from "node:fs";

const huge = 2 << 20;
const page = 4096;

const EI_CLASS = 4;
const ELFCLASS64 = 2;
const EI_DATA = 5;
const ELFDATA2LSB = 1;
const PT_LOAD = 1;
const PT_GNU_STACK = 0x6474e551;
const PF_X = 1;
const PF_R = 4;

/** Sizes and places in bytes. */
const programHeaderSize = 56;
const sectionHeaderSize = 64;
const at = { phoff: 32, shoff: 40, phnum: 56, shnum: 60 } as const;
const inProgramHeader = { type: 0, flags: 4, offset: 8, vaddr: 16, paddr: 24, filesz: 32, memsz: 40 } as const;
const sectionOffset = 24;

interface Segment {
  /** Where its header is. */
  readonly header: number;
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly vaddr: number;
  readonly filesz: number;
}

function down(value: number, to: number): number {
  return value - (value % to);
}

function up(value: number, to: number): number {
  return down(value + to - 1, to);
}

class Elf {
  readonly view: DataView;

  constructor(readonly bytes: Uint8Array<ArrayBuffer>) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get isKnown(): boolean {
    const { bytes, view } = this;
    return view.getUint32(0) === 0x7f454c46 && bytes[EI_CLASS] === ELFCLASS64 && bytes[EI_DATA] === ELFDATA2LSB;
  }

  word(place: number): number {
    return Number(this.view.getBigUint64(place, true));
  }

  setWord(place: number, value: number): void {
    this.view.setBigUint64(place, BigInt(value), true);
  }

  get segments(): Segment[] {
    const count = this.view.getUint16(at.phnum, true);
    return Array.from({ length: count }, (_, index) => {
      const header = this.word(at.phoff) + index * programHeaderSize;
      return {
        header,
        type: this.view.getUint32(header + inProgramHeader.type, true),
        flags: this.view.getUint32(header + inProgramHeader.flags, true),
        offset: this.word(header + inProgramHeader.offset),
        vaddr: this.word(header + inProgramHeader.vaddr),
        filesz: this.word(header + inProgramHeader.filesz),
      };
    });
  }

  get loaded(): Segment[] {
    return this.segments.filter(({ type }) => type === PT_LOAD).sort((a, b) => a.offset - b.offset);
  }
}

/** How far each loaded segment, and what is behind it, moves up in the file. */
function movesOf(loaded: readonly Segment[]): (offset: number) => number {
  const moves: { readonly from: number; readonly by: number }[] = [];
  let by = 0;
  for (const { offset, vaddr } of loaded) {
    by += (((vaddr - offset - by) % huge) + huge) % huge;
    moves.push({ from: offset, by });
  }
  return (offset) => moves.findLast(({ from }) => offset >= from)?.by ?? 0;
}

/**
 * The code begins somewhere in 2 MiB, behind what is only read: these 2 MiB become the code's as a whole, for they hold
 * what every start runs, and one mapping is what a huge page wants.
 */
function joinHead(elf: Elf): void {
  const loaded = elf.loaded;
  const index = loaded.findIndex(({ flags }) => (flags & PF_X) !== 0);
  const code = loaded[index];
  const before = loaded[index - 1];
  if (code === undefined || before === undefined || before.flags !== PF_R) return;
  const start = down(code.vaddr, huge);
  const grown = code.vaddr - start;
  const isOnePiece = code.vaddr - code.offset === before.vaddr - before.offset;
  if (!isOnePiece || start <= before.vaddr || before.vaddr + before.filesz <= start) return;
  for (const field of ["filesz", "memsz"] as const) {
    elf.setWord(before.header + inProgramHeader[field], start - before.vaddr);
    elf.setWord(code.header + inProgramHeader[field], code.filesz + grown);
  }
  for (const field of ["offset", "vaddr", "paddr"] as const) {
    const place = code.header + inProgramHeader[field];
    elf.setWord(place, elf.word(place) - grown);
  }
}

/**
 * The same program in a layout for huge pages. Addresses do not change, but for where the code's mapping begins.
 * @throws Error where it is no ELF file
 */
export function forHugePages(program: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const from = new Elf(program);
  if (!from.isKnown) throw new Error("this is no 64-bit little-endian ELF file");
  const loaded = from.loaded;
  const moved = movesOf(loaded);
  const last = loaded.at(-1);
  // The file's own head does not move.
  if (last === undefined || moved(0) !== 0) return program;
  const result = new Elf(new Uint8Array(program.byteLength + moved(program.byteLength)));
  for (const segment of loaded) {
    // Whole pages are mapped: what shares one with a neighbour is in both.
    const start = down(segment.offset, page);
    const end = segment === last ? program.byteLength : up(segment.offset + segment.filesz, page);
    result.bytes.set(program.subarray(start, end), start + moved(segment.offset));
  }
  for (const { header, type, offset } of from.segments)
    if (type !== PT_GNU_STACK) result.setWord(header + inProgramHeader.offset, offset + moved(offset));
  const sections = from.word(at.shoff);
  const newSections = sections + moved(sections);
  result.setWord(at.shoff, newSections);
  for (let index = 0; index < from.view.getUint16(at.shnum, true); index++) {
    const offset = from.word(sections + index * sectionHeaderSize + sectionOffset);
    result.setWord(newSections + index * sectionHeaderSize + sectionOffset, offset + moved(offset));
  }
  joinHead(result);
  return result.bytes;
}

/** Small pieces, in bytes: what Linux maps around a page that is touched, and no more memory than that is counted. */
const small = 64 << 10;

/**
 * The pieces that a program is to be written in. The page cache keeps them as they were written, and a fault maps one.
 * @param hot addresses of the 2 MiB that a start touches much of
 */
export function* piecesOf(
  program: Uint8Array<ArrayBuffer>,
  hot: readonly number[],
): Generator<readonly [number, Uint8Array]> {
  const places = new Set<number>();
  for (const { offset, vaddr, filesz } of new Elf(program).loaded)
    for (const address of hot)
      if (address + huge > vaddr && address < vaddr + filesz) places.add(down(offset - (vaddr - address), huge));
  for (let offset = 0; offset < program.byteLength; ) {
    const size = places.has(offset) ? huge : small;
    yield [offset, program.subarray(offset, offset + size)];
    offset += size;
  }
}

/** The list that `touched` makes: an address a line. */
export async function readHot(path: string): Promise<number[]> {
  const text = await Bun.file(path).text();
  return text.split("\n").flatMap((line) => (line === "" ? [] : [Number(line)]));
}

/** 2 MiB of which a start touches so many small pieces are worth being one. */
const worth = 10;
const pagemapEntry = 8;
const present = 0x80;

/** Of a process whose program lies in the page cache in small pieces: the 2 MiB it has touched much of. proc_pid_pagemap(5) */
function touched(pid: number): number[] {
  const program = readlinkSync(`/proc/${pid}/exe`);
  const counts = new Map<number, number>();
  const pagemap = openSync(`/proc/${pid}/pagemap`, "r");
  for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
    const found = /^([0-9a-f]+)-([0-9a-f]+) .* (\/.*)$/.exec(line);
    if (found === null || found[3] !== program) continue;
    const end = Number.parseInt(found[2] as string, 16);
    for (let start = Number.parseInt(found[1] as string, 16); start < end; start = up(start + 1, small)) {
      const pages = Buffer.alloc(((Math.min(up(start + 1, small), end) - start) / page) * pagemapEntry);
      readSync(pagemap, pages, 0, pages.byteLength, (start / page) * pagemapEntry);
      // The highest bit of an entry: the page is there.
      const isTouched = pages.some((byte, at) => at % pagemapEntry === pagemapEntry - 1 && (byte & present) !== 0);
      if (isTouched) counts.set(down(start, huge), (counts.get(down(start, huge)) ?? 0) + 1);
    }
  }
  closeSync(pagemap);
  return [...counts].filter(([, count]) => count >= worth).map(([address]) => address);
}

if (import.meta.main) {
  const [pid] = process.argv.slice(2);
  if (pid === undefined) throw new Error("usage: bun scripts/huge-pages.ts PID");
  for (const address of touched(Number(pid))) console.log(`0x${address.toString(16)}`);
}
