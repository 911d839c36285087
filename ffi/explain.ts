/** A plan in strace's notation: what `ocibox run --explain` prints. */
import type { Slot, Step } from "./plan.ts";
import { showArg, showCall, showErrno } from "./show.ts";

function slotName(slot: Slot): string {
  return slot.name;
}

function text(step: Step): string {
  switch (step.op) {
    case "call": {
      const tolerated = step.tolerate.map(showErrno);
      const then = step.orElse === null ? "" : `, else to [${step.orElse.name}]`;
      const notes = [
        ...(tolerated.length > 0 ? [`may fail: ${tolerated.join(", ")}${then}`] : []),
        ...(step.carryOn ? ["a failure is only said"] : []),
        ...(step.retries > 0 ? [`tried for ${step.retries} ms`] : []),
      ];
      return `${showCall(step.name, step.args)}${notes.length > 0 ? `  (${notes.join("; ")})` : ""}`;
    }
    case "label":
      return `[${step.label.name}]`;
    case "jump":
      return `go to [${step.to.name}]`;
    case "branch":
      return `if ${slotName(step.slot)} ${step.compare} ${step.value} go to [${step.to.name}]`;
    case "set":
      return `${slotName(step.slot)} = ${step.value}`;
    case "store":
      return `${step.memory.name}[${step.offset}] = ${slotName(step.slot)}`;
    case "load":
      return `${slotName(step.slot)} = ${step.memory.name}[${step.offset}]`;
    case "onFailure":
      return `from here on a failure leads to [${step.to.name}]`;
    case "reportTo":
      return `from here on a failure is told to the parent by ${slotName(step.socket)}`;
    case "await":
      return `wait for the child's execve, or its failure, on ${slotName(step.socket)}`;
    case "fail":
      return `fail: ${step.says}`;
    case "takeSignals":
      return "block all signals, with their default actions";
    case "giveSignals":
      return "unblock all signals";
    case "supervise":
      return `wait for ${slotName(step.pid)}, forward signals${step.terminal === null ? "" : ", copy the terminal"}; ${slotName(step.code)} = its exit code`;
    case "remove":
      return `remove the tree ${showArg("path", step.name)} in ${typeof step.dirfd === "number" ? step.dirfd : slotName(step.dirfd)}`;
    case "exit":
      return `exit ${typeof step.code === "number" ? step.code : slotName(step.code)}`;
    default:
      return step satisfies never;
  }
}

/** One step a line: its number, the call, and behind it the field that asked for it. */
export function explain(steps: readonly Step[]): string {
  const width = String(steps.length).length;
  return steps
    .map((step, index) => {
      const field = step.field === "" || step.op === "label" ? "" : `  # ${step.field}`;
      const line = step.op === "label" ? text(step) : `${String(index).padStart(width)}  ${text(step)}${field}`;
      return line;
    })
    .join("\n");
}
