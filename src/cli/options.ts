/**
 * Reading a command line by a citty command's `args`. citty's own reader keeps only the last of a repeated option and
 * takes options behind the image for its own (`run alpine sh -c x`), so the reading is done here; the definitions and
 * the help are citty's.
 */
import type { ArgDef, CommandDef } from "citty";
import { OciboxError } from "../errors.ts";

/** An argument of citty's, which may be given more than once. */
export type OptionDef = ArgDef & {
  readonly repeat?: boolean;
  /** Another long name, which the help does not show. */
  readonly also?: string;
};
type Options = Readonly<Record<string, OptionDef>>;

/** A command: citty's definition for help, and what it does with what was read. */
export interface Command {
  readonly def: CommandDef & { readonly args: Options };
  /** Options end at the first word that is not one: `run IMAGE CMD -x`. */
  readonly stopAtFirst?: boolean;
  /** Flags that other tools have here, and what to do without them. */
  readonly notYet?: () => Readonly<Record<string, string>>;
  /** Fewest and most words beside the options. */
  readonly words: readonly [least: number, most: number];
  /** Returns the exit code. */
  run(given: Given): Promise<number> | number;
}

/** What was given on the command line. */
export class Given {
  readonly words: readonly string[];
  readonly #values: ReadonlyMap<string, readonly string[]>;

  constructor(words: readonly string[], values: ReadonlyMap<string, readonly string[]>) {
    this.words = words;
    this.#values = values;
  }

  /** The last value of an option. */
  text(name: string): string | undefined {
    const all = this.#values.get(name);
    return all?.[all.length - 1];
  }

  /** Every value of an option, in order. */
  all(name: string): readonly string[] {
    return this.#values.get(name) ?? [];
  }

  /** Whether a switch is on. */
  flag(name: string): boolean {
    return this.text(name) === "true";
  }
}

function aliasesOf(def: OptionDef): readonly string[] {
  const alias = "alias" in def ? def.alias : undefined;
  const named = alias === undefined ? [] : typeof alias === "string" ? [alias] : alias;
  return def.also === undefined ? named : [...named, def.also];
}

/** Levenshtein's distance between two short words. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, swap));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** The nearest of some words to a mistyped one, if any is near. */
export function nearest(word: string, among: Iterable<string>): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const each of among) {
    const far = each.startsWith(word) && word.length > 1 ? 1 : distance(word, each);
    if (far < least) {
      least = far;
      best = each;
    }
  }
  return best;
}

function unknown(flag: string, { def, notYet }: Command, command: string): OciboxError {
  const options = def.args;
  const others = notYet?.() ?? {};
  const without = Object.hasOwn(others, flag) ? others[flag] : undefined;
  if (without !== undefined)
    return new OciboxError("UNSUPPORTED", `ocibox ${command} ${flag} is not there yet`, { hint: without });
  const names: string[] = ["--help"];
  for (const name in options) {
    const option = options[name];
    if (option === undefined || option.type === "positional") continue;
    names.push(`--${name}`);
    for (const alias of aliasesOf(option)) if (alias.length > 1) names.push(`--${alias}`);
  }
  const near = nearest(flag, names);
  const hint = near === undefined ? `see: ocibox ${command} --help` : `did you mean ${near}?`;
  return new OciboxError("USAGE", `ocibox ${command} has no flag "${flag}"`, { hint });
}

interface Found {
  readonly name: string;
  readonly def: OptionDef;
}

function find(options: Options, word: string): Found | undefined {
  const exact = options[word];
  if (exact !== undefined && exact.type !== "positional" && Object.hasOwn(options, word))
    return { name: word, def: exact };
  for (const name in options) {
    const def = options[name];
    if (def !== undefined && def.type !== "positional" && aliasesOf(def).includes(word)) return { name, def };
  }
  return undefined;
}

const truths: Readonly<Record<string, boolean>> = {
  true: true,
  "1": true,
  t: true,
  false: false,
  "0": false,
  f: false,
};

/** Thrown instead of an error when help was asked for. */
export class HelpAsked extends Error {
  override readonly name = "HelpAsked";
}

/**
 * Reads a command line.
 * @throws OciboxError USAGE for an unknown flag (naming the nearest), a missing or bad value, too few or many words
 * @throws HelpAsked for -h or --help before the words begin
 */
export function readOptions(argv: readonly string[], command: Command, name: string): Given {
  const options = command.def.args;
  const words: string[] = [];
  const values = new Map<string, string[]>();
  const put = (found: Found, value: string): void => {
    if (found.def.type === "enum" && !(found.def.options ?? []).includes(value)) {
      const choice = (found.def.options ?? []).join(", ");
      throw new OciboxError("USAGE", `--${found.name} is "${value}", which is none of ${choice}`);
    }
    const known = values.get(found.name);
    if (known === undefined) values.set(found.name, [value]);
    else known.push(value);
  };
  const boolean = (found: Found, value: string): void => {
    const truth = truths[value.toLowerCase()];
    if (truth === undefined) throw new OciboxError("USAGE", `--${found.name} is "${value}", not true or false`);
    put(found, String(truth));
  };

  let index = 0;
  const following = (flag: string): string => {
    const value = argv[++index];
    if (value === undefined) throw new OciboxError("USAGE", `the flag ${flag} wants a value and has none`);
    return value;
  };
  for (; index < argv.length; index++) {
    const word = argv[index] as string;
    if (word === "--") {
      words.push(...argv.slice(index + 1));
      break;
    }
    if (word.length < 2 || word[0] !== "-") {
      if (command.stopAtFirst === true) {
        words.push(...argv.slice(index));
        break;
      }
      words.push(word);
      continue;
    }
    if (word === "--help" || (word === "-h" && find(options, "h") === undefined)) throw new HelpAsked();
    if (word[1] === "-") {
      const equals = word.indexOf("=");
      const flag = equals < 0 ? word : word.slice(0, equals);
      const found = find(options, flag.slice(2));
      if (found === undefined || flag.length === 3) throw unknown(flag, command, name);
      if (found.def.type === "boolean") boolean(found, equals < 0 ? "true" : word.slice(equals + 1));
      else put(found, equals < 0 ? following(flag) : word.slice(equals + 1));
      continue;
    }
    for (let at = 1; at < word.length; at++) {
      const letter = word[at] as string;
      const found = find(options, letter);
      if (found === undefined) throw unknown(word.length === 2 ? word : `-${letter}`, command, name);
      const rest = word.slice(at + 1);
      if (found.def.type === "boolean" && rest[0] !== "=") {
        boolean(found, "true");
        continue;
      }
      const value = rest[0] === "=" ? rest.slice(1) : rest;
      if (found.def.type === "boolean") boolean(found, value);
      else put(found, rest === "" ? following(`-${letter}`) : value);
      break;
    }
  }
  for (const each in options) {
    const def = options[each] as OptionDef;
    if (def.type === "positional" || values.has(each) || def.default === undefined) continue;
    values.set(each, [String(def.default)]);
  }
  const [least, most] = command.words;
  if (words.length < least) {
    throw new OciboxError(
      "USAGE",
      `ocibox ${name} wants ${least === 1 ? "an argument" : `${least} arguments`} and has ${words.length}`,
      {
        hint: `see: ocibox ${name} --help`,
      },
    );
  }
  if (words.length > most) {
    throw new OciboxError("USAGE", `ocibox ${name} does not know what to do with "${words[most]}"`, {
      hint: `see: ocibox ${name} --help`,
    });
  }
  return new Given(words, values);
}
