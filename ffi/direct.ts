/** The direct back end: a call is made at once, its failure thrown as a SyscallError. */
import { ptr } from "bun:ffi";
import { type CallName, calls } from "./calls.ts";
import { type ErrnoName, errnoName, errnoOf, errnoWords } from "./errno.ts";
import { libc } from "./libc.ts";
import { nr } from "./machine.ts";
import { showCall } from "./show.ts";
import { layoutOf } from "./structs.ts";
import type { Struct, StructField, Sys } from "./sys.ts";

type Word = number | bigint;
type Value = Word | string | Uint8Array | readonly string[] | Struct<number> | { memory: number } | object | null;

/** A system call that failed: which, with what, and why. */
export class SyscallError extends Error {
  override readonly name = "SyscallError";
  constructor(
    readonly call: CallName,
    readonly args: readonly unknown[],
    readonly errno: number,
  ) {
    super(`${showCall(call, args)}: ${errnoWords(errno)}`);
  }

  /** The errno's name, "EPERM". */
  get code(): ErrnoName | undefined {
    return errnoName(this.errno);
  }
}

// Memory for the text and structures of one call. It is used up from the front and taken anew when it is full: nothing
// in it is needed once the call has returned.
const arenaSize = 1 << 15;
let arena: Uint8Array<ArrayBuffer> | undefined;
let arenaBase = 0;
let used = 0;
const encoder = new TextEncoder();
/** Bytes that must stay alive during the call that is being put together. */
let held: unknown[] = [];
let lib: ReturnType<typeof libc> | undefined;

function reserve(size: number): { bytes: Uint8Array<ArrayBuffer>; at: number; address: number } {
  if (arena === undefined) {
    arena = new Uint8Array(new ArrayBuffer(arenaSize));
    arenaBase = ptr(arena);
  }
  const aligned = (used + 7) & ~7;
  if (aligned + size > arenaSize) {
    const own = new Uint8Array(new ArrayBuffer(size));
    held.push(own);
    return { bytes: own, at: 0, address: ptr(own) };
  }
  used = aligned + size;
  return { bytes: arena, at: aligned, address: arenaBase + aligned };
}

function textAddress(text: string): number {
  if (text.includes("\0")) throw new TypeError(`a NUL in ${JSON.stringify(text)}, which the kernel would cut there`);
  const most = text.length * 3;
  const at = (used + 7) & ~7;
  if (arena === undefined || at + most >= arenaSize) {
    const room = reserve(most + 1);
    const { written } = encoder.encodeInto(text, room.bytes.subarray(room.at, room.at + most));
    room.bytes[room.at + written] = 0;
    return room.address;
  }
  const { written } = encoder.encodeInto(text, arena.subarray(at, at + most));
  arena[at + written] = 0;
  used = at + written + 1;
  return arenaBase + at;
}

function bytesAddress(bytes: Uint8Array): number {
  if (bytes.byteLength === 0) return textAddress("");
  held.push(bytes);
  return ptr(bytes);
}

function vectorAddress(items: readonly string[]): number {
  const room = reserve((items.length + 1) * 8);
  const view = new DataView(room.bytes.buffer);
  items.forEach((item, index) => {
    view.setBigUint64(room.at + index * 8, BigInt(textAddress(item)), true);
  });
  view.setBigUint64(room.at + items.length * 8, 0n, true);
  return room.address;
}

function structAddress(value: Struct<number>): number {
  const layout = layoutOf(value.layout);
  const room = reserve(layout.size);
  const view = new DataView(room.bytes.buffer, room.at, layout.size);
  new Uint8Array(room.bytes.buffer, room.at, layout.size).fill(0);
  for (const place of layout.fields) {
    const field = value.fields[place.name];
    if (field === undefined) continue;
    if (place.type.startsWith("bytes")) {
      const bytes = typeof field === "string" ? encoder.encode(field) : field;
      if (!(bytes instanceof Uint8Array) || bytes.byteLength > place.size)
        throw new TypeError(`${value.layout}.${place.name}`);
      room.bytes.set(bytes, room.at + place.offset);
      continue;
    }
    const word = fieldWord(field);
    switch (place.size) {
      case 1:
        view.setUint8(place.offset, Number(word));
        break;
      case 2:
        view.setUint16(place.offset, Number(word), true);
        break;
      case 4:
        view.setInt32(place.offset, Number(word), true);
        break;
      default:
        view.setBigInt64(place.offset, BigInt(word), true);
    }
  }
  return room.address;
}

function fieldWord(field: StructField<number>): Word {
  if (typeof field === "number" || typeof field === "bigint") return field;
  if (typeof field === "string") return textAddress(field);
  if (field instanceof Uint8Array) return bytesAddress(field);
  if ("layout" in field) return structAddress(field);
  throw new TypeError("memory of a plan given to a direct call");
}

