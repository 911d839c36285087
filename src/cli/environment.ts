/** -e and --env-file, as docker reads them. */
import { readText } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";

/** KEY=VALUE as it is; KEY alone with the caller's value, or nothing where the caller has none. */
function expand(item: string, what: string): string[] {
  const equals = item.indexOf("=");
  const key = equals < 0 ? item : item.slice(0, equals);
  if (key === "") throw new OciboxError("USAGE", `${what} has no name before the "=": ${JSON.stringify(item)}`);
  if (item.includes("\0")) throw new OciboxError("USAGE", `${what} has a NUL in it`);
  if (equals >= 0) return [item];
  const inherited = Bun.env[item];
  return inherited === undefined ? [] : [`${item}=${inherited}`];
}

/** One a line; blank lines and those that begin with # are passed over; quotes are literal. */
function readEnvFile(path: string): string[] {
  const text = readText(path);
  if (text === undefined) throw new OciboxError("USAGE", `cannot read the env file "${path}": no such file`);
  const found: string[] = [];
  text
    .replace(/^\ufeff/, "")
    .split("\n")
    .forEach((raw, index) => {
      const line = raw.replace(/\r$/, "").trimStart();
      if (line === "" || line.startsWith("#")) return;
      const key = line.split("=", 1)[0] ?? "";
      if (/\s/.test(key))
        throw new OciboxError("USAGE", `line ${index + 1} of "${path}" has white space in the name "${key}"`);
      found.push(...expand(line, `line ${index + 1} of "${path}"`));
    });
  return found;
}

/** The variables that the command line asks for, files first, the later of a name winning in the end. */
export function environment(files: readonly string[], items: readonly string[]): string[] {
  const found: string[] = [];
  for (const file of files) found.push(...readEnvFile(file));
  for (const item of items) found.push(...expand(item, "the flag --env"));
  return found;
}
