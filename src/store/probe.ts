/** Which ways of keeping layers work here: each is tried, on the file system of the store. */
import { opaqueAttribute } from "../../ffi/attributes.ts";
import { AT_FDCWD, FSCONFIG, FSOPEN, O, S } from "../../ffi/constants.ts";
import { direct, SyscallError } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc } from "../../ffi/structs.ts";
import { inUserNamespace } from "../../ffi/user.ts";
import { OciboxError, reason } from "../errors.ts";
import { Inode } from "../layer/erofs/inode.ts";
import { mountErofs } from "../layer/erofs/mount.ts";
import { writeErofs } from "../layer/erofs/write.ts";
import { openForWriting, writeAll } from "./disk.ts";
import type { Snapshotter } from "./snapshotter.ts";
import type { Store } from "./store.ts";
import { workspace } from "./temporary.ts";

/** A whiteout and an opaque directory, and an overlay with an upper directory. */
function tryOverlay(place: string): void {
  for (const name of ["lower", "upper", "work"]) direct.mkdirat(AT_FDCWD, `${place}/${name}`, 0o755);
  direct.mknodat(AT_FDCWD, `${place}/lower/gone`, S.S_IFCHR, 0);
  const yes = alloc(1);
  yes[0] = 0x79;
  direct.lsetxattr(`${place}/lower`, opaqueAttribute(), yes, 1, 0);
  // In a directory of its own: a long path does not fit into the string.
  using lower = new OwnedFd(direct.openat(AT_FDCWD, `${place}/lower`, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  using upper = new OwnedFd(direct.openat(AT_FDCWD, `${place}/upper`, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  using work = new OwnedFd(direct.openat(AT_FDCWD, `${place}/work`, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  using fs = new OwnedFd(direct.fsopen("overlay", FSOPEN.FSOPEN_CLOEXEC));
  const set = (key: string, { fd }: OwnedFd): void => {
    direct.fsconfig(fs.fd, FSCONFIG.FSCONFIG_SET_STRING, key, `/proc/self/fd/${fd}`, 0);
  };
  set("lowerdir", lower);
  set("upperdir", upper);
  set("workdir", work);
  if (inUserNamespace()) direct.fsconfig(fs.fd, FSCONFIG.FSCONFIG_SET_FLAG, "userxattr", null, 0);
  direct.fsconfig(fs.fd, FSCONFIG.FSCONFIG_CMD_CREATE, null, null, 0);
}

/** An image of an empty directory. */
function tryErofs(place: string): void {
  direct.mkdirat(AT_FDCWD, `${place}/erofs`, 0o755);
  const root = new Inode("directory");
  root.mode = 0o755;
  root.links = 2;
  for (const [name, bytes] of [
    ["index", writeErofs(root, new Uint8Array(16), 512)],
    ["data", new Uint8Array(512)],
  ] as const) {
    using file = openForWriting(`${place}/erofs/${name}`);
    writeAll(file.fd, bytes);
  }
  mountErofs(`${place}/erofs`)[Symbol.dispose]();
}

function attemptIn(store: Store, work: (place: string) => void): string | undefined {
  using owned = new DisposableStack();
  try {
    work(workspace(store, owned));
    return undefined;
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    return reason(error);
  }
}

/** @returns why a way does not work here; undefined where it does */
export function whyNot(store: Store, kind: Snapshotter): string | undefined {
  if (kind === "copy") return undefined;
  return attemptIn(store, kind === "erofs" ? tryErofs : tryOverlay);
}

/**
 * The way that layers are to be kept in: the one that was asked for, whether it works or not, or the first that works of
 * overlay and copy. EROFS is taken only where it is asked for (docs/decisions.md).
 */
export function preferredSnapshotter(store: Store): Snapshotter {
  return store.snapshotter ?? (whyNot(store, "overlay") === undefined ? "overlay" : "copy");
}

/** The way to keep layers in. @throws OciboxError HOST where the one that was asked for does not work */
export function chooseSnapshotter(store: Store): Snapshotter {
  const kind = preferredSnapshotter(store);
  const why = store.snapshotter === undefined ? undefined : whyNot(store, kind);
  if (why === undefined) return kind;
  throw new OciboxError("HOST", `layers cannot be kept by "${kind}" here: ${why}`, {
    hint:
      kind === "erofs"
        ? "it takes Linux 6.12 or newer and a store that is not on tmpfs; --snapshotter overlay does not"
        : "the file system of the store may not take it: --snapshotter copy works everywhere",
  });
}
