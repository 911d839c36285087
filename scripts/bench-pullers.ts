/** What pulls an image from nothing to where it could be run, and what each of them takes for it. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { containerd, Daemon, dockerd, type Service } from "../tests/lib/daemon.ts";

export interface Taken {
  /** Milliseconds, from no image in the store to one that can be started. */
  readonly wall: number;
  /** Seconds of user and system time, those of a daemon and of all children with them. */
  readonly cpu: number;
  /** The largest process's peak of resident memory, in MB. */
  readonly peak: number;
}

export interface Puller {
  readonly name: string;
  /** @param dir an empty directory of its own file system, with "tmp" in it */
  pull(dir: string, image: string): Promise<Taken>;
  /** That the image can be run is shown, after the measurement. */
  prove?(dir: string, image: string): Promise<void>;
}

/** How what is at work now is ended. */
const running = new Set<() => Promise<unknown>>();

/** Ends what is at work, for a bench that is given up. */
export async function stopPulling(): Promise<void> {
  await Promise.all([...running].map((stop) => stop()));
}

/** Compiles the programs of C that measure. @returns their paths */
export async function compileTools(directory: string): Promise<{ child: string; floor: string; timer: string }> {
  const tools = { child: join(directory, "child"), floor: join(directory, "floor"), timer: join(directory, "timer") };
  await $`gcc -O2 -Wall -Wextra -Werror -o ${tools.child} scripts/bench-child.c`;
  await $`gcc -O2 -Wall -Wextra -Werror -o ${tools.floor} scripts/bench-floor.c -lz -lisal -lcrypto`;
  await $`gcc -O2 -o ${tools.timer} scripts/bench-timer.c`;
  return tools;
}

/** Runs a command to its end. @throws Error with its last words where it fails */
export async function measured(
  tool: string,
  command: readonly string[],
  env: Record<string, string> = {},
): Promise<Taken> {
  const ran = Bun.spawn([tool, ...command], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    // A group of its own, which can be ended with all that is in it.
    detached: true,
  });
  const stop = (): Promise<unknown> => {
    process.kill(-ran.pid, "SIGKILL");
    return ran.exited;
  };
  running.add(stop);
  const [text, error, code] = await Promise.all([ran.stdout.text(), ran.stderr.text(), ran.exited]);
  running.delete(stop);
  if (code !== 0) throw new Error(`"${command.join(" ")}" ended with ${code}: ${error.slice(-2000)}`);
  const [wall = 0, user = 0, system = 0, peak = 0] = text.trim().split(" ").map(Number);
  return { wall: wall / 1000, cpu: (user + system) / 1e6, peak: (peak * 1024) / 1e6 };
}

function statOf(pid: number): { parent: number; ticks: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    // proc_pid_stat(5): ppid is the 4th field; utime, stime, cutime and cstime are the 14th to 17th.
    const ticks = fields.slice(11, 15).reduce((sum, each) => sum + Number(each), 0);
    return { parent: Number(fields[1]), ticks };
  } catch {
    return undefined;
  }
}

/** A process and all below it. */
function familyOf(root: number): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc")) {
    const stat = /^\d+$/.test(name) ? statOf(Number(name)) : undefined;
    if (stat !== undefined) parents.set(Number(name), stat.parent);
  }
  const family = [root];
  for (const each of family) for (const [pid, parent] of parents) if (parent === each) family.push(pid);
  return family;
}

/** Seconds of a daemon and of all that it has started, ended children with them; its clock ticks a hundred times a second. */
function cpuOf(daemon: number): number {
  return familyOf(daemon).reduce((sum, pid) => sum + (statOf(pid)?.ticks ?? 0), 0) / 100;
}

function peakOf(daemon: number): number {
  const peaks = familyOf(daemon).map((pid) => {
    try {
      return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
    } catch {
      return 0;
    }
  });
  return (Math.max(...peaks) * 1024) / 1e6;
}

/** A daemon that is started for one pull, and ended after it. */
async function withDaemon(service: Service, dir: string, pull: () => Promise<Taken>): Promise<Taken> {
  // It does not outlive the bench, however that ends.
  const command = ["setpriv", "--pdeathsig", "TERM", ...service.command];
  const daemon = new Daemon({ ...service, command }, `${dir}/daemon.log`, { TMPDIR: `${dir}/tmp` });
  const stop = () => daemon[Symbol.asyncDispose]();
  running.add(stop);
  try {
    await daemon.listening();
    // What it does at its start is no part of the pull.
    await Bun.sleep(1000);
    const before = cpuOf(daemon.pid);
    const client = await pull();
    const cpu = cpuOf(daemon.pid) - before + client.cpu;
    return { wall: client.wall, cpu, peak: Math.max(peakOf(daemon.pid), client.peak) };
  } finally {
    await stop();
    running.delete(stop);
  }
}

/** @param kind how layers are kept; undefined: as the program does without being told */
export function ociboxPuller(tool: string, ocibox: string, kind: string, told: boolean): Puller {
  const envOf = (dir: string): Record<string, string> => ({
    OCIBOX_ROOT: `${dir}/root`,
    OCIBOX_STATE: `${dir}/state`,
    TMPDIR: `${dir}/tmp`,
    ...(told ? { OCIBOX_SNAPSHOTTER: kind } : {}),
  });
  return {
    name: `ocibox, ${kind}`,
    pull: (dir, image) => measured(tool, [ocibox, "pull", "-q", image], envOf(dir)),
    prove: async (dir, image) => {
      await measured(tool, [ocibox, "run", "--rm", "--network", "none", image, "perl", "-e", "0"], envOf(dir));
    },
  };
}

function podman(tool: string): Puller {
  return {
    name: "podman pull",
    pull: (dir, image) => {
      const store = ["--root", `${dir}/podman`, "--runroot", `${dir}/podman-run`, "--storage-driver", "overlay"];
      const command = ["podman", ...store, "pull", "-q", "--tls-verify=false", image];
      return measured(tool, command, { TMPDIR: `${dir}/tmp` });
    },
  };
}

function ctr(tool: string): Puller {
  return {
    name: "ctr images pull",
    pull: (dir, image) => {
      const service = containerd(dir);
      const words = ["images", "pull", "--plain-http", "--snapshotter", "overlayfs", image];
      return withDaemon(service, dir, () => measured(tool, ["ctr", "-a", service.socket, ...words]));
    },
  };
}

function docker(tool: string): Puller {
  return {
    name: "docker pull",
    pull: (dir, image) => {
      const service = dockerd(dir, "--storage-driver", "overlay2");
      const client = ["docker", "-H", `unix://${service.socket}`, "pull", "-q", image];
      return withDaemon(service, dir, () => measured(tool, client));
    },
  };
}

function skopeo(tool: string): Puller {
  return {
    name: "skopeo copy + umoci unpack",
    pull: (dir, image) => {
      const copy = `skopeo copy -q --src-tls-verify=false docker://${image} oci:${dir}/layout:image`;
      const unpack = `umoci raw unpack --image ${dir}/layout:image ${dir}/rootfs`;
      return measured(tool, ["sh", "-c", `${copy} && ${unpack}`], { TMPDIR: `${dir}/tmp` });
    },
  };
}

export function peers(tool: string): Puller[] {
  return [podman(tool), ctr(tool), docker(tool), skopeo(tool)];
}
