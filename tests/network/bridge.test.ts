/** Containers at the bridge of a host that is a network namespace, with the world around it as another. */
import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { hostAddress, hostAndWorld, type TestNetwork, worldAddress } from "../lib/host-network.ts";
import { testWith } from "../lib/needs.ts";
import { run as compile } from "../lib/registry.ts";
import { type Ended, folder, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "ip", "nsenter", "nft", "iptables", "gcc"] };
const test = testWith(needs);
let box: Sandbox;
let host: TestNetwork;
let world: TestNetwork;
/** A program that sends and answers datagrams. */
let udp: string;

/** A server of a page in a container, which says who has called. */
const serve = "mkdir /www; echo page > /www/index.html; exec httpd -f -vv -p 80 -h /www";

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  await box.push("exposing", { ExposedPorts: { "80/tcp": {}, "90/udp": {} } });
  for (const image of ["alpine", "exposing"]) expect((await box.ocibox(["pull", "-q", image])).code).toBe(0);
  udp = join(box.dir, "udp");
  await compile("gcc", "-static", "-O1", "-o", udp, resolve("tests/fixtures/udp.c"));
  ({ host, world } = await hostAndWorld(owned));
  box.within = { command: host.command, env: { OCIBOX_NETWORK: "" } };
  owned.defer(async () => {
    expect(await traces()).toEqual({ ports: "", links: "" });
  });
});

/** What containers have on the host, but for the bridge. */
async function traces(): Promise<{ ports: string; links: string }> {
  const gone = "ip -o link | grep -o ' ocb[^:@]*' || true";
  // The kernel takes namespaces apart in its own time.
  await until(async () => (await host.print(gone)) === "");
  return {
    ports: await host.print("nft list ruleset | grep elements || true"),
    links: await host.print(gone),
  };
}

const ok = (...words: string[]): Promise<string> => box.ok(...words);

/** A container that runs a script until the test's end. */
async function start(
  cleanup: AsyncDisposableStack,
  name: string,
  flags: readonly string[],
  script: string,
): Promise<void> {
  await ok("run", "-d", "--name", name, ...flags, "alpine", "sh", "-c", script);
  cleanup.defer(async () => {
    await box.ocibox(["rm", "-f", name]);
  });
}

async function addressOf(name: string): Promise<string> {
  return (await ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name)).trim();
}

/** What a server answers, once it does. */
async function fetched(from: TestNetwork, url: string): Promise<string> {
  let page = "";
  await until(async () => {
    page = await from.fetch(url);
    return page === "page\n";
  });
  return page;
}

function run(flags: readonly string[], script: string): Promise<Ended> {
  return box.run([...flags, "alpine", "sh", "-c", script]);
}

