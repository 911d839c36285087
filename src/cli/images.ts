import { familiar, parseReference } from "../reference/reference.ts";
import { formatOption, printListing } from "./format.ts";
import type { Globals } from "./globals.ts";
import { type ImageRow, imageRows, readFilters } from "./image-rows.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

/** NAME as `images NAME` takes it: a repository, with a tag, or a pattern of either. */
function nameTest(wanted: string): (row: ImageRow) => boolean {
  if (/[*?[]/.test(wanted)) {
    const glob = new Bun.Glob(wanted);
    return (row) => glob.match(row.Repository) || glob.match(`${row.Repository}:${row.Tag}`);
  }
  const only = familiar(parseReference(wanted));
  const repository = only.slice(0, only.lastIndexOf(":"));
  const tagged = wanted.lastIndexOf(":") > wanted.lastIndexOf("/");
  return (row) => (tagged ? `${row.Repository}:${row.Tag}` === only : row.Repository === repository);
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "images", description: "List the images in the store" },
      args: {
        all: { type: "boolean", alias: "a", description: "As docker's; there are no intermediate images to hide" },
        quiet: { type: "boolean", alias: "q", description: "Only ids" },
        digests: { type: "boolean", description: "Also digests" },
        "no-trunc": { type: "boolean", description: "Whole ids" },
        filter: {
          type: "string",
          alias: "f",
          repeat: true,
          valueHint: "KEY=VALUE",
          description:
            "dangling=true|false, reference=PATTERN, label=KEY[=VALUE], before=IMAGE, since=IMAGE, until=TIME",
        },
        format: formatOption,
        NAME: { type: "positional", required: false, description: "Only images of this name" },
      },
    },
    words: [0, 1],
    run(given) {
      const store = openStoreOf(globals);
      const [wanted] = given.words;
      const named = wanted === undefined ? () => true : nameTest(wanted);
      const among = ["dangling", "reference", "label", "before", "since", "after", "until"];
      const test = readFilters(given.all("filter"), store, among);
      const rows = imageRows(store.list(), { whole: given.flag("no-trunc"), test }).filter(named);
      if (given.flag("quiet")) {
        for (const each of new Set(rows.map((row) => row.ID))) print(each);
        return 0;
      }
      printListing(
        {
          rows,
          columns: [
            ["REPOSITORY", "Repository"],
            ["TAG", "Tag"],
            ...(given.flag("digests") ? [["DIGEST", "Digest"] as const] : []),
            ["IMAGE ID", "ID"],
            ["CREATED", "CreatedSince"],
            ["SIZE", "Size"],
          ],
        },
        given.text("format"),
      );
      return 0;
    },
  };
}
