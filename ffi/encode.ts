/**
 * A recorded plan as one piece of memory, in the format of init/init.h. Text is checked for NULs here: nothing in a
 * configuration can end a string early or reach into another step, for steps are records of one size and text lies
 * behind them all.
 */
import { type CallName, calls, type Kind } from "./calls.ts";
import { nr } from "./machine.ts";
import type { CallStep, Label, Slot, Step } from "./plan.ts";
import { showArg } from "./show.ts";
import { layoutOf } from "./structs.ts";
import type { Formatted, Memory, Struct } from "./sys.ts";

const none = 0xffffffff;
const headerSize = 64;
const stepSize = 128;
const opCodes = {
  call: 1,
  jump: 2,
  branch: 3,
  set: 4,
  store: 5,
  load: 6,
  format: 7,
  onFailure: 8,
  reportTo: 9,
  await: 10,
  fail: 11,
  takeSignals: 12,
  giveSignals: 13,
  supervise: 14,
  remove: 15,
  exit: 16,
} as const;
const kindImmediate = 0;
const kindSlot = 1;
const kindAddress = 4;
const showWords = 4;
const partText = 255;
const compares = { "==": 0, "!=": 1, "<": 2, ">": 3 } as const;

/** MAX_ARG_STRLEN of execve(2): no text of a plan is longer. */
const longestText = 128 * 1024;
const mostSteps = 32_768;

/** How an argument of each kind is shown; all others are words made beforehand. */
const shows: Partial<Record<Kind, number>> = {
  fd: 0,
  int: 0,
  size: 0,
  mode: 1,
  hex: 2,
  path: 3,
  str: 3,
  in: 3,
  dirfd: 5,
  out: 6,
};

export interface Fault {
  /** Index of a call step, as --explain counts them. */
  readonly step: number;
  /** Positive. */
  readonly errno: number;
}

export interface EncodeOptions {
  readonly fault?: Fault | undefined;
  /** What stands before an error: "ocibox: cannot start the container: ". */
  readonly prefix?: string;
}

/** Thrown for text that the kernel would cut at a NUL, or that is too long. */
export class PlanError extends Error {
  override readonly name = "PlanError";
}

const encoder = new TextEncoder();

class Image {
  bytes = new Uint8Array(new ArrayBuffer(1 << 16));
  view = new DataView(this.bytes.buffer);
  at = 0;
  readonly texts = new Map<string, number>();
  readonly relocs: number[] = [];

  /** Room for n bytes, zeroed, at a multiple of 8. */
  reserve(size: number): number {
    const start = (this.at + 7) & ~7;
    this.grow(start + size);
    this.at = start + size;
    return start;
  }

  grow(needed: number): void {
    if (needed <= this.bytes.byteLength) return;
    let size = this.bytes.byteLength;
    while (size < needed) size *= 2;
    const bigger = new Uint8Array(new ArrayBuffer(size));
    bigger.set(this.bytes);
    this.bytes = bigger;
    this.view = new DataView(bigger.buffer);
  }

  text(text: string): number {
    const known = this.texts.get(text);
    if (known !== undefined) return known;
    if (text.includes("\0")) throw new PlanError(`a NUL in ${JSON.stringify(text.slice(0, 200))}`);
    this.grow(this.at + text.length * 3 + 1);
    const start = this.at;
    const { written } = encoder.encodeInto(text, this.bytes.subarray(start));
    if (written > longestText) throw new PlanError(`a text of ${written} bytes: ${JSON.stringify(text.slice(0, 60))}…`);
    this.bytes[start + written] = 0;
    this.at = start + written + 1;
    this.texts.set(text, start);
    return start;
  }

  put(bytes: Uint8Array): number {
    const start = this.reserve(bytes.byteLength);
    this.bytes.set(bytes, start);
    return start;
  }

  point(at: number, target: number): void {
    this.relocs.push(at, target);
  }
}

function isSlot(value: unknown): value is Slot {
  return typeof value === "object" && value !== null && "slot" in value;
}

