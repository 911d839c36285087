/**
 * Closes a test run: the skipped tests with their reasons, what failed, and the line with the numbers.
 * usage: bun scripts/summary.ts EXIT-CODE-OF-THE-RUN JUNIT.xml...
 */
const [given, ...paths] = process.argv.slice(2);

const entities: Readonly<Record<string, string>> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
const plain = (text: string): string =>
  text.replace(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (whole, decimal, hex, name) =>
    name !== undefined
      ? (entities[name] ?? whole)
      : String.fromCodePoint(Number.parseInt(decimal ?? hex, decimal === undefined ? 16 : 10)),
  );

let passed = 0;
const failed: string[] = [];
const skipped: string[] = [];

function count(report: string): void {
  for (const [, head = "", closed, body = ""] of report.matchAll(
    /<testcase\b([^>]*?)(?:(\/)>|>([\s\S]*?)<\/testcase>)/g,
  )) {
    const attribute = (name: string): string => plain(new RegExp(`\\b${name}="([^"]*)"`).exec(head)?.[1] ?? "");
    const title = `${attribute("file")}: ${attribute("name")}`;
    if (closed === undefined && /<skipped\b/.test(body)) skipped.push(title);
    else if (closed === undefined && /<(?:failure|error)\b/.test(body)) failed.push(title);
    else passed++;
  }
}

for (const path of paths) {
  const file = Bun.file(path);
  if (await file.exists()) count(await file.text());
  else failed.push(`there is no report ${path}`);
}
const code = Number(given);
if (code !== 0 && failed.length === 0) failed.push(`the run itself ended with ${code}`);
if (skipped.length > 0) console.log(`\nSkipped:\n${skipped.map((line) => `  ${line}`).join("\n")}`);
if (failed.length > 0) console.log(`\nFailed:\n${failed.map((line) => `  ${line}`).join("\n")}`);
console.log(`\n${passed} passed, ${failed.length} failed, ${skipped.length} skipped`);
process.exitCode = failed.length === 0 ? 0 : 1;

export {};