describe("a container without --network", () => {
  test("has an address, a way out, and names for itself and the host", async () => {
    const script =
      "ip -4 -o addr show eth0; ip route; cat /etc/hosts; hostname; cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6";
    const { out, err, code } = await run([], script);
    expect([err, code]).toEqual(["", 0]);
    const own = /inet (10\.87\.\d+\.\d+)\/16 brd 10\.87\.255\.255/.exec(out)?.[1];
    expect(own).toBeDefined();
    expect(out).toContain("default via 10.87.0.1 dev eth0");
    expect(out).toContain("10.87.0.1\thost.docker.internal host.containers.internal\n");
    expect(out).toMatch(new RegExp(`^${own}\t([0-9a-f]{12})\n\\1\n`, "m"));
    // No router tells it anything (2020-13401).
    expect(out).toEndWith("\n1\n");
  });

  test("is seen under the host's address by the world, which does not get to it", async () => {
    await using cleanup = new AsyncDisposableStack();
    const log = join(box.dir, "world.log");
    // Ends with the namespace that it is in, else: what the test leaves is ended by its number.
    const pid = await world.print(
      `mkdir -p ${folder(box, "www")}; echo page > ${box.dir}/www/index.html; busybox httpd -f -vv -p 80 -h ${box.dir}/www > ${log} 2>&1 & echo $!`,
    );
    cleanup.defer(() => {
      process.kill(Number(pid), 9);
    });
    expect(await fetched(host, `http://${worldAddress}/`)).toBe("page\n");
    expect((await run([], `wget -q -O - http://${worldAddress}/`)).out).toBe("page\n");
    const callers = [...readFileSync(log, "utf8").matchAll(/(\d+\.\d+\.\d+\.\d+)\]?:\d+: url/g)].map((each) => each[1]);
    expect(new Set(callers)).toEqual(new Set([hostAddress]));

    await start(cleanup, "closed", [], serve);
    const own = await addressOf("closed");
    expect(await fetched(host, `http://${own}/`)).toBe("page\n");
    await world.print(`ip route add 10.87.0.0/16 via ${hostAddress}`);
    cleanup.defer(async () => {
      await world.print("ip route del 10.87.0.0/16");
    });
    expect(await world.fetch(`http://${own}/`)).toBe("no answer");
    // Containers know each other.
    expect((await run([], `wget -q -O - http://${own}/`)).out).toBe("page\n");
  });

  test("each has another address, the second of a kind by the kept plan", async () => {
    const show = "ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*'; tail -n 1 /etc/hosts | cut -f 1";
    const seen = new Set<string>();
    for (let turn = 0; turn < 4; turn++) {
      const { out, code } = await run(["-e", "KIND=1"], show);
      expect(code).toBe(0);
      const [inside, named] = out.trim().split("\n");
      expect(inside).toBe(`inet ${named}`);
      seen.add(out);
    }
    expect(seen.size).toBe(4);
  });

  test("the host's loopback is out of its reach (2020-8558)", async () => {
    await using cleanup = new AsyncDisposableStack();
    const www = folder(box, "own");
    const pid = await host.print(
      `echo page > ${www}/index.html; busybox httpd -f -p 127.0.0.1:7070 -h ${www} > /dev/null 2>&1 & echo $!`,
    );
    cleanup.defer(() => {
      process.kill(Number(pid), 9);
    });
    expect(await fetched(host, "http://127.0.0.1:7070/")).toBe("page\n");
    const script = `ip addr del 127.0.0.1/8 dev lo
      echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet
      ip route add 127.0.0.0/8 via 10.87.0.1
      ip route get 127.0.0.1 | head -n 1
      timeout 2 wget -q -O - http://127.0.0.1:7070/ && echo reached`;
    const { out } = await run(["--privileged"], script);
    expect(out).toContain("127.0.0.1 via 10.87.0.1 dev eth0");
    expect(out).not.toContain("reached");
  });
});

