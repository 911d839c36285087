/** A bundle on disk, and what a plan must know of the host because of it. runtime-spec, bundle.md */
import { AT_FDCWD, O, S } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { namesIn, readText } from "../../ffi/files.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { OciboxError } from "../errors.ts";
import type { CopyUpEntry } from "../plan/devices.ts";
import type { NamespaceType, Spec } from "../spec/runtime.ts";
import { readInRoot } from "./read-in-root.ts";

const mostConfig = 16 << 20;
const mostPasswd = 4 << 20;

export interface Bundle {
  readonly directory: string;
  readonly spec: Spec;
  /** config.json as it is. */
  readonly text: string;
  /** root.path, absolute. */
  readonly rootfs: string;
}

export function absolutePath(path: string, base: string): string {
  const full = path.startsWith("/") ? path : `${base}/${path}`;
  const parts: string[] = [];
  for (const part of full.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}

function kindOf(path: string): "directory" | "file" | undefined {
  const stat = alloc(256);
  if (attempt("statx", AT_FDCWD, path, 0, 1, stat) < 0) return undefined;
  return (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFDIR ? "directory" : "file";
}

/** @param config the file @throws OciboxError naming it */
export function readConfig(config: string): string {
  const text = readText(config, mostConfig);
  if (text === undefined) throw new OciboxError("NOT_FOUND", `JSON specification file ${config} not found`);
  return text;
}

/** @param text its config.json, and what it says @throws OciboxError naming the path, or the field of config.json */
export function bundleOf(directory: string, text: string, spec: Spec): Bundle {
  const path = spec.root?.path ?? "";
  if (path === "") throw new OciboxError("INVALID", "root.path is empty");
  const rootfs = absolutePath(path, directory);
  if (kindOf(rootfs) !== "directory")
    throw new OciboxError("NOT_FOUND", `root.path: the directory "${rootfs}" is not there: no such file or directory`);
  return { directory, spec, text, rootfs };
}

/** What each bind's source is; the plan cannot look. One that is not there is told by the kernel when it is mounted. */
export function sourceKinds({ mounts = [] }: Spec): (readonly [path: string, kind: "directory" | "file"])[] {
  const kinds: (readonly [path: string, kind: "directory" | "file"])[] = [];
  for (const { type, source, options = [] } of mounts) {
    const binds = type === "bind" || options.includes("bind") || options.includes("rbind");
    const kind = binds && source !== undefined ? kindOf(source) : undefined;
    if (kind !== undefined) kinds.push([source as string, kind]);
  }
  return kinds;
}

const mostCopied = 4096;

function entriesBelow(root: string, relative: string, found: CopyUpEntry[]): void {
  for (const name of namesIn(`${root}/${relative}`).sort()) {
    if (found.length >= mostCopied)
      throw new OciboxError("UNSUPPORTED", `tmpcopyup: there is more than ${mostCopied} entries under "${root}"`);
    const path = relative === "" ? name : `${relative}/${name}`;
    const stat = alloc(256);
    direct.statx(AT_FDCWD, `${root}/${path}`, 0x100, 0x7ff, stat);
    const mode = readField("statx", stat, "stx_mode");
    const kind = mode & S.S_IFMT;
    if (kind !== S.S_IFREG && kind !== S.S_IFDIR && kind !== S.S_IFLNK) continue;
    const common = {
      path,
      mode,
      uid: readField("statx", stat, "stx_uid"),
      gid: readField("statx", stat, "stx_gid"),
      size: kind === S.S_IFREG ? readField("statx", stat, "stx_size") : 0,
    };
    if (kind === S.S_IFLNK) {
      const target = alloc(4096);
      const length = direct.readlinkat(AT_FDCWD, `${root}/${path}`, target, 4096);
      found.push({ ...common, target: new TextDecoder().decode(target.subarray(0, length)) });
    } else found.push(common);
    if (kind === S.S_IFDIR) entriesBelow(root, path, found);
  }
}

/** What tmpcopyup finds, for the plan to copy. */
export function copyUps(
  spec: Spec,
  rootfs: string,
): (readonly [destination: string, entries: readonly CopyUpEntry[]])[] {
  const found: (readonly [string, readonly CopyUpEntry[]])[] = [];
  for (const { type, options, destination } of spec.mounts ?? []) {
    if (type !== "tmpfs" || options?.includes("tmpcopyup") !== true) continue;
    const entries = entriesOf(rootfs, destination);
    if (entries !== undefined) found.push([destination, entries]);
  }
  return found;
}

/** What is in a directory of the tree; undefined where there is none. */
function entriesOf(rootfs: string, destination: string): CopyUpEntry[] | undefined {
  using root = new OwnedFd(direct.openat(AT_FDCWD, rootfs, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  // Inside the root, whatever links lead there: the plan looks in the same way.
  using directory = openInRoot(root.fd, destination);
  if (directory === undefined) return undefined;
  const entries: CopyUpEntry[] = [];
  entriesBelow(`/proc/self/fd/${directory.fd}`, "", entries);
  return entries;
}

function openInRoot(root: number, path: string): OwnedFd | undefined {
  const how = { layout: "open_how" as const, fields: { flags: O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, resolve: 0x12 } };
  const fd = attempt("openat2", root, path.replace(/^\/+/, "") || ".", how, 24);
  return fd < 0 ? undefined : new OwnedFd(fd);
}

/** Of what is given twice, the last: which of them a program would see is up to its library. */
function lastOfEach(env: readonly string[]): string[] {
  const names = new Set<string>();
  const last: string[] = [];
  for (let at = env.length - 1; at >= 0; at--) {
    const each = env[at] as string;
    const name = each.slice(0, Math.max(each.indexOf("="), 0)) || each;
    if (names.has(name)) continue;
    names.add(name);
    last.push(each);
  }
  return last.reverse();
}

/** Whether the configuration names a namespace of a kind, a new one or by a path. */
export function hasNamespace(spec: Spec, kind: NamespaceType): boolean {
  for (const { type } of spec.linux?.namespaces ?? []) if (type === kind) return true;
  return false;
}

/** Whether the container has a mount namespace that is not the runtime's. */
export function hasOwnMounts(spec: Spec): boolean {
  return hasNamespace(spec, "mount");
}

/**
 * The environment with each variable once, and with HOME, where the configuration has none or an empty one: the user's,
 * by the container's own passwd. As runc has it.
 */
export function withHome(spec: Spec, rootfs: string): Spec {
  const { process } = spec;
  if (process === undefined) return spec;
  const env: string[] = [];
  let hasHome = false;
  for (const each of lastOfEach(process.env ?? [])) {
    if (each === "HOME=") continue;
    if (each.startsWith("HOME=")) hasHome = true;
    env.push(each);
  }
  if (!hasHome) {
    using root = new OwnedFd(direct.openat(AT_FDCWD, rootfs, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
    env.push(`HOME=${homeOf(root.fd, process.user.uid)}`);
  }
  return { ...spec, process: { ...process, env } };
}

/** The home directory of a user, "/" where the passwd file does not say. */
function homeOf(root: number, uid: number): string {
  let text = "";
  try {
    text = new TextDecoder().decode(readInRoot(root, "etc/passwd", mostPasswd) ?? new Uint8Array());
  } catch (error) {
    if (!(error instanceof OciboxError)) throw error;
  }
  for (const line of text.split("\n")) {
    const fields = line.split(":");
    if (fields[2] === String(uid) && (fields[5] ?? "").startsWith("/")) return fields[5] as string;
  }
  return "/";
}
