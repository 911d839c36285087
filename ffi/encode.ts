/** Puts a plan's steps into one image, which init/ maps and runs. The format is told in init/init.h. */
import { argumentsOf, type CallName, type Kind } from "./calls.ts";
import { nr } from "./machine.ts";
import type { CallStep, Compare, Label, Slot, Step } from "./plan.ts";
import { type LayoutName, layoutOf, layouts, type Placed } from "./structs.ts";
import { type Memory, ownEnvironment } from "./sys.ts";

/**
 * A step (its index in the list given) that fails with `errno` (positive) instead of being done; of several up to `last`
 * the first that somebody comes to.
 */
export interface Fault {
  readonly step: number;
  readonly last?: number;
  readonly errno: number;
}

/** How init writes an argument out, in the order of `enum show`; the flag tables come after. */
const shows = ["int", "dirfd", "mode", "hex", "dev", "sig", "text", "bytes", "out", "strv", "struct"] as const;

/** The tables of constants.ts that init has by name, in its order. */
export const flagTables = [
  "O",
  "AT",
  "MS",
  "MNT",
  "FSOPEN",
  "FSMOUNT",
  "MOUNT_ATTR",
  "FSCONFIG",
  "OPEN_TREE",
  "MOVE_MOUNT",
  "CLONE",
  "MFD",
  "CLOSE_RANGE",
  "RENAME",
  "PR",
  "SECCOMP",
  "SECCOMP_FILTER_FLAG",
  "RLIMIT",
  "AF",
  "SOCK",
  "IOCTL",
  "F",
  "RESOLVE",
  "SIG",
] as const;

const showInt = 0;
const showText = 6;
const showBytes = 7;
const showOut = 8;
const showStrv = 9;
const showStruct = 10;

/** The number by which init knows how a value of this kind is written. */
export function showOf(kind: Kind | "RESOLVE"): number {
  const known = (shows as readonly string[]).indexOf(kind);
  if (known >= 0) return known;
  const table = (flagTables as readonly string[]).indexOf(kind);
  return table < 0 ? showInt : shows.length + table;
}

const none = 0xffffffff;
const headerSize = 48;
const partHeaderWords = 6;
const stepWords = 38;
const argWord = 14;
const mostSteps = 16384;
const mostSlots = 4096;
const mostText = 1 << 20;
/** MAX_ARG_STRLEN of execve(2), its NUL included. */
const mostArgument = 131072;
const mostBytes = 64 << 20;

const opCall = 0;
const opJump = 1;
const opBranch = 2;
const opSet = 3;
const opStore = 4;
const opLoad = 5;
const opFormat = 6;
const opOnFailure = 7;
const opReportTo = 8;
const opAwait = 9;
const opFail = 10;
const opTakeSignals = 11;
const opGiveSignals = 12;
const opSupervise = 13;
const opRemove = 14;
const opExit = 15;
const opLogTo = 16;
const opPlainLines = 17;
const opEnsure = 18;
const opForgetEnvironment = 19;

const carryOn = 1;
const command = 2;
const more = 4;

const argNumber = 0;
const argSlot = 1;
const argLow = 2;
const argAddress = 4;
const argSlotAddress = 5;
const argEnvironment = 6;

const compares: readonly Compare[] = ["==", "!=", "<", ">"];
const layoutNumbers = Object.keys(layouts);
const utf8 = new TextEncoder();

interface CallShape {
  readonly name: number;
  readonly shows: readonly number[];
}

class Encoder {
  words: Uint32Array<ArrayBuffer>;
  count = 0;
  #bytes = new Uint8Array(new ArrayBuffer(1 << 14));
  #view = new DataView(this.#bytes.buffer);
  /** Offset 0 is the empty text. */
  #used = 8;
  /** Where addresses stand in the data. */
  readonly #relocations: number[] = [];
  /** Those of the part that this goes on from: sorted, and before all others. */
  #inherited = new Uint32Array();
  readonly #texts = new Map<string, number>([["", 0]]);
  readonly #objects = new Map<object, number>();
  readonly #memories = new Map<number, number>();
  readonly #calls = new Map<CallName, CallShape>();
  readonly #slots = new Map<number, number>();
  /** Results that nothing has used so far: slot → the words where its number goes. */
  readonly #unused = new Map<number, number[]>();
  readonly #labels = new Map<number, number>();
  readonly #jumps: [word: number, label: Label][] = [];
  faultAt = none;
  faultLast = none;
  #dataAt = 0;
  /** Results of the part that this goes on from: their numbers are taken. */
  #slotBase = 0;

