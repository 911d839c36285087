/** Configuration files: small, maybe missing, written by hand. Read by system calls: Bun's own way takes a thread. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { direct, SyscallError } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { namesIn, readRest } from "../../ffi/files.ts";
import { OciboxError, reason } from "../errors.ts";

/** No configuration file is longer. Bytes. */
const sizeLimit = 4 << 20;

export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * A file's text, or undefined where there is none or it is not for this user to read.
 * @throws OciboxError INVALID where it is too long or cannot be read for another reason
 */
export function readConfig(path: string): string | undefined {
  const bytes = bytesOf(path);
  if (bytes && bytes.byteLength > sizeLimit)
    throw new OciboxError("INVALID", `cannot read "${path}": it has more than ${sizeLimit} bytes`);
  return bytes && new TextDecoder().decode(bytes);
}

function bytesOf(path: string): Uint8Array | undefined {
  try {
    // A FIFO is empty, and nobody is waited for.
    using file = new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_NONBLOCK | O.O_CLOEXEC, 0));
    return readRest(file.fd, sizeLimit + 1);
  } catch (error) {
    if (error instanceof SyscallError && ["ENOENT", "ENOTDIR", "EACCES", "EISDIR"].includes(error.code ?? ""))
      return undefined;
    throw new OciboxError("INVALID", `cannot read "${path}": ${reason(error)}`, { cause: error });
  }
}

/** The names in a folder with one of these endings, sorted, hidden ones left out; none where there is no such folder. */
export function namesEnding(folder: string, ...endings: readonly string[]): string[] {
  const fits = (name: string): boolean => !name.startsWith(".") && endings.some((each) => name.endsWith(each));
  return namesIn(folder).filter(fits).sort();
}

export type Table = Readonly<Record<string, unknown>>;

export function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A table inside a table; an own one, whatever its name. */
export function tableAt(table: Table, key: string): Table | undefined {
  const value = Object.hasOwn(table, key) ? table[key] : undefined;
  return isTable(value) ? value : undefined;
}

/** @throws OciboxError INVALID naming the file */
export function readJson(path: string): Table | undefined {
  return parse(path, (text) => JSON.parse(text));
}

/** @throws OciboxError INVALID naming the file */
export function readToml(path: string): Table | undefined {
  return parse(path, (text) => Bun.TOML.parse(text));
}

function parse(path: string, how: (text: string) => unknown): Table | undefined {
  const text = readConfig(path);
  if (text === undefined || text.trim() === "") return undefined;
  try {
    const value = how(text);
    if (isTable(value)) return value;
  } catch (error) {
    // The parser's message may quote the file, and with it a secret: only its first words are shown.
    throw new OciboxError(
      "INVALID",
      `cannot read "${path}": ${reason(error)
        .split(/["'\n]/)[0]
        ?.trim()}`,
    );
  }
  throw new OciboxError("INVALID", `cannot read "${path}": it does not hold an object`);
}
