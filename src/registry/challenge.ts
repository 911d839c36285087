/** WWW-Authenticate: RFC 9110, 11.6.1. Registries send one or more challenges, sometimes in one header line. */

export interface Challenge {
  /** In lower case: "bearer", "basic". */
  readonly scheme: string;
  /** By names in lower case; the first of equal names counts. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Longer headers than this are cut: no honest challenge is. Characters. */
const lengthLimit = 16_384;
const challengeLimit = 16;

const token = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;
const quoted = /"((?:[^"\\]|\\.)*)"/sy;
const token68 = /[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))/y;

class Scanner {
  at = 0;
  constructor(readonly text: string) {}

  take(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found === null) return undefined;
    this.at = pattern.lastIndex;
    return found;
  }

  skip(characters: string): void {
    while (this.at < this.text.length && characters.includes(this.text[this.at] as string)) this.at++;
  }

  /** NAME = VALUE, or undefined (nothing consumed) where the next word is not followed by "=". */
  parameter(): [name: string, value: string] | undefined {
    const start = this.at;
    const name = this.take(token)?.[0];
    this.skip(" \t");
    if (name === undefined || this.text[this.at] !== "=") {
      this.at = start;
      return undefined;
    }
    this.at++;
    this.skip(" \t");
    const text = this.take(quoted)?.[1]?.replace(/\\(.)/gs, "$1") ?? this.take(token)?.[0];
    if (text === undefined) {
      this.at = start;
      return undefined;
    }
    return [name.toLowerCase(), text];
  }
}

/** The challenges of a header; what cannot be read ends the list, never throws. */
export function parseChallenges(header: string): Challenge[] {
  const scanner = new Scanner(header.slice(0, lengthLimit));
  const challenges: Challenge[] = [];
  while (challenges.length < challengeLimit) {
    scanner.skip(" \t,");
    const scheme = scanner.take(token)?.[0];
    if (scheme === undefined) break;
    scanner.skip(" \t");
    const parameters = new Map<string, string>();
    for (;;) {
      const found = scanner.parameter();
      if (found === undefined) break;
      if (!parameters.has(found[0])) parameters.set(found[0], found[1]);
      const end = scanner.at;
      scanner.skip(" \t,");
      // A word that is not followed by "=" begins the next challenge; the comma before it is skipped there again.
      const next = scanner.at;
      if (scanner.parameter() === undefined) {
        scanner.at = end;
        break;
      }
      scanner.at = next;
    }
    if (parameters.size === 0) scanner.take(token68);
    challenges.push({ scheme: scheme.toLowerCase(), parameters });
  }
  return challenges;
}
