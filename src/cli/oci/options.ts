/** Command lines as runc reads them: "-name" and "--name" are one, flags may stand behind the id, "=" or the next word. */
import { OciboxError } from "../../errors.ts";

interface OciFlag {
  /** One letter. */
  readonly short?: string;
  /** What it takes; none for a switch. */
  readonly value?: "text" | "number" | "list";
  readonly help: string;
}

export type OciFlags = Readonly<Record<string, OciFlag>>;

export interface OciGlobals {
  readonly root: string;
  readonly log: string | undefined;
  readonly logFormat: "text" | "json";
  readonly systemdCgroup: boolean;
  readonly cgroupManager: "cgroupfs" | "systemd" | "disabled";
  readonly debug: boolean;
  /** The name it was called by. */
  readonly name: string;
  readonly version: string;
}

export interface OciCommand {
  readonly usage: string;
  readonly summary: string;
  readonly description?: string;
  readonly flags: OciFlags;
  /** Fewest and most words beside the flags. */
  readonly words: readonly [least: number, most: number];
  /** Flags end at the first word: what comes after is another program's. */
  readonly stopAtFirst?: boolean;
  /** Flags are not read: it takes any. */
  readonly anyFlags?: boolean;
  /** What ocibox ends with for an error of its own; 1 where nothing is said. */
  readonly errorCode?: number;
  /** What an error's message begins with. */
  readonly errorPrefix?: string;
  run(given: OciGiven, globals: OciGlobals): Promise<number> | number;
}

/** The command line was not understood: the help is shown with the error. */
export class UsageError extends OciboxError {
  constructor(
    message: string,
    /** What runc's own reader says of it. */
    readonly detail?: string,
  ) {
    super("USAGE", message);
  }
}

/** What was given on the command line. */
export class OciGiven {
  constructor(
    readonly words: readonly string[],
    readonly values: ReadonlyMap<string, readonly string[]>,
  ) {}

  text(name: string): string | undefined {
    const all = this.values.get(name);
    return all?.[all.length - 1];
  }

  all(name: string): readonly string[] {
    return this.values.get(name) ?? [];
  }

  flag(name: string): boolean {
    return this.text(name) === "true";
  }

  has(name: string): boolean {
    return this.values.has(name);
  }

  number(name: string): number | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : Number(text);
  }

  /** The container's id, where the command's first word is one. */
  get id(): string {
    return this.words[0] ?? "";
  }
}

/** Whether a text is a whole number. */
function isWhole(text: string): boolean {
  return /^-?\d+$/.test(text);
}

function refuse(what: string): never {
  throw new UsageError(what, what);
}

function find(flags: OciFlags, word: string): string | undefined {
  if (Object.hasOwn(flags, word)) return word;
  for (const name in flags) if (flags[name]?.short === word) return name;
  return undefined;
}

/** Thrown where help was asked for. */
export class OciHelpAsked extends Error {
  override readonly name = "OciHelpAsked";
}

/**
 * Reads flags and words.
 * @returns what was given, and where it stopped
 * @throws UsageError, OciHelpAsked
 */
export function readOciFlags(
  argv: readonly string[],
  flags: OciFlags,
  stopAtFirst: boolean,
): { words: string[]; values: Map<string, string[]> } {
  const words: string[] = [];
  const values = new Map<string, string[]>();
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] as string;
    if (word === "--") {
      words.push(...argv.slice(at + 1));
      break;
    }
    if (word.length < 2 || word[0] !== "-") {
      words.push(word);
      if (!stopAtFirst) continue;
      words.push(...argv.slice(at + 1));
      break;
    }
    const equals = word.indexOf("=");
    const shown = equals < 0 ? word : word.slice(0, equals);
    const bare = shown.slice(shown.startsWith("--") ? 2 : 1);
    if (bare === "help" || bare === "h") throw new OciHelpAsked();
    const name = find(flags, bare);
    if (name === undefined) return refuse(`flag provided but not defined: -${bare}`);
    const flag = flags[name] as OciFlag;
    let value = equals < 0 ? undefined : word.slice(equals + 1);
    if (flag.value === undefined) value ??= "true";
    else if (value === undefined) {
      value = argv[++at];
      if (value === undefined) return refuse(`flag needs an argument: -${bare}`);
    }
    if (flag.value === "number" && !isWhole(value)) refuse(`invalid value "${value}" for flag -${bare}: parse error`);
    const known = values.get(name);
    if (known === undefined) values.set(name, [value]);
    else known.push(value);
  }
  return { words, values };
}
