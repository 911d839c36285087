/**
 * A layer's tree in memory, made of its archive's headers: nothing is unpacked, files are where their bytes stand in the
 * plain archive. Its rules are those of `apply.ts`, which makes the same of the same entries on a disk.
 */
import { type Attributes, readAttributes } from "../../../ffi/attributes.ts";
import { withoutFtl } from "../../../ffi/compile.ts";
import { AT } from "../../../ffi/constants.ts";
import { direct } from "../../../ffi/direct.ts";
import type { OwnedFd } from "../../../ffi/fd.ts";
import { alloc, readField } from "../../../ffi/structs.ts";
import {
  checkDevice,
  components,
  hiddenBy,
  isLeftOut,
  isPlain,
  partsOf,
  refuse,
  whiteoutPrefix,
} from "../entry-name.ts";
import { attributesBelow, fileBelow, liesUpon } from "../implied.ts";
import type { TarEntry } from "../tar.ts";
import { Inode } from "./inode.ts";

const mostLinks = 40;
const nothing: Attributes = { mode: 0o755, uid: 0, gid: 0, seconds: 0, nanoseconds: 0, xattrs: new Map() };

interface Place {
  readonly parent: Inode;
  readonly base: string;
  readonly path: string;
}

/** A file of a lower layer that a hard link of this one leads to: its bytes are put behind the archive. */
export interface CopyUp {
  readonly inode: Inode;
  /** Open for reading. */
  readonly from: OwnedFd;
}

function attributesOf(entry: TarEntry): Attributes {
  let { xattrs } = entry;
  if (xattrs.size > 0) xattrs = new Map([...xattrs].filter(([name]) => !isLeftOut(name, entry.type)));
  return {
    mode: entry.mode,
    uid: entry.uid,
    gid: entry.gid,
    seconds: entry.mtime.seconds,
    nanoseconds: entry.mtime.nanoseconds,
    xattrs,
  };
}

export class Tree {
  readonly root = new Inode("directory");
  readonly copies: CopyUp[] = [];
  /** Directories by the names that the archive has for them; all of it is forgotten when a name goes. */
  readonly #known = new Map<string, Inode>();
  /** The directory that the entry before was in, by the archive's name: archives go through them one by one. */
  #last: { readonly above: string; readonly inode: Inode } | undefined;

  /** @param lowers the layers below, the uppermost first: paths of directories; asked for only where they are needed */
  constructor(readonly lowers: () => readonly string[]) {
    withoutFtl(this.apply, this.#applyAny, this.#take, this.#put, this.#add, this.#makeDirectory, this.#describe);
    withoutFtl(this.#link, this.#directory, this.#follow, this.#attached);
    this.root.implied = true;
    this.root.take(nothing);
    this.root.links = 2;
  }

  #forget(): void {
    this.#known.clear();
    this.#last = undefined;
  }

  /** The directory of a path, made with those above it where the archive has not named them. */
  #directory(parts: readonly string[], count: number): Inode {
    if (count === 0) return this.root;
    const path = count === 1 ? (parts[0] as string) : parts.slice(0, count).join("/");
    const known = this.#known.get(path);
    if (known !== undefined) return known;
    const above = this.#directory(parts, count - 1);
    const name = parts[count - 1] as string;
    let found = above.children?.get(name);
    if (found === undefined) {
      found = this.#add(above, name, new Inode("directory"));
      found.take(nothing);
      found.implied = true;
    }
    // In the place of what a whiteout of this layer hides: nothing of that is seen again.
    if (found.kind === "whiteout") {
      this.#remove(above, name, found);
      found = this.#add(above, name, new Inode("directory"));
      found.take(nothing);
      found.opaque = true;
    }
    // A symlink of this layer where a directory is meant: it is followed inside the layer, and nowhere else.
    if (found.kind === "symlink") found = this.#follow(parts.slice(0, count));
    if (found?.kind !== "directory") refuse(path, "which is not a directory, as the way to another entry");
    this.#known.set(path, found);
    return found;
  }

