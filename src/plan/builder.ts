/** What the parts of a plan have in common: the recorder, the container's root, and a few turns of phrase. */
import { AT, MOVE_MOUNT, O, OPEN_TREE, RESOLVE } from "../../ffi/constants.ts";
import { type ErrnoName, errnoOf } from "../../ffi/errno.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";

/** root.path may be a symlink. */
export const moveToPath = MOVE_MOUNT.MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT.MOVE_MOUNT_T_SYMLINKS;
export const moveByFd = MOVE_MOUNT.MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT.MOVE_MOUNT_T_EMPTY_PATH;
export const cloneByFd = OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC | AT.AT_EMPTY_PATH;

/** sizeof(struct clone_args), up to `cgroup` */
export const cloneArgsSize = 88;

/** sizeof(struct open_how) */
export const openHowSize = 24;

/**
 * openat2(2) for a path in the container: symlinks stay inside its root, and /proc's magic ones lead nowhere.
 * @param resolve more of how it is looked up
 */
export function inRoot(flags: number, resolve = 0): ReturnType<typeof struct<Slot>> {
  return struct<Slot>("open_how", {
    flags: flags | O.O_PATH | O.O_CLOEXEC,
    resolve: resolve | RESOLVE.RESOLVE_IN_ROOT | RESOLVE.RESOLVE_NO_MAGICLINKS,
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
    const into = this.p.slot("target");
    this.p.add({ op: "ensure", root: this.root, path: path.replace(/^\/+/, "") || ".", kind, into });
    return into;
  }

  /** A directory of the container's that no symlink leads to, made where it is not there. @param says where there is one */
  ensurePlain(path: string, says: string): Slot {
    const { p } = this;
    const plain = p.newLabel(`${path} is no link`);
    const how = inRoot(O.O_DIRECTORY, RESOLVE.RESOLVE_NO_SYMLINKS);
    const found = p.tolerate("ENOENT", "ELOOP").openat2(this.root, path.replace(/^\/+/, ""), how, openHowSize);
    p.branch(found, "!=", -errnoOf("ELOOP"), plain);
    p.add({ op: "fail", errno: found, says, blame: "ocibox" });
    p.place(plain);
    return this.ensure(path, "directory");
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

  /** The same of a file system's own file, whatever is mounted upon it. */
  writeOwn(dirfd: Slot, path: string, text: string): void {
    const how = struct<Slot>("open_how", { flags: O.O_WRONLY | O.O_CLOEXEC, resolve: RESOLVE.RESOLVE_NO_XDEV });
    const fd = this.p.sys.openat2(dirfd, path, how, openHowSize);
    this.p.sys.write(fd, text, Buffer.byteLength(text));
    this.close(fd);
  }
}
