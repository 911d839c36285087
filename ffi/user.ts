/** Who this process runs as. */
import { AT_FDCWD } from "./constants.ts";
import { attempt } from "./direct.ts";
import { readText } from "./files.ts";
import { alloc, readField } from "./structs.ts";

/** geteuid(2), as Bun asks for it, which is quicker than a call of our own. */
export function effectiveUid(): number {
  return (process.geteuid as () => number)();
}

const STATX_INO = 0x100;
/** The first user namespace has the same number on every machine: include/linux/proc_ns.h, PROC_USER_INIT_INO. */
const firstUserNamespace = 0xef_ff_ff_fd;
let inside: boolean | undefined;

/** Whether root here is only so in a user namespace: what the host's root may do is not to be had then. */
export function inUserNamespace(): boolean {
  if (inside !== undefined) return inside;
  const stat = alloc(256);
  inside =
    attempt("statx", AT_FDCWD, "/proc/self/ns/user", 0, STATX_INO, stat) >= 0 &&
    readField("statx", stat, "stx_ino") !== firstUserNamespace;
  return inside;
}

/** Ids of a user namespace: `size` from `first` on are the host's from `host` on. */
export interface IdRow {
  readonly first: number;
  readonly host: number;
  readonly size: number;
}

/** /proc/self/uid_map or gid_map: user_namespaces(7) */
export function idRows(file: "uid_map" | "gid_map"): readonly IdRow[] {
  const rows: IdRow[] = [];
  for (const line of (readText(`/proc/self/${file}`) ?? "").split("\n")) {
    const [first, host, size] = line.trim().split(/\s+/).map(Number);
    if (first !== undefined && host !== undefined && size !== undefined) rows.push({ first, host, size });
  }
  return rows;
}

/** Whether an id is one that a file can belong to here. */
export function isMapped(rows: readonly IdRow[], id: number): boolean {
  return rows.some(({ first, size }) => id >= first && id < first + size);
}

/** Whom a file can be given to, where all others' are root's. */
export interface Owners {
  uid(id: number): number;
  gid(id: number): number;
}

/** Those of this process's user namespace; everybody in the first one. */
export function ownersHere(): Owners {
  if (!inUserNamespace()) return { uid: (id) => id, gid: (id) => id };
  const [uids, gids] = [idRows("uid_map"), idRows("gid_map")];
  return { uid: (id) => (isMapped(uids, id) ? id : 0), gid: (id) => (isMapped(gids, id) ? id : 0) };
}
