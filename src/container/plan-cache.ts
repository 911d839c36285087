/**
 * Compiled plans, kept. What a container is set up by depends on the image, the options, this machine and this program;
 * its arguments, its environment and its id do not change a single step of it. So the encoded set-up of a container is
 * kept under ROOT/plans by a hash of all that it depends on, and the next container of the same kind takes it: its id
 * is written over the old one, and the command's own steps are added. docs/decisions.md has what that saves.
 *
 * What is kept runs as root. It is taken only from files and directories that nobody else can write.
 */
import { AT, AT_FDCWD, O, S } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { dataOfPart, type EncodedPart } from "../../ffi/encode.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn } from "../../ffi/files.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import type { RunOptions } from "../bundle/command.ts";
import type { HostFacts } from "../plan/facts.ts";
import type { ChainId, Digest } from "../spec/digest.ts";
import type { ContainerDefaults } from "../spec/image.ts";
import type { Spec } from "../spec/runtime.ts";
import type { ContainerId } from "./state.ts";

/** All that a container's set-up depends on. */
export interface PlanKey {
  /** With the store's index, which is in the name by its inode and time, this says which image. */
  readonly imageName: string;
  readonly platform: string | undefined;
  readonly options: RunOptions;
  readonly facts: HostFacts;
  readonly interactive: boolean;
  readonly init: boolean;
  readonly autoRemove: boolean;
  readonly root: string;
  readonly state: string;
  /** What each volume's source is. */
  readonly kinds: readonly string[];
}

/** A set-up that was compiled before. */
export interface KeptPlan {
  /** The container that it was compiled for: its id stands in the texts. */
  readonly id: ContainerId;
  readonly digest: Digest;
  readonly layers: readonly ChainId[];
  readonly image: Pick<ContainerDefaults, "Entrypoint" | "Cmd" | "Env">;
  readonly home: string;
  /** config.json without arguments and environment. */
  readonly spec: string;
  readonly part: EncodedPart;
  /** Where in the part's data the id stands, in full, and as the short form that is the host name. */
  readonly places: { readonly full: readonly number[]; readonly short: readonly number[] };
}

const mostKept = 64;
const mostBytes = 4 << 20;
const headBytes = 16;
const shortId = 12;
const utf8 = new TextEncoder();

function identity(path: string): string | undefined {
  const stat = alloc(256);
  if (attempt("statx", AT_FDCWD, path, 0, 0xfff, stat) < 0) return undefined;
  const fields = ["stx_dev_major", "stx_dev_minor", "stx_ino", "stx_size", "stx_mtime_sec", "stx_mtime_nsec"] as const;
  return fields.map((name) => readField("statx", stat, name)).join(" ");
}

/** Whether a file or directory is ours, and only ours to write. */
function isOurs(fd: number, kind: number): boolean {
  const stat = alloc(256);
  if (attempt("statx", fd, "", AT.AT_EMPTY_PATH, 0xfff, stat) < 0) return false;
  const mode = readField("statx", stat, "stx_mode");
  return (
    (mode & S.S_IFMT) === kind && (mode & 0o022) === 0 && readField("statx", stat, "stx_uid") === attempt("geteuid")
  );
}

/** The name that a plan is kept by, or undefined where this program cannot tell which it is. */
export function keyName(key: PlanKey): string | undefined {
  const program = identity("/proc/self/exe");
  const index = identity(`${key.root}/image/index.json`);
  if (program === undefined || index === undefined) return undefined;
  // Everything but what is added to a kept plan: a new option is part of the key without being named here.
  const { command, entrypoint, env, ...options } = key.options;
  const text = JSON.stringify({ ...key, options, program, index });
  return new Bun.CryptoHasher("sha256").update(text).digest("hex");
}

