/** What a name without a registry stands for, by the files of containers-registries.conf(5). */
import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { OciboxError } from "../../src/errors.ts";
import { canonical } from "../../src/reference/reference.ts";
import { longNames } from "../../src/registry/short-names.ts";
import { around, temporary } from "../lib/around.ts";

let folder: string;
around({}, (owned) => {
  folder = temporary(owned, "short");
});

const hex = "0123456789abcdef".repeat(4);

async function meanings(word: string, conf: string): Promise<string[]> {
  const file = join(folder, "registries.conf");
  writeFileSync(file, conf);
  return (await longNames(word, { OCIBOX_REGISTRIES_CONF: file })).map(canonical);
}

async function refusal(word: string, conf: string): Promise<OciboxError> {
  try {
    await meanings(word, conf);
  } catch (error) {
    if (error instanceof OciboxError) return error;
    throw error;
  }
  throw new Error(`"${word}" was not refused`);
}

const aliases = '[aliases]\nfedora = "r.test/fedora"\n"team/app" = "r.test:5000/a/b"\ngone = ""\n';
const list = (names: string, mode?: string) =>
  `unqualified-search-registries = [${names}]\n${mode === undefined ? "" : `short-name-mode = "${mode}"\n`}`;

describe("stands for", () => {
  test.each([
    ["alpine", "", ["docker.io/library/alpine:latest"]],
    ["fedora", aliases, ["r.test/fedora:latest"]],
    ["fedora:41", aliases, ["r.test/fedora:41"]],
    [`fedora:41@sha256:${hex}`, aliases, [`r.test/fedora:41@sha256:${hex}`]],
    ["team/app", aliases, ["r.test:5000/a/b:latest"]],
    ["gone", aliases, ["docker.io/library/gone:latest"]],
    ["library/fedora", aliases, ["docker.io/library/fedora:latest"]],
    ["docker.io/fedora", aliases, ["docker.io/library/fedora:latest"]],
    ["localhost/fedora", aliases, ["localhost/fedora:latest"]],
    ["toString", "", undefined],
    ["constructor", aliases, ["docker.io/library/constructor:latest"]],
    ["x", list(""), ["docker.io/library/x:latest"]],
    ["x", list('"a.test"'), ["a.test/x:latest"]],
    ["x", list('"a.test"', "enforcing"), ["a.test/x:latest"]],
    ["x/y:1", list('"a.test", "b.test"'), ["a.test/x/y:1", "b.test/x/y:1"]],
    ["x", list('"a.test", "b.test"', "permissive"), ["a.test/x:latest", "b.test/x:latest"]],
    ["x", list('"a.test", "b.test", "a.test"', "disabled"), ["a.test/x:latest", "b.test/x:latest"]],
    ["x", list('"a.test", "docker.io"', "enforcing"), ["docker.io/library/x:latest"]],
    ["fedora", list('"a.test"') + aliases, ["r.test/fedora:latest"]],
    ["gone", list('"a.test"') + aliases, ["a.test/gone:latest"]],
  ])("%s with %j", async (word, conf, names) => {
    if (names === undefined) expect((await refusal(word, conf)).code).toBe("NAME_INVALID");
    else expect(await meanings(word, conf)).toEqual(names);
  });
});

describe("is refused", () => {
  test.each([
    ["x", list('"a.test", "b.test"', "enforcing"), '"x" may be of a.test or b.test'],
    ["x", 'unqualified-search-registries = "a.test"\n', "not an array of strings"],
    ["x", list('"a.test:5000:1"'), "not a registry"],
    ["x", '[aliases]\nx = "y"\n', '"y" is not a registry and a repository'],
    ["x", '[aliases]\nx = "a.test/y:1"\n', "without a tag"],
    ["x", `[aliases]\nx = "a.test/y@sha256:${hex}"\n`, "without a tag"],
    ["x", "[aliases]\nx = 3\n", "no name"],
    ["x", "[aliases\n", "cannot read"],
  ])("%s with %j", async (word, conf, says) => {
    const error = await refusal(word, conf);
    expect([error.code === "INVALID" || error.code === "NAME_INVALID", error.message]).toEqual([
      true,
      expect.stringContaining(says),
    ]);
  });
});

test("later files override earlier ones", async () => {
  const put = (path: string, text: string): void => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  };
  put("config/containers/registries.conf", `${list('"a.test"')}[aliases]\none = "a.test/1"\ntwo = "a.test/2"\n`);
  put("config/containers/registries.conf.d/10.conf", '[aliases]\none = "b.test/1"\nthree = "b.test/3"\n');
  put("config/containers/registries.conf.d/20.conf", `${list('"c.test"')}[aliases]\nthree = ""\n`);
  const env = { XDG_CONFIG_HOME: join(folder, "config"), HOME: folder };
  const name = async (word: string): Promise<string[]> => (await longNames(word, env)).map(canonical);
  expect(await name("one")).toEqual(["b.test/1:latest"]);
  expect(await name("two")).toEqual(["a.test/2:latest"]);
  expect(await name("three")).toEqual(["c.test/three:latest"]);
});
