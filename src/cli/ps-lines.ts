/** The host's ps(1), about some processes alone. */
import { OciboxError } from "../errors.ts";

/** The lines of ps's that are about these processes, under its own heading. */
function linesAbout(text: string, pids: readonly number[]): string {
  const [heading = "", ...lines] = text.trimEnd().split("\n");
  const column = heading.trim().split(/\s+/).indexOf("PID");
  if (column < 0) throw new OciboxError("USAGE", "ps prints no column PID with these options");
  const wanted = new Set(pids.map(String));
  return [heading, ...lines.filter((line) => wanted.has(line.trim().split(/\s+/)[column] ?? ""))].join("\n");
}

/** What ps prints, undefined where it fails. */
async function printed(words: readonly string[], errors: "inherit" | "ignore"): Promise<string | undefined> {
  const ps = Bun.spawn(["ps", ...words], { stdio: ["ignore", "pipe", errors] });
  const text = await ps.stdout.text();
  return (await ps.exited) === 0 ? text : undefined;
}

/**
 * What ps prints with these options.
 * @param asked whether it is asked for these processes alone, where it knows how: else for those that the options choose
 * @throws OciboxError USAGE, HOST where it cannot be called or fails
 */
export async function psLines(options: readonly string[], pids: readonly number[], asked: boolean): Promise<string> {
  if (Bun.which("ps") === null) throw new OciboxError("HOST", "there is no ps(1) on this host");
  const own = asked && pids.length > 0 ? await printed([...options, "-q", pids.join(",")], "ignore") : undefined;
  const text = own ?? (await printed(options, "inherit"));
  if (text === undefined) throw new OciboxError("HOST", "ps has failed");
  return linesAbout(text, pids);
}
