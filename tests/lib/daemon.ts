/** docker's and containerd's daemons, each with all of its own in one folder: for tests, and for the bench. */
import { statSync, writeFileSync } from "node:fs";

/** How a daemon is started, and where it listens. */
export interface Service {
  readonly command: readonly string[];
  readonly socket: string;
}

/** dockerd without a network. @param flags besides */
export function dockerd(dir: string, ...flags: string[]): Service {
  const socket = `${dir}/sock`;
  const command = [
    ...["dockerd", "--data-root", `${dir}/data`, "--exec-root", `${dir}/exec`, "--pidfile", `${dir}/pid`],
    ...["-H", `unix://${socket}`, "--iptables=false", "--ip6tables=false", "--bridge=none"],
    ...["--exec-opt", "native.cgroupdriver=cgroupfs", ...flags],
  ];
  return { command, socket };
}

/** containerd with only what is needed; its configuration is written to the folder. */
export function containerd(dir: string): Service {
  const socket = `${dir}/grpc`;
  const lines = [
    "version = 2",
    `root = "${dir}/root"`,
    `state = "${dir}/state"`,
    'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]',
    `[grpc]\naddress = "${socket}"`,
    `[ttrpc]\naddress = "${dir}/ttrpc"`,
    `[plugins."io.containerd.internal.v1.opt"]\npath = "${dir}/opt"`,
    "",
  ];
  writeFileSync(`${dir}/config.toml`, lines.join("\n"));
  return { command: ["containerd", "-c", `${dir}/config.toml`], socket };
}

/** A daemon that runs, and is ended by who has started it. */
export class Daemon implements AsyncDisposable {
  readonly #child: Bun.Subprocess;
  readonly #log: string;

  /** @param log the file that its output goes to @param env besides this process's own */
  constructor(
    readonly service: Service,
    log: string,
    env: Readonly<Record<string, string>> = {},
  ) {
    this.#log = log;
    this.#child = Bun.spawn([...service.command], {
      stdio: ["ignore", Bun.file(log), Bun.file(log)],
      env: { ...process.env, ...env },
    });
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Waits until its socket is there, for half a minute. @throws Error with its last words where it does not start */
  async listening(): Promise<void> {
    const { command, socket } = this.service;
    for (let tries = 0; statSync(socket, { throwIfNoEntry: false })?.isSocket() !== true; tries++) {
      if (tries === 600 || this.#child.exitCode !== null)
        throw new Error(`"${command.join(" ")}" did not start: ${(await Bun.file(this.#log).text()).slice(-2000)}`);
      await Bun.sleep(50);
    }
  }

  /** Ends it, by force where that takes more than 20 seconds. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGTERM");
    const late = setTimeout(() => this.#child.kill("SIGKILL"), 20_000);
    await this.#child.exited;
    clearTimeout(late);
  }
}
