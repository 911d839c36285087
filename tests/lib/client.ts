/** Programs that use ocibox in runc's place: a folder for one, its image, its cgroups, and its daemon if it has one. */
import { expect } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeTree } from "../../scripts/busybox-image.ts";
import { containerd, Daemon, dockerd, type Service } from "./daemon.ts";
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
  readonly #daemons = new AsyncDisposableStack();
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

  async #start(service: Service): Promise<void> {
    await this.#daemons.use(new Daemon(service, join(this.dir, "log"))).listening();
  }

  /** Starts containerd, and waits until its socket is there. @returns the socket */
  async containerd(): Promise<string> {
    const service = containerd(this.dir);
    await this.#start(service);
    return service.socket;
  }

  /** Starts dockerd, and waits until it answers. */
  async dockerd(...flags: string[]): Promise<void> {
    await this.#startDocker(dockerd(this.dir, ...flags));
  }

  /**
   * The same in a mount namespace where /etc/subuid and /etc/subgid have a range for the user that a container's root is to
   * be.
   */
  async remappedDockerd(
    name: string,
    range: readonly [first: number, size: number],
    ...flags: string[]
  ): Promise<void> {
    chmodSync(this.dir, 0o711);
    const file = join(this.dir, "subids");
    writeFileSync(file, `${name}:${range.join(":")}\n`);
    const { command, socket } = dockerd(this.dir, `--userns-remap=${name}`, ...flags);
    const binds = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"';
    await this.#startDocker({ command: ["unshare", "--mount", "sh", "-c", binds, file, ...command], socket });
  }

  async #startDocker(service: Service): Promise<void> {
    await this.#start(service);
    expect(await until(async () => (await this.docker("version")).code === 0, 20_000)).toBe(true);
  }

  /** Flags of dockerd's, by which this runtime is the one that it takes, and its cgroups are below this client's. */
  get asRuntime(): string[] {
    return [
      ...["--add-runtime", `ocibox=${this.runtime}`, "--default-runtime", "ocibox"],
      ...["--cgroup-parent", `/${this.cgroup}`],
    ];
  }

  /** Calls docker, whose daemon is this client's. */
  docker(...words: string[]): Promise<Ended> {
    return this.call(["docker", "-H", `unix://${this.dir}/sock`, ...words]);
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
    await this.#daemons.disposeAsync();
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
