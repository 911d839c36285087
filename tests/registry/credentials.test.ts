import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { OciboxError } from "../../src/errors.ts";
import { findCredentials } from "../../src/registry/credentials.ts";
import { around, temporary } from "../lib/around.ts";

let folder: string;
around({}, (owned) => {
  folder = temporary(owned, "credentials");
  mkdirSync(join(folder, "bin"));
  // A helper that knows one server, one that fails, one that hangs on to nothing, as docker-credential-helpers answer.
  helper(
    "good",
    `read server; case "$server" in
https://index.docker.io/v1/) echo '{"ServerURL":"x","Username":"hub","Secret":"h"}';;
token.test) echo '{"Username":"<token>","Secret":"identity"}';;
*) echo "credentials not found in native keychain"; exit 1;; esac`,
  );
  helper("broken", "echo secret-in-output; exit 3");
  helper("liar", "echo not json");
});

function helper(name: string, script: string): void {
  const path = join(folder, "bin", `docker-credential-${name}`);
  writeFileSync(path, `#!/bin/sh\n[ "$1" = get ] || exit 9\n${script}\n`);
  chmodSync(path, 0o755);
}

const pair = (text: string) => ({ auth: Buffer.from(text).toString("base64") });

function put(path: string, content: unknown): string {
  const full = join(folder, path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, typeof content === "string" ? content : JSON.stringify(content));
  return full;
}

async function userFor(file: unknown, host: string, repository = "a/b"): Promise<string> {
  const authfile = put("one.json", file);
  const env = { PATH: `${join(folder, "bin")}:/usr/bin:/bin` };
  const { credentials, problems } = await findCredentials(host, repository, { authfile, env });
  if (credentials === undefined) return problems.length === 0 ? "-" : `- ${problems.length}`;
  return credentials.kind === "identity"
    ? `token ${credentials.token}`
    : `${credentials.username}/${credentials.password}`;
}

describe("inside one file", () => {
  const rows: [name: string, file: unknown, host: string, user: string][] = [
    ["a host", { auths: { "x.test": pair("u:p:q") } }, "x.test", "u/p:q"],
    ["a host with a port", { auths: { "x.test:5000": pair("u:p"), "x.test": pair("v:w") } }, "x.test:5000", "u/p"],
    ["another port", { auths: { "x.test:5000": pair("u:p") } }, "x.test:5001", "-"],
    [
      "the longest path",
      { auths: { "x.test": pair("h:"), "x.test/a": pair("a:"), "x.test/a/b": pair("ab:") } },
      "x.test",
      "ab/",
    ],
    [
      "a path in between",
      { auths: { "x.test": pair("h:"), "x.test/a": pair("a:"), "x.test/a/c": pair("c:") } },
      "x.test",
      "a/",
    ],
    ["part of a component", { auths: { "x.test/a/bb": pair("c:") } }, "x.test", "-"],
    ["Docker Hub's old key", { auths: { "https://index.docker.io/v1/": pair("u:p") } }, "docker.io", "u/p"],
    ["Docker Hub's new key", { auths: { "docker.io": pair("u:p") } }, "docker.io", "u/p"],
    ["a URL as a key", { auths: { "https://x.test/v2/": pair("u:p") } }, "x.test", "u/p"],
    ["an identity token", { auths: { "x.test": { ...pair("u:p"), identitytoken: "t" } } }, "x.test", "token t"],
    ["user name and password apart", { auths: { "x.test": { username: "u", password: "p" } } }, "x.test", "u/p"],
    ["not base64", { auths: { "x.test": { auth: "%%%" } } }, "x.test", "-"],
    ["no colon", { auths: { "x.test": pair("up") } }, "x.test", "-"],
    ["wrong types", { auths: { "x.test": 5 }, credHelpers: [], credsStore: {} }, "x.test", "-"],
    ["a host named like what objects inherit", { auths: {} }, "constructor", "-"],
    ["a store", { credsStore: "good", auths: { "https://index.docker.io/v1/": {} } }, "docker.io", "hub/h"],
    ["a store that knows nothing", { credsStore: "good" }, "x.test", "-"],
    ["a helper for one host", { credHelpers: { "token.test": "good" } }, "token.test", "token identity"],
    [
      "a broken helper of another host",
      { credHelpers: { "y.test": "broken" }, auths: { "x.test": pair("u:p") } },
      "x.test",
      "u/p",
    ],
    [
      "a broken helper, and a stored login",
      { credHelpers: { "x.test": "broken" }, auths: { "x.test": pair("u:p") } },
      "x.test",
      "u/p",
    ],
    ["a broken helper alone", { credHelpers: { "x.test": "broken" } }, "x.test", "- 1"],
    ["a helper that does not speak JSON", { credsStore: "liar" }, "x.test", "- 1"],
    ["a helper that is not installed", { credsStore: "absent" }, "x.test", "- 1"],
    ["a helper with a path", { credsStore: "../../bin/sh" }, "x.test", "- 1"],
  ];
  test.each(rows)("%s", async (_name, file, host, user) => {
    expect(await userFor(file, host)).toBe(user);
  });
});

test("the order of files, first hit wins", async () => {
  const at = (user: string) => ({ auths: { "x.test": pair(`${user}:`) } });
  const env: Record<string, string> = {
    HOME: join(folder, "home"),
    XDG_RUNTIME_DIR: join(folder, "run"),
    REGISTRY_AUTH_FILE: join(folder, "named.json"),
  };
  const found = async (authfile?: string) => {
    const { credentials } = await findCredentials("x.test", "a", { env, authfile });
    return credentials?.kind === "password" ? credentials.username : undefined;
  };
  expect(await found()).toBeUndefined();
  put("home/.docker/config.json", at("docker"));
  expect(await found()).toBe("docker");
  put("home/.config/containers/auth.json", at("config"));
  expect(await found()).toBe("config");
  put("run/containers/auth.json", { auths: { "other.test": pair("o:") } });
  expect(await found()).toBe("config");
  put("run/containers/auth.json", at("run"));
  expect(await found()).toBe("run");
  put("named.json", at("named"));
  expect(await found()).toBe("named");
  expect(await found(put("flag.json", at("flag")))).toBe("flag");
  rmSync(join(folder, "home/.config"), { recursive: true });
  rmSync(join(folder, "run"), { recursive: true });
  rmSync(join(folder, "named.json"));
  env.DOCKER_CONFIG = dirname(put("docker/config.json", at("env")));
  expect(await found()).toBe("env");
});

test("a missing --authfile, and a file that is not JSON, without its content", async () => {
  const failure = async (authfile: string) => {
    try {
      await findCredentials("x.test", "a", { env: {}, authfile });
    } catch (error) {
      return error as OciboxError;
    }
    throw new Error("it did not fail");
  };
  const missing = await failure(join(folder, "nowhere.json"));
  expect(missing).toBeInstanceOf(OciboxError);
  expect(missing.code).toBe("NOT_FOUND");
  const broken = await failure(put("broken.json", '{"auths": {"x.test": {"auth": s3cr3t}}}'));
  expect(broken.code).toBe("INVALID");
  expect(broken.message).toContain("broken.json");
  expect(broken.message).not.toContain("s3cr3t");
});
