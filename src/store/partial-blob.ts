/**
 * A blob that is being fetched: ROOT/tmp/HEX.part, written by whoever holds the lock of its digest. What is left of it by
 * a pull that was killed, or whose network went away, the next pull goes on with; it is believed only when all of it has
 * been verified.
 */
import { AT, AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { lockFile } from "../../ffi/lock.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { OciboxError } from "../errors.ts";
import { hexOf } from "../spec/digest.ts";
import type { Descriptor } from "../spec/image.ts";
import { Flusher, renameDurably, streamFile, writeAll } from "./disk.ts";
import type { Store } from "./store.ts";

const suffix = ".part";
/** Bytes: less is sooner fetched anew than kept. */
const worthKeeping = 1 << 20;
/** Seconds that something is waited for that nobody goes on with. */
const longest = 7 * 24 * 3600;

export class PartialBlob implements Disposable {
  readonly path: string;
  readonly #target: string;
  readonly #descriptor: Descriptor;
  readonly #file: OwnedFd;
  #flusher: Flusher;
  #kept = false;
  /** Bytes that are there. */
  size: number;

  /** The caller holds the lock of the digest. */
  constructor(store: Store, descriptor: Descriptor) {
    this.path = `${store.temporary}/${hexOf(descriptor.digest)}${suffix}`;
    this.#target = store.newBlobPath(descriptor.digest);
    this.#descriptor = descriptor;
    const flags = O.O_RDWR | O.O_CREAT | O.O_NOFOLLOW | O.O_CLOEXEC;
    this.#file = new OwnedFd(direct.openat(AT_FDCWD, this.path, flags, 0o600));
    const stat = alloc(256);
    direct.statx(this.#file.fd, "", AT.AT_EMPTY_PATH, 0x200, stat);
    this.size = readField("statx", stat, "stx_size");
    if (this.size > descriptor.size) this.clear();
    direct.lseek(this.#file.fd, this.size, 0);
    this.#flusher = new Flusher(this.#file.fd, this.size);
  }

  append(bytes: Uint8Array): void {
    writeAll(this.#file.fd, bytes);
    this.size += bytes.byteLength;
    this.#flusher.written(this.size);
  }

  /** Begins anew. */
  clear(): void {
    direct.ftruncate(this.#file.fd, 0);
    direct.lseek(this.#file.fd, 0, 0);
    this.size = 0;
    this.#flusher = new Flusher(this.#file.fd);
  }

  /** Reads all of it. @throws OciboxError DIGEST_MISMATCH */
  async verify(): Promise<void> {
    const hasher = new Bun.CryptoHasher("sha256");
    for await (const piece of streamFile(this.path)) hasher.update(piece);
    const found = `sha256:${hasher.digest("hex")}`;
    if (found !== this.#descriptor.digest)
      throw new OciboxError("DIGEST_MISMATCH", `the layer ${this.#descriptor.digest} has the digest ${found}`, {
        hint: "the registry or something on the way is at fault",
      });
  }

  /** What has been verified gets its name. */
  keep(): void {
    direct.fsync(this.#file.fd);
    renameDurably(this.path, this.#target);
    this.#kept = true;
  }

  [Symbol.dispose](): void {
    if (!this.#kept && this.size < worthKeeping) attempt("unlinkat", AT_FDCWD, this.path, 0);
    this.#file[Symbol.dispose]();
  }
}

/**
 * Removes what is left of blobs that nobody fetches now.
 * @param all or only what is so old that nobody will go on with it
 */
export function removePartials(store: Store, names: readonly string[], all: boolean): void {
  const stat = alloc(256);
  for (const name of names) {
    if (!name.endsWith(suffix)) continue;
    const path = `${store.temporary}/${name}`;
    if (attempt("statx", AT_FDCWD, path, AT.AT_SYMLINK_NOFOLLOW, 0x40, stat) < 0) continue;
    if (!all && Date.now() / 1000 - readField("statx", stat, "stx_mtime_sec") < longest) continue;
    const lockPath = path.slice(0, -suffix.length);
    using lock = lockFile(`${lockPath}.lock`, "exclusive");
    if (lock === undefined) continue;
    attempt("unlinkat", AT_FDCWD, path, 0);
    attempt("unlinkat", AT_FDCWD, `${lockPath}.lock`, 0);
  }
}
