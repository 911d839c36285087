/** Image names and WWW-Authenticate headers: what strangers write, made of pieces of what is right and what is wrong. */
import { expect, test } from "bun:test";
import { OciboxError } from "../../src/errors.ts";
import { canonical, familiar, parseReference } from "../../src/reference/reference.ts";
import { parseChallenges } from "../../src/registry/challenge.ts";
import { shouldFailReferences } from "../fixtures/should-fail-references.ts";
import { type Dice, fuzz, fuzzTimeout } from "../lib/fuzz.ts";

const hex = "0123456789abcdef".repeat(4);
const pieces = [
  ...["a", "b1", "alpine", "library", "docker.io", "index.docker.io", "ghcr.io", "localhost", "127.0.0.1", "[::1]"],
  ...["x_y", "x__y", "x-y", "x.y", "UP", "tag.1-2_3", "5000", "99999", `sha256:${hex}`, `sha256:${hex.slice(1)}`, "ä"],
];
const signs = ["/", "/", "/", ":", ":", "@", ".", "-", "_", "", " ", "..", "//", "\0", "%2e"];

function word(dice: Dice): string {
  if (dice.once(20)) return dice.pick(shouldFailReferences);
  const made =
    dice.some(4, () => dice.pick(pieces) + (dice.once(2) ? "/" : dice.pick(signs))).join("") + dice.pick(pieces);
  const tagged = dice.once(3) ? `${made}:${dice.pick(pieces)}` : made;
  const whole = dice.once(6) ? `${tagged}@sha256:${hex}` : tagged;
  return dice.once(6) ? Buffer.from(dice.damage(Buffer.from(whole))).toString("utf8") : whole;
}

/** distribution's reference/regexp.go, for a name in full. */
const domain = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
const host = `(?:${domain}(?:\\.${domain})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?`;
const component = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
const theirs = new RegExp(
  `^${host}(?:/${component})+(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[a-f0-9]{64})?$`,
);

test(
  "image names",
  async () => {
    let accepted = 0;
    const { rounds } = await fuzz((dice) => {
      const text = word(dice);
      let reference: ReturnType<typeof parseReference>;
      try {
        reference = parseReference(text);
      } catch (error) {
        expect(error).toBeInstanceOf(OciboxError);
        expect((error as OciboxError).code).toBe("NAME_INVALID");
        expect((error as OciboxError).message).not.toMatch(/[\n\0]/);
        return;
      }
      accepted++;
      const full = canonical(reference);
      expect(full).toMatch(theirs);
      expect(full).not.toMatch(/\.\.\/|\/\.\.|\/\//);
      // However it is written, it means the same.
      expect(parseReference(full)).toEqual(reference);
      expect(parseReference(familiar(reference))).toEqual(reference);
    });
    expect(rounds).toBeGreaterThan(1000);
    expect(accepted).toBeGreaterThan(rounds / 20);
    expect(rounds - accepted).toBeGreaterThan(rounds / 20);
  },
  fuzzTimeout,
);

test("the corpus of names is refused", () => {
  for (const text of shouldFailReferences) expect(() => parseReference(text)).toThrow(OciboxError);
});

const schemes = ["Bearer", "basic", "Digest", "Negotiate", "x-y.z"];
const keys = ["realm", "service", "scope", "error", "a", "Realm"];
const values = ["https://auth/token", "a,b=c", 'q"uote', "back\\slash", "", "repository:a/b:pull,push", "ä", " "];

interface Written {
  readonly scheme: string;
  readonly parameters: readonly (readonly [key: string, value: string])[];
}

function written(dice: Dice): Written {
  const parameters = [...new Map(dice.some(3, () => [dice.pick(keys).toLowerCase(), dice.pick(values)] as const))];
  return { scheme: dice.pick(schemes), parameters };
}

function headerOf(dice: Dice, challenges: readonly Written[]): string {
  const space = (): string => dice.pick(["", " ", "\t"]);
  const quoted = (value: string): string => `"${value.replace(/["\\]/g, "\\$&")}"`;
  return challenges
    .map(({ scheme, parameters }) => {
      const list = parameters.map(([key, value]) => `${key}${space()}=${space()}${quoted(value)}`);
      return `${scheme} ${list.join(`${space()},${space()}`)}`.trim();
    })
    .join(`${space()}, `);
}

test(
  "WWW-Authenticate",
  async () => {
    const { rounds } = await fuzz((dice) => {
      const challenges = [written(dice), ...dice.some(3, () => written(dice))];
      const header = headerOf(dice, challenges);
      const read = parseChallenges(header).map(({ scheme, parameters }) => ({ scheme, parameters: [...parameters] }));
      expect(read).toEqual(
        challenges.map(({ scheme, parameters }) => ({
          scheme: scheme.toLowerCase(),
          parameters: parameters.map(([key, value]) => [key, value] as [string, string]),
        })),
      );
      // Damaged it is something or nothing, and soon.
      const damaged = Buffer.from(dice.damage(Buffer.from(header))).toString("latin1");
      const long = dice.once(20) ? damaged.repeat(2000) : damaged;
      const start = performance.now();
      const found = parseChallenges(long);
      expect(performance.now() - start).toBeLessThan(1000);
      expect(found.length).toBeLessThanOrEqual(16);
      for (const { scheme, parameters } of found) {
        expect(scheme).toMatch(/^[!-~]+$/);
        for (const key of parameters.keys()) expect(key).toBe(key.toLowerCase());
      }
    });
    expect(rounds).toBeGreaterThan(1000);
  },
  fuzzTimeout,
);
