/** Calls and their arguments in strace's notation: the text of errors and of --explain. */
import { argumentsOf, type CallName, type FlagKind, type Kind } from "./calls.ts";
import {
  AF,
  AT,
  AT_FDCWD,
  CLONE,
  CLOSE_RANGE,
  F,
  FSCONFIG,
  FSMOUNT,
  FSOPEN,
  IOCTL,
  MFD,
  MNT,
  MOUNT_ATTR,
  MOVE_MOUNT,
  MS,
  O,
  OPEN_TREE,
  PR,
  RENAME,
  RESOLVE,
  RLIMIT,
  SECCOMP,
  SECCOMP_FILTER_FLAG,
  SIG,
  SOCK,
} from "./constants.ts";

export const single = new Set<Kind>(["FSCONFIG", "PR", "SECCOMP", "RLIMIT", "AF", "IOCTL", "F"]);

/** The tables, put together when something is to be shown: a program that shows nothing does without. */
const tables = (): Readonly<Record<FlagKind, Readonly<Record<string, number>>>> => ({
  O,
  AT,
  MS,
  MNT,
  FSOPEN,
  FSMOUNT,
  MOUNT_ATTR,
  FSCONFIG,
  OPEN_TREE,
  MOVE_MOUNT,
  CLONE,
  MFD,
  CLOSE_RANGE,
  RENAME,
  PR,
  SECCOMP,
  SECCOMP_FILTER_FLAG,
  RLIMIT,
  AF,
  SOCK,
  IOCTL,
  F,
});

/** A flag word by the names of its bits, "O_RDONLY|O_CLOEXEC"; what has no name stays in hexadecimal. */
function showFlags(kind: FlagKind, value: number | bigint): string {
  const table: Readonly<Record<string, number>> = tables()[kind];
  if (single.has(kind)) {
    for (const name in table) if (table[name] === Number(value)) return name;
    return `${value}`;
  }
  let rest = BigInt.asUintN(64, BigInt(value));
  const names: string[] = [];
  if (kind === "O" && (rest & 3n) === 0n && (rest & BigInt(O.O_PATH)) === 0n) names.push("O_RDONLY");
  for (const name in table) {
    const bit = BigInt(table[name] ?? 0);
    if (bit !== 0n && (rest & bit) === bit) {
      names.push(name);
      rest &= ~bit;
    }
  }
  if (rest !== 0n) names.push(`0x${rest.toString(16)}`);
  return names.length === 0 ? "0" : names.join("|");
}

/** Text in C's quotes, cut after 200 characters. */
function showText(text: string): string {
  const cut = text.length > 200 ? text.slice(0, 200) : text;
  return `${JSON.stringify(cut)}${cut === text ? "" : "..."}`;
}

function showNumber(kind: Kind, value: number | bigint): string {
  switch (kind) {
    case "dirfd":
      return Number(value) === AT_FDCWD ? "AT_FDCWD" : `${value}`;
    case "mode":
      return `0${Number(value).toString(8)}`;
    case "hex":
      return value < 0 ? `${value}` : `0x${value.toString(16)}`;
    case "dev":
      return `makedev(${(Number(value) >> 8) & 0xfff}, ${(Number(value) & 0xff) | ((Number(value) >> 12) & 0xfff00)})`;
    case "sig":
      for (const name in SIG) if (SIG[name as keyof typeof SIG] === Number(value)) return name;
      return `${value}`;
    case "fd":
    case "int":
    case "size":
    case "path":
    case "str":
    case "strv":
    case "struct":
    case "in":
    case "out":
    case "any":
      return `${value}`;
    default:
      return showFlags(kind, value);
  }
}

export const fieldKinds: Readonly<Record<string, Kind>> = {
  "open_how.flags": "O",
  "open_how.mode": "mode",
  "mount_attr.attr_set": "MOUNT_ATTR",
  "mount_attr.attr_clr": "MOUNT_ATTR",
  "mount_attr.propagation": "MS",
  "clone_args.flags": "CLONE",
  "clone_args.exit_signal": "sig",
};

function showResolve(value: number | bigint): string {
  const names: string[] = [];
  for (const name in RESOLVE) {
    if (Number(value) & RESOLVE[name as keyof typeof RESOLVE]) names.push(name);
  }
  return names.length === 0 ? "0" : names.join("|");
}

/** One argument, by its kind. Slots and memory of a plan are shown by their name. */
export function showArg(kind: Kind, value: unknown): string {
  if (value === null || value === undefined) return "NULL";
  if (typeof value === "number" || typeof value === "bigint") return showNumber(kind, value);
  if (typeof value === "string") return showText(value);
  if (value instanceof Uint8Array) return kind === "out" ? "[out]" : `[${value.byteLength} bytes]`;
  if (Array.isArray(value)) return `[${value.map((each) => showText(String(each))).join(", ")}]`;
  if (typeof value === "object") {
    if ("layout" in value && "fields" in value) {
      const fields = value.fields as Record<string, unknown>;
      const shown = Object.keys(fields).map((name) => {
        const field = fields[name];
        if (name === "resolve" && (typeof field === "number" || typeof field === "bigint"))
          return `${name}=${showResolve(field)}`;
        return `${name}=${showArg(fieldKinds[`${String(value.layout)}.${name}`] ?? "int", field)}`;
      });
      return `{${shown.join(", ")}}`;
    }
    if ("format" in value) {
      const parts = value.format as readonly unknown[];
      return `"${parts.map((part) => (typeof part === "string" ? part : showArg("int", part))).join("")}"`;
    }
    if ("name" in value) return String(value.name);
  }
  return "?";
}

/** A call as strace would write it: `mount("proc", "/proc", "proc", MS_NOSUID, NULL)`. */
export function showCall(name: CallName, args: readonly unknown[]): string {
  const shown = argumentsOf(name).map(([, kind], index) => showArg(kind, args[index]));
  return `${name}(${shown.join(", ")})`;
}