function wordOf(value: Exclude<Value, number>): Word {
  if (typeof value === "bigint") return value;
  if (typeof value === "string") return textAddress(value);
  if (value === null) return 0;
  if (value instanceof Uint8Array) return bytesAddress(value);
  if (Array.isArray(value)) return vectorAddress(value);
  if ("layout" in value) return structAddress(value as Struct<number>);
  throw new TypeError("an argument that only a plan can hold was given to a direct call");
}

const EINTR = 4;

/** What a call that failed has to say; one that a signal interrupted is made again. */
function settled(name: CallName, words: readonly Word[]): number {
  lib ??= libc();
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = words;
  while (lib.errno() === EINTR && name !== "close" && name !== "ppoll") {
    const result = lib.syscall(nr[name], a, b, c, d, e, f);
    if (result !== -1) return Number(result);
  }
  return -lib.errno();
}

// The next two are one function twice. A start makes some sixty calls: what is called that often JSC compiles, in a thread
// that is made for it, which costs a start a twentieth of its time (docs/performance.md). Half of the calls have a text.

/** Makes a call of numbers and bytes. @returns -errno where it fails */
function makePlain(name: CallName, args: readonly unknown[]): number {
  held = [];
  lib ??= libc();
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = args as readonly Value[];
  const first = typeof a === "number" ? a : wordOf(a);
  const second = typeof b === "number" ? b : wordOf(b);
  const third = typeof c === "number" ? c : wordOf(c);
  const fourth = typeof d === "number" ? d : wordOf(d);
  const fifth = typeof e === "number" ? e : wordOf(e);
  const sixth = typeof f === "number" ? f : wordOf(f);
  used = 0;
  const result = lib.syscall(nr[name], first, second, third, fourth, fifth, sixth);
  return result === -1 ? settled(name, [first, second, third, fourth, fifth, sixth]) : Number(result);
}

/** Makes a call that has a text for its first or second argument. @returns -errno where it fails */
function makeWithText(name: CallName, args: readonly unknown[]): number {
  held = [];
  lib ??= libc();
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = args as readonly Value[];
  const first = typeof a === "string" ? textAddress(a) : typeof a === "number" ? a : wordOf(a);
  const second = typeof b === "string" ? textAddress(b) : typeof b === "number" ? b : wordOf(b);
  const third = typeof c === "number" ? c : wordOf(c);
  const fourth = typeof d === "number" ? d : wordOf(d);
  const fifth = typeof e === "number" ? e : wordOf(e);
  const sixth = typeof f === "number" ? f : wordOf(f);
  used = 0;
  const result = lib.syscall(nr[name], first, second, third, fourth, fifth, sixth);
  return result === -1 ? settled(name, [first, second, third, fourth, fifth, sixth]) : Number(result);
}

/** Makes a call and returns its result, or -errno: for the caller who expects failures. */
export function attempt<N extends CallName>(name: N, ...args: Parameters<Sys<number>[N]>): number {
  const [first, second] = args;
  const hasText = typeof first === "string" || typeof second === "string";
  return hasText ? makeWithText(name, args) : makePlain(name, args);
}

/**
 * Makes a call; the errnos named are an answer (their negative is returned), any other is thrown.
 * @throws SyscallError
 */
export function tolerate<N extends CallName>(
  errnos: readonly ErrnoName[],
  name: N,
  ...args: Parameters<Sys<number>[N]>
): number {
  const [first, second] = args;
  const hasText = typeof first === "string" || typeof second === "string";
  const result = hasText ? makeWithText(name, args) : makePlain(name, args);
  if (result >= 0 || errnos.some((each) => errnoOf(each) === -result)) return result;
  throw new SyscallError(name, args, -result);
}

type Method = (...args: unknown[]) => number;

/** A method is made when it is first asked for, by the prototype: a start uses few of the calls there are. */
function bind(): Sys<number> {
  const prototype = new Proxy<Record<string, Method>>(
    {},
    {
      get(_, name) {
        if (typeof name !== "string" || !Object.hasOwn(calls, name)) return undefined;
        surface[name] = (...args) => {
          const hasText = typeof args[0] === "string" || typeof args[1] === "string";
          const result = hasText ? makeWithText(name as CallName, args) : makePlain(name as CallName, args);
          if (result < 0) throw new SyscallError(name as CallName, args, -result);
          return result;
        };
        return surface[name];
      },
    },
  );
  const surface: Record<string, Method> = {};
  Object.setPrototypeOf(surface, prototype);
  return surface as unknown as Sys<number>;
}

/** What each call goes through below `direct`, whose functions are all the same one: for `withoutFtl`. */
export const machinery = [
  makePlain,
  makeWithText,
  wordOf,
  textAddress,
  bytesAddress,
  structAddress,
  reserve,
  attempt,
] as const;

/** Every call, made at once. Calls interrupted by a signal are made again. Each throws a SyscallError. */
export const direct: Sys<number> = bind();
