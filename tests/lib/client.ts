/** Programs that use ocibox in runc's place: a folder for one, its image, its cgroups, and its daemon if it has one. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeTree } from "../../scripts/busybox-image.ts";
import { run } from "./registry.ts";
import { binary, type Ended, until } from "./sandbox.ts";

function removeBelow(directory: string): void {
  for (const entry of readdirSync(directory, { withFileTypes: true }))
    if (entry.isDirectory()) removeBelow(join(directory, entry.name));
  rmdirSync(directory);
}

/** cgroups of this name in every hierarchy. */
function cgroupsNamed(name: string): string[] {
  return ["", ...readdirSync("/sys/fs/cgroup")].map((each) => join("/sys/fs/cgroup", each, name)).filter(existsSync);
}

export class Client implements AsyncDisposable {
  /** Short: some programs refuse long paths. */
  readonly dir = mkdtempSync(join(tmpdir(), "c"));
  /** The runtime, under a name by which it knows what it is to be. */
  readonly runtime = join(this.dir, "ocibox-runc");
  /** The cgroup that everything of this client's is below. */
  readonly cgroup = `ocibox-${this.dir.slice(this.dir.lastIndexOf("/") + 1)}`;
  readonly #daemons: Bun.Subprocess[] = [];

  /** Cgroups to remove in the end. */
  readonly #cgroups: readonly string[];

  /** @param others names of cgroups that the program makes besides: those that are there now are left alone */
  constructor(...others: string[]) {
    symlinkSync(binary, this.runtime);
    this.#cgroups = [this.cgroup, ...others.filter((name) => cgroupsNamed(name).length === 0)];
  }

  /** A root of busybox in an archive, which `import` takes. */
  async tree(): Promise<string> {
    const tree = join(this.dir, "tree");
    mkdirSync(tree);
    await makeTree(tree);
    const archive = join(this.dir, "tree.tar");
    await run("tar", "-C", tree, "-cf", archive, ".");
    return archive;
  }

  /** Starts a daemon, and waits until its socket is there. */
  async daemon(command: readonly string[], socket: string): Promise<void> {
    const child = Bun.spawn([...command], {
      stdio: ["ignore", Bun.file(join(this.dir, "log")), Bun.file(join(this.dir, "log"))],
    });
    this.#daemons.push(child);
    const there = await until(
      () => Bun.spawnSync(["test", "-S", socket]).exitCode === 0 || child.exitCode !== null,
      30_000,
    );
    if (!there || child.exitCode !== null)
      throw new Error(`${command[0]} did not start: ${await Bun.file(join(this.dir, "log")).text()}`);
  }

  /** Output goes to files: what a container keeps open would keep a pipe open. */
  async call(
    command: readonly string[],
    options: { stdin?: string; env?: Record<string, string> } = {},
  ): Promise<Ended> {
    const id = crypto.randomUUID().slice(0, 8);
    const [out, err] = [join(this.dir, `out-${id}`), join(this.dir, `err-${id}`)];
    const child = Bun.spawn([...command], {
      stdio: [options.stdin === undefined ? "ignore" : new Blob([options.stdin]), Bun.file(out), Bun.file(err)],
      env: { ...process.env, ...options.env },
    });
    const code = await child.exited;
    return { out: await Bun.file(out).text(), err: await Bun.file(err).text(), code };
  }

  /** Ends the daemons, the last first, and removes what they leave. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#daemons.toReversed()) {
      child.kill("SIGTERM");
      if (!(await until(() => child.exitCode !== null || child.signalCode !== null, 15_000))) child.kill("SIGKILL");
      await child.exited;
    }
    // Mounts that a daemon has left in this folder; it is ours alone.
    const mounts = (await Bun.file("/proc/self/mountinfo").text()).split("\n").map((line) => line.split(" ")[4] ?? "");
    for (const place of mounts.filter((each) => each.startsWith(`${this.dir}/`)).toReversed())
      Bun.spawnSync(["umount", "-l", place]);
    for (const name of this.#cgroups)
      for (const directory of cgroupsNamed(name)) await until(() => removed(directory), 5000);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function removed(directory: string): boolean {
  try {
    removeBelow(directory);
    return true;
  } catch {
    return false;
  }
}
