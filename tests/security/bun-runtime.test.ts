/** The Bun runtime: nothing of the directory ocibox is called in, and none of Bun's variables, changes what it does. */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { around, temporary } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { startRegistry } from "../lib/registry.ts";
import { binary } from "../lib/sandbox.ts";

let dir: string;
let mark: string;

around({}, (owned) => {
  dir = temporary(owned, "bun");
  mark = join(dir, "mark");
});

interface Ended {
  readonly out: string;
  readonly err: string;
  readonly code: number | null;
}

/** Calls ocibox with a store of its own. Not awaited, a registry of this process could not answer. */
async function call(words: readonly string[], cwd: string, env: Readonly<Record<string, string>>): Promise<Ended> {
  const places = { OCIBOX_ROOT: join(dir, "root"), OCIBOX_STATE: join(dir, "state"), PATH: process.env.PATH ?? "" };
  const child = Bun.spawn([binary, ...words], {
    cwd,
    env: { ...places, ...env },
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  await child.exited;
  clearTimeout(timer);
  return { out, err, code: child.exitCode };
}

const test = testWith({});

describe("the Bun runtime", () => {
  test("files of the directory it is called in", async () => {
    const here = join(dir, "hostile");
    mkdirSync(here);
    const evil = `require("fs").writeFileSync(${JSON.stringify(mark)}, "x"); console.log("evil");`;
    writeFileSync(join(here, "evil.js"), evil);
    writeFileSync(join(here, ".env"), `OCIBOX_ROOT=${dir}/elsewhere\nBUN_OPTIONS=--preload ${here}/evil.js\n`);
    writeFileSync(join(here, ".env.production"), `OCIBOX_ROOT=${dir}/elsewhere\n`);
    writeFileSync(join(here, "bunfig.toml"), 'preload = ["./evil.js"]\n[run]\npreload = ["./evil.js"]\n');
    writeFileSync(join(here, "tsconfig.json"), '{"compilerOptions":{"paths":{"*":["./evil.js"]},"jsx":"react"}}');
    writeFileSync(
      join(here, "package.json"),
      '{"name":"x","type":"commonjs","imports":{"#x":"./evil.js"},"bin":"evil.js"}',
    );
    const plain = await call(["info"], tmpdir(), {});
    expect(plain.code).toBe(0);
    expect(await call(["info"], here, {})).toEqual(plain);
    expect(await call(["--version"], here, {})).toEqual(await call(["--version"], tmpdir(), {}));
    expect(existsSync(mark)).toBe(false);
    expect(existsSync(join(dir, "elsewhere"))).toBe(false);
  });

  test("BUN_BE_BUN, BUN_OPTIONS and BUN_INSPECT", async () => {
    const evil = join(dir, "evil.js");
    writeFileSync(evil, `require("fs").writeFileSync(${JSON.stringify(mark)}, "x");`);
    const plain = await call(["--version"], tmpdir(), {});
    expect(plain.out).toMatch(/^ocibox version /);
    for (const env of [
      { BUN_BE_BUN: "1" },
      { BUN_OPTIONS: `--preload ${evil}` },
      { BUN_OPTIONS: `-e 'require("fs").writeFileSync("${mark}","x")'` },
      { BUN_INSPECT: "1" },
      { BUN_INSPECT: "ws://127.0.0.1:0/x?break=1" },
      { BUN_INSPECT_CONNECT_TO: "unix:///tmp/none" },
      { BUN_INSPECT_PRELOAD: evil },
      { BUN_CONFIG_PRELOAD: evil },
      { NODE_OPTIONS: `--require ${evil}` },
      { BUN_PRELOAD: evil },
    ])
      expect([env, await call(["--version"], tmpdir(), env)]).toEqual([env, plain]);
    const run = { BUN_BE_BUN: "1" };
    expect((await call([evil], tmpdir(), run)).code).toBe(125);
    expect((await call(["-e", "1"], tmpdir(), run)).code).toBe(125);
    expect(existsSync(mark)).toBe(false);
  });

  test("the names of those variables are not in the program any more", () => {
    const bytes = readFileSync(binary);
    for (const name of [
      "BUN_BE_BUN",
      "BUN_OPTIONS",
      "BUN_INSPECT",
      "BUN_CONFIG_VERBOSE_FETCH",
      "NODE_TLS_REJECT_UNAUTHORIZED",
    ])
      expect([name, bytes.includes(name)]).toEqual([name, false]);
  });
});

describe("the Bun runtime, towards a registry", () => {
  const test = testWith({ root: true, programs: ["docker-registry", "openssl"] });

  test("NODE_TLS_REJECT_UNAUTHORIZED=0 does not take the check of certificates away", async () => {
    await using registry = await startRegistry({ tls: true });
    const { err, code } = await call(["pull", `${registry.host}/x:1`], tmpdir(), { NODE_TLS_REJECT_UNAUTHORIZED: "0" });
    expect(code).toBe(125);
    expect(err).toMatch(/certificate/);
    // With the authority named, the same registry is believed.
    const ca = join(dir, "ca.pem");
    writeFileSync(ca, registry.ca ?? "");
    const known = await call(["pull", `${registry.host}/x:1`], tmpdir(), { SSL_CERT_FILE: ca });
    expect(known.err).toMatch(/has no (?:tag|repository)/);
  });

  test("BUN_CONFIG_VERBOSE_FETCH prints no secret", async () => {
    await using registry = await startRegistry({ htpasswd: { username: "user", password: "a-secret-word" } });
    const file = join(dir, "auth.json");
    const auth = Buffer.from("user:a-secret-word").toString("base64");
    writeFileSync(file, JSON.stringify({ auths: { [registry.host]: { auth } } }));
    for (const value of ["curl", "1", "true"]) {
      const ended = await call(["pull", "--authfile", file, `${registry.host}/x:1`], tmpdir(), {
        BUN_CONFIG_VERBOSE_FETCH: value,
      });
      expect(ended.err).toMatch(/^ocibox: [^\n]*has no (?:tag|repository)[^\n]*\n$/);
      expect(`${ended.out}${ended.err}`).not.toContain(auth);
    }
  });
});
