import { listVolumes, type VolumeRecord, volumeUsers } from "../container/volumes.ts";
import { OciboxError } from "../errors.ts";
import { type Filters, labelTest, readFilters } from "./filters.ts";
import { formatOption, printListing } from "./format.ts";
import { type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";
import { volumeRow } from "./volume-shown.ts";

function filtersOf(root: string): Filters<VolumeRecord> {
  return {
    name: (value) => (each) => each.name.includes(value),
    label(value) {
      const test = labelTest(value);
      return ({ labels }) => test(labels);
    },
    dangling(value) {
      if (!["true", "1", "false", "0"].includes(value))
        throw new OciboxError("USAGE", `the filter "dangling" is "${value}", not true or false`);
      const users = volumeUsers(root);
      const wanted = value === "true" || value === "1";
      return ({ name }) => users.has(name) !== wanted;
    },
  };
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "volume ls", description: "List volumes" },
      args: {
        quiet: { type: "boolean", alias: "q", description: "Only names" },
        filter: {
          type: "string",
          alias: "f",
          repeat: true,
          valueHint: "KEY=VALUE",
          description: "name=PART, label=KEY[=VALUE], dangling=true|false: whether no container has it",
        },
        format: formatOption,
      },
    },
    words: [0, 0],
    async run(given) {
      const { root } = places(globals);
      const test = await readFilters(given.all("filter"), filtersOf(root));
      const rows = listVolumes(root)
        .filter(test)
        .map((each) => volumeRow(root, each));
      if (given.flag("quiet")) for (const { Name } of rows) print(Name);
      else
        printListing(
          {
            rows,
            columns: [
              ["DRIVER", "Driver"],
              ["VOLUME NAME", "Name"],
            ],
          },
          given.text("format"),
        );
      return 0;
    },
  };
}
