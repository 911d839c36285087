/**
 * From a layer's blob to its plain tar: gzip (of several members too), zstd, or plain. It is done at once where it is
 * called, by the decompressors under node:zlib's streams: no thread is waited for, and their output is one piece of
 * memory that is used again. docs/decisions.md has what that saves.
 */
import { createGunzip, createZstdDecompress } from "node:zlib";
import { alloc } from "../../ffi/structs.ts";
import { OciboxError } from "../errors.ts";

const outputSize = 1 << 20;

type Compression = "gzip" | "zstd" | "none";

/** What the media type says; image-spec, media-types.md, and Docker's. */
function declared(mediaType: string): Compression {
  if (/(?:\+gzip|\.gzip|tar\.gzip)$/.test(mediaType)) return "gzip";
  if (/(?:\+zstd|tar\.zstd)$/.test(mediaType)) return "zstd";
  if (/(?:\.tar|layer\.v1\.tar|nondistributable\.v1\.tar)$/.test(mediaType)) return "none";
  throw new OciboxError(
    "UNSUPPORTED",
    `a layer has the media type ${JSON.stringify(mediaType)}, which ocibox does not know`,
  );
}

function found(head: Uint8Array): Compression {
  if (head[0] === 0x1f && head[1] === 0x8b) return "gzip";
  if (head[0] === 0x28 && head[1] === 0xb5 && head[2] === 0x2f && head[3] === 0xfd) return "zstd";
  return "none";
}

/** What node:zlib's streams stand on, in Node and in Bun: one step of inflate(3) or ZSTD_decompressStream(3). */
interface Handle {
  onerror: (message: string, errno: number, code: string) => void;
  writeSync(
    flush: number,
    input: Uint8Array,
    inputAt: number,
    inputSize: number,
    output: Uint8Array,
    outputAt: number,
    outputSize: number,
  ): void;
  close(): void;
}

interface Inside {
  readonly _handle: Handle;
  /** Room left in the output, and bytes left of the input, after a step. */
  readonly _writeState: Uint32Array;
}

/** Z_FINISH, ZSTD_e_end: no more input comes. */
const finish = { gzip: 4, zstd: 2 } as const;

function unsound(kind: Compression, why: string): never {
  throw new OciboxError("INVALID", `a layer is not sound ${kind}: ${why}`);
}

class Decompressor {
  readonly #inside: Inside;
  readonly #output = alloc(outputSize);
  #trouble: string | undefined;
  /** Bytes of the last input that were not wanted. */
  left = 0;

