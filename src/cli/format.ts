/** --format of every listing and of inspect: "table", "json", "table TEMPLATE", or a template. docker's formats. */
import type { OptionDef } from "./options.ts";
import { print, table } from "./output.ts";
import { compileTemplate } from "./template.ts";

export const formatOption = {
  type: "string",
  valueHint: "FORMAT",
  description: 'table, json (one object a line), or a Go template: "{{.ID}}", "table {{.ID}}\\t{{.Size}}"',
} as const satisfies OptionDef;

/** What a listing shows. The fields of a row are named as docker's. */
export interface Listing<Row extends object> {
  readonly rows: readonly Row[];
  /** The usual table: heading and field. */
  readonly columns: readonly (readonly [heading: string, field: keyof Row & string])[];
  /** Headings of fields that are in no usual column, where they are not the field's name in capitals. */
  readonly headings?: Readonly<Partial<Record<keyof Row & string, string>>>;
}

/** "\t" and "\n" as people write them in a shell's quotes. */
function unescaped(text: string): string {
  return text.replaceAll("\\t", "\t").replaceAll("\\n", "\n");
}

function cellsOf(line: string): string[] {
  return line.split("\t");
}

/**
 * Prints a listing as --format says.
 * @throws OciboxError USAGE for a template that cannot be read or names a field that is not there
 */
export function printListing<Row extends object>(listing: Listing<Row>, format = "table"): void {
  const { rows, columns } = listing;
  if (format === "table") {
    const cells = rows.map((row) => columns.map(([, field]) => String(row[field] ?? "")));
    print(
      table(
        columns.map(([heading]) => heading),
        cells,
      ),
    );
    return;
  }
  if (format === "json") {
    for (const row of rows) print(JSON.stringify(row));
    return;
  }
  const inTable = /^table\s/.test(format);
  const render = compileTemplate(unescaped(inTable ? format.replace(/^table\s+/, "") : format));
  if (!inTable) {
    for (const row of rows) print(render(row));
    return;
  }
  const headings: Record<string, string> = {};
  for (const [, field = ""] of format.matchAll(/\.([A-Z][A-Za-z]*)/g)) headings[field] = spaced(field);
  for (const [heading, field] of columns) headings[field] = heading;
  const head = cellsOf(render({ ...headings, ...listing.headings }));
  print(
    table(
      head,
      rows.map((row) => cellsOf(render(row))),
    ),
  );
}

/** "CreatedAt" as a heading: "CREATED AT". */
function spaced(field: string): string {
  return field.replace(/([a-z])([A-Z])/g, "$1 $2").toUpperCase();
}

/** inspect: an array, or the template for each. */
export function printObjects(objects: readonly object[], format: string | undefined): void {
  if (format === undefined) {
    print(JSON.stringify(objects, null, 2));
    return;
  }
  const render = format === "json" ? (value: unknown) => JSON.stringify(value) : compileTemplate(unescaped(format));
  for (const each of objects) print(render(each));
}
