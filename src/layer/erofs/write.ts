/**
 * A tree as an EROFS image of metadata alone: Documentation/filesystems/erofs, fs/erofs/erofs_fs.h. Files are chunks of
 * one piece on a second device, which is the plain archive; blocks are those of tar, 512 bytes, so that each file begins
 * with one.
 */
import { withoutFtl } from "../../../ffi/compile.ts";
import { OciboxError } from "../../errors.ts";
import type { Inode } from "./inode.ts";

const tarBlockBits = 9;
export const blockSize = 1 << tarBlockBits;
const superOffset = 1024;
const superSize = 128;
const magic = 0xe0f5_e1e2;
/** i_ctime is the time of modification. */
const compatMtime = 2;
const incompatChunked = 4;
const incompatDevices = 8;
const inodeSize = 64;
const slot = 32;
const direntSize = 12;

/** i_format of an extended inode: bit 0, and where its data is from bit 1 on. */
const plain = 1 | (0 << 1);
const inline = 1 | (2 << 1);
const chunked = 1 | (4 << 1);
/** A chunk is as large as the file: 2^(9+n) bytes; and is given by an index of 8 bytes. */
const chunkIndexes = 0x20;
const indexSize = 8;
const mostChunkBits = 31;

const formats = {
  file: 0o100000,
  directory: 0o040000,
  symlink: 0o120000,
  char: 0o020000,
  block: 0o060000,
  fifo: 0o010000,
  whiteout: 0o020000,
};
/** enum file_type of a directory's entries, fs_types.h. */
const entryTypes = { file: 1, directory: 2, char: 3, whiteout: 3, block: 4, fifo: 5, symlink: 7 };

/** e_name_index: the longer ones first. */
const prefixes: readonly (readonly [prefix: string, index: number])[] = [
  ["system.posix_acl_access", 2],
  ["system.posix_acl_default", 3],
  ["user.", 1],
  ["trusted.", 4],
  ["security.", 6],
];
const bodyHeader = 12;
const entryHeader = 4;
const mostXattrs = 0xffff * 4;
const opaque: readonly [string, Uint8Array] = ["trusted.overlay.opaque", new Uint8Array([0x79])];

interface Xattr {
  readonly index: number;
  readonly name: string;
  readonly value: Uint8Array;
}

const none: readonly Xattr[] = [];

const up = (value: number, to: number): number => Math.ceil(value / to) * to;

/** Those that EROFS can hold: another label means nothing where there is none. */
function xattrsOf(inode: Inode): readonly Xattr[] {
  if (inode.xattrs.size === 0 && !inode.opaque) return none;
  const all = inode.opaque && inode.kind === "directory" ? [...inode.xattrs, opaque] : [...inode.xattrs];
  return all.flatMap(([name, value]) => {
    const [prefix, index] = prefixes.find(([each]) => name.startsWith(each)) ?? [];
    if (prefix === undefined || index === undefined) return [];
    const rest = name.slice(prefix.length);
    if (rest.length > 255 || value.byteLength > 0xffff)
      throw new OciboxError("INVALID", `the layer has an extended attribute ${JSON.stringify(name)} that is too large`);
    return [{ index, name: rest, value }];
  });
}

function sizeOf(xattrs: readonly Xattr[]): number {
  if (xattrs.length === 0) return 0;
  let size = bodyHeader;
  for (const { name, value } of xattrs) size += up(entryHeader + name.length + value.byteLength, 4);
  if (size > mostXattrs) throw new OciboxError("INVALID", "the layer has more extended attributes on a file than fit");
  return size;
}

/** How a directory's names are put into blocks: an entry of each block's first name, and the names in their order. */
interface Listing {
  readonly names: readonly string[];
  /** Where each block begins in `names`. */
  readonly starts: readonly number[];
  /** i_size: the last block counts as far as it is used. */
  readonly size: number;
}

function list(directory: Inode, blockSize: number): Listing {
  const names = [".", "..", ...(directory.children?.keys() ?? [])].sort();
  const starts = [0];
  let used = 0;
  for (let at = 0; at < names.length; at++) {
    const need = direntSize + (names[at] as string).length;
    if (used + need > blockSize) {
      starts.push(at);
      used = 0;
    }
    used += need;
  }
  return { names, starts, size: (starts.length - 1) * blockSize + used };
}

function isInline(inode: Inode, xattrSize: number, blockSize: number): boolean {
  return inode.kind === "symlink" && inodeSize + xattrSize + inode.target.length <= blockSize;
}

