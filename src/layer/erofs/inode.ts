/** What an EROFS image is made of, in memory, before it is written. */
import type { Attributes } from "../../../ffi/attributes.ts";

type Kind = "file" | "directory" | "symlink" | "char" | "block" | "fifo" | "whiteout";

const none: ReadonlyMap<string, Uint8Array> = new Map();

export class Inode implements Attributes {
  mode = 0;
  uid = 0;
  gid = 0;
  seconds = 0;
  nanoseconds = 0;
  xattrs = none;
  /** Names that it has. */
  links = 0;
  /** A file's bytes, and where they begin in the data device. */
  size = 0;
  at = 0;
  major = 0;
  minor = 0;
  /** Where a symlink leads, a byte a character. */
  target = "";
  /** A directory's names, a byte a character. */
  readonly children: Map<string, Inode> | undefined;
  parent: Inode | undefined;
  /** A directory that is there because of what is in it: the archive has not said how it is. */
  implied = false;
  /** Nothing of lower layers is seen in it. */
  opaque = false;
  /** Where it is in the image: in units of 32 bytes. Set when it is written. */
  nid = 0;

  constructor(readonly kind: Kind) {
    this.children = kind === "directory" ? new Map() : undefined;
  }

  take({ mode, uid, gid, seconds, nanoseconds, xattrs }: Attributes): void {
    this.mode = mode;
    this.uid = uid;
    this.gid = gid;
    this.seconds = seconds;
    this.nanoseconds = nanoseconds;
    this.xattrs = xattrs;
  }
}