function slotsOf(value: unknown, found: (slot: number) => void): void {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return;
  if ("slot" in value) found((value as Slot).slot);
  else if ("format" in value) for (const part of (value as Formatted<Slot>).format) slotsOf(part, found);
  else if ("fields" in value) {
    const fields = (value as Struct<Slot>).fields;
    for (const name in fields) slotsOf(fields[name], found);
  }
}

/** The slots that some step reads: only these get room. */
function usedSlots(steps: readonly Step[]): Map<number, number> {
  const used = new Map<number, number>();
  const use = (slot: number): void => {
    if (!used.has(slot)) used.set(slot, used.size);
  };
  for (const step of steps) {
    switch (step.op) {
      case "call":
        for (const arg of step.args) slotsOf(arg, use);
        break;
      case "branch":
      case "set":
      case "store":
      case "load":
        use(step.slot.slot);
        break;
      case "onFailure":
        use(step.code.slot);
        break;
      case "reportTo":
      case "await":
        use(step.socket.slot);
        break;
      case "supervise":
        use(step.code.slot);
        use(step.pid.slot);
        if (step.pidfd !== null) use(step.pidfd.slot);
        if (step.terminal !== null) use(step.terminal.slot);
        break;
      case "remove":
        if (isSlot(step.dirfd)) use(step.dirfd.slot);
        break;
      case "exit":
        if (isSlot(step.code)) use(step.code.slot);
        break;
      case "label":
      case "jump":
      case "fail":
      case "takeSignals":
      case "giveSignals":
        break;
      default:
        step satisfies never;
    }
  }
  return used;
}

/** How many records a step becomes: its own, and one before it for each text with slots and each slot in a structure. */
function recordsOf(step: Step): number {
  if (step.op === "label") return 0;
  if (step.op !== "call") return 1;
  let count = 1;
  for (const arg of step.args) {
    if (typeof arg !== "object" || arg === null) continue;
    if ("format" in arg) count++;
    else if ("fields" in arg) count += slotFields(arg as Struct<Slot>);
  }
  return count;
}

function slotFields(struct: Struct<Slot>): number {
  let count = 0;
  for (const name in struct.fields) {
    const field = struct.fields[name];
    if (isSlot(field)) count++;
    else if (typeof field === "object" && field !== null && "fields" in field) count += slotFields(field as Struct<Slot>);
  }
  return count;
}

class Encoder {
  readonly image = new Image();
  readonly slots: Map<number, number>;
  readonly slotBase: number;
  readonly labels = new Map<number, number>();
  readonly memories = new Map<number, number>();
  readonly words = new Map<string, number>();
  readonly vectors = new Map<readonly string[], number>();
  record = 0;

  constructor(
    readonly steps: readonly Step[],
    readonly options: EncodeOptions,
  ) {
    this.slots = usedSlots(steps);
    let records = 0;
    for (const step of steps) {
      if (step.op === "label") this.labels.set(step.label.label, records);
      records += recordsOf(step);
    }
    if (records > mostSteps) throw new PlanError(`a plan of ${records} steps`);
    this.image.reserve(headerSize);
    this.image.reserve(records * stepSize);
    this.slotBase = this.image.reserve(this.slots.size * 8);
    this.image.texts.clear();
  }

  label(label: Label): number {
    const place = this.labels.get(label.label);
    if (place === undefined) throw new PlanError(`the label ${label.name} is nowhere in the plan`);
    return place;
  }

  memory(memory: Memory): number {
    let place = this.memories.get(memory.memory);
    if (place === undefined) {
      place = this.image.reserve(memory.size);
      if (memory.initial !== undefined) this.image.bytes.set(memory.initial, place);
      this.memories.set(memory.memory, place);
    }
    return place;
  }

  slot(slot: Slot): number {
    const index = this.slots.get(slot.slot);
    if (index === undefined) throw new PlanError(`the slot ${slot.name} has no place`);
    return index;
  }

  /** The head of the next record; returns its offset. */
  begin(op: keyof typeof opCodes, step: Step, name: string): number {
    const at = headerSize + this.record++ * stepSize;
    const { image } = this;
    // Texts first: the image may move when it grows, and a view taken before would be of the old one.
    const nameAt = image.text(name);
    const fieldAt = step.field === "" ? none : image.text(step.field);
    const { view } = image;
    view.setUint8(at, opCodes[op]);
    view.setUint32(at + 8, nameAt, true);
    view.setUint32(at + 12, fieldAt, true);
    view.setUint32(at + 16, none, true);
    view.setUint32(at + 20, none, true);
    view.setUint32(at + 24, none, true);
    return at;
  }