/** Where each inode is, and what is not beside it: nids, and the first block of what is elsewhere. */
class Layout {
  /** In the order in which they lie there. */
  readonly inodes: Inode[] = [];
  readonly elsewhere = new Map<Inode, number>();
  readonly blockSize: number;
  #cursor: number;
  blocks = 0;

  constructor(
    root: Inode,
    readonly blockBits: number,
  ) {
    this.blockSize = 1 << blockBits;
    withoutFtl(this.#place, this.#placeAll, this.#placeData);
    this.#cursor = up(superOffset + 2 * superSize, Math.min(this.blockSize, superSize));
    this.#placeAll(root);
    this.#placeData();
  }

  #place(inode: Inode): void {
    const xattrSize = sizeOf(xattrsOf(inode));
    let at = up(this.#cursor, slot);
    // An inode with what is inline behind it does not cross a block.
    const isIn = isInline(inode, xattrSize, this.blockSize);
    const together = inodeSize + (isIn ? xattrSize + inode.target.length : 0);
    if ((at % this.blockSize) + together > this.blockSize) at = up(at, this.blockSize);
    inode.nid = at / slot;
    this.inodes.push(inode);
    this.#cursor = at + inodeSize + xattrSize;
    if (isIn) this.#cursor += inode.target.length;
    else if (inode.kind === "file" && inode.size > 0) this.#cursor = up(this.#cursor, indexSize) + indexSize;
  }

  #placeAll(root: Inode): void {
    const seen = new Set<Inode>();
    const stack = [root];
    this.#place(root);
    for (let directory = stack.pop(); directory !== undefined; directory = stack.pop()) {
      for (const child of directory.children?.values() ?? []) {
        if (child.kind !== "directory" && child.links > 1) {
          if (seen.has(child)) continue;
          seen.add(child);
        }
        this.#place(child);
        if (child.kind === "directory") stack.push(child);
      }
    }
  }

  /** Directories' blocks, and symlinks that are too long to be inline, behind the inodes. */
  #placeData(): void {
    let block = up(this.#cursor, this.blockSize) / this.blockSize;
    for (const inode of this.inodes) {
      let blocks = 0;
      if (inode.kind === "directory") blocks = list(inode, this.blockSize).starts.length;
      else if (inode.kind === "symlink" && !isInline(inode, sizeOf(xattrsOf(inode)), this.blockSize))
        blocks = up(inode.target.length, this.blockSize) / this.blockSize;
      if (blocks > 0) this.elsewhere.set(inode, block);
      block += blocks;
    }
    this.blocks = block;
  }
}

class Writer {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;

  constructor(readonly layout: Layout) {
    this.#bytes = new Uint8Array(new ArrayBuffer(layout.blocks * this.layout.blockSize));
    this.#view = new DataView(this.#bytes.buffer);
    withoutFtl(this.all, this.#inode, this.#chunk, this.#xattrs, this.#directory, this.#text, this.#u64);
  }

  #u64(at: number, value: number): void {
    this.#view.setUint32(at, value >>> 0, true);
    this.#view.setUint32(at + 4, Math.floor(value / 2 ** 32) >>> 0, true);
  }

