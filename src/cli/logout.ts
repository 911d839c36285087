import { OciboxError } from "../errors.ts";
import { registryOf, removeLogin } from "../registry/login.ts";
import type { Globals } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

export function command(_: Globals): Command {
  return {
    def: {
      meta: { name: "logout", description: "Forget the login to a registry" },
      args: {
        all: { type: "boolean", alias: "a", description: "Every login of the file" },
        authfile: { type: "string", valueHint: "FILE", description: "Where it is written; $REGISTRY_AUTH_FILE" },
        REGISTRY: { type: "positional", required: false, description: "Host and port; docker.io if left out" },
      },
    },
    words: [0, 1],
    async run(given) {
      const all = given.flag("all");
      if (all && given.words.length > 0) throw new OciboxError("USAGE", "--all takes no registry");
      const registry = all ? undefined : registryOf(given.words[0] ?? "docker.io");
      const removed = await removeLogin(registry, { authfile: given.text("authfile"), env: process.env });
      if (removed.length === 0 && registry !== undefined)
        throw new OciboxError("NOT_FOUND", `not logged in to ${registry}`);
      print(all ? "Removed all logins" : `Removed login credentials for ${registry}`);
      return 0;
    },
  };
}
