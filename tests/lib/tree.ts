/** A directory tree as text, one line a name: type, mode, owner, time, link, hard links, contents, extended attributes. */

async function output(command: readonly string[], cwd: string): Promise<string> {
  const ran = Bun.spawn([...command], { cwd, stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(ran.stdout).bytes(),
    new Response(ran.stderr).text(),
    ran.exited,
  ]);
  if (code !== 0) throw new Error(`${command[0]} ended with ${code}: ${err}`);
  return Buffer.from(out).toString("latin1");
}

const fields = ["%P", "%y", "%m", "%U:%G", "%T@", "%l", "%i", "%s"] as const;

/**
 * Every name below a directory, sorted, each as one line. Stays on the file system of the directory.
 * @param leaveOut paths (relative, no leading slash) that are left out with all below them
 */
export async function describeTree(root: string, leaveOut: readonly string[] = []): Promise<string[]> {
  const gone = (path: string): boolean => leaveOut.some((each) => path === each || path.startsWith(`${each}/`));
  const listed = await output(["find", ".", "-xdev", "-printf", `${fields.join("\\0")}\\0`], root);
  const words = listed.split("\0");
  const attributes = await xattrs(root);
  const sums = await contents(root);
  const lines: string[] = [];
  const links = new Map<string, string>();
  // Names that are one file, by those that can be seen: in an overlay the count of links still has what is whited out.
  const groups = new Map<string, number>();
  const entries: string[][] = [];
  for (let at = 0; at + fields.length <= words.length; at += fields.length)
    entries.push(words.slice(at, at + fields.length));
  for (const [path = "", type, , , , , inode = ""] of entries)
    if (!gone(path) && type !== "d") groups.set(inode, (groups.get(inode) ?? 0) + 1);
  entries.sort((a, b) => ((a[0] ?? "") < (b[0] ?? "") ? -1 : 1));
  for (const [path = "", type = "", mode, owner, time, target, inode = "", size] of entries) {
    if (gone(path)) continue;
    const parts = [JSON.stringify(path), type, mode, owner, time];
    if (type === "l") parts.push(`-> ${target}`);
    if (type === "f") parts.push(`${size} bytes`, sums.get(path) ?? "unread");
    const count = groups.get(inode) ?? 0;
    if (type !== "d" && count > 1) {
      const first = links.get(inode);
      if (first === undefined) links.set(inode, path);
      parts.push(`${count} links, first ${JSON.stringify(first ?? path)}`);
    }
    const own = attributes.get(path);
    if (own !== undefined) parts.push(own);
    lines.push(parts.join(" "));
  }
  return lines;
}

/**
 * A tree without the times that umoci does not take from the archive: of directories that no layer names, to which it
 * gives the time of unpacking, and ocibox the first second of 1970.
 * @param ours the tree as ocibox has it, by which those directories are known
 * @param directories whether all directories are without their times
 */
export function comparable(tree: readonly string[], ours: readonly string[], directories = false): string[] {
  const name = (line: string): string => line.split(" d ")[0] ?? "";
  const untold = new Set(ours.filter((line) => / d \d+ \d+:\d+ 0\.0+(?: |$)/.test(line)).map(name));
  const timeless = (line: string): boolean => / d \d+ \d+:\d+ /.test(line) && (directories || untold.has(name(line)));
  return tree.map((line) => (timeless(line) ? line.replace(/( d \d+ \d+:\d+) \S+/, "$1") : line));
}

async function xattrs(root: string): Promise<Map<string, string>> {
  const text = await output(
    ["find", ".", "-xdev", "-exec", "getfattr", "-h", "-d", "-m", "-", "-e", "hex", "--", "{}", "+"],
    root,
  );
  const found = new Map<string, string>();
  for (const block of text.split("\n\n")) {
    const [head = "", ...rest] = block.split("\n").filter((line) => line !== "");
    if (!head.startsWith("# file: ")) continue;
    // getfattr writes odd bytes as \ooo
    const name = head
      .slice(8)
      .replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
    const path = name.replace(/^\.\/?/, "");
    found.set(
      path,
      rest
        .filter((line) => !line.startsWith("trusted.overlay.") && !line.startsWith("user.rootlesscontainers"))
        .sort()
        .join(" "),
    );
  }
  return new Map([...found].filter(([, value]) => value !== ""));
}

async function contents(root: string): Promise<Map<string, string>> {
  const text = await output(["find", ".", "-xdev", "-type", "f", "-exec", "sha256sum", "-z", "--", "{}", "+"], root);
  const found = new Map<string, string>();
  for (const record of text.split("\0")) {
    if (record === "") continue;
    found.set(record.slice(66).replace(/^\.\//, ""), record.slice(0, 64));
  }
  return found;
}
