/**
 * Sources of bind mounts that the parent opens, whose rights it takes: those of a container with a user namespace, and
 * such with mounts[].uidMappings, gidMappings or the options idmap, ridmap, whose files have other owners in the container.
 * The kernel takes the mapping from a user namespace, for which a process is made that does nothing in it; mount_setattr(2),
 * "ID-mapped mounts".
 */
import { AT, AT_FDCWD, CLONE, MOUNT_ATTR, O, OPEN_TREE, P_PIDFD, SIG, WEXITED } from "../../ffi/constants.ts";
import type { Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import type { IdMapping, Mount, Spec } from "../spec/runtime.ts";
import { type Builder, cloneArgsSize } from "./builder.ts";
import type { PlanContext } from "./context.ts";
import { madeByRoot, namespacesOf, writeMaps } from "./namespaces.ts";
import { readMountOptions } from "./options.ts";
import { socketPair } from "./sync.ts";

const mountAttrSize = 32;
const cloneTree = OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC;

interface Maps {
  readonly uidMappings: readonly IdMapping[];
  readonly gidMappings: readonly IdMapping[];
}

/**
 * config.md#mounts: the mount's own, or with the option alone the container's. @returns the path of a user namespace where
 * the container joins one: its mappings are that one's
 */
function mapsOf(mount: Mount, spec: Spec, index: number): Maps | string {
  const { uidMappings = [], gidMappings = [] } = mount;
  if (uidMappings.length > 0 || gidMappings.length > 0) {
    if (uidMappings.length === 0 || gidMappings.length === 0)
      throw new OciboxError("INVALID", `mounts[${index}]: uidMappings and gidMappings go together`);
    return { uidMappings, gidMappings };
  }
  const joined = namespacesOf(spec).pathOf("user");
  if (joined !== undefined) return joined;
  const own = { uidMappings: spec.linux?.uidMappings ?? [], gidMappings: spec.linux?.gidMappings ?? [] };
  if (own.uidMappings.length === 0 || own.gidMappings.length === 0)
    throw new OciboxError(
      "INVALID",
      `mounts[${index}].options: idmap wants mappings, and the container has none either`,
    );
  return own;
}

/** A user namespace with these mappings. @returns a descriptor of it */
function namespaceWith(b: Builder, maps: Maps, field: string): Slot {
  const { p } = b;
  const inside = p.newLabel("in the namespace");
  const outside = p.newLabel("outside of it");
  const [own, its] = socketPair(p, "mapping");
  const memory = p.memory("mapping.pidfd", 8);
  const pid = p.sys.clone3(
    struct<Slot>("clone_args", {
      flags: BigInt(CLONE.CLONE_NEWUSER | CLONE.CLONE_PIDFD),
      pidfd: memory,
      exit_signal: SIG.SIGCHLD,
    }),
    cloneArgsSize,
  );
  p.branch(pid, "==", 0, inside);
  p.jump(outside);
  p.place(inside);
  // It ends when the parent closes its end, by itself or by ending.
  p.sys.close(own);
  p.tolerate("ECONNRESET", "EPIPE").read(its, p.memory("mapping.nothing", 8), 1);
  p.add({ op: "exit", code: 0 });
  p.place(outside);
  const pidfd = p.slot("mapping.pidfd");
  p.add({ op: "load", memory, offset: 0, slot: pidfd });
  p.sys.close(its);
  writeMaps(b, pid, maps, true);
  p.field(field);
  const namespace = p.sys.openat(AT_FDCWD, p.text`/proc/${pid}/ns/user`, O.O_RDONLY | O.O_CLOEXEC, 0);
  p.sys.close(own);
  p.tolerate("ECHILD").waitid(P_PIDFD, pidfd, null, WEXITED, null);
  p.sys.close(pidfd);
  return namespace;
}

/** Below the container's root are mounts that are still to be made. */
function outsideOf(rootfs: PlanContext["rootfs"], source: string): boolean {
  return typeof rootfs !== "string" || (source !== rootfs && !source.startsWith(`${rootfs}/`));
}

/**
 * The sources of bind mounts that the child could not open, or must not: such with mapped ids, and in a user namespace all
 * of them, for the root of it may not go through the host's directories.
 * @returns detached trees, by the index of their mount @throws OciboxError INVALID
 */
export function openSources(b: Builder, spec: Spec, context: PlanContext): ReadonlyMap<number, Slot> {
  const inherited = madeByRoot(namespacesOf(spec), context);

  const { p } = b;
  const opened = new Map<number, Slot>();
  const made = new Map<string, Slot>();
  (spec.mounts ?? []).forEach((mount, index) => {
    const { idmap, bind, remount } = readMountOptions(mount.options ?? []);
    const asked = idmap !== "no" || (mount.uidMappings ?? []).length > 0 || (mount.gidMappings ?? []).length > 0;
    const field = `mounts[${index}], ${mount.destination}`;
    const recursive = bind === "rbind" ? AT.AT_RECURSIVE : 0;
    const source = mount.source ?? "";
    if (!asked) {
      if (!inherited || remount || (bind === "no" && mount.type !== "bind") || !outsideOf(context.rootfs, source))
        return;
      p.field(field);
      opened.set(index, p.sys.open_tree(AT_FDCWD, source, cloneTree | recursive));
      return;
    }
    if (bind === "no" && mount.type !== "bind")
      throw new OciboxError("UNSUPPORTED", `mounts[${index}]: ids are mapped for bind mounts alone`);
    const maps = mapsOf(mount, spec, index);
    p.field(field);
    const key = JSON.stringify(maps);
    let namespace = made.get(key);
    if (namespace === undefined) {
      namespace =
        typeof maps === "string"
          ? p.sys.openat(AT_FDCWD, maps, O.O_RDONLY | O.O_CLOEXEC, 0)
          : namespaceWith(b, maps, field);
      made.set(key, namespace);
    }
    const tree = p.sys.open_tree(AT_FDCWD, source, cloneTree | recursive);
    const attr = struct<Slot>("mount_attr", { attr_set: MOUNT_ATTR.MOUNT_ATTR_IDMAP, userns_fd: namespace });
    const below = idmap === "ridmap" ? AT.AT_RECURSIVE : 0;
    p.sys.mount_setattr(tree, "", AT.AT_EMPTY_PATH | below, attr, mountAttrSize);
    opened.set(index, tree);
  });
  return opened;
}
