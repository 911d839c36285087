/** --filter of the listings, as docker reads it. */
import { OciboxError } from "../errors.ts";

export type Test<T> = (each: T) => boolean;

/** What makes a test of a filter's value, by its key. */
export type Filters<T> = Readonly<Record<string, (value: string) => Test<T> | Promise<Test<T>>>>;

/** "KEY" or "KEY=VALUE" among labels. */
export function labelTest(value: string): Test<Readonly<Record<string, string>>> {
  const equals = value.indexOf("=");
  const key = equals < 0 ? value : value.slice(0, equals);
  return (labels) => Object.hasOwn(labels, key) && (equals < 0 || labels[key] === value.slice(equals + 1));
}

/**
 * @param words as they were given: "KEY=VALUE"
 * @param among keys that the command knows, in the order that they are told in
 * @throws OciboxError USAGE for another one
 */
export async function readFilters<T>(
  words: readonly string[],
  filters: Filters<T>,
  among: readonly string[] = Object.keys(filters),
): Promise<Test<T>> {
  const read = async (word: string) => {
    const equals = word.indexOf("=");
    const key = equals < 0 ? word : word.slice(0, equals);
    const make = among.includes(key) && Object.hasOwn(filters, key) ? filters[key] : undefined;
    if (make === undefined || equals < 0)
      throw new OciboxError(
        "USAGE",
        `--filter is "${word}", which is none of ${among.map((each) => `${each}=…`).join(", ")}`,
      );
    return { key, test: await make(word.slice(equals + 1)) };
  };
  const tests = await Promise.all(words.map(read));
  // docker's: of one key any value will do, but labels must all be there; every key must be satisfied.
  const keys = [...new Set(tests.map((each) => each.key))];
  return (each) =>
    keys.every((key) => {
      const own = tests.filter((one) => one.key === key);
      return key === "label" ? own.every(({ test }) => test(each)) : own.some(({ test }) => test(each));
    });
}
