/**
 * Reading tar as a stream: ustar, GNU long names and numbers, PAX. pax(1), "tar(5)" of libarchive. Where readers are
 * known to differ the archive is refused, so that no two of them can see two different layers in the same bytes.
 *
 * Names are kept as the archive has them, a byte a character (latin1): they need not be UTF-8.
 */
import { withoutFtl } from "../../ffi/compile.ts";
import { OciboxError } from "../errors.ts";

type EntryType = "file" | "link" | "symlink" | "char" | "block" | "directory" | "fifo";

export interface TarEntry {
  readonly type: EntryType;
  /** As in the archive, a byte a character. */
  readonly name: string;
  readonly linkname: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes that follow; 0 for all but files. */
  readonly size: number;
  /** Seconds since 1970, and nanoseconds from 0 up. */
  readonly mtime: { readonly seconds: number; readonly nanoseconds: number };
  readonly major: number;
  readonly minor: number;
  /** Extended attributes: name (a byte a character) → value. */
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
}

const blockSize = 512;
/** What one PAX header or long name may hold. */
const mostExtra = 1 << 20;
const largestId = 0xffff_fffe;

function refuse(why: string): never {
  throw new OciboxError("INVALID", `the layer is not a sound tar archive: ${why}`);
}

/** What no engine writes into a layer, but a rootfs packed by `tar -S` may have. */
function refuseSparse(): never {
  throw new OciboxError("INVALID", "the archive has sparse files, which ocibox does not read", {
    hint: "pack it without tar's --sparse",
  });
}

/** Bytes in the order they come, in the amounts that are asked for. */
export class ByteSource {
  readonly #iterator: Iterator<Uint8Array>;
  #chunk: Uint8Array = new Uint8Array(0);
  #at = 0;
  /** Bytes handed out so far. */
  taken = 0;

  constructor(stream: Iterable<Uint8Array>) {
    this.#iterator = stream[Symbol.iterator]();
  }

