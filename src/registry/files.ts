/** Configuration files: small, maybe missing, written by hand. */
import { OciboxError, reason } from "../errors.ts";

/** No configuration file is longer. Bytes. */
const sizeLimit = 4 << 20;

export type Environment = Readonly<Record<string, string | undefined>>;

function errorCode(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
}

/**
 * A file's text, or undefined where there is none or it is not for this user to read.
 * @throws OciboxError INVALID where it is too long or cannot be read for another reason
 */
export async function readConfig(path: string): Promise<string | undefined> {
  const file = Bun.file(path);
  try {
    const { size } = await file.stat();
    if (size > sizeLimit) throw new OciboxError("INVALID", `cannot read "${path}": it is ${size} bytes long`);
    return await file.text();
  } catch (error) {
    if (error instanceof OciboxError) throw error;
    if (["ENOENT", "ENOTDIR", "EACCES", "EISDIR"].includes(errorCode(error))) return undefined;
    throw new OciboxError("INVALID", `cannot read "${path}": ${reason(error)}`, { cause: error });
  }
}

/** The names in a folder that fit a glob, sorted; none where there is no such folder. */
export function namesIn(folder: string, glob: string): string[] {
  try {
    return [...new Bun.Glob(glob).scanSync({ cwd: folder, onlyFiles: false })].sort();
  } catch {
    return [];
  }
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
export async function readJson(path: string): Promise<Table | undefined> {
  return parse(path, (text) => JSON.parse(text));
}

/** @throws OciboxError INVALID naming the file */
export async function readToml(path: string): Promise<Table | undefined> {
  return parse(path, (text) => Bun.TOML.parse(text));
}

async function parse(path: string, how: (text: string) => unknown): Promise<Table | undefined> {
  const text = await readConfig(path);
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
