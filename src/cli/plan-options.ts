/** Options of the commands that run a plan: to see it, and to let it fail. */
import type { Fault } from "../../ffi/encode.ts";
import { type ErrnoName, errnoOf, errnoTable } from "../../ffi/errno.ts";
import type { Step } from "../../ffi/plan.ts";
import { OciboxError } from "../errors.ts";
import type { OptionDef } from "./options.ts";
import { isTerminal, print } from "./output.ts";

export const planOptions = {
  explain: { type: "boolean", description: "Print the plan of system calls and run nothing" },
  inject: {
    type: "string",
    valueHint: "STEP[-LAST][=ERRNO]",
    description: "For tests: let a step of the plan fail",
  },
} as const satisfies Readonly<Record<string, OptionDef>>;

/** --inject: "12", "12=ENOSPC" or "12-40=ENOSPC": which step of the plan fails, and how; of several the first come to. */
export function faultOf(text: string | undefined): Fault | undefined {
  return text === undefined ? undefined : readFault(text);
}

function readFault(text: string): Fault {
  const [, step, last = step, name = "EIO"] = /^(\d+)(?:-(\d+))?(?:=(\w+))?$/.exec(text) ?? [];
  if (step === undefined || !Object.hasOwn(errnoTable(), name))
    throw new OciboxError("USAGE", `--inject is "${text}", not STEP[-LAST] or STEP[-LAST]=ERRNO`);
  return { step: Number(step), last: Number(last), errno: errnoOf(name as ErrnoName) };
}

/** --explain: what a plan is given to in place of being run. */
export async function explainerIf(asked: boolean): Promise<((steps: readonly Step[]) => void) | undefined> {
  if (!asked) return undefined;
  const { explain } = await import("../../ffi/explain.ts");
  return (steps) => print(explain(steps).replace(/\n$/, ""));
}

/** The same for whoever should not wait where it is not asked for. */
export async function printPlan(steps: readonly Step[]): Promise<void> {
  (await explainerIf(true))?.(steps);
}

/** @throws OciboxError USAGE for -i and -t where stdin is no terminal */
export function checkTerminal(interactive: boolean, tty: boolean): void {
  if (interactive && tty && !isTerminal(0))
    throw new OciboxError("USAGE", "the input device is not a TTY", { hint: "leave out -t, or run it in a terminal" });
}