  /** Takes care that something is at hand. @returns whether there is anything */
  #fill(): boolean {
    while (this.#at === this.#chunk.byteLength) {
      const { done, value } = this.#iterator.next();
      if (done === true) return false;
      this.#chunk = value;
      this.#at = 0;
    }
    return true;
  }

  /** The next piece of at most n bytes, as it lies in memory, valid until more is asked for; undefined at the end. */
  piece(n: number): Uint8Array | undefined {
    if (!this.#fill()) return undefined;
    const end = Math.min(this.#at + n, this.#chunk.byteLength);
    const piece = this.#chunk.subarray(this.#at, end);
    this.taken += end - this.#at;
    this.#at = end;
    return piece;
  }

  /** Exactly n bytes; undefined where the stream ends before the first of them. */
  exactly(n: number): Uint8Array | undefined {
    const first = this.piece(n);
    if (first === undefined || first.byteLength === n) return first;
    const whole = new Uint8Array(n);
    whole.set(first);
    for (let at = first.byteLength; at < n; ) {
      const next = this.piece(n - at);
      if (next === undefined) refuse("it ends in the middle");
      whole.set(next, at);
      at += next.byteLength;
    }
    return whole;
  }

  /** @throws OciboxError INVALID where there are fewer */
  skip(n: number): void {
    if (!this.pass(n)) refuse("it ends in the middle");
  }

  /** Skips n bytes, or as many as there are. @returns whether there were as many */
  pass(n: number): boolean {
    for (let left = n; left > 0; ) {
      if (!this.#fill()) return false;
      const passed = Math.min(left, this.#chunk.byteLength - this.#at);
      this.taken += passed;
      this.#at += passed;
      left -= passed;
    }
    return true;
  }
}

/** Bytes as text, a byte a character, up to a NUL. */
function text(block: Uint8Array, from: number, length: number): string {
  let end = from;
  while (end < from + length && block[end] !== 0) end++;
  return end === from ? "" : latin1(block, from, end);
}

/** Short texts are put together faster than a decoder is called. */
const shortText = 24;

function latin1(bytes: Uint8Array, from: number, to: number): string {
  if (to - from > shortText) return Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from).toString("latin1");
  let out = "";
  for (let at = from; at < to; at++) out += String.fromCharCode(bytes[at] as number);
  return out;
}

const isBlank = (byte: number): boolean => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d) || byte === 0xa0;

/** Octal digits with spaces or NULs around them, or GNU's base-256, which may be negative. */
function parseNumber(block: Uint8Array, from: number, length: number, what: string): number {
  const first = block[from] as number;
  if (first === 0x80 || first === 0xff) return parseBinary(block, from, length, what);
  let at = from;
  let end = from;
  while (end < from + length && block[end] !== 0) end++;
  while (at < end && isBlank(block[at] as number)) at++;
  while (end > at && isBlank(block[end - 1] as number)) end--;
  let value = 0;
  for (; at < end; at++) {
    const digit = (block[at] as number) - 0x30;
    if (digit < 0 || digit > 7) refuse(`${what} is ${JSON.stringify(text(block, from, length).trim())}`);
    value = value * 8 + digit;
  }
  return value;
}

function parseBinary(block: Uint8Array, from: number, length: number, what: string): number {
  let value = block[from] === 0xff ? -1n : 0n;
  for (let at = from + 1; at < from + length; at++) value = (value << 8n) | BigInt(block[at] as number);
  const number = Number(value);
  if (!Number.isSafeInteger(number)) refuse(`${what} is ${value}`);
  return number;
}

/** The sum of a header's bytes, four at a time: two sums of two bytes each, which stay below 2^16. */
function sumOf(block: Uint8Array): number {
  const view = new DataView(block.buffer, block.byteOffset, blockSize);
  let even = 0;
  let odd = 0;
  for (let at = 0; at < blockSize; at += 4) {
    const word = view.getUint32(at, true);
    even += word & 0x00ff00ff;
    odd += (word >>> 8) & 0x00ff00ff;
  }
  return (even & 0xffff) + (even >>> 16) + (odd & 0xffff) + (odd >>> 16);
}

function checkSum(block: Uint8Array): void {
  const from = 148;
  const length = 8;
  const stored = parseNumber(block, from, length, "a checksum");
  // The sum's own field counts as spaces.
  let unsigned = sumOf(block) + length * 0x20;
  for (let at = from; at < from + length; at++) unsigned -= block[at] as number;
  if (stored === unsigned) return;
  // Some have added the bytes up as signed ones.
  let high = 0;
  for (let at = 0; at < blockSize; at++) if (at < from || at >= from + length) high += (block[at] as number) >> 7;
  if (stored !== unsigned - 256 * high) refuse("a header's checksum is wrong");
}

function isZero(block: Uint8Array): boolean {
  for (let at = 0; at < blockSize; at++) if (block[at] !== 0) return false;
  return true;
}

/** PAX records: "LENGTH KEY=VALUE\n", where the length counts itself. */
function parsePax(bytes: Uint8Array): Map<string, Uint8Array> {
  const records = new Map<string, Uint8Array>();
  for (let at = 0; at < bytes.byteLength; ) {
    const space = bytes.indexOf(0x20, at);
    const digits = space < 0 ? "" : text(bytes, at, space - at);
    const length = /^[1-9][0-9]{0,6}$/.test(digits) ? Number(digits) : 0;
    const end = at + length;
    const equals = bytes.indexOf(0x3d, space + 1);
    if (
      length === 0 ||
      end > bytes.byteLength ||
      bytes[end - 1] !== 0x0a ||
      equals < 0 ||
      equals >= end ||
      space + 1 >= end
    )
      refuse("a PAX record is malformed");
    const key = Buffer.from(bytes.subarray(space + 1, equals)).toString("latin1");
    if (key === "" || key.includes("\0")) refuse("a PAX record has no name");
    // pax(1): no value takes back what was said before; so have it those that read layers, for attributes too.
    if (equals + 1 === end - 1) records.delete(key);
    else records.set(key, bytes.slice(equals + 1, end - 1));
    at = end;
  }
  return records;
}

function paxText(records: ReadonlyMap<string, Uint8Array>, key: string): string | undefined {
  const value = records.get(key);
  if (value === undefined) return undefined;
  if (value.includes(0)) refuse(`the PAX record "${key}" has a NUL in it`);
  return Buffer.from(value).toString("latin1");
}

function paxNumber(records: ReadonlyMap<string, Uint8Array>, key: string): number | undefined {
  const value = paxText(records, key);
  if (value === undefined) return undefined;
  if (!/^(?:0|[1-9][0-9]{0,15})$/.test(value)) refuse(`the PAX record "${key}" is ${JSON.stringify(value)}`);
  return Number(value);
}

function paxTime(records: ReadonlyMap<string, Uint8Array>): TarEntry["mtime"] | undefined {
  const value = paxText(records, "mtime");
  if (value === undefined) return undefined;
  const match = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(value);
  if (match === null) refuse(`the PAX record "mtime" is ${JSON.stringify(value)}`);
  const nanoseconds = Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"));
  const seconds = Number(match[2]);
  if (match[1] !== "-") return { seconds, nanoseconds };
  return nanoseconds === 0
    ? { seconds: -seconds, nanoseconds }
    : { seconds: -seconds - 1, nanoseconds: 1e9 - nanoseconds };
}

const xattrPrefix = "SCHILY.xattr.";

function xattrsOf(records: ReadonlyMap<string, Uint8Array>): ReadonlyMap<string, Uint8Array> {
  const found = new Map<string, Uint8Array>();
  for (const [key, value] of records) {
    if (key.startsWith("GNU.sparse.")) refuseSparse();
    if (key.startsWith(xattrPrefix)) found.set(key.slice(xattrPrefix.length), value);
  }
  return found;
}

/** By the type flag's byte. */
const types: ReadonlyMap<number, EntryType> = new Map([
  [0x00, "file"],
  [0x30, "file"],
  [0x31, "link"],
  [0x32, "symlink"],
  [0x33, "char"],
  [0x34, "block"],
  [0x35, "directory"],
  [0x36, "fifo"],
  [0x37, "file"],
]);

const nothing: ReadonlyMap<string, Uint8Array> = new Map();

/** What headers before an entry's own have said of it. */
interface Extra {
  pax: ReadonlyMap<string, Uint8Array>;
  name: string | undefined;
  linkname: string | undefined;
}

function ustarName(block: Uint8Array): string {
  const name = text(block, 0, 100);
  if (block[345] === 0) return name;
  // Only POSIX's magic, "ustar" and a NUL, says that there is a prefix; GNU's has a space there.
  const prefix = block[262] === 0 && text(block, 257, 6) === "ustar" ? text(block, 345, 155) : "";
  return prefix === "" ? name : `${prefix}/${name}`;
}

function identity(value: number, what: string): number {
  if (value < 0 || value > largestId) refuse(`${what} is ${value}`);
  return value;
}

function entryOf(block: Uint8Array, flag: number, extra: Extra): TarEntry {
  const { pax } = extra;
  const name = paxText(pax, "path") ?? extra.name ?? ustarName(block);
  const known = types.get(flag);
  if (flag === 0x53) refuseSparse();
  if (known === undefined) refuse(`an entry has the type ${JSON.stringify(String.fromCharCode(flag))}`);
  const type = known === "file" && name.endsWith("/") ? "directory" : known;
  const size = paxNumber(pax, "size") ?? parseNumber(block, 124, 12, "a size");
  if (size < 0 || !Number.isSafeInteger(size)) refuse(`a size is ${size}`);
  if (name === "") refuse("an entry has no name");
  return {
    type,
    name,
    linkname: paxText(pax, "linkpath") ?? extra.linkname ?? text(block, 157, 100),
    mode: parseNumber(block, 100, 8, "a mode") & 0o7777,
    uid: identity(paxNumber(pax, "uid") ?? parseNumber(block, 108, 8, "a uid"), "a uid"),
    gid: identity(paxNumber(pax, "gid") ?? parseNumber(block, 116, 8, "a gid"), "a gid"),
    size: type === "file" ? size : 0,
    mtime: paxTime(pax) ?? { seconds: parseNumber(block, 136, 12, "a time"), nanoseconds: 0 },
    major: type === "char" || type === "block" ? parseNumber(block, 329, 8, "a device") : 0,
    minor: type === "char" || type === "block" ? parseNumber(block, 337, 8, "a device") : 0,
    xattrs: pax.size === 0 ? nothing : xattrsOf(pax),
  };
}

const padding = (size: number): number => (blockSize - (size % blockSize)) % blockSize;

function extraBody(source: ByteSource, block: Uint8Array): Uint8Array {
  const size = parseNumber(block, 124, 12, "a size");
  if (size < 0 || size > mostExtra) refuse(`a header of ${size} bytes comes before an entry`);
  const body = size === 0 ? new Uint8Array(0) : (source.exactly(size) ?? refuse("it ends in the middle"));
  const kept = body.slice();
  source.skip(padding(size));
  return kept;
}

function longText(body: Uint8Array): string {
  const end = body.indexOf(0);
  return Buffer.from(end < 0 ? body : body.subarray(0, end)).toString("latin1");
}

/**
 * The next entry; undefined at the archive's end. The caller takes the entry's `size` bytes from the source itself, and
 * then `finishEntry`.
 * @throws OciboxError INVALID for what is no sound archive
 */
export function nextEntry(source: ByteSource): TarEntry | undefined {
  const extra: Extra = { pax: nothing, name: undefined, linkname: undefined };
  for (let headers = 0; headers < 16; headers++) {
    const block = source.exactly(blockSize);
    if (block === undefined) {
      if (headers > 0) refuse("it ends in the middle");
      return undefined;
    }
    if (isZero(block)) {
      if (headers > 0) refuse("it ends in the middle of an entry's headers");
      return undefined;
    }
    checkSum(block);
    const flag = block[156] as number;
    switch (flag) {
      case 0x78: // x
        extra.pax = parsePax(extraBody(source, block));
        break;
      case 0x67: {
        // g
        const records = parsePax(extraBody(source, block));
        for (const key of records.keys()) if (key !== "comment") refuse(`it sets "${key}" for all that follows`);
        break;
      }
      case 0x4c: // L
        extra.name = longText(extraBody(source, block));
        break;
      case 0x4b: // K
        extra.linkname = longText(extraBody(source, block));
        break;
      default:
        return entryOf(block, flag, extra);
    }
  }
  return refuse("too many headers come before an entry");
}

/** Passes over what fills an entry's last block. The last one's may be missing: umoci 0.4 writes such archives. */
export function finishEntry(source: ByteSource, entry: TarEntry): void {
  const rest = padding(entry.size);
  if (rest > 0) source.pass(rest);
}

/** Reads what is left behind the archive's end, so that all of the stream is hashed. @returns bytes */
export function drain(source: ByteSource): number {
  let count = 0;
  for (;;) {
    const piece = source.piece(1 << 20);
    if (piece === undefined) return count;
    count += piece.byteLength;
  }
}

withoutFtl(nextEntry, finishEntry, entryOf, checkSum, sumOf, isZero, ustarName, text, latin1, parseNumber);
withoutFtl(identity, parsePax, paxText, paxNumber, paxTime, xattrsOf);
withoutFtl(
  ByteSource.prototype.piece,
  ByteSource.prototype.exactly,
  ByteSource.prototype.skip,
  ByteSource.prototype.pass,
);