  argument(at: number, index: number, kind: number, value: number | bigint): void {
    const { view } = this.image;
    view.setUint8(at + 44 + index, kind);
    if (typeof value === "bigint") view.setBigInt64(at + 80 + index * 8, value, true);
    else if (value >= 0 && value <= none) view.setUint32(at + 80 + index * 8, value, true);
    else view.setBigInt64(at + 80 + index * 8, BigInt(value), true);
  }

  slotArgument(at: number, index: number, slot: Slot): void {
    this.argument(at, index, slot.half === undefined ? kindSlot : kindSlot + 1 + slot.half, this.slot(slot));
  }

  result(at: number, slot: Slot): void {
    this.image.view.setUint32(at + 20, this.slot(slot), true);
  }

  /** Text with slots: a record that writes it into memory just before it is used. @returns the memory's offset */
  format(step: Step, formatted: Formatted<Slot>): number {
    const { image } = this;
    const parts = image.reserve(formatted.format.length * 8);
    let capacity = 1;
    formatted.format.forEach((part, index) => {
      const place = parts + index * 8;
      if (typeof part === "string") {
        const text = image.text(part);
        image.view.setUint32(place, partText, true);
        image.view.setUint32(place + 4, text, true);
        capacity += Buffer.byteLength(part);
      } else {
        image.view.setUint32(place, part.half === undefined ? kindSlot : kindSlot + 1 + part.half, true);
        image.view.setUint32(place + 4, this.slot(part), true);
        capacity += 20;
      }
    });
    const buffer = image.reserve(capacity);
    const at = this.begin("format", step, "format");
    this.argument(at, 0, kindAddress, buffer);
    this.argument(at, 1, kindImmediate, capacity);
    this.argument(at, 2, kindAddress, parts);
    this.argument(at, 3, kindImmediate, formatted.format.length);
    return buffer;
  }

  structure(step: Step, value: Struct<Slot>): number {
    const { image } = this;
    const layout = layoutOf(value.layout);
    const base = image.reserve(layout.size);
    for (const place of layout.fields) {
      const field = value.fields[place.name];
      if (field === undefined) continue;
      const at = base + place.offset;
      if (typeof field === "number" || typeof field === "bigint") {
        if (place.size === 8) image.view.setBigInt64(at, BigInt(field), true);
        else if (place.size === 4) image.view.setInt32(at, Number(field), true);
        else if (place.size === 2) image.view.setUint16(at, Number(field), true);
        else image.view.setUint8(at, Number(field));
      } else if (isSlot(field)) {
        const store = this.begin("store", step, "store");
        image.view.setUint32(store + 4, place.size, true);
        this.argument(store, 0, kindAddress, at);
        this.slotArgument(store, 1, field);
      } else if (place.type === "ptr") {
        image.point(at, this.target(step, field));
      } else if (place.type.startsWith("bytes")) {
        const bytes = typeof field === "string" ? encoder.encode(field) : field;
        if (!(bytes instanceof Uint8Array) || bytes.byteLength > place.size)
          throw new PlanError(`${value.layout}.${place.name} is too long`);
        image.bytes.set(bytes, at);
      } else throw new PlanError(`${value.layout}.${place.name} cannot be that`);
    }
    return base;
  }

  /** What a pointer in a structure points to. */
  target(step: Step, field: string | Uint8Array | Memory | Struct<Slot>): number {
    if (typeof field === "string") return this.image.text(field);
    if (field instanceof Uint8Array) return this.image.put(field);
    if ("memory" in field) return this.memory(field);
    return this.structure(step, field);
  }

  /** The same list is written once, however many calls take it: execve for each directory of PATH. */
  vector(items: readonly string[]): number {
    const known = this.vectors.get(items);
    if (known !== undefined) return known;
    const { image } = this;
    const base = image.reserve((items.length + 1) * 8);
    items.forEach((item, index) => {
      image.point(base + index * 8, image.text(item));
    });
    this.vectors.set(items, base);
    return base;
  }