describe("published ports", () => {
  test("lead to the container from everywhere, and the caller is known (2021-20199)", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "web", ["-p", "8080:80"], serve);
    expect(await fetched(host, "http://127.0.0.1:8080/")).toBe("page\n");
    expect(await host.fetch(`http://${hostAddress}:8080/`)).toBe("page\n");
    expect(await world.fetch(`http://${hostAddress}:8080/`)).toBe("page\n");
    expect((await box.ocibox(["logs", "web"])).err).toContain(`${worldAddress}]:`);
    const other = await run([], `wget -q -O - http://10.87.0.1:8080/; wget -q -O - http://${hostAddress}:8080/`);
    expect(other.out).toBe("page\npage\n");
    // And from the container itself.
    expect(await ok("exec", "web", "wget", "-q", "-O", "-", `http://${hostAddress}:8080/`)).toBe("page\n");
    expect(await ok("port", "web")).toBe("80/tcp -> 0.0.0.0:8080\n");
    expect(await ok("port", "web", "80")).toBe("0.0.0.0:8080\n");
    expect(await ok("ps", "--format", "{{.Ports}} {{.Networks}}")).toBe("0.0.0.0:8080->80/tcp bridge\n");
    const none = await box.ocibox(["port", "web", "81"]);
    expect([none.code, none.err]).toEqual([125, expect.stringContaining('the port "81" of the container "web"')]);
  });

  test("of one address of the host's", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "local", ["-p", "127.0.0.1:8081:80", "-p", "5353:53/udp"], serve);
    expect(await fetched(host, "http://127.0.0.1:8081/")).toBe("page\n");
    expect(await world.fetch(`http://${hostAddress}:8081/`)).toContain("refused");
    // Nor by a neighbour who sends what is for 127.0.0.1 to the host's own hardware address.
    await using route = new AsyncDisposableStack();
    const around = "ip addr del 127.0.0.1/8 dev lo; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet";
    await world.print(`${around}; ip route add 127.0.0.0/8 via ${hostAddress} src ${worldAddress}`);
    route.defer(async () => {
      await world.print("ip route del 127.0.0.0/8; ip addr add 127.0.0.1/8 dev lo");
    });
    expect(await world.fetch("http://127.0.0.1:8081/")).toBe("no answer");
    expect(await ok("port", "local")).toBe("80/tcp -> 127.0.0.1:8081\n53/udp -> 0.0.0.0:5353\n");
  });

  test("udp, also for who has been sending to the one before", async () => {
    const serving = async (name: string): Promise<AsyncDisposableStack> => {
      const cleanup = new AsyncDisposableStack();
      await start(cleanup, name, ["-v", `${udp}:/udp:ro`, "-p", "5353:53/udp"], `exec /udp serve 53 ${name}`);
      return cleanup;
    };
    const ask = async (): Promise<string> => (await world.sh(`${udp} ask ${hostAddress} 5353 hello 7777`)).out;
    for (const name of ["former", "later"]) {
      await using cleanup = await serving(name);
      void cleanup;
      expect(await until(async () => (await ask()) === `${name}: hello\n`)).toBe(true);
    }
    // Nobody is there; conntrack knows of one who is sending.
    expect(await ask()).toBe("");
    await using cleanup = await serving("last");
    void cleanup;
    expect(await until(async () => (await ask()) === "last: hello\n")).toBe(true);
  });

  test("any that is free, one of a range, all that the image exposes", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "any", ["-p", "80"], serve);
    const any = (await ok("port", "any", "80/tcp")).trim();
    expect(any).toMatch(/^0\.0\.0\.0:\d{4,5}$/);
    expect(await fetched(host, `http://127.0.0.1:${any.split(":")[1]}/`)).toBe("page\n");
    await start(cleanup, "first", ["-p", "8090-8091:80"], serve);
    await start(cleanup, "second", ["-p", "8090-8091:80"], serve);
    expect([await ok("port", "first", "80"), await ok("port", "second", "80")]).toEqual([
      "0.0.0.0:8090\n",
      "0.0.0.0:8091\n",
    ]);
    const third = await box.run(["-p", "8090-8091:80", "alpine", "true"]);
    expect([third.code, third.err]).toEqual([125, expect.stringContaining("cannot publish the port 8090:80: address")]);
    await ok("run", "-d", "--name", "all", "-P", "--expose", "91", "exposing", "sleep", "100");
    cleanup.defer(async () => {
      await box.ocibox(["rm", "-f", "all"]);
    });
    const lines = (await ok("port", "all")).trim().split("\n");
    expect(lines.map((line) => line.replace(/:\d+$/, ""))).toEqual([
      "91/tcp -> 0.0.0.0",
      "80/tcp -> 0.0.0.0",
      "90/udp -> 0.0.0.0",
    ]);
  });

  test("one that somebody has is refused, and nothing is left", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "holder", ["-p", "8082:80"], "exec sleep 100");
    const taken = await box.run(["-p", "8083:80", "-p", "8082:80", "alpine", "true"]);
    expect(taken).toEqual({
      out: "",
      err: "ocibox: cannot publish the port 8082:80: address already in use; another program or container has it; who: ss -ltnup\n",
      code: 125,
    });
    expect(await host.print("nft list map ip ocibox ports | grep -o 'tcp [.] [0-9]*'")).toBe("tcp . 8082\n");
    const foreign = await box.run(["-p", "192.0.2.77:80:80", "alpine", "true"]);
    expect([foreign.code, foreign.err]).toEqual([125, expect.stringContaining("cannot assign requested address")]);
  });

  test("what a killed supervisor leaves is taken back by the next command", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "killed", ["-p", "8084:80"], "exec sleep 100");
    const id = (await ok("inspect", "-f", "{{.Id}}", "killed")).trim();
    const process_ = readFileSync(join(box.root, "containers", id, "process"), "utf8").split(" ");
    const supervisor = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${process_[0]}/status`, "utf8"))?.[1]);
    process.kill(supervisor, 9);
    expect(await host.print("nft list ruleset | grep -c 'tcp . 8084'")).toBe("1\n");
    expect(await until(async () => !(await ok("ps", "-q", "--no-trunc")).includes(id))).toBe(true);
    expect(await traces()).toEqual({ ports: "", links: "" });
    // Whose place somebody else has by now keeps it.
    await start(cleanup, "next", ["-p", "8084:80"], serve);
    expect(await fetched(host, "http://127.0.0.1:8084/")).toBe("page\n");
  });

  test("want the bridge; with the host's network they are the host's", async () => {
    const none = await box.run(["--network", "none", "-p", "80", "alpine", "true"]);
    expect([none.code, none.err]).toEqual([
      125,
      expect.stringContaining('--publish wants --network bridge, and the network is "none"'),
    ]);
    const hosts = await box.ocibox(["run", "--rm", "--network", "host", "-p", "80", "alpine", "true"]);
    expect(hosts).toEqual({
      out: "",
      err: "ocibox: with --network host a container's ports are the host's: none is published\n",
      code: 0,
    });
  });
});

describe("a container that is started again", () => {
  test("has a place anew, with its ports, and its hosts file says so", async () => {
    await using cleanup = new AsyncDisposableStack();
    const flags = ["-p", "8085:80", "--add-host", "gate:host-gateway", "--add-host", "one:10.0.0.1"];
    await ok("create", "--name", "twice", ...flags, "alpine", "sh", "-c", serve);
    cleanup.defer(async () => {
      await box.ocibox(["rm", "-f", "twice"]);
    });
    expect(await ok("port", "twice")).toBe("");
    for (const how of ["start", "restart"]) {
      await ok(how, ...(how === "restart" ? ["-t", "0"] : []), "twice");
      expect(await fetched(world, `http://${hostAddress}:8085/`)).toBe("page\n");
      const own = await addressOf("twice");
      const inside = await ok("exec", "twice", "sh", "-c", "ip -4 -o addr show eth0; tail -n 3 /etc/hosts");
      expect(inside).toContain(`inet ${own}/16`);
      expect(inside).toMatch(new RegExp(`${own}\t[0-9a-f]{12}\n10.87.0.1\tgate\n10.0.0.1\tone\n$`));
    }
    await ok("stop", "-t", "0", "twice");
    expect([await addressOf("twice"), await ok("port", "twice")]).toEqual(["", ""]);
    expect(await traces()).toEqual({ ports: "", links: "" });
  });
});

