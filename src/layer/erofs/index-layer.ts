/** From a layer's plain archive to the EROFS image that makes a file system of it, while the archive goes by. */
import { direct } from "../../../ffi/direct.ts";
import { OciboxError } from "../../errors.ts";
import { copyData } from "../copy-tree.ts";
import { mostEntries } from "../entry-name.ts";
import { type ByteSource, drain, finishEntry, nextEntry } from "../tar.ts";
import { Tree } from "./tree.ts";
import { blockSize, writeErofs } from "./write.ts";

export interface IndexOptions {
  /** The layers below, the uppermost first: paths of directories. asked for only if something of them is needed. */
  lowers(): readonly string[];
  /** 16 bytes; the same for the same layer. */
  readonly uuid: Uint8Array;
  /** A descriptor of the file that has the plain archive when all of the source was read. */
  readonly data: number;
}

/** Bytes of lower layers that hard links lead to, behind the archive. @returns how large the file is then */
function append({ copies }: Tree, data: number, size: number): number {
  let end = size;
  for (const { inode, from } of copies) {
    end = Math.ceil(end / blockSize) * blockSize;
    direct.lseek(data, end, 0);
    copyData(from.fd, data);
    inode.at = end;
    end += inode.size;
  }
  // The kernel reads whole blocks.
  const whole = Math.ceil(end / blockSize) * blockSize;
  if (whole !== size) direct.ftruncate(data, whole);
  return end;
}

/**
 * Reads a plain archive to its end.
 * @returns the image of metadata; its second device is the archive's file
 * @throws OciboxError INVALID naming the entry that is refused
 */
export function indexLayer(source: ByteSource, options: IndexOptions): Uint8Array<ArrayBuffer> {
  const tree = new Tree(options.lowers);
  try {
    for (let entries = 0; ; entries++) {
      const entry = nextEntry(source);
      if (entry === undefined) break;
      if (entries === mostEntries) throw new OciboxError("INVALID", `the layer has more than ${mostEntries} entries`);
      tree.apply(entry, source.taken);
      source.skip(entry.size);
      finishEntry(source, entry);
    }
    drain(source);
    tree.finish();
    return writeErofs(tree.root, options.uuid, append(tree, options.data, source.taken));
  } finally {
    tree.close();
  }
}
