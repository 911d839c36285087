import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import type { Volume } from "../bundle/values.ts";
import { volumeData } from "../container/record.ts";
import { OciboxError } from "../errors.ts";

/** A bind's source is there: nothing is made in its place. A volume's place is told. @throws OciboxError USAGE */
export function placed(volume: Volume, root: string): Volume {
  if (volume.volume !== undefined) return { ...volume, source: volumeData(root, volume.volume) };
  if (volume.source === "") return volume;
  if (attempt("faccessat2", AT_FDCWD, volume.source, 0, 0) >= 0) return volume;
  throw new OciboxError("USAGE", `cannot bind "${volume.source}" into the container: it does not exist`, {
    hint: "make it first; ocibox does not make it for you",
  });
}
