import type { Fault } from "../../ffi/encode.ts";
import { type ErrnoName, errnoOf, errnoTable } from "../../ffi/errno.ts";
import { OciboxError } from "../errors.ts";

/** --inject: "12", "12=ENOSPC" or "12-40=ENOSPC": which step of the plan fails, and how; of several the first come to. */
export function faultOf(text: string | undefined): Fault | undefined {
  if (text === undefined) return undefined;
  const [, step, last = step, name = "EIO"] = /^(\d+)(?:-(\d+))?(?:=(\w+))?$/.exec(text) ?? [];
  if (step === undefined || !Object.hasOwn(errnoTable, name))
    throw new OciboxError("USAGE", `--inject is "${text}", not STEP[-LAST] or STEP[-LAST]=ERRNO`);
  return { step: Number(step), last: Number(last), errno: errnoOf(name as ErrnoName) };
}
