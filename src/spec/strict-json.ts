/**
 * JSON from strangers. JSON.parse keeps the last of two equal keys and rounds large integers, so that two programs can
 * read two different things out of one document with one digest; this reader refuses what can be read in two ways.
 */

/** A number that is not a plain integer within 2^53: kept as its text, so that nobody takes it for one. */
export class OddNumber {
  constructor(readonly text: string) {}
}

export type Json = null | boolean | number | string | OddNumber | readonly Json[] | JsonObject;
/** Without a prototype. */
interface JsonObject {
  readonly [key: string]: Json;
}

const depthLimit = 64;
const plainInteger = /^(?:0|-?[1-9][0-9]*)$/;

class Reader {
  at = 0;
  depth = 0;
  readonly number = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
  readonly string = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"/y;
  readonly space = /[ \t\n\r]*/y;

  constructor(readonly text: string) {}

  fail(why: string): never {
    throw new SyntaxError(`${why} at character ${this.at}`);
  }

  skip(): void {
    this.space.lastIndex = this.at;
    this.space.test(this.text);
    this.at = this.space.lastIndex;
  }

  /** The next character that is not white space, not yet consumed. */
  peek(): string | undefined {
    this.skip();
    return this.text[this.at];
  }

  expect(character: string): void {
    if (this.peek() !== character) this.fail(`${JSON.stringify(character)} is missing`);
    this.at++;
  }

  match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.at;
    if (!pattern.test(this.text)) return undefined;
    const found = this.text.slice(this.at, pattern.lastIndex);
    this.at = pattern.lastIndex;
    return found;
  }

  word<T>(text: string, value: T): T {
    if (!this.text.startsWith(text, this.at)) this.fail("not JSON");
    this.at += text.length;
    return value;
  }

  value(): Json {
    const first = this.peek();
    switch (first) {
      case undefined:
        return this.fail("the document ends too early");
      case "{":
        return this.nested(() => this.object());
      case "[":
        return this.nested(() => this.array());
      case '"':
        return this.quoted();
      case "t":
        return this.word("true", true);
      case "f":
        return this.word("false", false);
      case "n":
        return this.word("null", null);
      default:
        return this.numeral();
    }
  }

  nested<T>(read: () => T): T {
    if (++this.depth > depthLimit) this.fail(`nested more than ${depthLimit} deep`);
    const value = read();
    this.depth--;
    return value;
  }

  numeral(): number | OddNumber {
    const text = this.match(this.number);
    if (text === undefined) return this.fail("not JSON");
    const value = Number(text);
    return plainInteger.test(text) && Number.isSafeInteger(value) ? value : new OddNumber(text);
  }

  quoted(): string {
    const found = this.match(this.string);
    if (found === undefined) return this.fail("a string is not ended or holds a control character");
    return found.includes("\\") ? (JSON.parse(found) as string) : found.slice(1, -1);
  }

  array(): Json[] {
    this.expect("[");
    const items: Json[] = [];
    if (this.peek() === "]") {
      this.at++;
      return items;
    }
    for (;;) {
      items.push(this.value());
      if (this.peek() === "]") break;
      this.expect(",");
    }
    this.at++;
    return items;
  }

  object(): JsonObject {
    this.expect("{");
    const fields: Record<string, Json> = Object.create(null);
    if (this.peek() === "}") {
      this.at++;
      return fields;
    }
    for (;;) {
      if (this.peek() !== '"') this.fail("a key is missing");
      const key = this.quoted();
      if (key === "__proto__") this.fail('the key "__proto__"');
      if (key in fields) this.fail(`the key ${JSON.stringify(key.slice(0, 80))} appears twice`);
      this.expect(":");
      fields[key] = this.value();
      if (this.peek() === "}") break;
      this.expect(",");
    }
    this.at++;
    return fields;
  }
}

/**
 * RFC 8259 and nothing beside it: no equal keys in an object, no "__proto__", at most 64 levels.
 * @throws SyntaxError
 */
export function parseStrictJson(text: string): Json {
  const reader = new Reader(text);
  const value = reader.value();
  if (reader.peek() !== undefined) reader.fail("something follows the document");
  return value;
}
