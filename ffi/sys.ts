/**
 * One typed surface of system calls with two back ends: `direct` makes the call now (direct.ts), a `Recorder` writes
 * it down as a step of a plan (plan.ts). Code that only mounts, creates and opens is written once, against `Sys<V>`.
 */
import type { CallName, Calls, Kind } from "./calls.ts";
import type { LayoutName } from "./structs.ts";

/** A value of one call that a later one uses: a number at once (direct), or the slot it will be in (recording). */
type Scalar<V> = V | number | bigint;

/** Memory inside the plan's image that calls write and later steps read; recording only. */
export interface Memory {
  readonly memory: number;
  /** Bytes. */
  readonly size: number;
  readonly name: string;
  readonly initial?: Uint8Array;
}

/** Text with slots in it, as in /proc/PID/ns; recording only. */
export interface Formatted<V> {
  readonly format: readonly (string | V)[];
}

/** A structure by its fields; a field left out is zero. A `ptr` field takes text, bytes, memory or a structure. */
export interface Struct<V> {
  readonly layout: LayoutName;
  readonly fields: Readonly<Record<string, StructField<V>>>;
}

export type StructField<V> = Scalar<V> | string | Uint8Array | Memory | Struct<V>;

/** The environment that init itself was started with. Recording only. */
export interface OwnEnvironment {
  readonly name: "init's own environment";
}

export const ownEnvironment: OwnEnvironment = { name: "init's own environment" };

type Text<V> = string | Formatted<V> | null;

/** What an argument of each kind may be. */
type Arg<K extends Kind, V> = K extends "path" | "str"
  ? // Bytes must end in a NUL: names in archives need not be UTF-8.
    Text<V> | Uint8Array
  : K extends "strv"
    ? readonly string[] | ([V] extends [number] ? never : OwnEnvironment)
    : K extends "struct"
      ? Struct<V> | Uint8Array | null
      : K extends "in"
        ? Uint8Array | string | Formatted<V> | Memory | null
        : K extends "out"
          ? // A slot is written by the call: socketpair(2) fills its halves. Recording only.
            Uint8Array | Memory | Exclude<V, number> | null
          : K extends "any"
            ? Scalar<V> | Struct<V> | Uint8Array | Memory | string | null
            : Scalar<V>;

type ArgsOf<Table extends readonly (readonly [string, Kind])[], V> = {
  -readonly [I in keyof Table]: Arg<Table[I][1], V>;
};

/** The arguments of a call, in order. */
type CallArgs<N extends CallName, V> = ArgsOf<Calls[N], V>;

/** Every system call of calls.ts as a method; the result is the call's own. */
export type Sys<V> = { readonly [N in CallName]: (...args: CallArgs<N, V>) => V };

/** Names a structure's layout beside its fields. */
export function struct<V>(layout: LayoutName, fields: Readonly<Record<string, StructField<V>>>): Struct<V> {
  return { layout, fields };
}
