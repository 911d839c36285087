import { familiar, parseReference } from "../reference/reference.ts";
import { openStore, type StoredImage } from "../store/store.ts";
import type { Globals } from "./globals.ts";
import type { Command } from "./options.ts";
import { ago, humanSize, print, table } from "./output.ts";
import { tidied } from "./tidied.ts";

interface Row {
  readonly repository: string;
  readonly tag: string;
  readonly digest: string;
  readonly id: string;
  readonly created: string;
  readonly size: number;
}

function rowsOf(image: StoredImage): Row[] {
  const size = image.layers.reduce((sum, layer) => sum + layer.descriptor.size, 0);
  const common = {
    digest: image.indexDigest ?? image.manifestDescriptor.digest,
    id: image.configDigest,
    created: image.config.created ?? "",
    size,
  };
  if (image.names.length === 0) return [{ ...common, repository: "<none>", tag: "<none>" }];
  return image.names.map((name) => {
    const reference = parseReference(name);
    const short = familiar(reference);
    const cut = reference.tag === undefined ? short.indexOf("@") : short.lastIndexOf(`:${reference.tag}`);
    return { ...common, repository: cut < 0 ? short : short.slice(0, cut), tag: reference.tag ?? "<none>" };
  });
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "images", description: "List the images in the store" },
      args: {
        quiet: { type: "boolean", alias: "q", description: "Only ids" },
        digests: { type: "boolean", description: "Also digests" },
        "no-trunc": { type: "boolean", description: "Whole ids" },
        format: {
          type: "enum",
          options: ["table", "json"],
          default: "table",
          description: "table, or json: one object a line",
        },
        NAME: { type: "positional", required: false, description: "Only images of this name" },
      },
    },
    words: [0, 1],
    run(given) {
      const store = openStore(tidied(globals).root);
      const wanted = given.words[0];
      const only = wanted === undefined ? undefined : familiar(parseReference(wanted));
      const rows = store
        .list()
        .flatMap(rowsOf)
        .filter((row) => only === undefined || row.repository === wanted || `${row.repository}:${row.tag}` === only)
        .sort((a, b) => (a.created < b.created ? 1 : -1));
      const id = (row: Row): string => (given.flag("no-trunc") ? row.id : row.id.slice(7, 19));
      if (given.flag("quiet")) {
        for (const each of new Set(rows.map(id))) print(each);
        return 0;
      }
      if (given.text("format") === "json") {
        for (const row of rows) print(JSON.stringify(row));
        return 0;
      }
      const now = new Date();
      const digests = given.flag("digests");
      const cells = rows.map((row) => [
        row.repository,
        row.tag,
        ...(digests ? [row.digest] : []),
        id(row),
        row.created === "" ? "" : ago(new Date(row.created), now),
        humanSize(row.size),
      ]);
      print(table(["REPOSITORY", "TAG", ...(digests ? ["DIGEST"] : []), "IMAGE ID", "CREATED", "SIZE"], cells));
      return 0;
    },
  };
}
