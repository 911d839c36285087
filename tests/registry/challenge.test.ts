import { describe, expect, test } from "bun:test";
import { parseChallenges } from "../../src/registry/challenge.ts";

const shown = (header: string) =>
  parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

describe("WWW-Authenticate", () => {
  const rows: [header: string, challenges: unknown][] = [
    ['Basic realm="x"', [["basic", { realm: "x" }]]],
    ["Basic", [["basic", {}]]],
    [
      'Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push"',
      [["bearer", { realm: "https://a/token", service: "s", scope: "repository:a/b:pull,push" }]],
    ],
    ['BEARER Realm = "x" , Service=plain', [["bearer", { realm: "x", service: "plain" }]]],
    [
      'Bearer realm="a", service="b", Basic realm="c"',
      [
        ["bearer", { realm: "a", service: "b" }],
        ["basic", { realm: "c" }],
      ],
    ],
    [
      'Negotiate, NTLM abc==, Basic realm="c"',
      [
        ["negotiate", {}],
        ["ntlm", {}],
        ["basic", { realm: "c" }],
      ],
    ],
    ['Bearer realm="a \\"quoted\\" \\\\ one, two"', [["bearer", { realm: 'a "quoted" \\ one, two' }]]],
    ['Bearer realm="a",realm="b"', [["bearer", { realm: "a" }]]],
    [',, Basic realm="x",,', [["basic", { realm: "x" }]]],
    [
      'Bearer realm="unended',
      [
        ["bearer", {}],
        ["realm", {}],
      ],
    ],
    ["", []],
    ['"', []],
    ["=", []],
  ];
  test.each(rows)("%s", (header, challenges) => {
    expect(shown(header)).toEqual(challenges as never);
  });

  test("what a fuzzer makes ends, and quickly", () => {
    const alphabet = 'aB1 ="\\,;=\t/é-Basic';
    let state = 7;
    const next = (below: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return (state >>> 8) % below;
    };
    const start = performance.now();
    for (let round = 0; round < 5000; round++) {
      let header = "";
      for (let length = next(60); length > 0; length--) header += alphabet[next(alphabet.length)];
      expect(parseChallenges(header).length).toBeLessThanOrEqual(16);
    }
    for (const one of ['"', "\\", 'a="', "a ", ",", "a=", "a=b,"])
      expect(parseChallenges(one.repeat(200_000)).length).toBeLessThanOrEqual(16);
    expect(performance.now() - start).toBeLessThan(3000);
  });
});
