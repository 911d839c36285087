/** A thread that unpacks layers, one after the other: lanes.ts starts it and tells it which. */
import { compileLater, withoutFtl } from "../../ffi/compile.ts";
import { direct, machinery } from "../../ffi/direct.ts";
import { OciboxError, reason } from "../errors.ts";
import type { Told } from "./lanes.ts";
import { Abandoned } from "./pull-memory.ts";
import { inflate, unpack } from "./unpack.ts";
import type { InflateJob, UnpackJob } from "./unpack-job.ts";

declare const self: Worker;

compileLater(5);
withoutFtl(...machinery, direct.openat);

function tell(told: Told): void {
  postMessage(told);
}

self.onmessage = ({ data }: MessageEvent<UnpackJob | InflateJob>) => {
  try {
    if (data.kind === "inflate") inflate(data);
    else unpack(data, (asleep) => tell({ kind: asleep ? "asleep" : "awake" }));
    tell({ kind: "done" });
    // What a layer was made with is not needed for the next: the thread keeps less of the machine's memory.
    Bun.gc(true);
  } catch (error) {
    if (error instanceof Abandoned) tell({ kind: "abandoned" });
    else if (error instanceof OciboxError)
      tell({ kind: "refused", code: error.code, message: error.message, hint: error.hint });
    else tell({ kind: "broken", message: reason(error), stack: error instanceof Error ? error.stack : undefined });
  }
};