  #text(at: number, text: string): void {
    for (let each = 0; each < text.length; each++) this.#bytes[at + each] = text.charCodeAt(each);
  }

  #superblock(uuid: Uint8Array, deviceBlocks: number): void {
    const view = this.#view;
    view.setUint32(superOffset, magic, true);
    view.setUint32(superOffset + 8, compatMtime, true);
    view.setUint8(superOffset + 12, this.layout.blockBits);
    view.setUint16(superOffset + 14, this.layout.inodes[0]?.nid ?? 0, true);
    this.#u64(superOffset + 16, this.layout.inodes.length);
    view.setUint32(superOffset + 36, this.layout.blocks, true);
    this.#bytes.set(uuid.subarray(0, 16), superOffset + 48);
    view.setUint32(superOffset + 80, incompatChunked | incompatDevices, true);
    view.setUint16(superOffset + 86, 1, true);
    // In units of 128 bytes: right behind the superblock.
    view.setUint16(superOffset + 88, (superOffset + superSize) / superSize, true);
    view.setUint32(superOffset + superSize + 64, deviceBlocks, true);
  }

  #inode(inode: Inode, number: number): void {
    const view = this.#view;
    const { blockSize } = this.layout;
    const at = inode.nid * slot;
    const xattrs = xattrsOf(inode);
    const xattrSize = sizeOf(xattrs);
    const behind = at + inodeSize + xattrSize;
    const block = this.layout.elsewhere.get(inode) ?? 0;
    let format = plain;
    let size = 0;
    let where = 0;
    if (inode.kind === "directory") {
      const listing = list(inode, blockSize);
      size = listing.size;
      where = block;
      this.#directory(inode, listing, block * blockSize);
    } else if (inode.kind === "symlink") {
      size = inode.target.length;
      if (block === 0) format = inline;
      else where = block;
      this.#text(block === 0 ? behind : block * blockSize, inode.target);
    } else if (inode.kind === "file" && inode.size > 0) {
      size = inode.size;
      format = chunked;
      where = chunkIndexes | this.#chunk(inode, up(behind, indexSize));
    } else if (inode.kind === "char" || inode.kind === "block")
      where = (inode.minor & 0xff) | (inode.major << 8) | ((inode.minor & ~0xff) << 12);
    view.setUint16(at, format, true);
    // The header counts as one, and each four bytes behind it.
    view.setUint16(at + 2, xattrSize === 0 ? 0 : (xattrSize - bodyHeader) / 4 + 1, true);
    view.setUint16(at + 4, formats[inode.kind] | inode.mode, true);
    this.#u64(at + 8, size);
    view.setUint32(at + 16, where, true);
    view.setUint32(at + 20, number, true);
    view.setUint32(at + 24, inode.uid, true);
    view.setUint32(at + 28, inode.gid, true);
    this.#u64(at + 32, inode.seconds);
    view.setUint32(at + 40, inode.nanoseconds, true);
    view.setUint32(at + 44, inode.links, true);
    if (xattrs.length > 0) this.#xattrs(xattrs, at + inodeSize);
  }

  /** The index of a file's only chunk. @returns the binary logarithm of the chunk's size in blocks */
  #chunk(inode: Inode, at: number): number {
    const blocks = Math.ceil(inode.size / this.layout.blockSize);
    const bits = Math.ceil(Math.log2(blocks));
    if (bits > mostChunkBits) throw new OciboxError("INVALID", `the layer has a file of ${inode.size} bytes`);
    const start = inode.at / this.layout.blockSize;
    if (!Number.isInteger(start)) throw new TypeError("a file begins within a block");
    this.#view.setUint16(at, Math.floor(start / 2 ** 32), true);
    this.#view.setUint16(at + 2, 1, true);
    this.#view.setUint32(at + 4, start >>> 0, true);
    return bits;
  }

  #xattrs(xattrs: readonly Xattr[], start: number): void {
    let at = start + bodyHeader;
    for (const { index, name, value } of xattrs) {
      this.#bytes[at] = name.length;
      this.#bytes[at + 1] = index;
      this.#view.setUint16(at + 2, value.byteLength, true);
      this.#text(at + entryHeader, name);
      this.#bytes.set(value, at + entryHeader + name.length);
      at += up(entryHeader + name.length + value.byteLength, 4);
    }
  }

  #directory(inode: Inode, { names, starts }: Listing, start: number): void {
    const view = this.#view;
    for (let block = 0; block < starts.length; block++) {
      const from = starts[block] as number;
      const to = starts[block + 1] ?? names.length;
      let entry = start + block * this.layout.blockSize;
      let nameAt = (to - from) * direntSize;
      for (let each = from; each < to; each++) {
        const name = names[each] as string;
        const child = name === "." ? inode : name === ".." ? (inode.parent ?? inode) : inode.children?.get(name);
        if (child === undefined) throw new TypeError("a directory's listing has changed");
        this.#u64(entry, child.nid);
        view.setUint16(entry + 8, nameAt, true);
        view.setUint8(entry + 10, entryTypes[child.kind]);
        this.#text(start + block * this.layout.blockSize + nameAt, name);
        nameAt += name.length;
        entry += direntSize;
      }
    }
  }

  all(uuid: Uint8Array, deviceBlocks: number): Uint8Array<ArrayBuffer> {
    this.#superblock(uuid, deviceBlocks);
    this.layout.inodes.forEach((inode, number) => {
      this.#inode(inode, number + 1);
    });
    return this.#bytes;
  }
}

/**
 * @param uuid 16 bytes; the same for the same layer
 * @param deviceSize bytes of the second device
 * @param blockBits another size of blocks, for tools that know only that of pages: no file may have contents then
 * @returns the image
 * @throws OciboxError INVALID for what EROFS cannot hold
 */
export function writeErofs(
  root: Inode,
  uuid: Uint8Array,
  deviceSize: number,
  blockBits = tarBlockBits,
): Uint8Array<ArrayBuffer> {
  return new Writer(new Layout(root, blockBits)).all(uuid, Math.ceil(deviceSize / (1 << blockBits)));
}

withoutFtl(xattrsOf, sizeOf, list, isInline);
