/**
 * Writing tar: ustar, with a PAX header where ustar has no room. pax(1). What the reader (tar.ts) calls a TarEntry goes
 * in; names are a byte a character.
 */
import { OciboxError } from "../errors.ts";
import type { TarEntry } from "./tar.ts";

const blockSize = 512;
const largestOctal7 = 0o7777777;
const largestOctal11 = 0o77777777777;

const flags: Readonly<Record<TarEntry["type"], string>> = {
  file: "0",
  link: "1",
  symlink: "2",
  char: "3",
  block: "4",
  directory: "5",
  fifo: "6",
};

/** An entry with nothing special about it: owned by root, of 1970, so that equal contents make equal archives. */
export function plainEntry(type: TarEntry["type"], name: string, size = 0, mode = 0o644): TarEntry {
  const mtime = { seconds: 0, nanoseconds: 0 };
  return { type, name, linkname: "", mode, uid: 0, gid: 0, size, mtime, major: 0, minor: 0, xattrs: new Map() };
}

function put(block: Uint8Array, at: number, text: string, room: number): void {
  for (let index = 0; index < Math.min(text.length, room); index++) block[at + index] = text.charCodeAt(index);
}

function octal(block: Uint8Array, at: number, value: number, length: number): void {
  put(block, at, value.toString(8).padStart(length - 1, "0"), length - 1);
}

interface Fields {
  readonly flag: string;
  readonly name: string;
  readonly linkname: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly seconds: number;
  readonly major: number;
  readonly minor: number;
}

function header(fields: Fields): Uint8Array {
  const block = new Uint8Array(blockSize);
  put(block, 0, fields.name, 100);
  octal(block, 100, fields.mode, 8);
  octal(block, 108, fields.uid, 8);
  octal(block, 116, fields.gid, 8);
  octal(block, 124, fields.size, 12);
  octal(block, 136, fields.seconds, 12);
  put(block, 148, "        ", 8);
  put(block, 156, fields.flag, 1);
  put(block, 157, fields.linkname, 100);
  put(block, 257, "ustar\0" + "00", 8);
  octal(block, 329, fields.major, 8);
  octal(block, 337, fields.minor, 8);
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(block, 148, `${sum.toString(8).padStart(6, "0")}\0 `, 8);
  return block;
}

/** "LENGTH KEY=VALUE\n", where the length counts itself. */
function record(key: string, value: Uint8Array): Uint8Array {
  const rest = key.length + value.byteLength + 3;
  let length = rest + String(rest).length;
  if (rest + String(length).length !== length) length++;
  const text = Buffer.from(`${length} ${key}=`, "latin1");
  return Buffer.concat([text, value, new Uint8Array([0x0a])]);
}

/** Seconds with a fraction, the time rounded down in the header itself. */
function decimal({ seconds, nanoseconds }: TarEntry["mtime"]): string {
  if (nanoseconds === 0) return String(seconds);
  const whole = seconds < 0 ? -seconds - 1 : seconds;
  const part = seconds < 0 ? 1e9 - nanoseconds : nanoseconds;
  return `${seconds < 0 ? "-" : ""}${whole}.${String(part).padStart(9, "0").replace(/0+$/, "")}`;
}

function paxOf(entry: TarEntry): Uint8Array[] {
  const latin1 = (text: string): Uint8Array => Buffer.from(text, "latin1");
  const records: Uint8Array[] = [];
  if (entry.name.length > 100) records.push(record("path", latin1(entry.name)));
  if (entry.linkname.length > 100) records.push(record("linkpath", latin1(entry.linkname)));
  if (entry.size > largestOctal11) records.push(record("size", latin1(String(entry.size))));
  if (entry.uid > largestOctal7) records.push(record("uid", latin1(String(entry.uid))));
  if (entry.gid > largestOctal7) records.push(record("gid", latin1(String(entry.gid))));
  const { seconds, nanoseconds } = entry.mtime;
  if (nanoseconds !== 0 || seconds < 0 || seconds > largestOctal11)
    records.push(record("mtime", latin1(decimal(entry.mtime))));
  for (const [name, value] of entry.xattrs) records.push(record(`SCHILY.xattr.${name}`, value));
  return records;
}

/** The bytes that fill an entry's last block. */
export function tarPadding(size: number): Uint8Array {
  return new Uint8Array((blockSize - (size % blockSize)) % blockSize);
}

/** An archive's end. */
export function tarEnd(): Uint8Array {
  return new Uint8Array(2 * blockSize);
}

/** The headers of an entry; its `size` bytes follow, and then tarPadding. @throws OciboxError for a name with a NUL */
export function tarHeader(entry: TarEntry): Uint8Array {
  if (entry.name.includes("\0") || entry.linkname.includes("\0"))
    throw new OciboxError("INVALID", `${JSON.stringify(entry.name)} has a NUL in its name`);
  const { seconds } = entry.mtime;
  const own = header({
    flag: flags[entry.type],
    name: entry.name,
    linkname: entry.linkname,
    mode: entry.mode,
    uid: entry.uid > largestOctal7 ? 0 : entry.uid,
    gid: entry.gid > largestOctal7 ? 0 : entry.gid,
    size: entry.size > largestOctal11 ? 0 : entry.size,
    seconds: seconds < 0 || seconds > largestOctal11 ? 0 : seconds,
    major: entry.major,
    minor: entry.minor,
  });
  const pax = paxOf(entry);
  if (pax.length === 0) return own;
  const body = Buffer.concat(pax);
  const head = header({
    flag: "x",
    name: "PaxHeaders/entry",
    linkname: "",
    mode: 0o644,
    uid: 0,
    gid: 0,
    size: body.byteLength,
    seconds: 0,
    major: 0,
    minor: 0,
  });
  return Buffer.concat([head, body, tarPadding(body.byteLength), own]);
}
