import { OciboxError } from "../errors.ts";
import { type Annotations, annotateEntry, annotateIndex } from "../store/edit-index.ts";
import { asRoot, type Globals } from "./globals.ts";
import { storeWord } from "./image-word.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command, Given } from "./options.ts";
import { print } from "./output.ts";

function annotationsOf(given: Given): Record<string, string> {
  return Object.fromEntries(
    given.all("annotation").map((text) => {
      const equals = text.indexOf("=");
      if (equals < 1) throw new OciboxError("USAGE", `--annotation is "${text}", which is not KEY=VALUE`);
      return [text.slice(0, equals), text.slice(equals + 1)];
    }),
  );
}

/** image-spec, image-index.md, "platform". */
function platformOf(given: Given): Annotations["platform"] {
  const fields: Record<string, string | string[]> = {};
  const texts = [
    ["architecture", "arch"],
    ["os", "os"],
    ["os.version", "os-version"],
    ["variant", "variant"],
  ] as const;
  for (const [field, flag] of texts) {
    const text = given.text(flag);
    if (text === "") throw new OciboxError("USAGE", `--${flag} is empty`);
    if (text !== undefined) fields[field] = text;
  }
  const features = given.all("os-features").flatMap((each) => each.split(","));
  if (features.length > 0) fields["os.features"] = features;
  return fields;
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: {
        name: "manifest annotate",
        description: "Say something of an image that a multi-platform image lists: its platform, annotations",
      },
      args: {
        os: { type: "string", valueHint: "OS", description: "Operating system" },
        arch: { type: "string", valueHint: "ARCH", description: "Architecture" },
        variant: { type: "string", valueHint: "VARIANT", description: "Variant of the architecture: v7" },
        "os-version": { type: "string", valueHint: "VERSION", description: "Version of the operating system" },
        "os-features": {
          type: "string",
          repeat: true,
          valueHint: "FEATURE",
          description: "What the operating system must have",
        },
        annotation: { type: "string", repeat: true, valueHint: "KEY=VALUE", description: "An annotation" },
        index: { type: "boolean", description: "Annotations of the multi-platform image itself; without IMAGE" },
        NAME: { type: "positional", description: "The multi-platform image, in the store" },
        IMAGE: {
          type: "positional",
          required: false,
          description: "Which of its images: a digest, or its name in the store",
        },
      },
    },
    words: [1, 2],
    async run(given) {
      await asRoot(globals);
      const [word = "", image] = given.words;
      const platform = platformOf(given);
      const annotations = annotationsOf(given);
      const whole = given.flag("index");
      if (whole !== (image === undefined))
        throw new OciboxError(
          "USAGE",
          whole ? "--index and an IMAGE cannot both be had" : "ocibox manifest annotate wants the IMAGE that is meant",
          {
            hint: "see: ocibox manifest annotate --help",
          },
        );
      if (whole && Object.keys(platform).length > 0)
        throw new OciboxError(
          "USAGE",
          "a multi-platform image itself has no platform: --index takes --annotation alone",
        );
      if (Object.keys(platform).length === 0 && Object.keys(annotations).length === 0)
        throw new OciboxError("USAGE", "ocibox manifest annotate is not told what to say", {
          hint: "see: ocibox manifest annotate --help",
        });
      const store = openStoreOf(globals);
      using lock = store.lockShared();
      void lock;
      const list = { name: await storeWord(store, word), word };
      print(
        image === undefined
          ? annotateIndex(store, list, annotations)
          : annotateEntry(
              store,
              list,
              { meant: await storeWord(store, image), word: image },
              { platform, annotations },
            ),
      );
      return 0;
    },
  };
}
