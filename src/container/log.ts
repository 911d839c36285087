/**
 * What a container that was left to itself has written, as init keeps it: a line each, "TIME STREAM TAG TEXT", where the
 * tag P is for a line's part that another follows, and F for its end (Kubernetes' container runtime interface).
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc } from "../../ffi/structs.ts";
import { logFile } from "./record.ts";
import type { ContainerId } from "./state.ts";

export type StreamName = "stdout" | "stderr";

export interface LogEntry {
  /** As it stands there: all are of one length, and in the order of time. */
  readonly time: string;
  readonly stream: StreamName;
  readonly text: Uint8Array;
  /** Whether a line ends with it. */
  readonly whole: boolean;
}

const newline = 10;
const space = 32;
const pieceSize = 1 << 18;
const decoder = new TextDecoder();

/** A line of the file; undefined for one that was cut off by a full disk. */
function entryOf(line: Uint8Array): LogEntry | undefined {
  const first = line.indexOf(space);
  const second = line.indexOf(space, first + 1);
  const third = line.indexOf(space, second + 1);
  if (first < 0 || second < 0 || third !== second + 2) return undefined;
  const stream = decoder.decode(line.subarray(first + 1, second));
  const tag = line[second + 1];
  if ((stream !== "stdout" && stream !== "stderr") || (tag !== 0x46 && tag !== 0x50)) return undefined;
  return { time: decoder.decode(line.subarray(0, first)), stream, text: line.subarray(third + 1), whole: tag === 0x46 };
}

/** A container's log while it is read; it may grow meanwhile. */
export class LogReader implements Disposable {
  readonly #file: OwnedFd;
  /** Of the size that it is read by, and what of a line has not come yet. */
  readonly #piece = alloc(pieceSize);
  #rest = new Uint8Array(0);

  private constructor(file: OwnedFd) {
    this.#file = file;
  }

  /** @returns undefined where there is no log */
  static open(path: string): LogReader | undefined {
    const fd = attempt("openat", AT_FDCWD, path, O.O_RDONLY | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
    return fd < 0 ? undefined : new LogReader(new OwnedFd(fd));
  }

  /** What has been written since, up to some hundred kilobytes of it; empty at the end. @throws SyscallError */
  read(): LogEntry[] {
    const entries: LogEntry[] = [];
    while (entries.length === 0) {
      const got = direct.read(this.#file.fd, this.#piece, pieceSize);
      if (got === 0) break;
      const bytes = new Uint8Array(this.#rest.byteLength + got);
      bytes.set(this.#rest);
      bytes.set(this.#piece.subarray(0, got), this.#rest.byteLength);
      let from = 0;
      for (let end = bytes.indexOf(newline); end >= 0; end = bytes.indexOf(newline, from)) {
        const entry = entryOf(bytes.subarray(from, end));
        if (entry !== undefined) entries.push(entry);
        from = end + 1;
      }
      this.#rest = bytes.subarray(from);
    }
    return entries;
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

/** The last lines of what is read, each with all of its parts. */
export class Tail {
  #entries: LogEntry[] = [];
  #lines = 0;

  constructor(readonly most: number) {}

  add(entries: readonly LogEntry[]): void {
    for (const entry of entries) {
      this.#entries.push(entry);
      if (entry.whole) this.#lines++;
    }
    // Copied now and then, not with every line.
    if (this.#lines > 2 * this.most + 1000) this.#entries = this.#cut();
  }

  /** @returns what is left, the oldest first */
  entries(): readonly LogEntry[] {
    return this.#cut();
  }

  #cut(): LogEntry[] {
    let at = this.#entries.length;
    // What does not end with a line's end is a line as well.
    let lines = this.#entries.at(-1)?.whole === false ? 1 : 0;
    for (; at > 0; at--) {
      if (this.#entries[at - 1]?.whole !== true) continue;
      if (lines === this.most) break;
      lines++;
    }
    const kept = this.most === 0 ? [] : this.#entries.slice(at);
    this.#lines = kept.filter((each) => each.whole).length;
    return kept;
  }
}

/** A line of ocibox's own behind what a container has written on stderr; nothing where it has no log. */
export function appendLine(root: string, id: ContainerId, text: string): void {
  const flags = O.O_WRONLY | O.O_APPEND | O.O_NOFOLLOW | O.O_CLOEXEC;
  const fd = attempt("openat", AT_FDCWD, logFile(root, id), flags, 0);
  if (fd < 0) return;
  using file = new OwnedFd(fd);
  const time = new Date().toISOString().replace("Z", "000000Z");
  const bytes = new TextEncoder().encode(`${time} stderr F ${text.replaceAll("\n", " ")}\n`);
  attempt("write", file.fd, bytes, bytes.byteLength);
}