  /** An argument of a call: its kind and value. Records that must come before the call's are written here. */
  resolve(step: CallStep, value: unknown): readonly [kind: number, value: number | bigint] {
    if (typeof value === "number" || typeof value === "bigint") return [kindImmediate, value];
    if (value === null || value === undefined) return [kindImmediate, 0];
    if (typeof value === "string") return [kindAddress, this.image.text(value)];
    if (value instanceof Uint8Array) return [kindAddress, this.image.put(value)];
    if (Array.isArray(value)) return [kindAddress, this.vector(value as string[])];
    if (isSlot(value)) return [value.half === undefined ? kindSlot : kindSlot + 1 + value.half, this.slot(value)];
    if (typeof value === "object") {
      if ("memory" in value) return [kindAddress, this.memory(value as Memory)];
      if ("format" in value) return [kindAddress, this.format(step, value as Formatted<Slot>)];
      if ("fields" in value) return [kindAddress, this.structure(step, value as Struct<Slot>)];
    }
    throw new PlanError(`an argument of ${step.name} that no plan can hold`);
  }

  /** Words for an argument that init cannot show by itself: flags and structures. */
  wordsFor(kind: Kind, value: unknown): number {
    if (typeof value !== "number" && typeof value !== "bigint") return this.image.text(showArg(kind, value));
    const key = `${kind} ${value}`;
    let place = this.words.get(key);
    if (place === undefined) {
      place = this.image.text(showArg(kind, value));
      this.words.set(key, place);
    }
    return place;
  }

  call(step: CallStep): void {
    const table: readonly (readonly [string, Kind])[] = calls[step.name as CallName];
    if (table.length !== step.args.length) throw new PlanError(`${step.name} takes ${table.length} arguments`);
    const values = step.args.map((arg) => this.resolve(step, arg));
    const says = step.says === null ? none : this.image.text(step.says);
    const words = values.map((_, index) => this.shown(step, index, (table[index] as readonly [string, Kind])[1]));
    const at = this.begin("call", step, step.name);
    const { view } = this.image;
    view.setUint8(at + 1, values.length);
    view.setUint8(at + 2, step.carryOn ? 1 : 0);
    view.setUint8(at + 3, step.blame === "command" ? 1 : 0);
    view.setUint32(at + 4, nr[step.name], true);
    view.setUint32(at + 16, says, true);
    if (step.result !== null && this.slots.has(step.result.slot)) this.result(at, step.result);
    if (step.orElse !== null) view.setUint32(at + 24, this.label(step.orElse), true);
    view.setUint16(at + 28, step.retries, true);
    if (step.tolerate.length > 6) throw new PlanError(`${step.name} tolerates more than six errnos`);
    view.setUint16(at + 30, step.tolerate.length, true);
    step.tolerate.forEach((errno, index) => {
      view.setUint16(at + 32 + index * 2, errno, true);
    });
    for (let index = 0; index < values.length; index++) {
      const [kind, value] = values[index] as readonly [number, number | bigint];
      this.argument(at, index, kind, value);
      const show = words[index] as number;
      // Below 16 a way of showing, above it the place of words.
      view.setUint8(at + 50 + index, show < 16 ? show : showWords);
      if (show >= 16) view.setUint32(at + 56 + index * 4, show, true);
    }
  }

  /** How an argument is shown: a number's way, or words made now for flags and structures. */
  shown(step: CallStep, index: number, kind: Kind): number {
    const arg = step.args[index];
    const show = shows[kind];
    // Bytes and structures are not text; a slot's number is known only at run time.
    if (isSlot(arg)) return show ?? 0;
    if (show === 3 && typeof arg === "object" && arg !== null && !("format" in arg)) return this.wordsFor(kind, arg);
    return show ?? this.wordsFor(kind, arg);
  }

