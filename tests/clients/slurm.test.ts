/** Slurm, its own controller and node on loopback, with ocibox as what oci.conf runs a job's container by. */
import { describe, expect } from "bun:test";
import { chmodSync, chownSync, cpSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { hostname } from "node:os";
import { join } from "node:path";
import type { Spec } from "../../src/spec/runtime.ts";
import { around, unchanged } from "../lib/around.ts";
import { Client } from "../lib/client.ts";
import { Daemon } from "../lib/daemon.ts";
import { testWith } from "../lib/needs.ts";
import { type Ended, inventory, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["slurmctld", "slurmd", "srun", "scancel", "busybox", "setpriv"] };
const test = testWith(needs);
/** Somebody who is not root: a job is its user's. */
const nobody = 65_534;
let client: Client;
let bundle: string;

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/** A cluster of this machine, whose files are all in one folder. Nobody asks who calls: it is on loopback, for a minute. */
async function configuration(dir: string): Promise<string> {
  const name = hostname().split(".")[0];
  const [controller, node] = [await freePort(), await freePort()];
  for (const each of ["state", "spool"]) mkdirSync(join(dir, each));
  const lines = [
    "ClusterName=ocibox",
    `SlurmctldHost=${name}(127.0.0.1)`,
    "SlurmUser=root",
    `SlurmctldPort=${controller}`,
    `SlurmdPort=${node}`,
    "AuthType=auth/none",
    "CredType=cred/none",
    `StateSaveLocation=${dir}/state`,
    `SlurmdSpoolDir=${dir}/spool`,
    `SlurmctldPidFile=${dir}/ctld.pid`,
    `SlurmdPidFile=${dir}/d.pid`,
    `SlurmctldLogFile=${dir}/ctld.log`,
    `SlurmdLogFile=${dir}/d.log`,
    "ProctrackType=proctrack/pgid",
    "TaskPlugin=task/none",
    "SwitchType=switch/none",
    "MpiDefault=none",
    "JobAcctGatherType=jobacct_gather/none",
    "SelectType=select/cons_tres",
    `NodeName=${name} NodeAddr=127.0.0.1 CPUs=${navigator.hardwareConcurrency} State=UNKNOWN`,
    `PartitionName=all Nodes=${name} Default=YES State=UP`,
    "",
  ];
  writeFileSync(join(dir, "slurm.conf"), lines.join("\n"));
  const call = `${client.runtime} --root=${dir}/runs-%u`;
  const id = "%n.%u.%j.%s.%t";
  // As Slurm's own documentation has it for runc, the flag behind the word, too.
  const calls = [
    `RunTimeQuery="${call} state ${id}"`,
    `RunTimeKill="${call} kill -a ${id}"`,
    `RunTimeDelete="${call} delete --force ${id}"`,
    `RunTimeRun="${call} run ${id} -b %b"`,
    "",
  ];
  writeFileSync(join(dir, "oci.conf"), calls.join("\n"));
  return join(dir, "slurm.conf");
}

around(needs, async (owned) => {
  unchanged(owned, inventory);
  client = owned.use(new Client());
  await client.tree();
  // Jobs of others keep their states beside ours.
  chmodSync(client.dir, 0o1777);
  process.env.SLURM_CONF = await configuration(client.dir);
  owned.defer(() => {
    delete process.env.SLURM_CONF;
  });
  for (const name of ["slurmctld", "slurmd"])
    owned.use(
      new Daemon(
        { command: [name, "-D", "-f", `${client.dir}/slurm.conf`], socket: "" },
        join(client.dir, `${name}.out`),
      ),
    );
  const idle = async (): Promise<boolean> => (await client.call(["sinfo", "-h", "-o", "%t"])).out.trim() === "idle";
  expect(await until(idle, 30_000)).toBe(true);
  bundle = await makeBundle("root", []);
});

/** A bundle as `spec` makes it, of busybox. */
async function makeBundle(name: string, flags: readonly string[]): Promise<string> {
  const dir = join(client.dir, name);
  mkdirSync(dir);
  // Slurm takes the bundle's rootfs, whatever its root.path says.
  cpSync(join(client.dir, "tree"), join(dir, "rootfs"), { recursive: true, verbatimSymlinks: true });
  // Whoever is root of a user namespace alone cannot make them in this tree.
  for (const each of ["proc", "dev", "sys"]) mkdirSync(join(dir, "rootfs", each), { recursive: true });
  const made = await client.call([client.runtime, "spec", "-b", dir, ...flags]);
  expect(made).toEqual({ out: "", err: "", code: 0 });
  const file = join(dir, "config.json");
  const spec = JSON.parse(await Bun.file(file).text()) as Spec;
  if (spec.process !== undefined) spec.process.terminal = false;
  writeFileSync(file, JSON.stringify(spec));
  return dir;
}

function srun(words: readonly string[], stdin?: string, before: readonly string[] = []): Promise<Ended> {
  return client.call([...before, "srun", "-Q", ...words], stdin === undefined ? {} : { stdin });
}

/** The containers that are left of a user's jobs. */
function left(user: string): string[] {
  const runs = join(client.dir, `runs-${user}`);
  return existsSync(runs) ? readdirSync(runs).filter((name) => !name.startsWith(".")) : [];
}

describe("srun --container", () => {
  test("output, standard input, the exit code; nothing is left", async () => {
    const ended = await srun(["--container", bundle, "sh", "-c", "echo $$; cat; id -u; exit 3"], "from outside\n");
    expect([ended.out, ended.code]).toEqual(["1\nfrom outside\n0\n", 3]);
    const nope = await srun(["--container", bundle, "nope"]);
    expect(nope.code).toBe(1);
    expect(nope.err).toContain('exec \\"nope\\": executable file not found in $PATH');
    expect(left("root")).toEqual([]);
  });

  test("a job that is cancelled takes its container with it", async () => {
    const job = srun(["-J", "long", "--container", bundle, "sleep", "1000"]);
    expect(await until(() => left("root").length === 1, 20_000)).toBe(true);
    expect((await client.call(["scancel", "-n", "long"])).code).toBe(0);
    expect((await job).code).not.toBe(0);
    expect(await until(() => left("root").length === 0, 20_000)).toBe(true);
  });

  test("a script of steps", async () => {
    const script = join(client.dir, "job");
    writeFileSync(
      script,
      `#!/bin/sh\nsrun -Q --container ${bundle} echo first\nsrun -Q --container ${bundle} echo second\n`,
    );
    const out = join(client.dir, "job.out");
    // Without -W, which asks every ten seconds.
    expect(await client.call(["sbatch", "-Q", "-o", out, script])).toEqual({ out: "", err: "", code: 0 });
    const ended = async (): Promise<boolean> => (await client.call(["squeue", "-h"])).out === "";
    expect(await until(ended, 20_000)).toBe(true);
    expect(await Bun.file(out).text()).toBe("first\nsecond\n");
  });

  test("an ordinary user's, in a user namespace of its own", async () => {
    const own = await makeBundle("own", ["--rootless"]);
    const file = join(own, "config.json");
    const spec = JSON.parse(await Bun.file(file).text()) as Spec;
    const mapping = [{ containerID: 0, hostID: nobody, size: 1 }];
    if (spec.linux !== undefined) Object.assign(spec.linux, { uidMappings: mapping, gidMappings: mapping });
    writeFileSync(file, JSON.stringify(spec));
    for (const each of [own, file]) chownSync(each, nobody, nobody);
    const user = ["setpriv", "--reuid", String(nobody), "--regid", String(nobody), "--clear-groups"];
    const ended = await srun(["--container", own, "sh", "-c", "id -u; cat /proc/self/uid_map; exit 4"], "", user);
    expect([ended.out, ended.code]).toEqual([`0\n         0      ${nobody}          1\n`, 4]);
    expect(left("nobody")).toEqual([]);
  });
});