  constructor(steps: number) {
    this.words = new Uint32Array(new ArrayBuffer((steps * 2 + 16) * stepWords * 4));
  }

  /** Goes on where a part ended. */
  resume(part: EncodedPart): void {
    const [count = 0, slots = 0, data = 0, relocations = 0] = headOfPart(part);
    const wordBytes = count * stepWords * 4;
    const room = new Uint32Array(new ArrayBuffer(wordBytes + this.words.byteLength));
    const bytes = new Uint8Array(new ArrayBuffer(data + (1 << 14)));
    let at = partHeaderWords * 4;
    new Uint8Array(room.buffer).set(part.subarray(at, at + wordBytes));
    at += wordBytes;
    bytes.set(part.subarray(at, at + data));
    at += (data + 3) & ~3;
    this.words = room;
    this.count = count;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
    this.#used = data;
    this.#slotBase = slots;
    this.#inherited = new Uint32Array(part.slice(at, at + relocations * 4).buffer);
  }

  /** Everything so far, for another encoder to go on from. @throws TypeError where a jump leads out of it */
  part(): EncodedPart {
    this.#placeJumps();
    const data = this.#used;
    const wordBytes = this.count * stepWords * 4;
    const relocationsAt = partHeaderWords * 4 + wordBytes + ((data + 3) & ~3);
    const relocations = this.#sortedRelocations();
    const part = new Uint8Array(new ArrayBuffer(relocationsAt + relocations.byteLength));
    const head = [this.count, this.slotCount, data, relocations.length, partMagic, 0];
    new Uint32Array(part.buffer).set(head);
    new Uint32Array(part.buffer).set(this.words.subarray(0, this.count * stepWords), partHeaderWords);
    part.set(this.#bytes.subarray(0, data), partHeaderWords * 4 + wordBytes);
    new Uint32Array(part.buffer).set(relocations, relocationsAt / 4);
    return part as EncodedPart;
  }

  #sortedRelocations(): Uint32Array<ArrayBuffer> {
    const all = new Uint32Array(this.#inherited.length + this.#relocations.length);
    all.set(this.#inherited);
    // A typed array sorts by numbers, and without calls of ours.
    all.set(new Uint32Array(this.#relocations).sort(), this.#inherited.length);
    return all;
  }

  #placeJumps(): void {
    for (const [word, label] of this.#jumps) {
      const target = this.#labels.get(label.label);
      if (target === undefined) throw new TypeError(`the label ${label.name} is jumped to and nowhere placed`);
      this.words[word] = target;
    }
  }

  /** Room in the data. @returns its offset, a multiple of 8 */
  #reserve(size: number): number {
    const at = (this.#used + 7) & ~7;
    const end = at + size;
    if (end + 8 > this.#bytes.length) {
      if (end > mostBytes / 2) throw new RangeError("the plan is too large");
      const wider = new Uint8Array(new ArrayBuffer(Math.max(this.#bytes.length * 2, (end + 4096) & ~7)));
      wider.set(this.#bytes);
      this.#bytes = wider;
      this.#view = new DataView(wider.buffer);
    }
    this.#used = end;
    return at;
  }

  text(text: string): number {
    const known = this.#texts.get(text);
    if (known !== undefined) return known;
    if (text.includes("\0")) throw new TypeError(`a NUL in ${JSON.stringify(text.slice(0, 200))}`);
    if (text.length >= mostText) throw new RangeError("text of more than 1 MiB in a plan");
    const at = this.#reserve(text.length * 3 + 1);
    const { written } = utf8.encodeInto(text, this.#bytes.subarray(at, at + text.length * 3));
    if (written >= mostText) throw new RangeError("text of more than 1 MiB in a plan");
    this.#bytes[at + written] = 0;
    this.#used = at + written + 1;
    this.#texts.set(text, at);
    return at;
  }

  #raw(bytes: Uint8Array): number {
    const known = this.#objects.get(bytes);
    if (known !== undefined) return known;
    const at = this.#reserve(Math.max(bytes.byteLength, 1));
    this.#bytes.set(bytes, at);
    this.#objects.set(bytes, at);
    return at;
  }

  #memory(memory: Pick<Memory, "memory" | "size" | "initial">): number {
    const known = this.#memories.get(memory.memory);
    if (known !== undefined) return known;
    const at = this.#reserve(Math.max(memory.size, 1));
    if (memory.initial !== undefined) this.#bytes.set(memory.initial, at);
    this.#memories.set(memory.memory, at);
    return at;
  }

  #pointer(at: number, target: number): void {
    this.#view.setUint32(at, target, true);
    this.#relocations.push(at);
  }

  #vector(items: readonly string[]): number {
    const known = this.#objects.get(items);
    if (known !== undefined) return known;
    if (items.length > 65536) throw new RangeError("more than 65536 arguments or environment variables");
    const at = this.#reserve((items.length + 1) * 8);
    items.forEach((item, index) => {
      if (item.length >= mostArgument || (item.length * 3 >= mostArgument && utf8.encode(item).length >= mostArgument))
        throw new RangeError("an argument or environment variable of more than 128 KiB");
      this.#pointer(at + index * 8, this.text(item));
    });
    this.#objects.set(items, at);
    return at;
  }

  /** A slot's number in the image; this is its use. */
  #slot(slot: Slot): number {
    const known = this.#slots.get(slot.slot);
    if (known !== undefined) return known;
    const number = this.#slotBase + this.#slots.size;
    if (number >= mostSlots) throw new RangeError("more than 4096 results in a plan");
    this.#slots.set(slot.slot, number);
    const waiting = this.#unused.get(slot.slot);
    if (waiting !== undefined) for (const word of waiting) this.words[word] = number;
    return number;
  }

  get slotCount(): number {
    return this.#slotBase + this.#slots.size;
  }

  /** Begins a record. @returns the index of its first word */
  #begin(op: number, flags: number, field: string): number {
    if (this.count >= mostSteps) throw new RangeError("more than 16384 steps in a plan");
    const at = this.count++ * stepWords;
    if (at + stepWords > this.words.length) {
      const wider = new Uint32Array(new ArrayBuffer(this.words.byteLength * 2));
      wider.set(this.words);
      this.words = wider;
    }
    this.words[at] = op | (flags << 8);
    this.words[at + 2] = none;
    this.words[at + 3] = none;
    this.words[at + 5] = this.text(field);
    this.words[at + 6] = none;
    return at;
  }

  #number(word: number, value: number | bigint): void {
    if (typeof value === "number") {
      if (!Number.isSafeInteger(value)) throw new RangeError(`${value} is no integer that a call can take`);
      this.words[word] = value >>> 0;
      this.words[word + 1] = Math.floor(value / 0x100000000) >>> 0;
    } else {
      this.words[word] = Number(BigInt.asUintN(32, value));
      this.words[word + 1] = Number(BigInt.asUintN(32, value >> 32n));
    }
  }

  #arg(step: number, kind: number, show: number, value: number | bigint, layout = 0, length = 0): void {
    const head = this.words[step] ?? 0;
    const index = (head >>> 16) & 0xff;
    this.words[step] = head + 0x10000;
    const at = step + argWord + index * 4;
    this.words[at] = kind | (show << 8) | (layout << 16);
    this.words[at + 1] = length;
    this.#number(at + 2, value);
  }

