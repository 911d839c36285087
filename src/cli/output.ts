/** Writing to the terminal without process.stdout and process.stderr, which cost 7 ms at start (docs/decisions.md). */
import { IOCTL } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { alloc } from "../../ffi/structs.ts";

const encoder = new TextEncoder();

/** Writes all of a text to a descriptor; a reader that is gone is no error. */
function writeAll(fd: number, text: string): void {
  const encoded = encoder.encode(text);
  const bytes = alloc(encoded.byteLength);
  bytes.set(encoded);
  for (let at = 0; at < bytes.byteLength; ) {
    const wrote = attempt("write", fd, at === 0 ? bytes : bytes.slice(at), bytes.byteLength - at);
    if (wrote === -11) {
      Bun.sleepSync(1);
      continue;
    }
    if (wrote <= 0) return;
    at += wrote;
  }
}

/** A line on stdout, for what was asked for. */
export function print(text: string): void {
  writeAll(1, `${text}\n`);
}

/** A line on stderr, for everything else. */
export function say(text: string): void {
  writeAll(2, `${text}\n`);
}

/** Whether a descriptor is a terminal (TCGETS answers). */
export function isTerminal(fd: number): boolean {
  return attempt("ioctl", fd, IOCTL.TCGETS, alloc(64)) >= 0;
}

/** A table with columns as wide as their widest cell. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((cell, column) => Math.max(cell.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd((widths[column] ?? 0) + 3))).join("");
  return [head, ...rows].map(line).join("\n");
}

/** A size in bytes as docker prints it: decimal units, three digits. */
export function humanSize(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : Number(value.toPrecision(3))}${units[unit]}`;
}

/** How long ago a time was, in words: "3 hours ago". */
export function ago(time: Date, now: Date): string {
  const seconds = Math.max(0, Math.round((now.getTime() - time.getTime()) / 1000));
  const steps: readonly (readonly [number, string])[] = [
    [31_536_000, "year"],
    [2_592_000, "month"],
    [604_800, "week"],
    [86_400, "day"],
    [3_600, "hour"],
    [60, "minute"],
  ];
  for (const [length, unit] of steps) {
    const count = Math.floor(seconds / length);
    if (count >= 1) return `${count} ${unit}${count === 1 ? "" : "s"} ago`;
  }
  return seconds < 2 ? "just now" : `${seconds} seconds ago`;
}
