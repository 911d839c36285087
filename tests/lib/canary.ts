/** The host's own tree, which nothing in a container or an image may change: contents, inodes, modes, owners, times. */
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";

function describe(path: string, into: string[]): void {
  const stat = lstatSync(path, { bigint: true });
  const content = stat.isFile()
    ? Bun.hash(readFileSync(path)).toString(16)
    : stat.isSymbolicLink()
      ? readlinkSync(path)
      : "";
  into.push([path, stat.ino, stat.mode.toString(8), stat.uid, stat.gid, stat.mtimeNs, stat.ctimeNs, content].join(" "));
  if (stat.isDirectory()) for (const name of readdirSync(path).sort()) describe(join(path, name), into);
}

export class Canary {
  readonly #before: readonly string[];

  /** Makes a small tree that is worth attacking. */
  constructor(readonly dir: string) {
    mkdirSync(join(dir, "sub/deeper"), { recursive: true });
    writeFileSync(join(dir, "file"), "secret\n", { mode: 0o600 });
    writeFileSync(join(dir, "sub/passwd"), "root:x:0:0::/:/bin/sh\n");
    symlinkSync("file", join(dir, "link"));
    this.#before = this.now();
  }

  now(): string[] {
    const found: string[] = [];
    describe(this.dir, found);
    return found;
  }

  get before(): readonly string[] {
    return this.#before;
  }
}
