/** config.json, decoded: runtime-spec 1.3, config.md and config-linux.md. What is refused is named by its path. */
import { OciboxError } from "../errors.ts";
import type { Spec } from "./runtime.ts";

/** @throws OciboxError INVALID */
export function decodeSpec(text: string): Spec {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new OciboxError(
      "INVALID",
      `config.json is no JSON: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
  return value as Spec;
}
