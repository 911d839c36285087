/** Streams of bytes that something is done with on their way. */
import { writeAll } from "./disk.ts";

/** A stream whose bytes are hashed and counted. */
export async function* counted(
  stream: AsyncIterable<Uint8Array>,
  hasher: Bun.CryptoHasher,
  onBytes: (total: number) => void,
): AsyncGenerator<Uint8Array> {
  let total = 0;
  for await (const chunk of stream) {
    hasher.update(chunk);
    total += chunk.byteLength;
    onBytes(total);
    yield chunk;
  }
}

/** The same stream, written to a file as it goes by. */
export async function* kept(stream: AsyncIterable<Uint8Array>, fd: number): AsyncGenerator<Uint8Array> {
  for await (const chunk of stream) {
    writeAll(fd, chunk);
    yield chunk;
  }
}
