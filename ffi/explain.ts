/** A plan in strace's notation, for people: `ocibox run --explain`. */
import { errnoName } from "./errno.ts";
import type { Slot, Step } from "./plan.ts";
import { showArg, showCall } from "./show.ts";

/** Names that tell the slots of a plan apart: the second fsmount is `fsmount#2`. */
class Names {
  readonly #names = new Map<number, string>();
  readonly #seen = new Map<string, number>();

  of(slot: Slot): string {
    let name = this.#names.get(slot.slot);
    if (name === undefined) {
      const base = slot.half === undefined ? slot.name : slot.name.replace(/\[[01]\]$/, "");
      const count = (this.#seen.get(base) ?? 0) + 1;
      this.#seen.set(base, count);
      name = count === 1 ? base : `${base}#${count}`;
      this.#names.set(slot.slot, name);
    }
    return slot.half === undefined ? name : `${name}[${slot.half}]`;
  }

  /** The same value with every slot in it under its own name. */
  within(value: unknown): unknown {
    if (typeof value !== "object" || value === null || value instanceof Uint8Array || Array.isArray(value))
      return value;
    if ("slot" in value) return { name: this.of(value as Slot) };
    if ("format" in value) {
      return { format: (value.format as readonly unknown[]).map((part) => this.within(part)) };
    }
    if ("layout" in value && "fields" in value) {
      const fields: Record<string, unknown> = {};
      const source = value.fields as Record<string, unknown>;
      for (const name in source) fields[name] = this.within(source[name]);
      return { layout: value.layout, fields };
    }
    return value;
  }
}

function used(steps: readonly Step[]): ReadonlySet<number> {
  const slots = new Set<number>();
  const look = (value: unknown): void => {
    if (typeof value !== "object" || value === null || value instanceof Uint8Array) return;
    if ("slot" in value && typeof value.slot === "number") slots.add(value.slot);
    else for (const each of Object.values(value)) look(each);
  };
  for (const step of steps) {
    for (const [key, value] of Object.entries(step)) if (key !== "result") look(value);
  }
  return slots;
}

function conditions(step: Step & { op: "call" }): string {
  const notes: string[] = [];
  const errnos = step.tolerate.map((errno) => errnoName(errno) ?? String(errno)).join(", ");
  if (step.orElse !== null) notes.push(`on ${errnos} goto ${step.orElse.name}`);
  else if (errnos !== "") notes.push(`${errnos} is fine`);
  if (step.carryOn) notes.push("else carry on");
  if (step.retries > 0) notes.push(`up to ${step.retries} retries`);
  return notes.length === 0 ? "" : `; ${notes.join(", ")}`;
}

/** A failure's words, with what stands in them by its name. */
function saysOf(says: (Step & { op: "fail" })["says"], names: Names): string {
  if (typeof says === "string") return says;
  return says.format
    .map((part) => (typeof part === "string" ? part : `[${"memory" in part ? part.name : names.of(part)}]`))
    .join("");
}

function words(step: Exclude<Step, { op: "label" }>, names: Names, wanted: ReadonlySet<number>): string {
  switch (step.op) {
    case "call": {
      const shown = showCall(
        step.name,
        step.args.map((arg) => names.within(arg)),
      );
      const result = step.result !== null && wanted.has(step.result.slot) ? ` = ${names.of(step.result)}` : "";
      return `${shown}${result}${conditions(step)}`;
    }
    case "jump":
      return `goto ${step.to.name}`;
    case "branch":
      return `if ${names.of(step.slot)} ${step.compare} ${step.value} goto ${step.to.name}`;
    case "set":
      return `${names.of(step.slot)} = ${step.value}`;
    case "store":
      return `${step.memory.name}+${step.offset} = ${names.of(step.slot)}`;
    case "load":
      return `${names.of(step.slot)} = ${step.memory.name}+${step.offset}`;
    case "onFailure":
      return `on failure: print it, set ${names.of(step.code)}, goto ${step.to.name}`;
    case "reportTo":
      return `on failure: report it to ${names.of(step.socket)} and exit`;
    case "await":
      return `await the child's word on ${names.of(step.socket)}${step.byte ? ", which must come" : ""}`;
    case "logTo":
      return `log failures to ${typeof step.fd === "number" ? step.fd : names.of(step.fd)}`;
    case "fail":
      return `${step.warning === true ? "warn of" : "fail with"} ${typeof step.errno === "number" ? (errnoName(step.errno) ?? step.errno) : names.of(step.errno)}: ${saysOf(step.says, names)}`;
    case "takeSignals":
      return "block all signals, reset their handlers";
    case "giveSignals":
      return "unblock all signals";
    case "supervise": {
      const terminal = step.terminal === null ? "" : `, terminal ${names.of(step.terminal)}`;
      const log = step.log === undefined ? "" : `, log to ${names.of(step.log.file)}`;
      return `supervise ${names.of(step.pid)}${terminal}${log}${step.interactive ? ", interactive" : ""} = ${names.of(step.code)}`;
    }
    case "ensure": {
      const root = typeof step.root === "number" ? showArg("dirfd", step.root) : names.of(step.root);
      return `${names.of(step.into)} = ${showArg("str", step.path)} in ${root}; made as a ${step.kind} where it is not there`;
    }
    case "forgetEnvironment":
      return "forget init's own environment";
    case "plainLines":
      return `${names.of(step.terminal)}: no CR before LF`;
    case "remove":
      return `remove ${showArg("str", step.name)} in ${typeof step.dirfd === "number" ? showArg("dirfd", step.dirfd) : names.of(step.dirfd)}`;
    case "exit":
      return `exit ${typeof step.code === "number" ? step.code : names.of(step.code)}`;
  }
}

/** The plan as text, a step a line, labels at the margin, what asked for each step behind it. */
export function explain(steps: readonly Step[]): string {
  const names = new Names();
  const wanted = used(steps);
  const forks = new Set<number>();
  const children = new Set<number>();
  for (const step of steps) {
    if (step.op === "call" && step.name === "clone3" && step.result !== null) forks.add(step.result.slot);
    if (step.op === "branch" && forks.has(step.slot.slot) && step.compare === "==" && step.value === 0)
      children.add(step.to.label);
  }
  const lines: string[] = [];
  for (const step of steps) {
    if (step.op === "label") {
      lines.push("", `${step.label.name}:${children.has(step.label.label) ? "  # the new process" : ""}`);
      continue;
    }
    const text = `  ${words(step, names, wanted)}`;
    lines.push(step.field === "" ? text : `${text}  # ${step.field}`);
  }
  return `${lines.join("\n")}\n`;
}