  #slotArg(step: number, slot: Slot | number, show = showInt): void {
    if (typeof slot === "number") this.#arg(step, argNumber, show, slot);
    else this.#arg(step, slot.half === undefined ? argSlot : argLow + slot.half, show, this.#slot(slot));
  }

  #result(word: number, slot: Slot): void {
    if (slot.half !== undefined) throw new TypeError(`half a slot cannot be set: ${slot.name}`);
    this.words[word] = this.#slot(slot);
  }

  #jump(word: number, label: Label): void {
    this.#jumps.push([word, label]);
  }

  /** Steps that put slots into text; they come before the step that uses it. */
  #format(parts: readonly (string | Slot | Memory)[], field: string): number {
    let capacity = 1;
    for (const part of parts) capacity += typeof part === "string" ? part.length * 3 : isMemory(part) ? part.size : 20;
    const buffer = this.#reserve(capacity);
    for (let from = 0; from < parts.length || from === 0; from += 6) {
      const at = this.#begin(opFormat, from === 0 ? 0 : more, field);
      this.words[at + 1] = capacity;
      this.words[at + 4] = buffer;
      for (const part of parts.slice(from, from + 6)) {
        if (typeof part === "string") this.#arg(at, argAddress, showText, this.text(part));
        else if (isMemory(part)) this.#arg(at, argAddress, showText, this.#memory(part));
        else this.#slotArg(at, part);
      }
    }
    return buffer;
  }

  /** Writes a slot, or its address, into data. @param width bytes */
  #store(place: number, width: number, slot: Slot, address: boolean, field: string): void {
    const at = this.#begin(opStore, 0, field);
    this.words[at + 1] = width;
    this.words[at + 4] = place;
    if (address) this.#arg(at, argSlotAddress, showInt, this.#slot(slot));
    else this.#slotArg(at, slot);
  }

  #struct(value: { layout: LayoutName; fields: Readonly<Record<string, unknown>> }, field: string): number {
    const layout = layoutOf(value.layout);
    const at = this.#reserve(layout.size);
    for (const name in value.fields) {
      const place = layout.fields.find((each) => each.name === name);
      if (place === undefined) throw new TypeError(`no field ${name} in struct ${value.layout}`);
      const content = value.fields[name];
      if (content !== undefined) this.#member(at + place.offset, place, content, field);
    }
    return at;
  }

  #member(at: number, place: Placed, content: unknown, field: string): void {
    if (typeof content === "number" || typeof content === "bigint") {
      if (place.size === 1) this.#view.setUint8(at, Number(content));
      else if (place.size === 2) this.#view.setUint16(at, Number(content), true);
      else if (place.size === 4) this.#view.setInt32(at, Number(content), true);
      else this.#view.setBigInt64(at, BigInt.asIntN(64, BigInt(content)), true);
      return;
    }
    if (place.type.startsWith("bytes")) {
      const bytes = typeof content === "string" ? utf8.encode(content) : content;
      if (!(bytes instanceof Uint8Array) || bytes.byteLength > place.size)
        throw new RangeError(`${place.name} holds ${place.size} bytes`);
      this.#bytes.set(bytes, at);
      return;
    }
    if (isSlot(content)) {
      this.#store(at, place.size, content, place.type === "ptr", field);
      return;
    }
    if (place.type !== "ptr") throw new TypeError(`${place.name} is a number`);
    this.#pointer(at, this.#target(content, field));
  }

  /** What a pointer points to. @returns its offset in the data */
  #target(content: unknown, field: string): number {
    if (typeof content === "string") return this.text(content);
    if (content instanceof Uint8Array) return this.#raw(content);
    if (isMemory(content)) return this.#memory(content);
    if (isStruct(content)) return this.#struct(content, field);
    throw new TypeError("something that a plan cannot point to");
  }

  #argument(value: unknown, show: number, field: string): Prepared {
    if (value === null || value === undefined) return [argNumber, show, 0, 0, 0];
    if (typeof value === "number" || typeof value === "bigint") return [argNumber, show, value, 0, 0];
    if (typeof value === "string") return [argAddress, showText, this.text(value), 0, 0];
    if (value === ownEnvironment) return [argEnvironment, showStrv, 0, 0, 0];
    if (value instanceof Uint8Array)
      return [argAddress, show === showOut ? showOut : showBytes, this.#raw(value), 0, value.byteLength];
    if (Array.isArray(value)) return [argAddress, showStrv, this.#vector(value), 0, 0];
    if (isSlot(value)) {
      if (show === showOut) return [argSlotAddress, showOut, this.#slot(value), 0, 0];
      return [value.half === undefined ? argSlot : argLow + value.half, show, this.#slot(value), 0, 0];
    }
    if (isMemory(value)) return [argAddress, showOut, this.#memory(value), 0, 0];
    if (isStruct(value))
      return [argAddress, showStruct, this.#struct(value, field), layoutNumbers.indexOf(value.layout), 0];
    if (typeof value === "object" && "format" in value)
      return [argAddress, showText, this.#format(value.format as readonly (string | Slot)[], field), 0, 0];
    throw new TypeError("an argument that a plan cannot hold");
  }

  #shape(name: CallName): CallShape {
    const known = this.#calls.get(name);
    if (known !== undefined) return known;
    const shape = { name: this.text(name), shows: argumentsOf(name).map(([, kind]) => showOfArgument(kind)) };
    this.#calls.set(name, shape);
    return shape;
  }

  #call(step: CallStep): void {
    const shape = this.#shape(step.name);
    if (step.args.length !== shape.shows.length)
      throw new TypeError(`${step.name} takes ${shape.shows.length} arguments`);
    if (step.tolerate.length > 8) throw new RangeError("more than 8 errnos tolerated");
    const prepared = step.args.map((arg, index) => this.#argument(arg, shape.shows[index] ?? showInt, step.field));
    const flags = (step.carryOn ? carryOn : 0) | (step.blame === "command" ? command : 0);
    const at = this.#begin(opCall, flags, step.field);
    this.words[at + 1] = nr[step.name];
    this.words[at + 4] = shape.name;
    this.words[at + 7] = step.retries;
    if (step.says !== null) this.words[at + 6] = this.text(step.says);
    if (step.orElse !== null) this.#jump(at + 3, step.orElse);
    step.tolerate.forEach((errno, index) => {
      const word = at + 10 + (index >> 1);
      this.words[word] = (this.words[word] ?? 0) | (errno << (index & 1 ? 16 : 0));
    });
    this.words[at] = (this.words[at] ?? 0) | (step.tolerate.length << 24);
    for (const [kind, show, value, layout, length] of prepared) this.#arg(at, kind, show, value, layout, length);
    if (step.result === null) return;
    const used = this.#slots.get(step.result.slot);
    if (used !== undefined) this.words[at + 2] = used;
    else {
      const waiting = this.#unused.get(step.result.slot);
      if (waiting === undefined) this.#unused.set(step.result.slot, [at + 2]);
      else waiting.push(at + 2);
    }
  }

  /** @returns the index of the record that stands for the step, or `none` */
  step(step: Step): number {
    switch (step.op) {
      case "call":
        this.#call(step);
        return this.count - 1;
      case "label":
        this.#labels.set(step.label.label, this.count);
        return none;
      case "jump":
        this.#jump(this.#begin(opJump, 0, step.field) + 3, step.to);
        break;
      case "branch": {
        const at = this.#begin(opBranch, 0, step.field);
        this.words[at + 1] = compares.indexOf(step.compare);
        this.#slotArg(at, step.slot);
        this.#number(at + 8, step.value);
        this.#jump(at + 3, step.to);
        break;
      }
      case "set": {
        const at = this.#begin(opSet, 0, step.field);
        this.#result(at + 2, step.slot);
        this.#number(at + 8, step.value);
        break;
      }
      case "store":
      case "load": {
        if (step.offset < 0 || step.offset + 4 > step.memory.size)
          throw new RangeError(`${step.memory.name} holds ${step.memory.size} bytes`);
        const place = this.#memory(step.memory) + step.offset;
        if (step.op === "store") {
          this.#store(place, 4, step.slot, false, step.field);
        } else {
          const at = this.#begin(opLoad, 0, step.field);
          this.words[at + 4] = place;
          this.#result(at + 2, step.slot);
        }
        break;
      }
      default:
        this.#control(step);
    }
    return this.count - 1;
  }

  #control(
    step: Exclude<Step, CallStep | { op: "label" | "jump" | "branch" | "set" | "store" | "load" | "call" }>,
  ): void {
    switch (step.op) {
      case "onFailure": {
        const at = this.#begin(opOnFailure, 0, step.field);
        this.#result(at + 2, step.code);
        this.#jump(at + 3, step.to);
        break;
      }
      case "reportTo":
        this.#slotArg(this.#begin(opReportTo, 0, step.field), step.socket);
        break;
      case "await":
        this.#slotArg(this.#begin(opAwait, step.byte ? more : 0, step.field), step.socket);
        break;
      case "logTo": {
        const at = this.#begin(opLogTo, 0, step.field);
        this.words[at + 4] = this.text(step.suffix);
        this.words[at + 6] = this.text(step.prefix);
        this.#slotArg(at, step.fd);
        this.#arg(at, argAddress, showText, this.text(step.warning));
        break;
      }
      case "fail": {
        const flags = (step.blame === "command" ? command : 0) | (step.warning === true ? carryOn : 0);
        const says = typeof step.says === "string" ? this.text(step.says) : this.#format(step.says.format, step.field);
        const at = this.#begin(opFail, flags, step.field);
        this.words[at + 6] = says;
        if (typeof step.errno === "number") this.#number(at + 8, step.errno);
        else this.#slotArg(at, step.errno);
        break;
      }
      case "takeSignals":
        this.#begin(opTakeSignals, 0, step.field);
        break;
      case "giveSignals":
        this.#begin(opGiveSignals, 0, step.field);
        break;
      case "supervise": {
        const at = this.#begin(opSupervise, step.interactive ? more : 0, step.field);
        this.#slotArg(at, step.pid);
        this.#slotArg(at, step.pidfd ?? -1);
        this.#slotArg(at, step.terminal ?? -1);
        this.#slotArg(at, step.log?.file ?? -1);
        this.#slotArg(at, step.log?.out ?? -1);
        this.#slotArg(at, step.log?.err ?? -1);
        this.#result(at + 2, step.code);
        break;
      }
      case "ensure": {
        const at = this.#begin(opEnsure, step.kind === "file" ? more : 0, step.field);
        this.words[at + 4] = this.text(step.path);
        this.#slotArg(at, step.root);
        this.#result(at + 2, step.into);
        break;
      }
      case "forgetEnvironment":
        this.#begin(opForgetEnvironment, 0, step.field);
        break;
      case "plainLines":
        this.#slotArg(this.#begin(opPlainLines, 0, step.field), step.terminal);
        break;
      case "remove": {
        const at = this.#begin(opRemove, 0, step.field);
        this.words[at + 4] = this.text(step.name);
        this.#slotArg(at, step.dirfd);
        break;
      }
      case "exit":
        this.#slotArg(this.#begin(opExit, 0, step.field), step.code);
        break;
    }
  }

  /** Where in the finished image a text lies. @throws TypeError where it is not in the plan */
  placeOf(text: string): number {
    const at = this.#texts.get(text);
    if (at === undefined) throw new TypeError("a text that is not in the plan");
    return this.#dataAt + at;
  }

  finish(fault: Fault | undefined): Uint8Array<ArrayBuffer> {
    this.#arg(this.#begin(opExit, 0, ""), argNumber, showInt, 125);
    this.#placeJumps();
    const relocations = this.#sortedRelocations();
    const dataAt = headerSize + this.count * stepWords * 4;
    this.#dataAt = dataAt;
    const dataSize = ((this.#used + 7) & ~7) + 8;
    const relocationsAt = dataAt + dataSize;
    const size = relocationsAt + relocations.length * 4;
    if (size > mostBytes) throw new RangeError("the plan is too large");
    const image = new Uint8Array(new ArrayBuffer(size));
    image.set(this.#bytes.subarray(0, this.#used), dataAt);
    const words = new Uint32Array(image.buffer);
    words.set(this.words.subarray(0, this.count * stepWords), headerSize / 4);
    words.set(relocations, relocationsAt / 4);
    const failing = fault === undefined ? none : this.faultAt;
    words.set([0x5042434f, 1, size, this.count, dataAt, dataSize, relocationsAt, relocations.length]);
    words.set([this.slotCount, failing, fault?.errno ?? 0, this.faultLast], 8);
    return image;
  }
}

type Prepared = readonly [kind: number, show: number, value: number | bigint, layout: number, length: number];

function showOfArgument(kind: Kind): number {
  switch (kind) {
    case "path":
    case "str":
      return showText;
    case "strv":
      return showStrv;
    case "struct":
      return showStruct;
    case "in":
      return showBytes;
    default:
      return showOf(kind);
  }
}

function isSlot(value: unknown): value is Slot {
  return typeof value === "object" && value !== null && "slot" in value;
}

function isMemory(value: unknown): value is Memory {
  return typeof value === "object" && value !== null && "memory" in value;
}

function isStruct(value: unknown): value is { layout: LayoutName; fields: Readonly<Record<string, unknown>> } {
  return typeof value === "object" && value !== null && "layout" in value;
}

/** The beginning of a plan, encoded: position-independent bytes that can be kept and gone on from. */
export type EncodedPart = Uint8Array<ArrayBuffer> & { readonly encodedPart: unique symbol };

const partMagic = 0x54524150;

function headOfPart(part: EncodedPart): Uint32Array {
  const head = new Uint32Array(part.slice(0, partHeaderWords * 4).buffer);
  const [count = 0, , data = 0, relocations = 0, magic] = head;
  const size = (partHeaderWords + count * stepWords + relocations) * 4 + ((data + 3) & ~3);
  if (magic !== partMagic || size !== part.byteLength) throw new TypeError("these bytes are no part of a plan");
  return head;
}

/**
 * Encodes the beginning of a plan; nothing in it may refer to what comes after.
 * @throws TypeError, RangeError as encodePlan does
 */
export function encodePart(steps: readonly Step[]): EncodedPart {
  const encoder = new Encoder(steps.length);
  for (const step of steps) encoder.step(step);
  return encoder.part();
}

interface EncodeOptions {
  readonly fault?: Fault | undefined;
  /** What the plan goes on from. */
  readonly after?: EncodedPart;
}

/**
 * The image of a plan, for init to run.
 * @throws TypeError, RangeError for what no plan can hold: a NUL in text, text over 1 MiB, a label that is not placed
 */
export function encodePlan(
  plan: { readonly steps: readonly Step[] } | readonly Step[],
  options?: EncodeOptions,
): Uint8Array<ArrayBuffer> {
  return encodeWithPlaces(plan, [], options).image;
}

/** The image of a plan, and where in it each of some texts lies. @throws as encodePlan */
export function encodeWithPlaces(
  plan: { readonly steps: readonly Step[] } | readonly Step[],
  texts: readonly string[],
  { fault, after }: EncodeOptions = {},
): { readonly image: Uint8Array<ArrayBuffer>; readonly places: readonly number[] } {
  const steps = "steps" in plan ? plan.steps : plan;
  const encoder = new Encoder(steps.length);
  if (after !== undefined) encoder.resume(after);
  for (let index = 0; index < steps.length; index++) {
    const step = steps[index];
    if (step === undefined) continue;
    const record = encoder.step(step);
    if (fault === undefined || record === none || index < fault.step || index > (fault.last ?? fault.step)) continue;
    if (encoder.faultAt === none) encoder.faultAt = record;
    encoder.faultLast = record;
  }
  const image = encoder.finish(fault);
  return { image, places: texts.map((text) => encoder.placeOf(text)) };
}