  other(step: Exclude<Step, CallStep>): void {
    if (step.op === "label") return;
    // Text and memory first, as in begin().
    const says =
      step.op === "fail" ? this.image.text(step.says) : step.op === "remove" ? this.image.text(`cannot remove "${step.name}"`) : none;
    const name = step.op === "remove" ? this.image.text(step.name) : 0;
    const memory = step.op === "store" || step.op === "load" ? this.memory(step.memory) : 0;
    const at = this.begin(step.op, step, step.op);
    const { view } = this.image;
    view.setUint32(at + 16, says, true);
    switch (step.op) {
      case "jump":
        view.setUint32(at + 24, this.label(step.to), true);
        break;
      case "branch":
        view.setUint32(at + 4, compares[step.compare], true);
        view.setUint32(at + 24, this.label(step.to), true);
        this.slotArgument(at, 0, step.slot);
        this.argument(at, 1, kindImmediate, step.value);
        break;
      case "set":
        this.result(at, step.slot);
        this.argument(at, 0, kindImmediate, step.value);
        break;
      case "store":
      case "load":
        if (step.offset < 0 || step.offset + 4 > step.memory.size) throw new PlanError(`${step.op} outside of memory`);
        view.setUint32(at + 4, 4, true);
        this.argument(at, 0, kindAddress, memory + step.offset);
        if (step.op === "store") this.slotArgument(at, 1, step.slot);
        else this.result(at, step.slot);
        break;
      case "onFailure":
        view.setUint32(at + 24, this.label(step.to), true);
        this.result(at, step.code);
        break;
      case "reportTo":
      case "await":
        this.slotArgument(at, 0, step.socket);
        break;
      case "fail":
        view.setUint8(at + 3, step.blame === "command" ? 1 : 0);
        this.argument(at, 0, kindImmediate, step.errno);
        break;
      case "supervise":
        this.result(at, step.code);
        this.slotArgument(at, 0, step.pid);
        if (step.pidfd === null) this.argument(at, 1, kindImmediate, -1);
        else this.slotArgument(at, 1, step.pidfd);
        if (step.terminal === null) this.argument(at, 2, kindImmediate, -1);
        else this.slotArgument(at, 2, step.terminal);
        this.argument(at, 3, kindImmediate, step.interactive ? 1 : 0);
        break;
      case "remove":
        view.setUint8(at + 2, 1);
        if (isSlot(step.dirfd)) this.slotArgument(at, 0, step.dirfd);
        else this.argument(at, 0, kindImmediate, step.dirfd);
        this.argument(at, 1, kindAddress, name);
        break;
      case "exit":
        if (isSlot(step.code)) this.slotArgument(at, 0, step.code);
        else this.argument(at, 0, kindImmediate, step.code);
        break;
      case "takeSignals":
      case "giveSignals":
        break;
      default:
        step satisfies never;
    }
  }
}

const magic = 0x5049434f;
const version = 1;

/**
 * The image of a plan, ready for a memfd.
 * @throws PlanError for text with a NUL or over 128 KiB, a missing label, more than 32,768 steps, or a fault that names
 * no call
 */
export function encodePlan(steps: readonly Step[], options: EncodeOptions = {}): Uint8Array<ArrayBuffer> {
  const encoding = new Encoder(steps, options);
  let fault = none;
  const { image } = encoding;
  const prefix = image.text(options.prefix ?? "ocibox: cannot start the container: ");
  for (let index = 0; index < steps.length; index++) {
    const step = steps[index] as Step;
    if (step.op === "call") {
      encoding.call(step);
      if (options.fault?.step === index) fault = encoding.record - 1;
    } else encoding.other(step);
  }
  if (options.fault !== undefined && fault === none)
    throw new PlanError(`step ${options.fault.step} is not a call of this plan, which has ${steps.length} steps`);
  const relocs = image.reserve(image.relocs.length * 4);
  image.relocs.forEach((word, index) => {
    image.view.setUint32(relocs + index * 4, word, true);
  });
  const size = image.reserve(8) + 8;
  const head = [
    magic,
    version,
    size,
    encoding.record,
    headerSize,
    encoding.slots.size,
    encoding.slotBase,
    image.relocs.length / 2,
    relocs,
    fault,
    options.fault?.errno ?? 0,
    prefix,
  ];
  head.forEach((word, index) => {
    image.view.setUint32(index * 4, word, true);
  });
  return image.bytes.subarray(0, size);
}

/** Whether a step can be made to fail by `fault`. */
export function canFail(step: Step): boolean {
  return step.op === "call";
}