  constructor(readonly kind: "gzip" | "zstd") {
    this.#inside = (kind === "gzip" ? createGunzip() : createZstdDecompress()) as unknown as Inside;
    this.#inside._handle.onerror = (message) => {
      this.#trouble = message;
    };
  }

  /** What comes of some input, in pieces that are valid until the next. */
  *step(input: Uint8Array, last: boolean): Generator<Uint8Array> {
    const { _handle, _writeState } = this.#inside;
    this.left = input.byteLength;
    for (;;) {
      const at = input.byteLength - this.left;
      _handle.writeSync(last ? finish[this.kind] : 0, input, at, this.left, this.#output, 0, outputSize);
      if (this.#trouble !== undefined) unsound(this.kind, this.#trouble);
      const [room = 0, left = 0] = _writeState;
      this.left = left;
      if (room < outputSize) yield this.#output.subarray(0, outputSize - room);
      if (room > 0) return;
    }
  }

  close(): void {
    this.#inside._handle.close();
  }
}

/**
 * Whether a zstd stream is made of whole frames: the decompressor itself does not mind where one ends too soon. RFC 8878,
 * section 3.1: only the headers of frames and blocks are looked at.
 */
class ZstdFrames {
  /** Bytes that are passed over before the next header. */
  #skip = 0;
  #state: "frame" | "block" | "checksum" = "frame";
  #hasChecksum = false;
  #last = false;
  /** A header that is not all there yet. */
  #header: number[] = [];

  get isWhole(): boolean {
    return this.#state === "frame" && this.#header.length === 0 && this.#skip === 0;
  }

  /** How many bytes the header has that begins so. */
  #wanted(): number {
    const { length } = this.#header;
    if (this.#state === "block") return 3;
    if (length < 5) return 5;
    const [magic0 = 0, , , , descriptor = 0] = this.#header;
    // 0x184D2A50 to 0x184D2A5F: a size and as many bytes to be passed over.
    if (magic0 >= 0x50 && magic0 <= 0x5f) return 8;
    const single = (descriptor & 0x20) !== 0;
    const sizes = [single ? 1 : 0, 2, 4, 8];
    return 5 + (single ? 0 : 1) + ([0, 1, 2, 4][descriptor & 3] ?? 0) + (sizes[descriptor >> 6] ?? 0);
  }

  #take(): void {
    const [a = 0, b = 0, c = 0] = this.#header;
    if (this.#state === "block") {
      const word = a | (b << 8) | (c << 16);
      this.#last = (word & 1) === 1;
      // A block of one repeated byte has that byte alone.
      this.#skip = ((word >> 1) & 3) === 1 ? 1 : word >> 3;
      if (this.#last) {
        this.#state = "frame";
        if (this.#hasChecksum) this.#skip += 4;
      }
    } else if (a >= 0x50 && a <= 0x5f) {
      const [, , , , d = 0, e = 0, f = 0, g = 0] = this.#header;
      this.#skip = (d | (e << 8) | (f << 16) | (g << 24)) >>> 0;
    } else {
      this.#hasChecksum = ((this.#header[4] ?? 0) & 4) !== 0;
      this.#state = "block";
    }
    this.#header = [];
  }

  look(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.byteLength; ) {
      if (this.#skip > 0) {
        const passed = Math.min(this.#skip, bytes.byteLength - at);
        this.#skip -= passed;
        at += passed;
        continue;
      }
      this.#header.push(bytes[at++] as number);
      if (this.#header.length >= this.#wanted()) this.#take();
    }
  }
}

function* inflated(kind: "gzip" | "zstd", pieces: Iterable<Uint8Array>): Generator<Uint8Array> {
  const inflater = new Decompressor(kind);
  const frames = kind === "zstd" ? new ZstdFrames() : undefined;
  try {
    let over = false;
    for (const piece of pieces) {
      // Zeros fill up what was written to a tape, and mean nothing.
      if (over && piece.some((byte) => byte !== 0)) unsound(kind, "something comes after its end");
      if (over) continue;
      frames?.look(piece);
      yield* inflater.step(piece, false);
      if (inflater.left === 0) continue;
      if (kind === "zstd" || piece.subarray(-inflater.left).some((byte) => byte !== 0))
        unsound(kind, "something comes after its end");
      over = true;
    }
    yield* inflater.step(new Uint8Array(1).subarray(1), true);
    if (frames?.isWhole === false) unsound(kind, "it ends too soon");
  } finally {
    inflater.close();
  }
}

function* rest(first: Uint8Array, more: Iterator<Uint8Array>): Generator<Uint8Array> {
  yield first;
  for (;;) {
    const { done, value } = more.next();
    if (done === true) return;
    yield value;
  }
}

/**
 * The plain bytes of a layer, in pieces that are valid until the next one is asked for. What the stream begins with must
 * be what its media type says; a compressed layer that is sent plain, as some registries do, is let through, for its
 * DiffID is checked.
 * @param pieces of the blob, of any size but the first, which has four bytes at least; valid until the next one
 * @throws OciboxError INVALID for bytes that are not what they say or end too soon, UNSUPPORTED for other media types
 */
export function* decompress(mediaType: string, pieces: Iterable<Uint8Array>): Generator<Uint8Array> {
  const says = declared(mediaType);
  const iterator = pieces[Symbol.iterator]();
  const first = iterator.next();
  if (first.done === true) {
    if (says === "none") return;
    throw new OciboxError("INVALID", "a layer is empty where a compressed archive was promised");
  }
  const is = found(first.value);
  if (is !== says && is !== "none")
    throw new OciboxError("INVALID", `a layer says it is ${says === "none" ? "plain" : says} and is ${is}`);
  const all = rest(first.value, iterator);
  yield* is === "none" ? all : inflated(is, all);
}
