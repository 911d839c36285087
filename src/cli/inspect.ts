import { readText } from "../../ffi/files.ts";
import { containerDirectory, findContainer } from "../container/record.ts";
import { OciboxError } from "../errors.ts";
import { familiar, familiarName, parseReference } from "../reference/reference.ts";
import { openStore, type StoredImage } from "../store/store.ts";
import type { Globals } from "./globals.ts";
import { imageWord } from "./image-word.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";
import { tidied } from "./tidied.ts";

function imageShown(image: StoredImage): object {
  const digest = image.indexDigest ?? image.manifestDescriptor.digest;
  const repositories = image.names.map((name) => `${familiarName(parseReference(name))}@${digest}`);
  return {
    Id: image.configDigest,
    RepoTags: image.names.filter((name) => !name.includes("@")).map((name) => familiar(parseReference(name))),
    RepoDigests: [...new Set(repositories)],
    Digest: image.manifestDescriptor.digest,
    Created: image.config.created ?? "",
    Author: image.config.author ?? "",
    Config: image.config.config,
    Architecture: image.config.architecture,
    Variant: image.config.variant ?? "",
    Os: image.config.os,
    Size: image.layers.reduce((sum, layer) => sum + layer.descriptor.size, 0),
    RootFS: { Type: "layers", Layers: image.layers.map((layer) => layer.diffId) },
  };
}

function containerShown(root: string, state: string, word: string): object | undefined {
  try {
    const found = findContainer(root, state, word);
    const config = readText(`${containerDirectory(root, found.id)}/config.json`);
    return {
      Id: found.id,
      Name: found.name,
      Image: found.image,
      ImageManifestDigest: found.manifestDigest,
      Created: found.created,
      State: { Running: found.running, ExitCode: found.exitCode ?? null },
      AutoRemove: found.autoRemove,
      Spec: config === undefined ? null : (JSON.parse(config) as unknown),
    };
  } catch (error) {
    if (error instanceof OciboxError && error.code === "NOT_FOUND") return undefined;
    throw error;
  }
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "inspect", description: "Print all that is known of containers or images, as a JSON array" },
      args: {
        type: { type: "enum", options: ["container", "image"], description: "Look only among these" },
        NAME: { type: "positional", description: "Name, id or digest; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    run(given) {
      const { root, state } = tidied(globals);
      const type = given.text("type");
      const store = openStore(root);
      const shown = given.words.map((word) => {
        const container = type === "image" ? undefined : containerShown(root, state, word);
        if (container !== undefined) return container;
        const image = type === "container" ? undefined : store.find(imageWord(word));
        if (image !== undefined) return imageShown(image);
        const what = type ?? "container or image";
        throw new OciboxError("NOT_FOUND", `there is no ${what} "${word}"`, {
          hint: "see: ocibox images, ocibox ps -a",
        });
      });
      print(JSON.stringify(shown, null, 2));
      return 0;
    },
  };
}
