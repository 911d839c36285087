import { OciboxError } from "../errors.ts";
import { registryOf, storeLogin, tryLogin } from "../registry/login.ts";
import { ask } from "./ask.ts";
import type { Globals } from "./globals.ts";
import type { Command, Given } from "./options.ts";
import { isTerminal, print } from "./output.ts";

async function loginOf(given: Given): Promise<{ username: string; password: string }> {
  const password = given.text("password");
  if (given.flag("password-stdin") && password !== undefined)
    throw new OciboxError("USAGE", "--password and --password-stdin exclude each other");
  const username = given.text("username");
  if (given.flag("password-stdin")) {
    if (username === undefined) throw new OciboxError("USAGE", "--password-stdin wants the user name: -u NAME");
    return { username, password: (await Bun.stdin.text()).replace(/\r?\n$/, "") };
  }
  if ((username === undefined || password === undefined) && !isTerminal(0))
    throw new OciboxError("USAGE", "no user name and password were given, and there is no terminal to ask at", {
      hint: "use -u NAME and --password-stdin",
    });
  return { username: username ?? ask("Username: "), password: password ?? ask("Password: ", true) };
}

export function command(_: Globals): Command {
  return {
    def: {
      meta: { name: "login", description: "Log in to a registry" },
      args: {
        username: { type: "string", alias: "u", valueHint: "NAME", description: "User name" },
        password: {
          type: "string",
          alias: "p",
          valueHint: "TEXT",
          description: "Password; other users see it in ps: better --password-stdin",
        },
        "password-stdin": { type: "boolean", description: "Take the password from stdin" },
        authfile: { type: "string", valueHint: "FILE", description: "Where it is written; $REGISTRY_AUTH_FILE" },
        "tls-verify": {
          type: "boolean",
          default: true,
          negativeDescription: "Plain HTTP and unknown certificates will do",
          description: "Demand HTTPS and a valid certificate",
        },
        REGISTRY: { type: "positional", required: false, description: "Host and port; docker.io if left out" },
      },
    },
    words: [0, 1],
    async run(given) {
      const registry = registryOf(given.words[0] ?? "docker.io");
      const login = await loginOf(given);
      if (login.username === "" || login.password === "")
        throw new OciboxError("USAGE", "the user name or the password is empty");
      if (login.username.includes(":")) throw new OciboxError("USAGE", "a user name has no colon in it");
      await tryLogin(registry, login, { insecure: !given.flag("tls-verify") });
      await storeLogin(registry, login, { authfile: given.text("authfile"), env: process.env });
      print("Login Succeeded!");
      return 0;
    },
  };
}
