/** What the parts of a plan have in common: the recorder, the container's root, and a few turns of phrase. */
import { AT, MOVE_MOUNT, O, OPEN_TREE, RESOLVE, S } from "../../ffi/constants.ts";
import type { ErrnoName } from "../../ffi/errno.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";

export const moveByFd = MOVE_MOUNT.MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT.MOVE_MOUNT_T_EMPTY_PATH;
export const cloneByFd = OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC | AT.AT_EMPTY_PATH;

/** sizeof(struct clone_args), up to `cgroup` */
export const cloneArgsSize = 88;

/** sizeof(struct open_how) */
export const openHowSize = 24;

/** openat2(2) for a path in the container: symlinks stay inside its root, and /proc's magic ones lead nowhere. */
export function inRoot(flags: number): ReturnType<typeof struct<Slot>> {
  return struct<Slot>("open_how", {
    flags: flags | O.O_PATH | O.O_CLOEXEC,
    resolve: RESOLVE.RESOLVE_IN_ROOT | RESOLVE.RESOLVE_NO_MAGICLINKS,
  });
}

export class Builder {
  readonly p: Recorder;
  /** The container's root, attached. */
  readonly root: Slot | number;
  /** Whether descriptors are closed one by one: not in the child, where close_range(2) takes them all before execve. */
  closes = true;

  constructor(p: Recorder, root: Slot | number) {
    this.p = p;
    this.root = root;
  }

  close(fd: Slot | number): void {
    if (this.closes) this.p.sys.close(fd);
  }

  /** A path of the container's, as an O_PATH descriptor; errnos named are an answer. */
  open(path: string, flags: number, into?: Slot, ...errnos: ErrnoName[]): Slot {
    const relative = path.replace(/^\/+/, "") || ".";
    const { p } = this;
    if (into !== undefined) p.with({ into });
    return p.tolerate(...errnos).openat2(this.root, relative, inRoot(flags), openHowSize);
  }

  /** The same, made where it is not there: directories on the way as 0755, the last as `kind`. */
  ensure(path: string, kind: "directory" | "file"): Slot {
    const { p } = this;
    const target = p.slot("target");
    const missing = p.newLabel(`make ${path}`);
    const found = p.newLabel(`have ${path}`);
    const flags = kind === "directory" ? O.O_DIRECTORY : 0;
    const relative = path.replace(/^\/+/, "") || ".";
    p.with({ into: target }).orElse(missing, "ENOENT").openat2(this.root, relative, inRoot(flags), openHowSize);
    p.jump(found);
    p.place(missing);
    this.#make(relative.split("/"), kind);
    p.with({ into: target }).sys.openat2(this.root, relative, inRoot(flags), openHowSize);
    p.place(found);
    return target;
  }

  #make(parts: readonly string[], kind: "directory" | "file"): void {
    const { p } = this;
    for (let depth = 0; depth < parts.length; depth++) {
      const name = parts[depth] as string;
      const above = depth === 0 ? this.root : this.open(parts.slice(0, depth).join("/"), O.O_DIRECTORY);
      if (depth < parts.length - 1 || kind === "directory") p.tolerate("EEXIST").mkdirat(above, name, 0o755);
      else p.tolerate("EEXIST").mknodat(above, name, S.S_IFREG | 0o644, 0);
      if (depth > 0) this.close(above);
    }
  }

  /** Puts a detached mount where an O_PATH descriptor points. */
  attach(mount: Slot, target: Slot): void {
    this.p.sys.move_mount(mount, "", target, "", moveByFd);
  }

  /** Writes a text to a file that is there. */
  write(dirfd: Slot | number, path: string, text: string, ...openErrnos: ErrnoName[]): void {
    const { p } = this;
    const done = p.newLabel("written");
    const fd =
      openErrnos.length === 0
        ? p.sys.openat(dirfd, path, O.O_WRONLY | O.O_CLOEXEC, 0)
        : p.orElse(done, ...openErrnos).openat(dirfd, path, O.O_WRONLY | O.O_CLOEXEC, 0);
    p.sys.write(fd, text, Buffer.byteLength(text));
    this.close(fd);
    if (openErrnos.length > 0) p.place(done);
  }
}