/** Opens ROOT/plans where it and ROOT are ours. */
function openKept(root: string): OwnedFd | undefined {
  const flags = O.O_PATH | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC;
  const above = attempt("openat", AT_FDCWD, root, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  if (above < 0) return undefined;
  using directory = new OwnedFd(above);
  if (!isOurs(directory.fd, S.S_IFDIR)) return undefined;
  const fd = attempt("openat", directory.fd, "plans", flags, 0);
  if (fd < 0) return undefined;
  const plans = new OwnedFd(fd);
  if (isOurs(plans.fd, S.S_IFDIR)) return plans;
  plans[Symbol.dispose]();
  return undefined;
}

function readOwn(directory: OwnedFd, name: string): Uint8Array<ArrayBuffer> | undefined {
  const fd = attempt("openat", directory.fd, name, O.O_RDONLY | O.O_NOFOLLOW | O.O_NONBLOCK | O.O_CLOEXEC, 0);
  if (fd < 0) return undefined;
  using file = new OwnedFd(fd);
  if (!isOurs(file.fd, S.S_IFREG)) return undefined;
  const stat = alloc(256);
  if (attempt("statx", file.fd, "", AT.AT_EMPTY_PATH, 0xfff, stat) < 0) return undefined;
  const size = readField("statx", stat, "stx_size");
  if (size < headBytes || size > mostBytes) return undefined;
  const bytes = new Uint8Array(new ArrayBuffer(size));
  return attempt("read", file.fd, bytes, size) === size ? bytes : undefined;
}

/** A kept plan, or undefined where there is none, or where a crash has left half of one. */
export function recall(root: string, name: string): KeptPlan | undefined {
  using directory = openKept(root);
  if (directory === undefined) return undefined;
  const bytes = readOwn(directory, name);
  if (bytes === undefined) return undefined;
  const head = new DataView(bytes.buffer);
  const rest = bytes.subarray(headBytes);
  if (head.getBigUint64(0, true) !== BigInt(Bun.hash(rest))) return undefined;
  const length = head.getUint32(8, true);
  const text = new TextDecoder().decode(rest.subarray(0, length));
  const kept = JSON.parse(text) as Omit<KeptPlan, "part">;
  return { ...kept, part: rest.slice(length) as EncodedPart };
}

const noCommand = '"args":["\\u0001"],"env":["\\u0001"]';

/** config.json with arguments and environment left out, to be put in by `specOf`. */
export function specTemplate(spec: Spec): string {
  return JSON.stringify({ ...spec, process: { ...spec.process, args: ["\u0001"], env: ["\u0001"] } });
}

function placesOf(part: EncodedPart, id: ContainerId): KeptPlan["places"] {
  const data = dataOfPart(part);
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const full: number[] = [];
  const short: number[] = [];
  for (let at = bytes.indexOf(id.slice(0, shortId)); at >= 0; at = bytes.indexOf(id.slice(0, shortId), at + shortId))
    (bytes.toString("latin1", at, at + id.length) === id ? full : short).push(at);
  return { full, short };
}

/** Keeps a plan; that it cannot be kept is no error. */
export function remember(root: string, name: string, plan: Omit<KeptPlan, "places">): void {
  if (!plan.spec.includes(noCommand)) return;
  const { part, ...own } = plan;
  const kept: Omit<KeptPlan, "part"> = { ...own, places: placesOf(part, plan.id) };
  const text = utf8.encode(JSON.stringify(kept));
  const bytes = new Uint8Array(new ArrayBuffer(headBytes + text.byteLength + part.byteLength));
  bytes.set(text, headBytes);
  bytes.set(part, headBytes + text.byteLength);
  const head = new DataView(bytes.buffer);
  head.setUint32(8, text.byteLength, true);
  head.setBigUint64(0, BigInt(Bun.hash(bytes.subarray(headBytes))), true);
  if (bytes.byteLength > mostBytes) return;
  makeDirectories(`${root}/plans`);
  using directory = openKept(root);
  if (directory === undefined) return;
  const names = namesIn(`${root}/plans`);
  if (names.length >= mostKept) for (const each of names) attempt("unlinkat", directory.fd, each, 0);
  const temporary = `.${plan.id}`;
  const fd = attempt("openat", directory.fd, temporary, O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_CLOEXEC, 0o600);
  if (fd < 0) return;
  using file = new OwnedFd(fd);
  const written = attempt("write", file.fd, bytes, bytes.byteLength);
  // No fsync: what a power cut leaves of it fails its checksum.
  if (written !== bytes.byteLength || attempt("renameat2", directory.fd, temporary, directory.fd, name, 0) < 0)
    attempt("unlinkat", directory.fd, temporary, 0);
}

/** The kept part with another container's id in it. */
export function partFor({ part, places }: KeptPlan, id: ContainerId): EncodedPart {
  const data = dataOfPart(part);
  const bytes = utf8.encode(id);
  for (const at of places.full) data.set(bytes, at);
  const short = bytes.subarray(0, shortId);
  for (const at of places.short) data.set(short, at);
  return part;
}

/** The container's own config.json. */
export function specFor(plan: KeptPlan, id: ContainerId, args: readonly string[], env: readonly string[]): string {
  const text = plan.spec.replaceAll(plan.id, id).replaceAll(plan.id.slice(0, shortId), id.slice(0, shortId));
  return text.replace(noCommand, () => `"args":${JSON.stringify(args)},"env":${JSON.stringify(env)}`);
}
