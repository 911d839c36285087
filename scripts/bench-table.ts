/** What the benches print: rows of cells with the ratio to the first, and bounds. */

const failed: string[] = [];

/** @param rows the first is ocibox's; each has its name, its cells and the figure that the ratio is of */
export function table(
  title: string,
  heads: readonly string[],
  rows: readonly { readonly name: string; readonly cells: readonly number[] }[],
  digits = 2,
): void {
  const own = rows[0]?.cells[0] ?? 0;
  console.log(`\n${title}`);
  console.log(`${" ".repeat(32)}${heads.map((head) => head.padStart(9)).join("")}   ocibox is`);
  for (const { name, cells } of rows) {
    const shown = cells.map((each) => each.toFixed(digits).padStart(9));
    console.log(`  ${name.padEnd(30)}${shown.join("")}   ${(own / (cells[0] ?? Number.NaN)).toFixed(2)} ×`);
  }
}

/** Says whether a figure keeps to its bound; `NaN` does not. */
export function bound(what: string, value: number, most: number, unit: string): void {
  const holds = value <= most;
  const shown = `${value.toFixed(2)}${unit} (at most ${Number(most.toFixed(3))}${unit})`;
  console.log(`  ${holds ? "holds    " : "not held "} ${what}: ${shown}`);
  if (!holds) failed.push(what);
}

/** Whether every bound until now was kept to. */
export function allHeld(): boolean {
  return failed.length === 0;
}
