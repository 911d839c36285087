/** --label NAME[=VALUE] and names of what is made. */
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

const namePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/** The name of a container. @throws OciboxError USAGE */
export function checkName(name: string, what: string): void {
  if (!namePattern.test(name))
    throw new OciboxError("USAGE", `${what} is "${name}", which is not letters, digits, "_", "." and "-"`);
}
