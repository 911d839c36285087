/** What an integration test stands in: a store and a state directory of its own, a registry, and the built ocibox. */
import { expect } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { makeTree, pushImage } from "../../scripts/busybox-image.ts";
import { unchanged } from "./around.ts";
import { processes } from "./processes.ts";
import { run, startRegistry, type TestRegistry } from "./registry.ts";

/** The program under test, as scripts/build makes it. */
export const binary = resolve(process.env.OCIBOX_TEST_BINARY ?? "dist/ocibox");

export interface Ended {
  readonly out: string;
  readonly err: string;
  /** 128+n where signal n ended it. */
  readonly code: number;
}

export interface RunOptions {
  readonly stdin?: string | undefined;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  /** Called with the process when it has started. */
  readonly started?: (child: Bun.Subprocess) => void | Promise<void>;
}

async function drive(command: readonly string[], options: RunOptions, env: Record<string, string>): Promise<Ended> {
  const child = Bun.spawn([...command], {
    stdin: options.stdin === undefined ? "ignore" : new TextEncoder().encode(options.stdin),
    stdout: "pipe",
    stderr: "pipe",
    cwd: options.cwd ?? tmpdir(),
    env: { ...process.env, ...env, ...options.env },
  });
  const outputs = Promise.all([child.stdout.text(), child.stderr.text()]);
  await options.started?.(child);
  const [out, err] = await outputs;
  await child.exited;
  const signals: Readonly<Record<string, number>> = { SIGKILL: 9, SIGTERM: 15, SIGINT: 2, SIGHUP: 1 };
  return { out, err, code: child.exitCode ?? 128 + (signals[child.signalCode ?? ""] ?? 0) };
}

export class Sandbox implements AsyncDisposable {
  /** What every command is called by, and with what more in its environment: another network namespace, say. */
  within: { readonly command: readonly string[]; readonly env: Readonly<Record<string, string>> } = {
    command: [],
    env: {},
  };

  /** "127.0.0.1:PORT" of the registry, which docker.io is mirrored to. */
  readonly host: string;

  private constructor(
    readonly dir: string,
    private readonly registry: TestRegistry,
  ) {
    this.host = registry.host;
  }

  /** A sandbox whose registry has library/alpine: busybox under all its names. */
  static async make(): Promise<Sandbox> {
    const dir = mkdtempSync(join(tmpdir(), "ocibox-test-"));
    const registry = await startRegistry();
    const sandbox = new Sandbox(dir, registry);
    writeFileSync(
      join(dir, "registries.conf"),
      `[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "${registry.host}"\ninsecure = true\n`,
    );
    await makeTree(join(dir, "tree"));
    await sandbox.push("alpine");
    return sandbox;
  }

  /** A sandbox of a file's tests, which leave nothing in its store but images. */
  static async ownedBy(owned: AsyncDisposableStack): Promise<Sandbox> {
    const sandbox = owned.use(await Sandbox.make());
    unchanged(owned, () => sandbox.leftovers());
    return sandbox;
  }

  /** The tree of the image; change it, and push it under another name. */
  get tree(): string {
    return join(this.dir, "tree");
  }

  get root(): string {
    return join(this.dir, "root");
  }

  get state(): string {
    return join(this.dir, "state");
  }

  /** Pushes the tree as library/NAME. */
  async push(name: string, settings?: Readonly<Record<string, unknown>>): Promise<void> {
    await pushImage(`http://${this.host}/v2/library/${name}`, this.tree, settings);
  }

  /** Pushes the image with everything that unpacking can get wrong. @returns its name */
  async pushRich(): Promise<string> {
    const image = `${this.host}/rich:1`;
    await run("bash", resolve("tests/fixtures/rich-image.sh"), join(this.dir, "buildah"), image);
    return image;
  }

  get env(): Record<string, string> {
    return {
      OCIBOX_ROOT: this.root,
      OCIBOX_STATE: this.state,
      // No bridge on the machine that the tests run on: tests/network has one in a network namespace of its own.
      OCIBOX_NETWORK: "none",
      ...this.within.env,
      OCIBOX_REGISTRIES_CONF: join(this.dir, "registries.conf"),
      PATH: process.env.PATH ?? "",
    };
  }

  /** Calls ocibox. */
  ocibox(words: readonly string[], options: RunOptions = {}): Promise<Ended> {
    return drive([...this.within.command, binary, ...words], options, this.env);
  }

  /** Calls a shell with the sandbox's environment, and ocibox as $OCIBOX. */
  shell(script: string, options: RunOptions = {}): Promise<Ended> {
    return drive([...this.within.command, "sh", "-c", script], options, { ...this.env, OCIBOX: binary });
  }

  /** What a command prints that goes well, and says nothing else. */
  async ok(...words: string[]): Promise<string> {
    const { out, err, code } = await this.ocibox(words);
    expect([err, code]).toEqual(["", 0]);
    return out;
  }

  /** What a command says that ocibox refuses. */
  async refused(...words: string[]): Promise<string> {
    const { err, code } = await this.ocibox(words);
    expect(code).toBe(125);
    return err;
  }

  /** `ocibox run --rm -q …` */
  run(words: readonly string[], options: RunOptions = {}): Promise<Ended> {
    return this.ocibox(["run", "--rm", "-q", ...words], options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.registry.stop();
    // buildah's overlay is a mount on its own storage directory.
    const storage = join(this.dir, "buildah/storage/overlay");
    if (existsSync(storage)) Bun.spawnSync(["umount", storage]);
    rmSync(this.dir, { recursive: true, force: true });
  }

  /** What a container leaves where it should not: folders, names, state files, temporaries. */
  leftovers(): string[] {
    const found: string[] = [];
    for (const folder of [
      this.state,
      ...["containers", "names", "tmp", "trash"].map((each) => join(this.root, each)),
    ]) {
      if (existsSync(folder)) found.push(...readdirSync(folder).map((name) => join(folder, name)));
    }
    return found;
  }
}

function cgroupsBelow(dir: string, depth: number, found: string[]): void {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const path = `${dir}/${entry.name}`;
    if (entry.name.startsWith("ocibox-")) found.push(path);
    if (depth > 0) cgroupsBelow(path, depth - 1, found);
  }
}

/** All of the host that a container could leave something in. */
export function inventory(): { mounts: string[]; cgroups: string[]; processes: string[]; links: string[] } {
  const cgroups: string[] = [];
  if (existsSync("/sys/fs/cgroup")) cgroupsBelow("/sys/fs/cgroup", 2, cgroups);
  const mounts = readFileSync("/proc/self/mountinfo", "utf8").trim().split("\n").sort();
  return { mounts, cgroups: cgroups.sort(), processes: processes(), links: readdirSync("/sys/class/net").sort() };
}

/** Waits until something holds; false where it does not within a time in milliseconds. */
export async function until(holds: () => boolean | Promise<boolean>, within = 5000): Promise<boolean> {
  const end = performance.now() + within;
  while (performance.now() < end) {
    if (await holds()) return true;
    await Bun.sleep(10);
  }
  return await holds();
}

/** A directory that is there for a test. */
export function folder(sandbox: Sandbox, name: string): string {
  const path = join(sandbox.dir, name);
  mkdirSync(path, { recursive: true });
  return path;
}
