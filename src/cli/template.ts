/**
 * The part of Go's text/template that docker's users write after --format: fields, pipelines, if, range, with, and the
 * functions docker adds. Parsed once, then evaluated for each row; there is no way from a template to JavaScript.
 */
import { OciboxError } from "../errors.ts";

type Scope = { readonly dot: unknown; readonly root: unknown; readonly variables: ReadonlyMap<string, unknown> };
type Expression = (scope: Scope) => unknown;
type Node = (scope: Scope) => string;

function refuse(why: string): never {
  throw new OciboxError("USAGE", `the format is not a template that ocibox knows: ${why}`, {
    hint: 'write "json", "table", or something like "{{.ID}} {{json .}}"',
  });
}

/** Go's truth: false, 0, nil, "" and what is empty are false. */
function truth(value: unknown): boolean {
  if (Array.isArray(value)) return value.length > 0;
  if (typeof value === "object" && value !== null) return Object.keys(value).length > 0;
  return Boolean(value);
}

/** What fmt.Print makes of a value. */
function show(value: unknown): string {
  if (value === null) return "<nil>";
  if (value === undefined) return "<no value>";
  if (Array.isArray(value)) return `[${value.map(show).join(" ")}]`;
  if (typeof value === "object") {
    const fields = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    return `map[${fields.map(([key, item]) => `${key}:${show(item)}`).join(" ")}]`;
  }
  return String(value);
}

function fieldOf(value: unknown, name: string): unknown {
  if (value === null || typeof value !== "object" || Array.isArray(value))
    refuse(`there is no field "${name}" in ${show(value)}`);
  if (Object.hasOwn(value, name)) return (value as Record<string, unknown>)[name];
  const names = Object.keys(value).slice(0, 40).join(", ");
  return refuse(`there is no field "${name}"; there are ${names}`);
}

function elementOf(value: unknown, key: unknown): unknown {
  if (Array.isArray(value)) {
    if (typeof key === "number" && key >= 0 && key < value.length) return value[key];
    return refuse(`there is no element ${show(key)} among ${value.length}`);
  }
  if (value === null || typeof value !== "object") return refuse(`${show(value)} has no elements`);
  return Object.hasOwn(value, String(key)) ? (value as Record<string, unknown>)[String(key)] : undefined;
}

function printf(format: string, values: readonly unknown[]): string {
  let next = 0;
  return format.replace(
    /%(-?)([0-9]*)(?:\.([0-9]+))?([sdvqtx%])/g,
    (_, left: string, width: string, cut: string | undefined, verb: string) => {
      if (verb === "%") return "%";
      const value = values[next++];
      let text = verb === "q" ? JSON.stringify(show(value)) : show(value);
      if (cut !== undefined && verb === "s") text = text.slice(0, Number(cut));
      return left === "-" ? text.padEnd(Number(width)) : text.padStart(Number(width));
    },
  );
}

function order(a: unknown, b: unknown): number {
  return typeof a === "number" && typeof b === "number" ? a - b : show(a) < show(b) ? -1 : show(a) === show(b) ? 0 : 1;
}

const text = (value: unknown): string => show(value);
const list = (value: unknown): readonly unknown[] =>
  Array.isArray(value) ? value : refuse(`${show(value)} is no list`);

const functions: Readonly<Record<string, (...values: readonly unknown[]) => unknown>> = {
  json: (value) => JSON.stringify(value ?? null),
  upper: (value) => text(value).toUpperCase(),
  lower: (value) => text(value).toLowerCase(),
  title: (value) => text(value).replace(/\b[a-z]/g, (letter) => letter.toUpperCase()),
  join: (items, between) => list(items).map(show).join(text(between)),
  split: (value, between) => text(value).split(text(between)),
  println: (...values) => `${values.map(show).join(" ")}\n`,
  print: (...values) => values.map(show).join(""),
  printf: (format, ...values) => printf(text(format), values),
  len: (value) =>
    typeof value === "string"
      ? value.length
      : Array.isArray(value)
        ? value.length
        : Object.keys((value ?? {}) as object).length,
  index: (value, ...keys) => keys.reduce(elementOf, value),
  slice: (value, from, to) =>
    (Array.isArray(value) ? value : text(value)).slice(Number(from ?? 0), to === undefined ? undefined : Number(to)),
  truncate: (value, length) => text(value).slice(0, Number(length)),
  pad: (value, before, after) => " ".repeat(Number(before)) + text(value) + " ".repeat(Number(after)),
  eq: (value, ...others) => others.some((each) => order(value, each) === 0),
  ne: (a, b) => order(a, b) !== 0,
  lt: (a, b) => order(a, b) < 0,
  le: (a, b) => order(a, b) <= 0,
  gt: (a, b) => order(a, b) > 0,
  ge: (a, b) => order(a, b) >= 0,
  and: (...values) => values.find((each) => !truth(each)) ?? values.at(-1),
  or: (...values) => values.find(truth) ?? values.at(-1),
  not: (value) => !truth(value),
};

