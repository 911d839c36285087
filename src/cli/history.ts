import { isTable } from "../registry/files.ts";
import type { Store, StoredImage } from "../store/store.ts";
import { formatOption, printListing } from "./format.ts";
import type { Globals } from "./globals.ts";
import { anyImage } from "./load-image.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { ago, humanSize, print } from "./output.ts";

interface HistoryRow {
  readonly ID: string;
  readonly CreatedAt: string;
  readonly CreatedSince: string;
  readonly CreatedBy: string;
  readonly Size: string;
  readonly Comment: string;
}

interface Step {
  readonly created: string;
  readonly createdBy: string;
  readonly comment: string;
  readonly size: number;
}

/** image-spec, config.md, "history": the lowest first; layers that it leaves out are told all the same. */
function stepsOf(store: Store, image: StoredImage): Step[] {
  const config: unknown = JSON.parse(new TextDecoder().decode(store.readBlob(image.configDigest, 8 << 20)));
  const told = isTable(config) && Array.isArray(config.history) ? config.history.filter(isTable) : [];
  const text = (value: unknown): string => (typeof value === "string" ? value : "");
  const sizes = image.layers.map((layer) => layer.descriptor.size);
  let next = 0;
  const steps = told.map((each): Step => {
    const size = each.empty_layer === true ? 0 : (sizes[next++] ?? 0);
    return { created: text(each.created), createdBy: text(each.created_by), comment: text(each.comment), size };
  });
  for (const size of sizes.slice(next)) steps.push({ created: "", createdBy: "", comment: "", size });
  return steps;
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "history", description: "Show what an image was made by, layer by layer" },
      args: {
        "no-trunc": { type: "boolean", description: "Whole ids and commands" },
        quiet: { type: "boolean", alias: "q", description: "Only ids" },
        human: { type: "boolean", alias: "H", default: true, description: "Sizes and dates in words" },
        format: formatOption,
        IMAGE: { type: "positional", description: "Name, digest or the beginning of an id" },
      },
    },
    words: [1, 1],
    async run(given) {
      const store = openStoreOf(globals);
      const image = await anyImage(given.words[0] as string, store);
      const whole = given.flag("no-trunc");
      const human = given.flag("human");
      const now = new Date();
      const id = whole ? image.configDigest : image.configDigest.slice(7, 19);
      const rows = stepsOf(store, image)
        .reverse()
        .map(({ created, createdBy, comment, size }, at): HistoryRow => {
          const line = createdBy.replaceAll(/\s+/g, " ");
          const since = created === "" ? "" : ago(new Date(created), now);
          return {
            ID: at === 0 ? id : "<missing>",
            CreatedAt: created,
            CreatedSince: human ? since : created,
            CreatedBy: whole || line.length <= 45 ? line : `${line.slice(0, 44)}…`,
            Size: human ? humanSize(size) : String(size),
            Comment: comment,
          };
        });
      if (given.flag("quiet")) {
        for (const row of rows) print(row.ID);
        return 0;
      }
      const columns = [
        ["IMAGE", "ID"],
        ["CREATED", "CreatedSince"],
        ["CREATED BY", "CreatedBy"],
        ["SIZE", "Size"],
        ["COMMENT", "Comment"],
      ] as const;
      printListing({ rows, columns }, given.text("format"));
      return 0;
    },
  };
}
