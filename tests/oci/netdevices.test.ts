/**
 * linux.netDevices: the runtime is called in a network namespace of the tests' own, so that no link of the machine's is
 * touched. The devices are dummies, or ifb's where the kernel has none.
 */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import type { Spec } from "../../src/spec/runtime.ts";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { testWith } from "../lib/needs.ts";
import { inventory, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["busybox", "ip", "nsenter", "unshare"] };
const test = testWith(needs);
/** Network namespaces, by their paths, which two processes that do nothing keep. */
let host = "";
let pod = "";
const keepers: Bun.Subprocess[] = [];
let box: Bundles;
let kind = "dummy";

function run(...words: string[]): string {
  const ended = Bun.spawnSync(words);
  if (ended.exitCode !== 0) throw new Error(`${words.join(" ")}: ${ended.stderr}`);
  return ended.stdout.toString();
}

async function newNamespace(): Promise<string> {
  const keeper = Bun.spawn(["unshare", "--net", "sleep", "1000"]);
  keepers.push(keeper);
  const path = `/proc/${keeper.pid}/ns/net`;
  expect(await until(() => readlinkSync(path) !== readlinkSync("/proc/self/ns/net"))).toBe(true);
  return path;
}

/** ip's answer in one of the namespaces. */
function show(namespace: string, ...words: string[]): string {
  return run("nsenter", `--net=${namespace}`, "ip", ...words);
}

/** What ip reads its commands from; "eth5 type KIND" is of a kind that there is. */
function batch(lines: readonly string[]): Uint8Array {
  return new TextEncoder().encode(lines.map((line) => line.replaceAll("KIND", kind)).join("\n"));
}

function ipBatch(namespace: string): string[] {
  return ["nsenter", `--net=${namespace}`, "ip", "-o", "-batch", "-"];
}

/** Commands of ip's in one of the namespaces, and what they print. */
function ip(namespace: string, ...lines: string[]): string {
  const ended = Bun.spawnSync(ipBatch(namespace), { stdin: batch(lines) });
  if (ended.exitCode !== 0) throw new Error(`${lines.join("; ")}: ${ended.stderr}`);
  return ended.stdout.toString();
}

/** "2: eth5: <BROADCAST,UP> mtu 1500 … master br0 …\\    link/ether 02:…", as `ip -o link` writes it. */
const linkLine = /^(\d+: \S+): <(\S*)> mtu .*?(?: master (\S+) .*?)?\\ +link\/\S+ (\S+)/;

/** Links with their masters and whether they are up, addresses in their order, routes of every table, sorted. */
function network(namespace: string): string {
  const lines = ip(namespace, "link", "addr", "route show table all")
    .replaceAll(/valid_lft \d+sec preferred_lft \d+sec/g, "for a while")
    // For a moment, when the link has come up.
    .replaceAll(" tentative", "")
    .split("\n");
  const links: string[] = [];
  const addresses: string[] = [];
  const routes: string[] = [];
  for (const line of lines) {
    const [, name, flags = "", master = "", address] = linkLine.exec(line) ?? [];
    if (name !== undefined)
      links.push(`${name} ${flags.split(",").includes("UP") ? "up" : "down"} ${master} ${address}`);
    else (/^\d+: /.test(line) ? addresses : routes).push(line);
  }
  return [...links, ...addresses, ...routes.sort()].join("\n");
}

function names(namespace: string): string[] {
  const links = JSON.parse(show(namespace, "-j", "link")) as { ifname: string }[];
  return links.map(({ ifname }) => ifname).sort();
}

/** The number of one of the host's. */
function numberOf(name: string): number {
  const links = JSON.parse(show(host, "-j", "link", "show", name)) as { ifindex: number }[];
  return links[0]?.ifindex ?? 0;
}

/** What the host's namespace is to be after something has failed. */
async function same(was: string): Promise<void> {
  await until(() => network(host) === was, 3000);
  expect(network(host)).toBe(was);
}

const eth5 = [
  "link add eth5 type KIND",
  "addr add 10.77.1.1/24 brd 10.77.1.255 dev eth5",
  "addr add 10.77.1.2/24 dev eth5 label eth5:two",
  "addr add 10.77.2.1 peer 10.77.2.2/32 dev eth5",
  "addr add fd77::1/64 dev eth5",
  "addr add fd77::2/128 dev eth5",
  // These are of this host alone.
  "addr add 10.77.3.1/24 dev eth5 scope link",
  "addr add 10.77.4.1/24 dev eth5 valid_lft 5000 preferred_lft 4000",
  "link set eth5 up",
  "route add 10.88.0.0/16 via 10.77.1.9",
  "route add fd88::/64 via fd77::9",
  "route add 10.89.0.0/16 dev eth5 scope link",
];

