/** --label NAME[=VALUE] of what is made. */
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