describe("other places", () => {
  test("--ip: what is free, taken, and somewhere else", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "chosen", ["--ip", "10.87.1.2"], "exec sleep 100");
    expect(await addressOf("chosen")).toBe("10.87.1.2");
    for (const [address, words] of [
      ["10.87.1.2", "which another container has"],
      ["10.88.1.2", "which is no container's in 10.87.0.0/16"],
      ["10.87.0.1", "which is no container's"],
      ["10.87.255.255", "which is no container's"],
      ["one", "no IPv4 address"],
    ] as const) {
      const ended = await box.run(["--ip", address, "alpine", "true"]);
      expect([ended.code, ended.err]).toEqual([125, expect.stringContaining(words)]);
    }
  });

  test("an address is taken for as long as anybody is in its network", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "owner", ["--ip", "10.87.2.3"], "exec sleep 100");
    await start(cleanup, "guest", ["--network", "container:owner"], "exec sleep 100");
    await ok("stop", "-t", "0", "owner");
    const taken = await box.ocibox(["start", "owner"]);
    expect([taken.code, taken.err]).toEqual([125, expect.stringContaining("which another container has")]);
    await ok("stop", "-t", "0", "guest");
    await ok("start", "owner");
    expect(await addressOf("owner")).toBe("10.87.2.3");
    await ok("restart", "-t", "0", "owner");
  });

  test("--network container:NAME, and ns:PATH", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "main", ["-h", "the-main"], serve);
    const own = await addressOf("main");
    const script =
      "ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*'; grep the-main /etc/hosts | cut -f 1; wget -q -O - http://127.0.0.1/";
    expect(await until(async () => (await run(["--network", "container:main"], script)).code === 0)).toBe(true);
    expect((await run(["--network", "container:main"], script)).out).toBe(`inet ${own}\n${own}\npage\n`);
    const path = `/proc/${world.pid}/ns/net`;
    expect((await run(["--network", `ns:${path}`], "ip -4 -o addr show in0 | grep -o 'inet [0-9.]*'")).out).toBe(
      `inet ${worldAddress}\n`,
    );
    await start(cleanup, "side", ["--network", "container:main"], "exec sleep 100");
    expect(await ok("exec", "side", "wget", "-q", "-O", "-", "http://127.0.0.1/")).toBe("page\n");
    for (const [network, words] of [
      ["container:nobody", 'there is no container "nobody"'],
      ["ns:/none", 'cannot open the network namespace "/none"'],
      ["ns:/etc/passwd", "invalid argument"],
      ["blue", "there is no network of that name"],
      ["container:", "there is no network of that name"],
    ] as const) {
      const ended = await run(["--network", network], "true");
      expect([ended.code, ended.err]).toEqual([125, expect.stringContaining(words)]);
    }
    for (const [flag, value, words] of [
      ["-p", "80", "wants --network bridge"],
      ["--sysctl", "net.ipv4.ip_forward=0", "the network is another's"],
    ] as const) {
      const ended = await run(["--network", "container:main", flag, value], "true");
      expect([ended.code, ended.err]).toEqual([125, expect.stringContaining(words)]);
    }
  });
});

