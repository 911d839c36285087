import { OciboxError } from "../errors.ts";
import { familiar, parseReference } from "../reference/reference.ts";
import { parsePlatform } from "../spec/platform.ts";
import { loadImage } from "../store/load.ts";
import { openSource } from "../store/sources/open.ts";
import type { StoredImage } from "../store/store.ts";
import { asRoot, type Globals, places } from "./globals.ts";
import { interruptible } from "./interruptible.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { isTerminal, print } from "./output.ts";
import { createProgress } from "./progress.ts";
import { keepWithin } from "./store-max.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "load", description: "Load images from an archive or a directory, or from stdin" },
      args: {
        input: {
          type: "string",
          alias: "i",
          valueHint: "PATH",
          description: "OCI layout, docker archive or skopeo's dir; a tar (gzip and zstd too) or a directory",
        },
        platform: { type: "string", valueHint: "OS/ARCH[/VARIANT]", description: "Only this platform" },
        quiet: { type: "boolean", alias: "q", description: "No progress" },
      },
    },
    words: [0, 0],
    async run(given) {
      await asRoot(globals);
      const input = given.text("input");
      const path = input === "-" ? undefined : input;
      if (path === undefined && isTerminal(0))
        throw new OciboxError("USAGE", "ocibox load reads from stdin, which is a terminal", {
          hint: "name a file or directory with -i, or pipe an archive into it",
        });
      const platform = given.text("platform");
      const store = openStoreOf(globals);
      const all: StoredImage[] = [];
      await interruptible("the load", async (signal) => {
        using source = await openSource(store, path, path ?? "stdin");
        if (source.images.length === 0) throw new OciboxError("INVALID", `"${source.name}" holds no images`);
        for (const image of source.images) {
          using progress = createProgress({ quiet: given.flag("quiet") });
          const loaded = await loadImage(store, source, image, {
            platform: platform === undefined ? undefined : parsePlatform(platform),
            events: progress,
            signal,
          });
          all.push(...loaded);
          for (const name of image.names) print(`Loaded image: ${familiar(parseReference(name))}`);
          if (image.names.length === 0) print(`Loaded image ID: ${loaded[0]?.configDigest}`);
        }
      });
      await keepWithin(places(globals), all, given.flag("quiet"));
      return 0;
    },
  };
}
