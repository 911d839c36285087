import { describe, expect, test } from "bun:test";
import { expandGroup } from "../../src/cli/groups.ts";
import { compileTemplate } from "../../src/cli/template.ts";
import { OciboxError } from "../../src/errors.ts";

const row = {
  ID: "abc",
  Size: 12,
  Tags: ["a", "b"],
  None: [],
  Config: { Env: ["A=1", "B=2"], Labels: { "org.x": "y", z: "w" }, User: "" },
  Nothing: null,
  Yes: true,
};

function render(template: string): string {
  return compileTemplate(template)(row);
}

describe("Go templates", () => {
  // By the documentation of Go's text/template and fmt.
  const cases: readonly (readonly [string, string])[] = [
    ["plain", "plain"],
    ["{{.ID}}", "abc"],
    ["{{ .ID }}-{{.Size}}", "abc-12"],
    ["{{.Config.Env}}", "[A=1 B=2]"],
    ["{{.Config.Labels}}", "map[org.x:y z:w]"],
    ["{{.Nothing}}", "<nil>"],
    ["{{.Yes}}", "true"],
    ["{{json .Tags}}", '["a","b"]'],
    ["{{json .Config.Labels}}", '{"org.x":"y","z":"w"}'],
    ["{{.Tags | json}}", '["a","b"]'],
    ['{{join .Tags ","}}', "a,b"],
    ['{{join .Config.Env "\\n"}}', "A=1\nB=2"],
    ['{{index .Config.Labels "org.x"}}', "y"],
    ["{{index .Tags 1}}", "b"],
    ["{{len .Tags}}", "2"],
    ["{{upper .ID}}{{lower `ABC`}}", "ABCabc"],
    ["{{range .Tags}}<{{.}}>{{end}}", "<a><b>"],
    ["{{range $i, $t := .Tags}}{{$i}}={{$t}} {{end}}", "0=a 1=b "],
    ["{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "org.x=y;z=w;"],
    ["{{range .Tags}}{{$.ID}}{{.}} {{end}}", "abca abcb "],
    ["{{range .None}}x{{else}}none{{end}}", "none"],
    ["{{if .Config.User}}user{{else}}nobody{{end}}", "nobody"],
    ["{{if eq .ID `x`}}1{{else if gt .Size 10}}2{{else}}3{{end}}", "2"],
    ["{{with .Config}}{{.Env}}{{end}}", "[A=1 B=2]"],
    ["{{if and .Yes (not .Config.User)}}both{{end}}", "both"],
    ['{{printf "%-5s|%3d|%q" .ID .Size .ID}}', 'abc  | 12|"abc"'],
    ["{{(index .Tags 0)}}", "a"],
    ["a {{- .ID -}} b", "aabcb"],
    ["{{/* nothing */}}x", "x"],
    ["{{truncate .ID 2}}", "ab"],
    ['{{"}}"}}', "}}"],
  ];
  for (const [template, wanted] of cases) test(template, () => expect(render(template)).toBe(wanted));

  const bad: readonly (readonly [string, RegExp])[] = [
    ["{{.Nope}}", /no field "Nope"; there are ID, Size/],
    ["{{.ID.Deeper}}", /no field "Deeper"/],
    ["{{.constructor}}", /no field "constructor"/],
    ["{{.__proto__}}", /no field "__proto__"/],
    ["{{nope .ID}}", /no function "nope"/],
    ["{{constructor}}", /no function "constructor"/],
    ["{{.ID", /has no "}}"/],
    ["{{if .ID}}x", /\{\{end\}\}" is missing/],
    ["{{end}}", /stands alone/],
    ["{{.ID | }}", /ends too early|is no function/],
    ["{{index .Tags 9}}", /no element 9/],
    ["{{$x}}", /\$x is not set/],
    ["{{;}}", /";"/],
  ];
  for (const [template, why] of bad)
    test(`${template} is refused`, () => {
      expect(() => render(template)).toThrow(OciboxError);
      expect(() => render(template)).toThrow(why);
    });
});

describe("commands of two words", () => {
  test("stand for those of one", () => {
    expect(expandGroup(["image", "ls", "-q"], ["images"])).toEqual(["images", "-q"]);
    expect(expandGroup(["image", "inspect", "x"], ["inspect"])).toEqual(["inspect", "--type", "image", "x"]);
    expect(expandGroup(["system", "df", "-v"], ["system df"])).toEqual(["system df", "-v"]);
    expect(expandGroup(["nonsense", "ls"], ["images"])).toBeUndefined();
  });

  test("a wrong second word is told", () => {
    expect(() => expandGroup(["image", "histroy"], [])).toThrow(/has no command "histroy"/);
    expect(() => expandGroup(["image"], [])).toThrow(/wants a command/);
  });
});
