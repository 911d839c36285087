/** A container's config.json, as it was made. */
import { readText } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";
import type { Spec } from "../spec/runtime.ts";
import { decodeSpec } from "../spec/runtime-decode.ts";
import { type ContainerRecord, containerDirectory } from "./record.ts";

const mostConfig = 16 << 20;

/** @throws OciboxError STORE where it is gone */
export function readSpec(root: string, { id, name }: Pick<ContainerRecord, "id" | "name">): Spec {
  const config = readText(`${containerDirectory(root, id)}/config.json`, mostConfig);
  if (config === undefined) throw new OciboxError("STORE", `the container "${name}" has lost its config.json`);
  return decodeSpec(config);
}