const tokenPattern =
  /\s+|("(?:[^"\\]|\\.)*"|`[^`]*`)|(-?[0-9]+(?:\.[0-9]+)?)|((?:\.[A-Za-z_][A-Za-z0-9_]*)+|\.)|(\$[A-Za-z0-9_]*)|([A-Za-z_][A-Za-z0-9_]*)|(:=|[=|(),])/y;

interface Token {
  readonly kind: "text" | "number" | "field" | "variable" | "word" | "sign";
  readonly value: string;
  /** Nothing stands between it and the token before. */
  readonly close: boolean;
}

function tokens(source: string): Token[] {
  const found: Token[] = [];
  const kinds = ["text", "number", "field", "variable", "word", "sign"] as const;
  let spaced = true;
  for (tokenPattern.lastIndex = 0; tokenPattern.lastIndex < source.length; ) {
    const at = tokenPattern.lastIndex;
    const match = tokenPattern.exec(source);
    if (match === null) refuse(`"${source.slice(at, at + 20)}" in "{{${source}}}"`);
    const kind = match.slice(1).findIndex((each) => each !== undefined);
    if (kind < 0) spaced = true;
    else {
      found.push({ kind: kinds[kind] as Token["kind"], value: match[0], close: !spaced });
      spaced = false;
    }
  }
  return found;
}

function unquote(quoted: string): string {
  if (quoted.startsWith("`")) return quoted.slice(1, -1);
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return refuse(`the string ${quoted}`);
  }
}

/** One action's tokens, read from the left. */
class Reader {
  #at = 0;
  constructor(
    readonly source: string,
    readonly all: readonly Token[],
  ) {}