/** The host's namespace with these links alone. */
function fresh(...lines: string[]): Promise<void> {
  return freshAt(host, ...lines);
}

async function freshAt(namespace: string, ...lines: string[]): Promise<void> {
  const old = names(namespace).filter((name) => name !== "lo");
  const stdin = batch([...old.map((name) => `link del ${name}`), ...lines]);
  const child = Bun.spawn(ipBatch(namespace), { stdin, stdout: "ignore", stderr: "pipe" });
  const errors = await child.stderr.text();
  if ((await child.exited) !== 0) throw new Error(`${lines.join("; ")}: ${errors}`);
}

function devices(
  netDevices: Record<string, { name?: string }>,
  change: (spec: Spec) => void = () => {},
  to = box,
): void {
  to.write((spec) => {
    if (spec.linux !== undefined) spec.linux.netDevices = netDevices;
    change(spec);
  });
}

function command(spec: Spec, ...args: string[]): void {
  if (spec.process !== undefined) spec.process.args = args;
}

function networkPath(spec: Spec, path: string): void {
  for (const each of spec.linux?.namespaces ?? []) if (each.type === "network") each.path = path;
}

/** Bundles that the runtime is called for in a namespace. */
function bundlesIn(owned: AsyncDisposableStack, namespace: string): Bundles {
  const bundles = Bundles.ownedBy(owned, "ip");
  for (const name of ["proc", "dev"]) mkdirSync(join(bundles.bundle, "rootfs", name));
  bundles.within = ["nsenter", `--net=${namespace}`];
  return bundles;
}

around(needs, async (owned) => {
  unchanged(owned, inventory);
  owned.defer(async () => {
    for (const keeper of keepers) {
      keeper.kill();
      await keeper.exited;
    }
  });
  host = await newNamespace();
  box = bundlesIn(owned, host);
  pod = await newNamespace();
  ip(host, "link set lo up");
  try {
    ip(host, "link add probe type dummy");
  } catch {
    kind = "ifb";
  }
});

