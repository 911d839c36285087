/** Bundles of busybox for the OCI runtime's command line, and that command line called. */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Spec } from "../../src/spec/runtime.ts";
import { unchanged } from "./around.ts";
import { binary, type Ended } from "./sandbox.ts";

const programs = [
  "sh",
  "true",
  "cat",
  "sleep",
  "echo",
  "ls",
  "id",
  "mount",
  "hostname",
  "env",
  "touch",
  "test",
  "head",
  "pwd",
  "readlink",
  "sort",
  "tty",
  "mkdir",
];

/** What runc's own `spec` has, as far as a test cares; with every namespace but the user's. */
function usualSpec(): Spec {
  const capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
  return {
    ociVersion: "1.3.0",
    process: {
      user: { uid: 0, gid: 0 },
      args: ["true"],
      env: ["PATH=/bin", "HOME=/"],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      noNewPrivileges: true,
    },
    root: { path: "rootfs" },
    hostname: "bundle",
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755"] },
      {
        destination: "/dev/pts",
        type: "devpts",
        source: "devpts",
        options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
      },
    ],
    linux: {
      namespaces: [{ type: "pid" }, { type: "network" }, { type: "ipc" }, { type: "uts" }, { type: "mount" }],
      maskedPaths: ["/proc/kcore"],
      readonlyPaths: ["/proc/sys"],
    },
  };
}

export class Bundles implements Disposable {
  readonly dir = mkdtempSync(join(tmpdir(), "ocibox-oci-"));
  readonly root = join(this.dir, "state");
  /** What the runtime is called by: a program and its arguments, nsenter's. */
  within: readonly string[] = [];

  /** @param more names of busybox's that the bundle has as well */
  constructor(...more: string[]) {
    const bin = join(this.dir, "bundle/rootfs/bin");
    mkdirSync(bin, { recursive: true });
    // Root of a user namespace is somebody else here, who has to find the way.
    chmodSync(this.dir, 0o711);
    mkdirSync(join(this.dir, "bundle/rootfs/tmp"));
    cpSync("/bin/busybox", join(bin, "busybox"));
    for (const name of [...programs, ...more]) symlinkSync("busybox", join(bin, name));
  }

  /** Bundles of a file's tests, of which the runtime knows none in the end. */
  static ownedBy(owned: AsyncDisposableStack, ...more: string[]): Bundles {
    const bundles = owned.use(new Bundles(...more));
    unchanged(owned, () => bundles.left());
    return bundles;
  }

  get bundle(): string {
    return join(this.dir, "bundle");
  }

  /** Writes the bundle's config.json. */
  write(change: (spec: Spec) => void): void {
    const spec = usualSpec();
    change(spec);
    writeFileSync(join(this.bundle, "config.json"), JSON.stringify(spec));
  }

  /** The command in the bundle. */
  command(...args: string[]): void {
    this.write((spec) => {
      if (spec.process !== undefined) spec.process.args = args;
    });
  }

  /** Calls the runtime in the bundle's directory. Output goes to files: a container that stays keeps a pipe open. */
  async call(...words: string[]): Promise<Ended> {
    const [out, err] = [join(this.dir, `out-${crypto.randomUUID()}`), join(this.dir, `err-${crypto.randomUUID()}`)];
    const child = Bun.spawn([...this.within, binary, "oci", "--root", this.root, ...words], {
      cwd: this.bundle,
      stdio: ["ignore", Bun.file(out), Bun.file(err)],
    });
    const code = await child.exited;
    return { out: await Bun.file(out).text(), err: await Bun.file(err).text(), code };
  }

  async status(id: string): Promise<string> {
    const { out } = await this.call("state", id);
    return out === "" ? "none" : (JSON.parse(out) as { status: string }).status;
  }

  /** Containers that the runtime still knows; what it keeps for itself begins with a dot. */
  left(): string[] {
    return existsSync(this.root) ? readdirSync(this.root).filter((name) => !name.startsWith(".")) : [];
  }

  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}
