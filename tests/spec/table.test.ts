/** docs/runtime-spec.md: no cell is empty, and every test that it names is there. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";

const rows = readFileSync("docs/runtime-spec.md", "utf8")
  .split("\n")
  .filter((line) => line.startsWith("| ") && !line.startsWith("| clause") && !line.startsWith("|---"))
  .map((line) =>
    line
      .split(/(?<!\\)\|/)
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );

test("rows", () => {
  expect(rows.length).toBeGreaterThan(75);
  for (const row of rows) expect([row, row.length, row.every((cell) => cell !== "")]).toEqual([row, 3, true]);
});

/** A file in backquotes, with the title behind it. */
const reference = /`([\w/.-]+\.ts|vm\/suite)`(?: "([^"]+)")?/g;

test("what shows it", () => {
  const missing: string[] = [];
  for (const [clause = "", , shown = ""] of rows) {
    const references = [...shown.matchAll(reference)];
    if (references.length === 0) missing.push(`${clause}: nothing`);
    for (const [, file = "", title] of references) {
      const path = [`tests/${file}`, `src/${file}`, file].find(existsSync);
      if (path === undefined) missing.push(`${clause}: ${file}`);
      else if (title !== undefined) {
        const text = readFileSync(path, "utf8");
        // The corpus makes some names of parts.
        if (!text.includes(title) && !text.includes(title.replace(/^(resources|mount) /, "")))
          missing.push(`${clause}: ${file} has no "${title}"`);
      }
    }
  }
  expect(missing).toEqual([]);
});