describe("moved", () => {
  test("under its own name or another, up, with its permanent global addresses", async () => {
    for (const [name, called] of [
      [undefined, "eth5"],
      ["net1", "net1"],
      ["net%d", "net0"],
    ] as const) {
      await fresh(...eth5);
      devices({ eth5: name === undefined ? {} : { name } }, (spec) => command(spec, "ip", "addr", "show", called));
      const { out, err, code } = await box.call("run", "moved");
      expect([err, code]).toEqual(["", 0]);
      expect(out).toMatch(new RegExp(`^\\d+: ${called}: <[A-Z_,]*\\bUP\\b`));
      const shown = [...out.matchAll(/inet6? .*/g)].map(([line]) => line.trim());
      // The kernel makes up the name only when it moves the device, so that there is no label to be given.
      const label = name === "net%d" ? called : `${called}:two`;
      expect(shown).toEqual([
        `inet 10.77.1.1/24 brd 10.77.1.255 scope global ${called}`,
        `inet 10.77.2.1 peer 10.77.2.2/32 scope global ${called}`,
        `inet 10.77.1.2/24 scope global secondary ${label}`,
        "inet6 fd77::2/128 scope global",
        "inet6 fd77::1/64 scope global",
        expect.stringMatching(/^inet6 fe80::.*scope link/),
      ]);
      expect(names(host)).toEqual(["lo"]);
    }
  });

  test("before sysctls and hooks, which may name it", async () => {
    await fresh(...eth5);
    const seen = join(box.dir, "seen");
    devices({ eth5: { name: "net1" } }, (spec) => {
      command(spec, "cat", "/proc/sys/net/ipv4/conf/net1/log_martians");
      if (spec.linux !== undefined) spec.linux.sysctl = { "net.ipv4.conf.net1.log_martians": "1" };
      const script = `ip -o link > ${seen}; nsenter -t $(sed 's/.*"pid":\\([0-9]*\\).*/\\1/') -n ip -o link >> ${seen}`;
      spec.hooks = {
        createRuntime: [{ path: "/bin/sh", args: ["sh", "-c", script], env: [`PATH=${process.env.PATH}`] }],
      };
    });
    expect(await box.call("run", "hooked")).toEqual({ out: "1\n", err: "", code: 0 });
    const lines = (await Bun.file(seen).text()).trim().split("\n");
    expect(lines.map((line) => /^\d+: (\w+)/.exec(line)?.[1])).toEqual(["lo", "lo", "net1"]);
  });

  test("two that swap their names", async () => {
    await fresh(
      "link add left type KIND",
      "link add right type KIND",
      "addr add 10.77.1.1/24 dev left",
      "addr add 10.77.1.2/24 dev right",
    );
    devices({ left: { name: "right" }, right: { name: "left" } }, (spec) => command(spec, "ip", "-o", "-4", "addr"));
    const { out, code } = await box.call("run", "swapped");
    expect(code).toBe(0);
    expect([...out.matchAll(/: (\w+) +inet (\S+)/g)].map(([, name, address]) => `${name} ${address}`)).toEqual([
      "lo 127.0.0.1/8",
      "right 10.77.1.1/24",
      "left 10.77.1.2/24",
    ]);
  });

  test("to a user namespace", async () => {
    await fresh(...eth5);
    devices({ eth5: { name: "net1" } }, (spec) => {
      command(spec, "ip", "-o", "addr", "show", "net1");
      if (spec.linux === undefined) return;
      spec.linux.namespaces?.push({ type: "user" });
      spec.linux.uidMappings = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
      spec.linux.gidMappings = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
      delete spec.linux.maskedPaths;
      delete spec.linux.readonlyPaths;
    });
    const { out, err, code } = await box.call("run", "mapped");
    expect([err, code]).toEqual(["", 0]);
    expect(out).toContain("10.77.1.1/24");
    expect(out).toContain("fd77::1/64");
    expect(names(host)).toEqual(["lo"]);
  });

  test("to a network namespace by its path, where its number and a name are taken; it stays there", async () => {
    await fresh(...eth5);
    const number = numberOf("eth5");
    ip(pod, `link add eth5 index ${number} type KIND`);
    const taken = network(pod);
    devices({ eth5: { name: "net1" } }, (spec) => {
      networkPath(spec, pod);
      command(spec, "sleep", "1000");
    });
    expect(await box.call("run", "-d", "pod")).toEqual({ out: "", err: "", code: 0 });
    expect(names(host)).toEqual(["lo"]);
    expect(names(pod)).toEqual(["eth5", "lo", "net1"]);
    expect(await box.call("delete", "-f", "pod")).toMatchObject({ code: 0 });
    expect(names(pod)).toEqual(["eth5", "lo", "net1"]);
    expect(show(pod, "addr", "show", "net1")).toContain("10.77.1.1/24");
    ip(pod, "link del net1");
    expect(network(pod)).toBe(taken);
    ip(pod, "link del eth5");
  });

  test("delete leaves it to the kernel, which destroys it with its namespace", async () => {
    await fresh(...eth5);
    devices({ eth5: {} }, (spec) => command(spec, "sleep", "1000"));
    expect(await box.call("create", "deleted")).toEqual({ out: "", err: "", code: 0 });
    expect(names(host)).toEqual(["lo"]);
    expect((await box.call("start", "deleted")).code).toBe(0);
    expect((await box.call("exec", "deleted", "ip", "addr", "show", "eth5")).out).toContain("10.77.1.1/24");
    expect((await box.call("delete", "-f", "deleted")).code).toBe(0);
    expect(names(host)).toEqual(["lo"]);
  });

  test("each with what it has now: no plan of such a container is kept", async () => {
    const plans = join(box.root, ".plans");
    const kept = () => (existsSync(plans) ? readdirSync(plans).length : 0);
    const had = kept();
    for (const last of [11, 12, 13]) {
      await fresh("link add eth5 type KIND", `addr add 10.77.9.${last}/24 dev eth5`);
      devices({ eth5: {} }, (spec) => command(spec, "ip", "-o", "-4", "addr", "show", "eth5"));
      expect((await box.call("run", `many-of-a-kind-${last}`)).out).toContain(`inet 10.77.9.${last}/24`);
    }
    expect(kept()).toBe(had);
  });
});