  peek(): Token | undefined {
    return this.all[this.#at];
  }

  take(value?: string): Token {
    const token = this.all[this.#at++];
    if (token === undefined || (value !== undefined && token.value !== value))
      refuse(`"{{${this.source}}}" ends too early`);
    return token;
  }

  end(): void {
    const rest = this.peek();
    if (rest !== undefined) refuse(`"${rest.value}" in "{{${this.source}}}"`);
  }

  /** command | command …: each gets the value of the one before as its last argument. */
  pipeline(): Expression {
    let value = this.#command(undefined);
    while (this.peek()?.value === "|") {
      this.take();
      value = this.#command(value);
    }
    return value;
  }

  #command(before: Expression | undefined): Expression {
    const first = this.peek();
    if (first?.kind === "word" && !/^(?:true|false|nil)$/.test(first.value)) {
      this.take();
      const call = Object.hasOwn(functions, first.value) ? functions[first.value] : undefined;
      if (call === undefined) return refuse(`there is no function "${first.value}"`);
      const operands: Expression[] = [];
      for (let next = this.peek(); next !== undefined && next.value !== "|" && next.value !== ")"; next = this.peek())
        operands.push(this.#operand());
      if (before !== undefined) operands.push(before);
      return (scope) => call(...operands.map((each) => each(scope)));
    }
    if (before !== undefined) refuse(`"${first?.value ?? ""}" after a "|" is no function`);
    return this.#operand();
  }

  #operand(): Expression {
    const token = this.take();
    let value: Expression;
    switch (token.kind) {
      case "text": {
        const literal = unquote(token.value);
        return () => literal;
      }
      case "number": {
        const number = Number(token.value);
        return () => number;
      }
      case "word": {
        if (!/^(?:true|false|nil)$/.test(token.value)) refuse(`"${token.value}" in "{{${this.source}}}"`);
        const literal = token.value === "nil" ? null : token.value === "true";
        return () => literal;
      }
      case "field":
        value = fields(token.value, (scope) => scope.dot);
        break;
      case "variable":
        value = variable(token.value);
        break;
      case "sign": {
        if (token.value !== "(") refuse(`"${token.value}" in "{{${this.source}}}"`);
        value = this.pipeline();
        this.take(")");
        break;
      }
      default:
        return token.kind satisfies never;
    }
    const next = this.peek();
    if (next?.kind === "field" && next.close) {
      this.take();
      return fields(next.value, value);
    }
    return value;
  }
}

function fields(path: string, from: Expression): Expression {
  const names = path.split(".").filter((each) => each !== "");
  return (scope) => names.reduce<unknown>(fieldOf, from(scope));
}

function variable(name: string): Expression {
  if (name === "$") return (scope) => scope.root;
  return (scope) => (scope.variables.has(name) ? scope.variables.get(name) : refuse(`the variable ${name} is not set`));
}

interface Piece {
  readonly text?: string;
  readonly action?: string;
}

/** Text and actions in turn; "{{-" and "-}}" take the white space beside them along. */
function pieces(source: string): Piece[] {
  const found: Piece[] = [];
  const pattern = /\{\{(- )?((?:"(?:[^"\\]|\\.)*"|`[^`]*`|[^"`])*?)( -)?\}\}/gs;
  let at = 0;
  let trim = false;
  const put = (piece: string, trimEnd: boolean): void => {
    let left = trim ? piece.trimStart() : piece;
    if (trimEnd) left = left.trimEnd();
    if (left !== "") found.push({ text: left });
  };
  for (const match of source.matchAll(pattern)) {
    put(source.slice(at, match.index), match[1] !== undefined);
    const action = (match[2] ?? "").trim();
    if (!action.startsWith("/*")) found.push({ action });
    trim = match[3] !== undefined;
    at = match.index + match[0].length;
  }
  const rest = source.slice(at);
  if (rest.includes("{{")) refuse('a "{{" has no "}}"');
  put(rest, false);
  return found;
}

class Parser {
  #at = 0;
  constructor(readonly all: readonly Piece[]) {}

  /** Nodes up to an `end` or `else`, which is returned. @param inside whether there must be one */
  block(inside: boolean): { nodes: Node[]; stop: string } {
    const nodes: Node[] = [];
    while (this.#at < this.all.length) {
      const piece = this.all[this.#at++] as Piece;
      if (piece.text !== undefined) {
        const literal = piece.text;
        nodes.push(() => literal);
        continue;
      }
      const action = piece.action ?? "";
      if (inside && (action === "end" || /^else\b/.test(action))) return { nodes, stop: action };
      nodes.push(this.#action(action));
    }
    if (inside) refuse('an "{{end}}" is missing');
    return { nodes, stop: "end" };
  }

  #action(source: string): Node {
    const reader = new Reader(source, tokens(source));
    const word = reader.peek()?.value;
    if (word === "if" || word === "with" || word === "range") {
      reader.take();
      return this.#control(word, reader);
    }
    if (word === "end" || word === "else") refuse(`"{{${source}}}" stands alone`);
    const value = reader.pipeline();
    reader.end();
    return (scope) => show(value(scope));
  }

  #control(word: "if" | "with" | "range", reader: Reader): Node {
    const names: string[] = [];
    // range $key, $value := PIPELINE
    while (reader.peek()?.kind === "variable" && reader.all.some((each) => each.value === ":=")) {
      names.push(reader.take().value);
      if (reader.take().value === ":=") break;
    }
    const value = reader.pipeline();
    reader.end();
    const { nodes, stop } = this.block(true);
    let otherwise: readonly Node[] = [];
    if (stop !== "end") {
      const more = stop.replace(/^else\s*/, "");
      if (more === "") otherwise = this.block(true).nodes;
      else otherwise = [this.#action(more)];
    }
    const run = (all: readonly Node[], scope: Scope): string => all.map((node) => node(scope)).join("");
    const bind = (scope: Scope, dot: unknown, values: readonly unknown[]): Scope => {
      if (names.length === 0) return { ...scope, dot };
      const bound = names.length === 1 ? values.slice(-1) : values;
      return {
        ...scope,
        dot,
        variables: new Map([...scope.variables, ...names.map((name, at) => [name, bound[at]] as const)]),
      };
    };
    if (word !== "range")
      return (scope) => {
        const found = value(scope);
        if (!truth(found)) return run(otherwise, scope);
        return run(nodes, bind(scope, word === "with" ? found : scope.dot, [found]));
      };
    return (scope) => {
      const found = value(scope);
      if (!truth(found)) return run(otherwise, scope);
      const items: readonly (readonly [unknown, unknown])[] = Array.isArray(found)
        ? found.map((each, at) => [at, each] as const)
        : Object.entries(found as object).sort(([a], [b]) => (a < b ? -1 : 1));
      return items.map(([key, each]) => run(nodes, bind(scope, each, [key, each]))).join("");
    };
  }
}

/**
 * A template made ready.
 * @throws OciboxError USAGE for what it cannot read, and, when it is used, for fields that are not there
 */
export function compileTemplate(source: string): (value: unknown) => string {
  const { nodes } = new Parser(pieces(source)).block(false);
  return (value) => {
    const scope: Scope = { dot: value, root: value, variables: new Map() };
    return nodes.map((node) => node(scope)).join("");
  };
}