describe("the host", () => {
  test("whose other rules drop what is sent on lets containers through: docker's, ufw's", async () => {
    await using cleanup = new AsyncDisposableStack();
    await host.print("iptables -P FORWARD DROP");
    cleanup.defer(async () => {
      await host.print("iptables -P FORWARD ACCEPT; iptables -F FORWARD");
    });
    await start(cleanup, "behind", ["-p", "8086:80"], serve);
    expect(await fetched(world, `http://${hostAddress}:8086/`)).toBe("page\n");
    expect((await run([], "true")).code).toBe(0);
    expect(await host.print("iptables -S FORWARD")).toBe(
      [
        "-P FORWARD DROP",
        "-A FORWARD -i ocibox0 -m comment --comment ocibox -j ACCEPT",
        "-A FORWARD -o ocibox0 -m comment --comment ocibox -j ACCEPT",
        "",
      ].join("\n"),
    );
  });

  test("loses its bridge by prune, when no container is at it, and gets it back", async () => {
    await using cleanup = new AsyncDisposableStack();
    await start(cleanup, "still", [], "exec sleep 100");
    const kept = await box.ocibox(["prune", "-f"]);
    expect(kept.out).not.toContain("Removed the bridge");
    await ok("rm", "-f", "still");
    await traces();
    expect((await box.ocibox(["prune", "-f"])).out).toContain(
      "Removed the bridge ocibox0, which no container was at\n",
    );
    expect(await host.print("nft list tables | grep ocibox || true; ip -o link | grep ocibox0 || true")).toBe("");
    expect((await ok("info")).split("\n")).toContain("network: bridge ocibox0, made with the first container");
    box.within = { ...box.within, env: { ...box.within.env, OCIBOX_SUBNET: "192.168.77.0/24" } };
    try {
      expect((await run([], "ip route")).out).toContain("default via 192.168.77.1 dev eth0");
      expect(await ok("info")).toContain("network: bridge ocibox0 (192.168.77.0/24)\n");
    } finally {
      box.within = { ...box.within, env: { OCIBOX_NETWORK: "" } };
    }
    await traces();
    expect((await box.ocibox(["prune", "-f"])).out).toContain("Removed the bridge");
  });

  test("whose settings are not to be changed: loopback alone, and a word of it", async () => {
    await traces();
    await box.ocibox(["prune", "-f"]);
    const { out, err, code } = await box.shell(
      `exec unshare --mount sh -c 'mount -o bind,ro /proc/sys /proc/sys && exec "$OCIBOX" run --rm alpine ls /sys/class/net'`,
    );
    expect([out, code]).toEqual(["lo\n", 0]);
    expect(err).toMatch(
      /^ocibox: cannot change the network: writing \/proc\/sys\/net\/\S+ failed: read-only file system; the container has loopback alone \(--network none\)\n$/,
    );
    // What was begun then is completed by the next.
    expect((await run([], "ip route")).out).toContain("default via 10.87.0.1 dev eth0");
    expect(await host.print("nft list tables")).toContain("table ip ocibox\n");
  });

  test("that has no rights to it: an error where it was asked for", async () => {
    const flags = ["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    const without = { ...box.within, command: [...host.command, "setpriv", ...flags] };
    const whole = box.within;
    box.within = without;
    try {
      const plain = await box.ocibox(["run", "--rm", "--network", "bridge", "alpine", "true"]);
      expect([plain.code, plain.err]).toEqual([125, expect.stringContaining("operation not permitted")]);
      expect(plain.err).toContain("--network host has the host's network");
    } finally {
      box.within = whole;
    }
  });

  test("whose way out is narrow gives containers as much, the first and those after it", async () => {
    await using cleanup = new AsyncDisposableStack();
    await traces();
    await box.ocibox(["prune", "-f"]);
    await host.print("ip link set out0 mtu 1380");
    cleanup.defer(async () => {
      await host.print("ip link set out0 mtu 1500");
      await traces();
      await box.ocibox(["prune", "-f"]);
    });
    for (let turn = 0; turn < 2; turn++) {
      expect((await run([], "cat /sys/class/net/eth0/mtu")).out).toBe("1380\n");
      await traces();
    }
  });

  test("is told of what is wrong with OCIBOX_SUBNET, and does not do without for it", async () => {
    const whole = box.within;
    try {
      expect((await run([], "true")).code).toBe(0);
      for (const [subnet, words] of [
        ["10.1.0.0", 'OCIBOX_SUBNET is "10.1.0.0"'],
        ["10.1.0.0/16", "and ocibox0 is 10.87.0.0/16 already"],
      ] as const) {
        box.within = { ...whole, env: { OCIBOX_NETWORK: "", OCIBOX_SUBNET: subnet } };
        const ended = await box.ocibox(["run", "--rm", "alpine", "true"]);
        expect([ended.code, ended.err]).toEqual([125, expect.stringContaining(words)]);
      }
    } finally {
      box.within = whole;
    }
  });

  test("makes one bridge for many that come at once", async () => {
    const all = await Promise.all(
      Array.from({ length: 12 }, () => run([], "ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*'")),
    );
    expect(all.map(({ code, err }) => `${code}${err}`)).toEqual(all.map(() => "0"));
    expect(new Set(all.map(({ out }) => out)).size).toBe(all.length);
    expect(await host.print("nft list chain ip ocibox postrouting | grep -c masquerade")).toBe("3\n");
    expect(await host.print("ip -4 -o addr show ocibox0 | wc -l")).toBe("1\n");
  });
});
