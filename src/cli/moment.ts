import { OciboxError } from "../errors.ts";

const units: Readonly<Record<string, number>> = { d: 86_400, h: 3_600, m: 60, s: 1 };

/**
 * "24h" ago, "1h30m" ago, seconds since 1970, or a date: milliseconds since 1970.
 * @param what for the error
 * @throws OciboxError USAGE
 */
export function momentOf(text: string, what: string): number {
  if (/^(?:[0-9]+[dhms])+$/.test(text)) {
    const seconds = [...text.matchAll(/([0-9]+)([dhms])/g)].map(
      (each) => Number(each[1]) * (units[each[2] ?? ""] ?? 0),
    );
    return Date.now() - 1000 * seconds.reduce((a, b) => a + b, 0);
  }
  const date = /^[0-9]{10}$/.test(text) ? Number(text) * 1000 : new Date(text).getTime();
  if (!Number.isNaN(date)) return date;
  throw new OciboxError("USAGE", `${what} is "${text}", neither a time nor a duration`);
}
