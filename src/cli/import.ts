import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { OciboxError } from "../errors.ts";
import { canonical, parseReference } from "../reference/reference.ts";
import type { ContainerDefaults } from "../spec/image.ts";
import { hostPlatform, parsePlatform } from "../spec/platform.ts";
import { importTar } from "../store/import.ts";
import { absolute, asRoot, type Globals, places } from "./globals.ts";
import { interruptible } from "./interruptible.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { isTerminal, print } from "./output.ts";
import { createProgress } from "./progress.ts";
import { keepWithin } from "./store-max.ts";

type Mutable = { -readonly [key in keyof ContainerDefaults]: ContainerDefaults[key] };

/** `["sh", "-c"]`, or words for a shell. */
function commandOf(text: string, whole: string): string[] {
  if (!text.startsWith("[")) return ["/bin/sh", "-c", text];
  try {
    const words: unknown = JSON.parse(text);
    if (Array.isArray(words) && words.every((each) => typeof each === "string")) return words as string[];
  } catch {
    // said below
  }
  throw new OciboxError("USAGE", `--change is "${whole}", whose list is no JSON of words`);
}

function pair(text: string, whole: string): readonly [key: string, value: string] {
  const match = /^([^=\s]+)(?:=|\s+)(.*)$/s.exec(text);
  if (match === null) throw new OciboxError("USAGE", `--change is "${whole}", which has no value`);
  const [, key = "", value = ""] = match;
  return [key, value.replace(/^"(.*)"$/s, "$1")];
}

/** Instructions of a Dockerfile that say something of the configuration. */
function configOf(changes: readonly string[]): ContainerDefaults {
  const config: Mutable = {};
  for (const whole of changes) {
    const [, word = "", text = ""] = /^\s*(\S+)\s+(.*\S)\s*$/s.exec(whole) ?? [];
    switch (word.toUpperCase()) {
      case "CMD":
        config.Cmd = commandOf(text, whole);
        break;
      case "ENTRYPOINT":
        config.Entrypoint = commandOf(text, whole);
        break;
      case "ENV":
        config.Env = [...(config.Env ?? []), pair(text, whole).join("=")];
        break;
      case "LABEL": {
        const [key, value] = pair(text, whole);
        config.Labels = { ...config.Labels, [key]: value };
        break;
      }
      case "EXPOSE":
        config.ExposedPorts = { ...config.ExposedPorts, [text.includes("/") ? text : `${text}/tcp`]: {} };
        break;
      case "VOLUME":
        config.Volumes = { ...config.Volumes, [text]: {} };
        break;
      case "USER":
        config.User = text;
        break;
      case "WORKDIR":
        config.WorkingDir = text;
        break;
      case "STOPSIGNAL":
        config.StopSignal = text;
        break;
      default:
        throw new OciboxError("USAGE", `--change is "${whole}", which is no instruction about the configuration`, {
          hint: "there are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR",
        });
    }
  }
  return config;
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "import", description: "Make an image of a root file system's tar" },
      args: {
        change: {
          type: "string",
          alias: "c",
          repeat: true,
          valueHint: "INSTRUCTION",
          description: 'A line of a Dockerfile: \'CMD ["sh"]\', "ENV A=b"; may be given several times',
        },
        message: { type: "string", alias: "m", valueHint: "TEXT", description: "What history says of it" },
        platform: { type: "string", valueHint: "OS/ARCH[/VARIANT]", description: "What it runs on; this machine's" },
        quiet: { type: "boolean", alias: "q", description: "No progress" },
        FILE: { type: "positional", description: "A tar (gzip and zstd too), or - for stdin" },
        NAME: { type: "positional", required: false, description: "What it is to be called" },
      },
    },
    words: [1, 2],
    async run(given) {
      await asRoot(globals);
      const [file = "", name] = given.words;
      const path = file === "-" ? undefined : absolute(file, "the archive");
      if (path === undefined && isTerminal(0))
        throw new OciboxError("USAGE", "ocibox import reads from stdin, which is a terminal", { hint: "name a file" });
      if (path !== undefined && attempt("faccessat2", AT_FDCWD, path, 0, 0) < 0)
        throw new OciboxError("NOT_FOUND", `there is no file "${file}"`);
      const names = name === undefined ? [] : [canonical(parseReference(name))];
      const platform = given.text("platform");
      const image = await interruptible(`the import of "${file}"`, async (signal) => {
        using progress = createProgress({ quiet: given.flag("quiet") });
        return await importTar(openStoreOf(globals), {
          path,
          names,
          platform: platform === undefined ? hostPlatform() : parsePlatform(platform),
          config: configOf(given.all("change")),
          message: given.text("message") ?? `imported from ${file}`,
          created: new Date().toISOString(),
          events: progress,
          signal,
        });
      });
      print(image.configDigest);
      await keepWithin(places(globals), [image], given.flag("quiet"));
      return 0;
    },
  };
}
