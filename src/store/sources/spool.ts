/** Streams that have to be read anywhere, and what is compressed, put into a file without a name. */
import { AT_FDCWD, O } from "../../../ffi/constants.ts";
import { direct } from "../../../ffi/direct.ts";
import { OwnedFd } from "../../../ffi/fd.ts";
import { alloc } from "../../../ffi/structs.ts";
import { OciboxError } from "../../errors.ts";
import { decompress } from "../../layer/decompress.ts";
import { writeAll } from "../disk.ts";
import type { Store } from "../store.ts";

const readSize = 1 << 18;
const leastPiece = 512;

/**
 * What a descriptor gives, in pieces of at most 256 KiB, and of 512 bytes at least but for the last; valid until the
 * next one is asked for.
 */
export function* readPieces(fd: number): Generator<Uint8Array> {
  const buffer = alloc(readSize);
  for (;;) {
    let filled = 0;
    while (filled < leastPiece) {
      const got = direct.read(fd, filled === 0 ? buffer : buffer.subarray(filled), readSize - filled);
      if (got === 0) break;
      filled += got;
    }
    if (filled === 0) return;
    yield buffer.subarray(0, filled);
    if (filled < leastPiece) return;
  }
}

/** Lets signals be heard, in the middle of work that does not wait for anything. */
export async function breathe(): Promise<void> {
  await Bun.sleep(0);
}

export type Packing = "gzip" | "zstd" | "none";

/** By what it begins with. @throws OciboxError UNSUPPORTED for bzip2 and xz */
export function packingOf(head: Uint8Array, what: string): Packing {
  if (head[0] === 0x1f && head[1] === 0x8b) return "gzip";
  if (head[0] === 0x28 && head[1] === 0xb5 && head[2] === 0x2f && head[3] === 0xfd) return "zstd";
  const other =
    head[0] === 0x42 && head[1] === 0x5a && head[2] === 0x68
      ? "bzip2"
      : head[0] === 0xfd && head[1] === 0x37
        ? "xz"
        : "";
  if (other === "") return "none";
  throw new OciboxError("UNSUPPORTED", `${what} is compressed by ${other}, which ocibox does not read`, {
    hint: `pipe it through: ${other} -dc`,
  });
}

/** image-spec, media-types.md. */
export function layerType(packing: Packing): string {
  return `application/vnd.oci.image.layer.v1.tar${packing === "none" ? "" : `+${packing}`}`;
}

/** The plain bytes of a stream that may be compressed. */
function* unpacked(stream: Iterable<Uint8Array>, what: string): Generator<Uint8Array> {
  const iterator = stream[Symbol.iterator]();
  const first = iterator.next();
  if (first.done === true) return;
  const packing = packingOf(first.value, what);
  function* all(): Generator<Uint8Array> {
    yield first.value as Uint8Array;
    for (;;) {
      const { done, value } = iterator.next();
      if (done === true) return;
      yield value;
    }
  }
  yield* packing === "none" ? all() : decompress(layerType(packing), all());
}

const bombFrom = 1 << 30;
const bombRatio = 500;

/**
 * Writes a stream to a file that has no name any more: nothing is left of it however the program ends.
 * @returns the file, open for reading and writing, owned by the caller
 */
export async function spool(store: Store, stream: Iterable<Uint8Array>, what: string): Promise<OwnedFd> {
  store.prepare();
  const path = store.temporaryName();
  const flags = O.O_RDWR | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
  const file = new OwnedFd(direct.openat(AT_FDCWD, path, flags, 0o600));
  try {
    direct.unlinkat(AT_FDCWD, path, 0);
    let taken = 0;
    let made = 0;
    function* counted(): Generator<Uint8Array> {
      for (const piece of stream) {
        taken += piece.byteLength;
        yield piece;
      }
    }
    for (const piece of unpacked(counted(), what)) {
      await breathe();
      made += piece.byteLength;
      if (made > bombFrom && made > taken * bombRatio)
        throw new OciboxError("INVALID", `${what} grows to more than ${bombRatio} times its size`);
      writeAll(file.fd, piece);
    }
    return file;
  } catch (error) {
    file[Symbol.dispose]();
    throw error;
  }
}
