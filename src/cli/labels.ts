/** --label NAME[=VALUE] and names of what is made. */
import { readText } from "../../ffi/files.ts";
import { isName } from "../bundle/values.ts";
import { OciboxError } from "../errors.ts";

/** @throws OciboxError USAGE */
export function labelsOf(items: readonly string[]): Record<string, string> {
  const found: Record<string, string> = {};
  for (const item of items) {
    const [name = ""] = item.split("=", 1);
    if (name === "") throw new OciboxError("USAGE", `--label is "${item}", which has no name`);
    found[name] = item.slice(name.length + 1);
  }
  return found;
}

/** --label-file: a label a line; blank lines and those that begin with # are passed over. @throws OciboxError USAGE */
export function labelLines(files: readonly string[]): string[] {
  return files.flatMap((path) => {
    const text = readText(path);
    if (text === undefined) throw new OciboxError("USAGE", `cannot read the label file "${path}": no such file`);
    return text
      .split("\n")
      .map((line) => line.trim())
      .filter((line) => line !== "" && !line.startsWith("#"));
  });
}

/** The name of a container. @throws OciboxError USAGE */
export function checkName(name: string, what: string): void {
  if (!isName(name))
    throw new OciboxError("USAGE", `${what} is "${name}", which is not letters, digits, "_", "." and "-"`);
}