describe("refused", () => {
  const cases: readonly (readonly [string, Record<string, { name?: string }>, RegExp, ((spec: Spec) => void)?])[] = [
    [
      "a device that is not there",
      { eth9: {} },
      /linux\.netDevices\.eth9: RTM_GETLINK\(IFLA_IFNAME=\\"eth9\\"\) failed: no such device/,
    ],
    [
      "a name that the container has",
      { eth5: { name: "lo" } },
      /linux\.netDevices\.eth5 in config\.json: RTM_NEWLINK\(\d+, IFLA_NET_NS_FD, IFLA_IFNAME=\\"lo\\"\) failed: file exists/,
    ],
    [
      "one that cannot be moved",
      { lo: { name: "net1" } },
      /linux\.netDevices\.lo in config\.json: RTM_NEWLINK\(1, .*\) failed: invalid argument: this device cannot leave/,
    ],
    [
      "one that cannot be moved, behind one that can",
      { eth5: { name: "net1" }, lo: { name: "net2" } },
      /linux\.netDevices\.lo in config\.json: RTM_NEWLINK\(1, /,
    ],
    [
      "a name that is too long",
      { eth5: { name: "sixteen-letters-" } },
      /linux\.netDevices\.eth5\.name: \\"sixteen-letters-\\" has 16 bytes/,
    ],
    ["a key that is too long", { "sixteen-letters-": {} }, /linux\.netDevices\.sixteen-letters-: .* has 16 bytes/],
    ["a name with a slash", { eth5: { name: "a/b" } }, /linux\.netDevices\.eth5\.name: \\"a\/b\\" cannot be the name/],
    ["a name that is a dot", { eth5: { name: "." } }, /linux\.netDevices\.eth5\.name: \\"\.\\" cannot be/],
    ["a pattern that is none", { eth5: { name: "a%x" } }, /linux\.netDevices\.eth5\.name: \\"a%x\\" may have one %/],
    ["two patterns in one", { eth5: { name: "a%d%d" } }, /linux\.netDevices\.eth5\.name: .* may have one %/],
    [
      "two of one name",
      { eth5: { name: "net1" }, eth6: { name: "net1" } },
      /linux\.netDevices\.eth6: it would be called \\"net1\\", as linux\.netDevices\.eth5 is/,
    ],
    [
      "a name that is no text",
      { eth5: { name: 5 as unknown as string } },
      /linux\.netDevices\[\\"eth5\\"\]\.name is 5/,
    ],
    [
      "without a network namespace",
      { eth5: {} },
      /linux\.netDevices\.eth5 wants a network namespace in linux\.namespaces/,
      (spec) => {
        if (spec.linux !== undefined)
          spec.linux.namespaces = (spec.linux.namespaces ?? []).filter((each) => each.type !== "network");
      },
    ],
    [
      "with the runtime's own network namespace",
      { eth5: { name: "net1" } },
      /linux\.netDevices\.eth5 wants a network namespace of the container's own/,
      (spec) => networkPath(spec, host),
    ],
    [
      "a command that is not there, when all has been moved",
      { eth5: { name: "net1" } },
      /executable file not found/,
      (spec) => command(spec, "nope"),
    ],
    [
      "a sysctl of a device that is not there",
      { eth5: { name: "net1" } },
      /openat\(.*net2.*\) failed: no such file or directory/,
      (spec) => {
        if (spec.linux !== undefined) spec.linux.sysctl = { "net.ipv4.conf.net2.log_martians": "1" };
      },
    ],
  ];
  for (const [title, netDevices, words, change] of cases)
    test(title, async () => {
      await fresh(...eth5);
      const was = network(host);
      devices(netDevices, change);
      const ended = await box.call("create", "refused");
      expect(ended.err).toMatch(words);
      expect(ended.code).toBe(1);
      expect(ended.err.trim().split("\n").length).toBe(1);
      await same(was);
      expect(box.left()).toEqual([]);
    });

  test("a name that the namespace at a path has: nothing of it is touched", async () => {
    await fresh(...eth5);
    const number = numberOf("eth5");
    for (const name of ["eth5", "net1"]) {
      // By its own name the kernel refuses to move it; by another it moves it, and refuses to rename it.
      ip(pod, `link add ${name} index ${number} type KIND`, `addr add 10.66.0.1/24 dev ${name}`, `link set ${name} up`);
      const [was, taken] = [network(host), network(pod)];
      devices({ eth5: { name } }, (spec) => networkPath(spec, pod));
      const ended = await box.call("create", "refused");
      expect(ended.err).toMatch(/linux\.netDevices\.eth5 in config\.json: RTM_NEWLINK\(.*\) failed: file exists/);
      await same(was);
      expect(network(pod)).toBe(taken);
      ip(pod, `link del ${name}`);
    }
  });

  test("an address that the namespace at a path does not take", async () => {
    await fresh(...eth5);
    const was = network(host);
    const setting = (value: number) =>
      run("nsenter", `--net=${pod}`, "sh", "-c", `echo ${value} > /proc/sys/net/ipv6/conf/default/disable_ipv6`);
    setting(1);
    devices({ eth5: { name: "net1" } }, (spec) => networkPath(spec, pod));
    const ended = await box.call("create", "refused");
    setting(0);
    expect(ended.err).toMatch(
      /linux\.netDevices\.eth5 in config\.json: RTM_NEWADDR\(\\"net1\\", fd77::1\/64\) failed: permission denied/,
    );
    await same(was);
    expect(names(pod)).toEqual(["lo"]);
  });

  test("by a hook that has taken the device's name: it comes back under another, which is told", async () => {
    for (const [name, left] of [
      ["net1", "net1"],
      ["eth5", "dev"],
    ] as const) {
      await fresh(...eth5);
      const number = numberOf("eth5");
      devices({ eth5: { name } }, (spec) => {
        const script = `ip link add eth5 type ${kind}; exit 1`;
        spec.hooks = {
          createRuntime: [{ path: "/bin/sh", args: ["sh", "-c", script], env: [`PATH=${process.env.PATH}`] }],
        };
      });
      const ended = await box.call("create", "refused");
      expect(ended.code).toBe(1);
      expect(ended.err).toContain("error running createRuntime hook #0");
      expect(ended.err).toContain(
        "warning: linux.netDevices.eth5: the network device cannot come back as what it was: file exists",
      );
      expect(names(host)).toEqual([left === "dev" ? `dev${number}` : left, "eth5", "lo"].sort());
    }
  });
});

describe("faults", () => {
  test("each step failing in turn leaves the host's network as it was", async () => {
    // ifb's and dummies do without duplicate address detection, so that they are at once what they were.
    const setUp = [
      "link add br0 type bridge",
      "link add eth5 type KIND",
      "link set eth5 up",
      "addr add 10.77.1.1/24 dev eth5",
      "addr add fd77::1/64 dev eth5",
      "route add 10.88.0.0/16 via 10.77.1.9",
      "link add eth6 type KIND",
      "link set eth6 master br0",
      "link set eth6 up",
    ];
    // The kernel takes most of the time to forget a link: two namespaces side by side.
    const lanes = 2;
    const wrong: string[] = [];
    const failing = async (namespace: string, bundles: Bundles, lane: number): Promise<number> => {
      await freshAt(namespace, ...setUp);
      devices(
        { eth5: { name: "net1" }, eth6: {} },
        (spec) => {
          spec.hooks = { createRuntime: [{ path: "/bin/true" }] };
        },
        bundles,
      );
      const id = `faulty-${lane}`;
      // Labels are no steps; some lines are more than one.
      const { out } = await bundles.call("create", "--explain", id);
      const steps = out.split("\n").filter((line) => line.startsWith(" ")).length + 60;
      expect(steps).toBeGreaterThan(400);
      // What IPv6 adds to a new address comes a moment later.
      const settled = async (): Promise<string> => {
        const parts = [/^local fd77::1 dev eth5/m, /^local fe80::\S+ dev eth5/m, /^local fe80::\S+ dev eth6/m];
        const all = (): boolean => parts.every((each) => each.test(network(namespace)));
        if (!(await until(all, 3000))) wrong.push(`the network is not made: ${network(namespace)}`);
        return network(namespace);
      };
      let was = await settled();
      let failed = 0;
      for (let step = lane; step < steps && wrong.length < 3; step += lanes) {
        const ended = await bundles.call("create", "--inject", `${step}=EIO`, id);
        const where = `step ${step}: ${ended.code} ${ended.err}`;
        if (ended.code === 0 || bundles.left().length > 0) await bundles.call("delete", "-f", id);
        if (ended.code === 0) {
          // Nobody does this step where nothing fails, or only when it is started.
          if (names(namespace).join() !== "br0,lo") wrong.push(`${where}: ${names(namespace)}`);
          await freshAt(namespace, ...setUp);
          was = await settled();
          continue;
        }
        failed++;
        if (!(await until(() => network(namespace) === was, 2000)))
          wrong.push(`${where}: the network is\n${network(namespace)}\nand was\n${was}`);
        if (bundles.left().length > 0) wrong.push(`${where}: ${bundles.left()}`);
      }
      return failed;
    };
    await using owned = new AsyncDisposableStack();
    const other = await newNamespace();
    ip(other, "link set lo up");
    const failed = await Promise.all([failing(host, box, 0), failing(other, bundlesIn(owned, other), 1)]);
    expect(wrong).toEqual([]);
    expect(failed[0] + failed[1]).toBeGreaterThan(200);
  }, 300_000);
});
