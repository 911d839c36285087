/** From a layer's blob to its plain tar: gzip (of several members too), zstd, or plain. */
import { createGunzip } from "node:zlib";
import { OciboxError } from "../errors.ts";

const chunkSize = 1 << 20;

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

/** Chunks put together to a MiB: the decompressors take twice as long over small ones. */
async function* gathered(stream: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  let parts: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    parts.push(chunk);
    size += chunk.byteLength;
    if (size < chunkSize) continue;
    yield Buffer.concat(parts);
    parts = [];
    size = 0;
  }
  if (size > 0) yield Buffer.concat(parts);
}

async function* zstd(stream: AsyncIterable<Uint8Array<ArrayBuffer>>): AsyncGenerator<Uint8Array> {
  const transform = new DecompressionStream("zstd");
  const writer = transform.writable.getWriter();
  const feeding = (async () => {
    try {
      for await (const chunk of stream) await writer.write(chunk);
      await writer.close();
    } catch (error) {
      await writer.abort(error).catch(() => {});
      throw error;
    }
  })();
  feeding.catch(() => {});
  const reader = transform.readable.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield value;
    }
    await feeding;
  } catch (error) {
    // The input's own error says more than what the decompressor makes of it.
    await feeding;
    throw error;
  } finally {
    await reader.cancel().catch(() => {});
  }
}

async function* gunzip(stream: AsyncIterable<Uint8Array<ArrayBuffer>>): AsyncGenerator<Uint8Array> {
  const transform = createGunzip({ chunkSize });
  const feeding = (async () => {
    try {
      for await (const chunk of stream) {
        if (!transform.write(chunk)) await new Promise<void>((resume) => onceFree(transform, resume));
        if (transform.destroyed) return;
      }
      transform.end();
    } catch (error) {
      transform.destroy(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  })();
  feeding.catch(() => {});
  try {
    for await (const chunk of transform) yield chunk as Uint8Array;
    await feeding;
  } catch (error) {
    await feeding;
    throw error;
  } finally {
    transform.destroy();
  }
}

function onceFree(transform: ReturnType<typeof createGunzip>, resume: () => void): void {
  const go = (): void => {
    transform.off("drain", go);
    transform.off("close", go);
    transform.off("error", go);
    resume();
  };
  transform.on("drain", go);
  transform.on("close", go);
  transform.on("error", go);
}

async function* rest(
  first: Uint8Array<ArrayBuffer>,
  more: AsyncIterator<Uint8Array<ArrayBuffer>>,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  yield first;
  for (;;) {
    const { done, value } = await more.next();
    if (done === true) return;
    yield value;
  }
}

/**
 * The plain bytes of a layer. What the stream begins with must be what its media type says; a plain layer that is sent
 * as gzip, as some registries do, is let through, for its DiffID is checked.
 * @throws OciboxError INVALID for bytes that are not what they say or end too soon, UNSUPPORTED for other media types
 */
export async function* decompress(mediaType: string, stream: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const says = declared(mediaType);
  const chunks = gathered(stream)[Symbol.asyncIterator]();
  const first = await chunks.next();
  if (first.done === true) {
    if (says === "none") return;
    throw new OciboxError("INVALID", "a layer is empty where a compressed archive was promised");
  }
  const is = found(first.value);
  if (is !== says && is !== "none")
    throw new OciboxError("INVALID", `a layer says it is ${says === "none" ? "plain" : says} and is ${is}`);
  const all = rest(first.value, chunks);
  if (is === "none") {
    yield* all;
    return;
  }
  try {
    yield* is === "gzip" ? gunzip(all) : zstd(all);
  } catch (error) {
    if (error instanceof OciboxError || !isDecompressorError(error)) throw error;
    throw new OciboxError("INVALID", `a layer is not sound ${is}: ${error.message}`, { cause: error });
  }
}

function isDecompressorError(error: unknown): error is Error {
  if (!(error instanceof Error)) return false;
  const code = "code" in error ? String(error.code) : "";
  return (
    code.startsWith("Z_") ||
    code.startsWith("ZSTD") ||
    code === "ERR_TRAILING_JUNK_AFTER_STREAM_END" ||
    error instanceof TypeError
  );
}
