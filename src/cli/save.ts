import { OciboxError } from "../errors.ts";
import { isTransport } from "../reference/reference.ts";
import { parsePlatform } from "../spec/platform.ts";
import { type SaveFormat, type SaveItem, saveImages } from "../store/save.ts";
import { absolute, type Globals } from "./globals.ts";
import { storeWord } from "./image-word.ts";
import { anyImage } from "./load-image.ts";
import { findImage, openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { isTerminal } from "./output.ts";

const formats = ["docker-archive", "oci-archive", "oci-dir", "docker-dir"] as const satisfies readonly SaveFormat[];

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "save", description: "Save images to an archive or a directory, digests unchanged" },
      args: {
        output: { type: "string", alias: "o", valueHint: "PATH", description: "File or directory; stdout without" },
        format: {
          type: "enum",
          options: [...formats],
          default: "docker-archive",
          description: "docker-archive is an OCI layout with docker's manifest.json, for every tool",
        },
        platform: { type: "string", valueHint: "OS/ARCH[/VARIANT]", description: "Of several, the image for this one" },
        quiet: { type: "boolean", alias: "q", description: "As podman's; there is no progress to hide" },
        IMAGE: { type: "positional", description: "Name, digest or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      const output = given.text("output");
      if (output === undefined && isTerminal(1))
        throw new OciboxError("USAGE", "ocibox save writes an archive to stdout, which is a terminal", {
          hint: "name a file with -o, or redirect stdout",
        });
      const store = openStoreOf(globals);
      const platformText = given.text("platform");
      const platform = platformText === undefined ? undefined : parsePlatform(platformText);
      const items: SaveItem[] = [];
      for (const word of given.words) {
        if (isTransport(word)) {
          items.push({ image: await anyImage(word, store), name: undefined, alone: true });
          continue;
        }
        const image = await findImage(store, word, platform);
        const name = await storeWord(store, word);
        items.push({ image, name: image.names.includes(name) ? name : undefined, alone: platform !== undefined });
      }
      const path = output === undefined || output === "-" ? undefined : absolute(output, "the output");
      await saveImages(store, items, given.text("format") as SaveFormat, path);
      return 0;
    },
  };
}
