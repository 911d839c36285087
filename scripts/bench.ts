/**
 * ocibox beside its peers: the start of the program, a container of `true` with its image in the store, and the OCI
 * runtime's commands beside runc's and crun's.
 * usage: bun scripts/bench.ts ROUNDS [run|oci]; called by scripts/bench, which builds and installs what is needed.
 */
import { mkdtempSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { $ } from "bun";
import { startRegistry } from "./bench-registry.ts";
import { allHeld, bound, table } from "./bench-table.ts";
import { makeTree, pushImage } from "./busybox-image.ts";

const rounds = process.argv[2] ?? "60";
const part = process.argv[3];
const ocibox = resolve("dist/ocibox");
const outer = mkdtempSync(join(tmpdir(), "ocibox-bench-"));
/** A file system of its own: how fast files are made on the machine's depends on what was removed there just before. */
const dir = join(outer, "disk");
const undo: (() => unknown)[] = [
  () => rmSync(outer, { recursive: true, force: true }),
  () => $`umount ${dir}`.quiet().nothrow(),
];

interface Peer {
  readonly name: string;
  readonly command: readonly string[];
}

interface Measured {
  readonly name: string;
  /** Milliseconds. */
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

async function time(peers: readonly Peer[], env: Record<string, string>): Promise<Measured[]> {
  const words = peers.flatMap((peer, index) => [...(index === 0 ? [] : ["::"]), ...peer.command]);
  const ran = Bun.spawn([join(dir, "timer"), rounds, ...words], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const text = await ran.stdout.text();
  if ((await ran.exited) !== 0) throw new Error("a command that was to be timed has failed");
  return text
    .trim()
    .split("\n")
    .map((line, index) => {
      const [median = 0, low = 0, high = 0] = line.split(" ").map((each) => Number(each) / 1000);
      return { name: peers[index]?.name ?? "", median, low, high };
    });
}

function show(title: string, measured: readonly Measured[]): void {
  table(
    `${title} (${rounds} rounds in turns; ms)`,
    ["median", "p10", "p90"],
    measured.map(({ name, median, low, high }) => ({ name, cells: [median, low, high] })),
  );
}

/** runc's own default configuration, with the image's tree and `true`. */
async function makeBundle(): Promise<void> {
  const bundle = join(dir, "bundle");
  await $`mkdir ${bundle} && cp -a ${dir}/tree ${bundle}/rootfs`;
  await $`cd ${bundle} && runc spec`.quiet();
  const config = await Bun.file(`${bundle}/config.json`).json();
  config.process.terminal = false;
  config.process.args = ["true"];
  config.root.readonly = false;
  await Bun.write(`${bundle}/config.json`, JSON.stringify(config));
}

/**
 * Debian's crun knows cgroup v2 alone: it gets a mount namespace in which /sys/fs/cgroup is one. It also raises
 * RLIMIT_MEMLOCK, which may not be permitted here: then a preloaded function lets it believe that it did.
 */
async function crunPeer(bundle: string): Promise<Peer> {
  const own =
    (await Bun.file("/proc/self/mountinfo").text()).includes(" /sys/fs/cgroup rw") &&
    (await $`stat -f -c %T /sys/fs/cgroup`.text()).trim() === "cgroup2fs";
  let space: string[] = [];
  if (!own) {
    const holder = Bun.spawn(
      [
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        "mount -t cgroup2 none /sys/fs/cgroup && echo ready && exec sleep 100000",
      ],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    undo.push(async () => {
      holder.kill("SIGKILL");
      await holder.exited;
    });
    await holder.stdout.getReader().read();
    space = [`@/proc/${holder.pid}/ns/mnt`];
  }
  const command = ["crun", "run", "-b", bundle, "ocibox-bench-crun"];
  const plain = await $`${space.length === 0 ? [] : ["nsenter", `--mount=${space[0]?.slice(1)}`]} ${command}`
    .quiet()
    .nothrow();
  if (plain.exitCode === 0) return { name: "crun run, bare bundle", command: [...space, ...command] };
  await Bun.write(
    `${dir}/memlock.c`,
    "#include <sys/resource.h>\nint setrlimit(__rlimit_resource_t what, const struct rlimit *limit) { return 0; }\nint setrlimit64(__rlimit_resource_t what, const struct rlimit64 *limit) { return 0; }\n",
  );
  await $`gcc -D_GNU_SOURCE -shared -fPIC -w -O2 -o ${dir}/memlock.so ${dir}/memlock.c`;
  return { name: "crun run, bare bundle", command: [...space, "env", `LD_PRELOAD=${dir}/memlock.so`, ...command] };
}

/**
 * A mount namespace for all three: Debian's crun takes no hybrid of cgroups, so that v2's part of one is not there.
 * @returns what the timer is given
 */
async function commonNamespace(): Promise<string[]> {
  if (!(await Bun.file("/sys/fs/cgroup/unified/cgroup.procs").exists())) return [];
  const script = "umount /sys/fs/cgroup/unified && echo ready && exec sleep 100000";
  const holder = Bun.spawn(["unshare", "-m", "--propagation", "private", "sh", "-c", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  undo.push(async () => {
    holder.kill("SIGKILL");
    await holder.exited;
  });
  await holder.stdout.getReader().read();
  return [`@/proc/${holder.pid}/ns/mnt`];
}

/** Milliseconds that fifty containers at once take until each is started: the median of some rounds. */
async function fiftyAtOnce(space: readonly string[], runtimes: readonly (readonly string[])[]): Promise<number[]> {
  const enter = space.length === 0 ? [] : ["nsenter", `--mount=${space[0]?.slice(1)}`];
  const times: number[][] = runtimes.map(() => []);
  for (let round = 0; round < 7; round++) {
    for (const [index, runtime] of runtimes.entries()) {
      const all = (verb: string): string =>
        `for each in $(seq 50); do ${runtime.join(" ")} ${verb} bench-many-$each </dev/null >/dev/null 2>&1 & done; wait`;
      const from = performance.now();
      await $`${enter} sh -c ${all(`run -d -b ${dir}/sleeper`)}`.quiet();
      times[index]?.push(performance.now() - from);
      const ids = (await $`${enter} ${runtime} list -q`.text()).split("\n");
      const there = ids.filter((id) => id.startsWith("bench-many-")).length;
      await $`${enter} sh -c ${all("delete -f")}`.quiet();
      if (there !== 50) throw new Error(`${runtime[0]} has started ${there} of 50 containers`);
    }
  }
  return times.map((each) => each.sort((a, b) => a - b)[3] ?? Number.NaN);
}

/** The OCI runtime's commands, each of the three in the same place. */
async function benchOci(): Promise<void> {
  const bundle = `${dir}/bundle`;
  await $`cp -a ${bundle} ${dir}/sleeper`;
  const config = await Bun.file(`${bundle}/config.json`).json();
  config.process.args = ["sleep", "1000"];
  await Bun.write(`${dir}/sleeper/config.json`, JSON.stringify(config));
  const space = await commonNamespace();
  const runtimes = [
    [ocibox, "oci", "--root", `${dir}/oci`],
    ["crun", "--root", `${dir}/crun`],
    ["runc", "--root", `${dir}/runc`],
  ];
  const names = ["ocibox oci", "crun", "runc"];
  const peers = (words: (runtime: readonly string[]) => readonly string[], suffix: string): Peer[] =>
    runtimes.map((runtime, index) => ({ name: `${names[index]} ${suffix}`, command: [...space, ...words(runtime)] }));
  const run = await time(
    peers((runtime) => [...runtime, "run", "-b", bundle, "bench-run"], "run"),
    {},
  );
  show("oci run of `true`", run);
  const life = await time(
    peers((runtime) => {
      const call = runtime.join(" ");
      return [
        "sh",
        "-c",
        `${call} create -b ${bundle} bench-life && ${call} start bench-life && ${call} delete -f bench-life`,
      ];
    }, "create, start, delete"),
    {},
  );
  show("create, start and delete", life);
  const enter = space.length === 0 ? [] : ["nsenter", `--mount=${space[0]?.slice(1)}`];
  for (const runtime of runtimes) {
    // What the container keeps open would keep a pipe open.
    const detached = `${runtime.join(" ")} run -d -b ${dir}/sleeper bench-exec </dev/null >/dev/null 2>&1`;
    await $`${enter} sh -c ${detached}`.quiet();
    undo.push(() => $`${enter} ${runtime} delete -f bench-exec`.quiet().nothrow());
  }
  const exec = await time(
    peers((runtime) => [...runtime, "exec", "bench-exec", "true"], "exec"),
    {},
  );
  show("exec of `true`", exec);
  const [own = 0, crun = 0, runc = 0] = await fiftyAtOnce(space, runtimes);
  console.log(
    `\n50 × run -d at once (ms): ocibox ${own.toFixed(0)}, crun ${crun.toFixed(0)}, runc ${runc.toFixed(0)}\n`,
  );
  const ratio = (list: readonly Measured[], peer: number): number => (list[0]?.median ?? 0) / (list[peer]?.median ?? 1);
  bound("oci run over crun", ratio(run, 1), 1, " ×");
  bound("oci run over runc", ratio(run, 2), 0.5, " ×");
  bound("create, start, delete over crun", ratio(life, 1), 1.3, " ×");
  bound("create, start, delete over runc", ratio(life, 2), 1, " ×");
  bound("exec over crun", ratio(exec, 1), 1, " ×");
  bound("50 × run -d over crun", own / crun, 1.5, " ×");
}

async function main(): Promise<void> {
  await $`truncate -s 4G ${outer}/image && mkfs.ext4 -q ${outer}/image && mkdir ${dir} && mount -o loop ${outer}/image ${dir}`;
  await $`gcc -O2 -o ${dir}/timer scripts/bench-timer.c`;
  await Bun.write(`${dir}/empty.ts`, "export {};\n");
  await $`${process.execPath} build --compile --minify --bytecode --format=esm --no-compile-autoload-dotenv --no-compile-autoload-bunfig --no-compile-autoload-tsconfig --no-compile-autoload-package-json --outfile ${dir}/empty ${dir}/empty.ts`.quiet();
  await makeTree(`${dir}/tree`);
  await makeBundle();
  if (part !== "oci") await benchRun();
  if (part !== "run") await benchOci();
  process.exitCode = allHeld() ? 0 : 1;
}

/** What a command is called by, to be in a network namespace of the bench's own. */
async function networkNamespace(): Promise<readonly string[]> {
  const holder = Bun.spawn(["unshare", "--net", "sleep", "infinity"], { stdio: ["ignore", "ignore", "inherit"] });
  undo.push(async () => {
    holder.kill(9);
    await holder.exited;
  });
  const own = readlinkSync("/proc/self/ns/net");
  while (readlinkSync(`/proc/${holder.pid}/ns/net`) === own) await Bun.sleep(1);
  return ["nsenter", `--net=/proc/${holder.pid}/ns/net`];
}

/** Start, and `run` with its image in the store. */
async function benchRun(): Promise<void> {
  const bundle = `${dir}/bundle`;
  const { host, stop } = await startRegistry(`${dir}/registry`, `${dir}/registry.yml`);
  undo.push(stop);
  await pushImage(`http://${host}/v2/alpine`, `${dir}/tree`);
  const image = `${host}/alpine:latest`;
  const env = { OCIBOX_ROOT: `${dir}/root`, OCIBOX_STATE: `${dir}/state` };
  await $`${ocibox} pull -q ${image}`.env({ ...process.env, ...env }).quiet();
  const podman = ["podman", "--root", `${dir}/podman`, "--runroot", `${dir}/podman-run`, "--storage-driver", "overlay"];
  // podman leaves mounts of its storage on itself.
  undo.push(() => $`grep -o ${`${dir}/podman[^ ]*`} /proc/self/mounts | sort -r | xargs -r umount`.quiet().nothrow());
  await $`${podman} pull -q --tls-verify=false ${image}`.quiet();
  // Its own limits are higher than what may be set here.
  const limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
  const start = await time(
    [
      { name: "ocibox --version", command: [ocibox, "--version"] },
      { name: "an empty Bun binary", command: [`${dir}/empty`] },
      { name: "runc --version", command: ["runc", "--version"] },
      { name: "crun --version", command: ["crun", "--version"] },
      { name: "podman --version", command: ["podman", "--version"] },
    ],
    env,
  );
  show("Start", start);
  const run = await time(
    [
      { name: "ocibox run --rm", command: [ocibox, "run", "--rm", "--network", "none", image, "true"] },
      await crunPeer(bundle),
      { name: "runc run, bare bundle", command: ["runc", "run", "-b", bundle, "ocibox-bench-runc"] },
      {
        name: "bwrap, bare tree",
        command: ["bwrap", "--unshare-all", "--bind", `${dir}/tree`, "/", "--proc", "/proc", "--dev", "/dev", "true"],
      },
      {
        name: "podman run --rm",
        command: [...podman, "--runtime", "runc", "run", "--rm", "--network", "none", ...limits, image, "true"],
      },
    ],
    env,
  );
  show("A container of `true`", run);
  // A host of its own: no bridge is made on the machine.
  const within = await networkNamespace();
  const bridged = await time(
    [
      { name: "ocibox run --rm", command: [...within, ocibox, "run", "--rm", "--network", "bridge", image, "true"] },
      {
        name: "podman run --rm",
        command: [
          ...[...within, ...podman, "--network-config-dir", `${dir}/networks`, "--runtime", "runc", "run", "--rm"],
          ...["--network", "bridge", ...limits, image, "true"],
        ],
      },
    ],
    env,
  );
  show("The same at a bridge", bridged);
  const of = (list: readonly Measured[], index: number): number => list[index]?.median ?? Number.NaN;
  console.log();
  bound("--version over the empty binary", of(start, 0) - of(start, 1), 1, " ms");
  bound("run over crun", of(run, 0) / of(run, 1), 1.5, " ×");
  bound("run over runc", of(run, 0) / of(run, 2), 1, " ×");
  bound("run over podman", of(run, 0) / of(run, 4), 0.1, " ×");
  bound("run over podman at a bridge", of(bridged, 0) / of(bridged, 1), 0.1, " ×");
}

try {
  await main();
} finally {
  for (const step of undo.reverse()) await step();
}
