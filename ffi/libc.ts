/**
 * The one dlopen. Only two symbols of libc are used, `syscall` and `__errno_location`: every system call goes through
 * the first, so that start-up pays for as few symbols as can be.
 */
import { dlopen, FFIType, read } from "bun:ffi";

const names =
  process.arch === "arm64" ? ["libc.so.6", "libc.musl-aarch64.so.1"] : ["libc.so.6", "libc.musl-x86_64.so.1"];

const symbols = {
  syscall: {
    args: [FFIType.i64, FFIType.i64, FFIType.i64, FFIType.i64, FFIType.i64, FFIType.i64, FFIType.i64],
    returns: FFIType.i64_fast,
  },
  __errno_location: { args: [], returns: FFIType.ptr },
} as const;

type Word = number | bigint;

interface Libc {
  syscall(nr: Word, a: Word, b: Word, c: Word, d: Word, e: Word, f: Word): number | bigint;
  errno(): number;
}

let opened: Libc | undefined;

function open(): Libc {
  for (const name of names) {
    let library: ReturnType<typeof dlopen<typeof symbols>>;
    try {
      library = dlopen(name, symbols);
    } catch {
      continue;
    }
    const location = library.symbols.__errno_location();
    if (location === null) break;
    return { syscall: library.symbols.syscall, errno: () => read.i32(location, 0) };
  }
  throw new Error(`cannot load the C library: none of ${names.join(", ")} was found`);
}

/** libc, opened at the first use. @throws Error where neither glibc nor musl can be loaded */
export function libc(): Libc {
  opened ??= open();
  return opened;
}
