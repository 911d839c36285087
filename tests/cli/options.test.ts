import { describe, expect, test } from "bun:test";
import { type Command, HelpAsked, nearest, readOptions } from "../../src/cli/options.ts";
import { command as run } from "../../src/cli/run.ts";
import { OciboxError } from "../../src/errors.ts";

const command = run({ debug: false, version: "0" });

function read(...argv: string[]): ReturnType<typeof readOptions> {
  return readOptions(argv, command, "run");
}

function refusal(...argv: string[]): string {
  try {
    read(...argv);
  } catch (error) {
    if (error instanceof OciboxError) return `${error.message}; ${error.hint}`;
    throw error;
  }
  throw new Error("was accepted");
}

describe("the command line of run", () => {
  test("repeated options are all kept, in order", () => {
    expect(read("-e", "A=1", "--env=B=2", "-eC=3", "img").all("env")).toEqual(["A=1", "B=2", "C=3"]);
  });

  test("what follows the image is the command's own", () => {
    const given = read("--rm", "alpine", "sh", "-c", "x", "--rm=false", "-it");
    expect(given.words).toEqual(["alpine", "sh", "-c", "x", "--rm=false", "-it"]);
    expect(given.flag("rm")).toBe(true);
    expect(given.flag("tty")).toBe(false);
  });

  test("letters may stand together, the last with a value", () => {
    const given = read("-itw", "/x", "img");
    expect([given.flag("interactive"), given.flag("tty"), given.text("workdir")]).toEqual([true, true, "/x"]);
    expect(read("-u=5", "img").text("user")).toBe("5");
    expect(read("-itu0:0", "img").text("user")).toBe("0:0");
  });

  test("switches take true and false", () => {
    expect(read("--rm=false", "img").flag("rm")).toBe(false);
    expect(read("--init=true", "img").flag("init")).toBe(true);
    expect(refusal("--rm=perhaps", "img")).toContain('"perhaps"');
  });

  test("the last of several wins where one is meant", () => {
    expect(read("--name", "a", "--name", "b", "img").text("name")).toBe("b");
  });

  test("-- ends the options", () => {
    expect(read("--rm", "--", "img", "-x").words).toEqual(["img", "-x"]);
  });

  test("an empty value is a value", () => {
    expect(read("--entrypoint", "", "img").text("entrypoint")).toBe("");
    expect(read("--entrypoint=", "img").text("entrypoint")).toBe("");
  });

  test("-h is the host name, --help is help, and not behind the image", () => {
    expect(read("-h", "box", "img").text("hostname")).toBe("box");
    expect(() => read("--help")).toThrow(HelpAsked);
    expect(read("img", "--help").words).toEqual(["img", "--help"]);
  });

  test("an unknown flag names the nearest", () => {
    expect(refusal("--entripoint", "x", "img")).toContain("did you mean --entrypoint?");
    expect(refusal("--memroy", "1g", "img")).toContain("did you mean --memory?");
    expect(refusal("-Z", "img")).toContain('"-Z"');
    expect(refusal("--constructor", "img")).toContain('"--constructor"');
    expect(refusal("--IMAGE", "x", "img")).toContain('"--IMAGE"');
  });

  test("missing values and words are refused", () => {
    expect(refusal("-e")).toContain("wants a value");
    expect(refusal("--rm")).toContain("wants an argument");
    expect(refusal("--pull", "often", "img")).toContain("none of missing, always");
  });
});

test("too many words are refused where a command wants few", () => {
  const two: Command = { def: { args: {} }, words: [0, 1], run: () => 0 };
  expect(() => readOptions(["a", "b"], two, "x")).toThrow('does not know what to do with "b"');
});

test("nearest() finds nothing for what is far away", () => {
  expect(nearest("frobnicate", ["run", "pull"])).toBeUndefined();
  expect(nearest("rnu", ["run", "pull"])).toBe("run");
  expect(nearest("imag", ["images", "info"])).toBe("images");
});
