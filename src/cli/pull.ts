import type { Globals } from "./globals.ts";
import { needRoot, places } from "./globals.ts";
import type { Command, OptionDef } from "./options.ts";
import { print } from "./output.ts";

/** The flags of every command that may have to pull. */
export const pullOptions = {
  platform: { type: "string", valueHint: "OS/ARCH[/VARIANT]", description: "Image for another platform" },
  authfile: { type: "string", valueHint: "FILE", description: "Credentials file; $REGISTRY_AUTH_FILE" },
  "tls-verify": {
    type: "boolean",
    default: true,
    negativeDescription: "Plain HTTP and unknown certificates will do",
    description: "Demand HTTPS and a valid certificate",
  },
} as const satisfies Record<string, OptionDef>;

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "pull", description: "Pull images from a registry" },
      args: {
        ...pullOptions,
        quiet: { type: "boolean", alias: "q", description: "No progress; only the digest" },
        IMAGE: { type: "positional", description: "Name, tag or digest; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      needRoot("ocibox pull");
      const { pullByName } = await import("./pull-image.ts");
      for (const word of given.words) {
        const image = await pullByName(word, places(globals), {
          platform: given.text("platform"),
          authFile: given.text("authfile"),
          tlsVerify: given.flag("tls-verify"),
          quiet: given.flag("quiet"),
        });
        print(image.indexDigest ?? image.manifestDescriptor.digest);
      }
      return 0;
    },
  };
}
