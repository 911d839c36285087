/** The direct back end: a call is made at once, its failure thrown as a SyscallError. */
import { ptr } from "bun:ffi";
import type { CallName } from "./calls.ts";
import { type ErrnoName, errnoName, errnoOf, errnoWords } from "./errno.ts";
import { libc } from "./libc.ts";
import { nr } from "./machine.ts";
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
    // Loaded where something is to be shown: a start that shows nothing does without (docs/decisions.md).
    const { showCall } = require("./show.ts") as typeof import("./show.ts");
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
  const room = reserve(text.length * 3 + 1);
  const { written } = encoder.encodeInto(text, room.bytes.subarray(room.at, room.at + text.length * 3));
  room.bytes[room.at + written] = 0;
  return room.address;
}

function bytesAddress(bytes: Uint8Array): number {
  if (bytes.byteLength === 0) return textAddress("");
  held.push(bytes);
  return ptr(bytes);
}

function vectorAddress(items: readonly string[]): number {
  const room = reserve((items.length + 1) * 8);
  const view = new DataView(room.bytes.buffer);
  for (let index = 0; index < items.length; index++)
    view.setBigUint64(room.at + index * 8, BigInt(textAddress(items[index] as string)), true);
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

function word(value: Value): Word {
  if (typeof value === "number" || typeof value === "bigint") return value;
  if (value === null) return 0;
  if (typeof value === "string") return textAddress(value);
  if (value instanceof Uint8Array) return bytesAddress(value);
  if (Array.isArray(value)) return vectorAddress(value);
  if (value !== undefined && "layout" in value) return structAddress(value as Struct<number>);
  throw new TypeError("an argument that only a plan can hold was given to a direct call");
}

function make(name: CallName, args: readonly unknown[]): number {
  used = 0;
  held = [];
  const lib = libc();
  const number = nr[name];
  let result: Word;
  do {
    result = lib.syscall(
      number,
      args.length > 0 ? word(args[0] as Value) : 0,
      args.length > 1 ? word(args[1] as Value) : 0,
      args.length > 2 ? word(args[2] as Value) : 0,
      args.length > 3 ? word(args[3] as Value) : 0,
      args.length > 4 ? word(args[4] as Value) : 0,
      args.length > 5 ? word(args[5] as Value) : 0,
    );
  } while (result === -1 && lib.errno() === 4 && name !== "close" && name !== "ppoll");
  return result === -1 ? -lib.errno() : Number(result);
}

/** Makes a call and returns its result, or -errno: for the caller who expects failures. */
export function attempt<N extends CallName>(name: N, ...args: Parameters<Sys<number>[N]>): number {
  return make(name, args);
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
  const result = make(name, args);
  if (result >= 0) return result;
  for (const each of errnos) if (errnoOf(each) === -result) return result;
  throw new SyscallError(name, args, -result);
}

type Method = (...args: unknown[]) => number;

/** A method is made when it is first asked for, by the prototype: a start uses few of the calls there are. */
function bind(): Sys<number> {
  const prototype = new Proxy<Record<string, Method>>(
    {},
    {
      get(_, name) {
        if (typeof name !== "string" || !Object.hasOwn(nr, name)) return undefined;
        surface[name] = (...args) => {
          const result = make(name as CallName, args);
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
export const machinery = [make, word, textAddress, bytesAddress, structAddress, reserve, attempt] as const;

/** Every call, made at once. Calls interrupted by a signal are made again. Each throws a SyscallError. */
export const direct: Sys<number> = bind();
