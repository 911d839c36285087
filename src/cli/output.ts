/** Writing to the terminal without process.stdout and process.stderr, which cost 7 ms at start (docs/decisions.md). */
import { IOCTL } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { alloc } from "../../ffi/structs.ts";

const encoder = new TextEncoder();
let gone = false;

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
    if (wrote <= 0) {
      gone ||= fd === 1;
      return;
    }
    at += wrote;
  }
}

/** A line on stdout, for what was asked for. */
export function print(text: string): void {
  writeAll(1, `${text}\n`);
}

/** Clears a terminal that stdout is. */
export function clearScreen(): void {
  writeAll(1, "\u001b[H\u001b[J");
}

/** Whether nobody reads stdout any more: what goes on for ever ends then. */
export function readerIsGone(): boolean {
  return gone;
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

/** A size in bytes as docker prints memory: binary units, four digits. */
export function binarySize(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number(value.toPrecision(4))}${units[unit]}`;
}

/** How long ago a time was, in docker's words: "About an hour ago". */
export function ago(time: Date, now: Date): string {
  const seconds = Math.max(0, Math.floor((now.getTime() - time.getTime()) / 1000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.round(seconds / 3600);
  if (seconds < 1) return "Less than a second ago";
  if (seconds === 1) return "1 second ago";
  if (seconds < 60) return `${seconds} seconds ago`;
  if (minutes === 1) return "About a minute ago";
  if (minutes < 60) return `${minutes} minutes ago`;
  if (hours === 1) return "About an hour ago";
  const steps = [
    [48, 1, "hours"],
    [24 * 7 * 2, 24, "days"],
    [24 * 30 * 2, 24 * 7, "weeks"],
    [24 * 365 * 2, 24 * 30, "months"],
  ] as const;
  for (const [below, length, unit] of steps) if (hours < below) return `${Math.floor(hours / length)} ${unit} ago`;
  return `${Math.floor(seconds / 3600 / 24 / 365)} years ago`;
}

/** A time as Go prints one, in UTC: "2026-01-02 03:04:05 +0000 UTC". */
export function goTime(time: Date): string {
  return `${time.toISOString().slice(0, 19).replace("T", " ")} +0000 UTC`;
}
