import { bareName, familiar, familiarName, parseReference } from "../reference/reference.ts";
import { readFilters } from "./filters.ts";
import { formatOption, printListing } from "./format.ts";
import type { Globals } from "./globals.ts";
import { type ImageRow, imageFilters, imageRows } from "./image-rows.ts";
import { namesFor } from "./image-word.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

/** NAME as `images NAME` takes it: a repository, with a tag, or a pattern of either. */
async function nameTest(wanted: string): Promise<(row: ImageRow) => boolean> {
  if (/[*?[]/.test(wanted)) {
    const glob = new Bun.Glob(wanted);
    return (row) => glob.match(row.Repository) || glob.match(`${row.Repository}:${row.Tag}`);
  }
  const tagged = bareName(wanted) !== wanted;
  // Whatever the name may stand for: a list hides nothing.
  const usual = parseReference(wanted);
  const names = [usual, ...(await namesFor(wanted, () => false))].map((each) =>
    tagged ? familiar(each) : familiarName(each),
  );
  return (row) => names.includes(tagged ? `${row.Repository}:${row.Tag}` : row.Repository);
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
    async run(given) {
      const store = openStoreOf(globals);
      const [wanted] = given.words;
      const named = wanted === undefined ? () => true : await nameTest(wanted);
      const among = ["dangling", "reference", "label", "before", "since", "after", "until"];
      const test = await readFilters(given.all("filter"), imageFilters(store), among);
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