  /** As openat2(2) with RESOLVE_IN_ROOT. */
  #follow(parts: readonly string[]): Inode | undefined {
    const left = [...parts];
    let at: Inode = this.root;
    for (let links = 0; left.length > 0; ) {
      const part = left.shift() as string;
      if (part === "" || part === ".") continue;
      if (part === "..") {
        at = at.parent ?? this.root;
        continue;
      }
      const next: Inode | undefined = at.children?.get(part);
      if (next?.kind !== "symlink") {
        if (next?.kind !== "directory") return undefined;
        at = next;
        continue;
      }
      if (++links > mostLinks) return undefined;
      if (next.target.startsWith("/")) at = this.root;
      left.unshift(...next.target.split("/"));
    }
    return at;
  }

  #add(parent: Inode, name: string, inode: Inode): Inode {
    parent.children?.set(name, inode);
    if (inode.kind === "directory") {
      inode.parent = parent;
      inode.links = 2;
      parent.links++;
    } else inode.links++;
    return inode;
  }

  #remove(parent: Inode, name: string, inode: Inode): void {
    parent.children?.delete(name);
    this.#forget();
    if (inode.kind !== "directory") {
      inode.links--;
      return;
    }
    parent.links--;
    const stack = [inode];
    for (let each = stack.pop(); each !== undefined; each = stack.pop())
      for (const child of each.children?.values() ?? [])
        if (child.kind === "directory") stack.push(child);
        else child.links--;
  }

  /** Gives something a name; what had it goes. */
  #put({ parent, base }: Place, inode: Inode): void {
    const was = parent.children?.get(base);
    if (was !== undefined) this.#remove(parent, base, was);
    this.#add(parent, base, inode);
  }

  #makeDirectory({ parent, base }: Place, entry: TarEntry): void {
    const was = parent.children?.get(base);
    let inode = was;
    if (inode?.kind !== "directory") {
      if (was !== undefined) this.#remove(parent, base, was);
      inode = this.#add(parent, base, new Inode("directory"));
      // What was there before hid what lower layers have, and that does not come back.
      inode.opaque = was !== undefined;
    }
    this.#describe(inode, entry);
  }

  #describe(inode: Inode, entry: TarEntry): void {
    const before = inode.implied ? undefined : inode.xattrs;
    inode.take(attributesOf(entry));
    inode.implied = false;
    if (before !== undefined && before.size > 0) inode.xattrs = new Map([...before, ...inode.xattrs]);
  }

  #link(place: Place, entry: TarEntry): void {
    const parts = components(entry.linkname);
    const base = parts.at(-1);
    if (base === undefined) refuse(entry.linkname, "which names no file");
    const target: Place = { parent: this.#directory(parts, parts.length - 1), base, path: parts.join("/") };
    if (target.parent === place.parent && base === place.base) refuse(entry.name, "a hard link to itself");
    const inode = target.parent.children?.get(base) ?? this.#copyUp(target, entry);
    if (inode.kind === "directory") refuse(entry.name, "a hard link to a directory");
    if (inode.kind === "whiteout") refuse(entry.name, "a hard link to what the layer hides");
    const was = place.parent.children?.get(place.base);
    if (was === inode) return;
    this.#put(place, inode);
    if (was?.kind === "directory" && (target.parent.children?.get(base) !== inode || !this.#attached(target.parent)))
      refuse(entry.name, "a hard link in the place of what it leads to");
  }

  #attached(inode: Inode): boolean {
    let at = inode;
    for (let above = at.parent; above !== undefined; above = at.parent) {
      let found = false;
      for (const child of above.children?.values() ?? []) found ||= child === at;
      if (!found) return false;
      at = above;
    }
    return at === this.root;
  }

  /** A hard link to a file of a lower layer: the file becomes one of this layer, as overlay does when it is written. */
  #copyUp(target: Place, entry: TarEntry): Inode {
    const above = namesOf(target.parent);
    const from = above === undefined ? undefined : fileBelow([...above, target.base], this.lowers());
    if (from === undefined)
      refuse(
        entry.name,
        `a hard link to ${JSON.stringify(entry.linkname)}, which is a file of neither this layer nor one below`,
      );
    const inode = fileOf(from);
    this.copies.push({ inode, from });
    return this.#add(target.parent, target.base, inode);
  }

  #whiteout(entry: TarEntry, parts: readonly string[]): void {
    const parent = this.#directory(parts, parts.length - 1);
    const hidden = hiddenBy(entry, parts.at(-1) as string);
    if (hidden === undefined) return;
    if (hidden === true) {
      parent.opaque = true;
      return;
    }
    // It hides what lower layers have, never what this one has, before it or behind it.
    const was = parent.children?.get(hidden);
    if (was === undefined) this.#add(parent, hidden, new Inode("whiteout"));
    else was.opaque = true;
  }

  /**
   * Takes one entry of the archive.
   * @param at where a file's bytes begin in the plain archive
   */
  apply(entry: TarEntry, at: number): void {
    const { above, base } = partsOf(entry.name);
    if (this.#last?.above === above && isPlain(base)) this.#take(entry, at, this.#last.inode, base);
    else this.#applyAny(entry, at);
  }

  #applyAny(entry: TarEntry, at: number): void {
    const parts = components(entry.name);
    const base = parts.at(-1);
    if (base === undefined) {
      if (entry.type !== "directory") refuse(entry.name, "which names no file");
      this.#describe(this.root, entry);
      return;
    }
    for (const part of parts.slice(0, -1))
      if (part.startsWith(whiteoutPrefix)) refuse(entry.name, "an entry inside a whiteout");
    if (base.startsWith(whiteoutPrefix)) {
      this.#whiteout(entry, parts);
      return;
    }
    const inode = this.#directory(parts, parts.length - 1);
    const simple = partsOf(entry.name);
    this.#last = simple.base === base ? { above: simple.above, inode } : undefined;
    this.#take(entry, at, inode, base);
  }

  #take(entry: TarEntry, at: number, parent: Inode, base: string): void {
    const place: Place = { parent, base, path: entry.name };
    if (entry.type === "directory") this.#makeDirectory(place, entry);
    else if (entry.type === "link") this.#link(place, entry);
    else this.#put(place, made(entry, at));
  }

  /** What the archive has not said of its directories, from the layers below. */
  finish(): void {
    let lowers: readonly string[] | undefined;
    const stack: { inode: Inode; parts: readonly string[]; covered: boolean }[] = [
      { inode: this.root, parts: [], covered: false },
    ];
    for (let each = stack.pop(); each !== undefined; each = stack.pop()) {
      const { inode, parts, covered } = each;
      if (inode.implied) {
        lowers ??= this.lowers();
        const found = covered ? undefined : attributesBelow(parts, lowers);
        inode.take(found ?? nothing);
      }
      // Whiteouts in a directory that lies upon none of those below hide nothing: overlay would show their names.
      const whiteouts = [...(inode.children ?? [])].filter(([, child]) => child.kind === "whiteout");
      if (whiteouts.length > 0) {
        lowers ??= this.lowers();
        const idle = covered || inode.opaque || !liesUpon(parts, lowers);
        if (idle) for (const [name, child] of whiteouts) this.#remove(inode, name, child);
      }
      for (const [name, child] of inode.children ?? [])
        if (child.kind === "directory")
          stack.push({ inode: child, parts: [...parts, name], covered: covered || inode.opaque });
    }
  }

  close(): void {
    for (const { from } of this.copies) from[Symbol.dispose]();
  }
}

