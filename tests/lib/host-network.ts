/**
 * Network namespaces that stand in for a host and for the world around it, so that no bridge and no rule is ever made on
 * the machine that the tests run on.
 */
import { readlinkSync } from "node:fs";
import { type Sandbox, until } from "./sandbox.ts";

/** 192.0.2.0/24 and 198.51.100.0/24 are for documentation: RFC 5737. */
export const hostAddress = "192.0.2.1";
export const worldAddress = "192.0.2.9";

async function namespace(owned: AsyncDisposableStack): Promise<number> {
  const holder = Bun.spawn(["unshare", "--net", "sleep", "infinity"], { stdio: ["ignore", "ignore", "inherit"] });
  owned.defer(async () => {
    holder.kill(9);
    await holder.exited;
  });
  const own = readlinkSync("/proc/self/ns/net");
  const moved = await until(() => readlinkSync(`/proc/${holder.pid}/ns/net`) !== own);
  if (!moved) throw new Error("unshare(1) makes no network namespace");
  return holder.pid;
}

export interface Printed {
  readonly out: string;
  readonly err: string;
  readonly code: number;
}

/** A network namespace, while a process holds it. */
export class TestNetwork {
  constructor(readonly pid: number) {}

  /** What a command in it begins with. */
  get command(): readonly string[] {
    return ["nsenter", `--net=/proc/${this.pid}/ns/net`];
  }

  async sh(script: string): Promise<Printed> {
    const child = Bun.spawn([...this.command, "sh", "-c", script], { stdio: ["ignore", "pipe", "pipe"] });
    const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    return { out, err, code: await child.exited };
  }

  /** What is printed by a script that must not fail. */
  async print(script: string): Promise<string> {
    const { out, err, code } = await this.sh(script);
    if (code !== 0) throw new Error(`${script}: ${code}: ${err}`);
    return out;
  }

  /** A page of a server; what the client says where there is none. Of busybox's wget "-T" ends it by a segmentation fault. */
  async fetch(url: string): Promise<string> {
    const { out, err, code } = await this.sh(`exec timeout 3 busybox wget -q -O - ${url}`);
    return code === 0 ? out : code === 124 ? "no answer" : err;
  }
}

/** A host with an address, and the world that it is connected with. */
export async function hostAndWorld(owned: AsyncDisposableStack): Promise<{ host: TestNetwork; world: TestNetwork }> {
  const host = new TestNetwork(await namespace(owned));
  const world = new TestNetwork(await namespace(owned));
  await host.print(`set -e
    ip link set lo up
    ip link add out0 type veth peer name in0 netns ${world.pid}
    ip addr add ${hostAddress}/24 dev out0
    ip link set out0 up`);
  await world.print(`set -e
    ip link set lo up
    ip addr add ${worldAddress}/24 dev in0
    ip link set in0 up`);
  await host.print(`ip route add default via ${worldAddress}`);
  return { host, world };
}

/** The same, as the host that a sandbox's commands are given on. */
export async function hostOf(box: Sandbox, owned: AsyncDisposableStack): Promise<TestNetwork> {
  const { host } = await hostAndWorld(owned);
  const before = box.within;
  box.within = { command: host.command, env: { OCIBOX_NETWORK: "" } };
  owned.defer(() => {
    box.within = before;
  });
  return host;
}