function made(entry: TarEntry, at: number): Inode {
  if (entry.type === "link" || entry.type === "directory") throw new TypeError(entry.type);
  const inode = new Inode(entry.type);
  inode.take(attributesOf(entry));
  if (entry.type === "file") {
    inode.size = entry.size;
    inode.at = at;
  } else if (entry.type === "symlink") {
    if (entry.linkname === "" || entry.linkname.includes("\0")) refuse(entry.name, "a symlink to nothing");
    if (entry.linkname.length > 4095) refuse(entry.name, "a symlink to a name of more than 4095 bytes");
    inode.target = entry.linkname;
    inode.mode = 0o777;
  } else {
    checkDevice(entry);
    inode.major = entry.major;
    inode.minor = entry.minor;
  }
  return inode;
}

/** A directory's name with no symlink in it; undefined where nothing of layers below is seen in it, or it has none. */
function namesOf(directory: Inode): string[] | undefined {
  const names: string[] = [];
  for (let at = directory; ; at = at.parent) {
    if (at.opaque) return undefined;
    if (at.parent === undefined) return names;
    const own = [...(at.parent.children ?? [])].find(([, child]) => child === at);
    if (own === undefined) return undefined;
    names.unshift(own[0]);
  }
}

/** A lower layer's file, but for where its bytes will be. */
function fileOf({ fd }: OwnedFd): Inode {
  const stat = alloc(256);
  direct.statx(fd, "", AT.AT_EMPTY_PATH, 0x201, stat);
  const inode = new Inode("file");
  inode.take(readAttributes(fd));
  inode.size = readField("statx", stat, "stx_size");
  return inode;
}

withoutFtl(made, attributesOf, Inode.prototype.take);
