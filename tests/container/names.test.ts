/** A container's hosts, hostname and resolv.conf, by its network. */
import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { NetworkMode, RunOptions } from "../../src/bundle/command.ts";
import type { MoreOptions } from "../../src/bundle/more-options.ts";
import { writeNetworkFiles, writeStartFiles } from "../../src/container/names.ts";
import type { Connected } from "../../src/container/network.ts";

const connected: Connected = {
  place: { address: "10.87.1.2", prefix: 16, gateway: "10.87.0.1", hardwareAddress: "02:42:0a:57:01:02" },
  ports: [],
};
const loopback = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/** The files of a new container. */
function filesOf(
  network: NetworkMode,
  more: MoreOptions,
  how: Connected | undefined,
): { hosts: string; hostname: string; resolver: string } {
  const dir = mkdtempSync(join(tmpdir(), "ocibox-names-"));
  try {
    writeNetworkFiles(dir, "box", { network, more } as RunOptions, how);
    const [hosts = "", hostname = "", resolver = ""] = ["hosts", "hostname", "resolv.conf"].map((name) =>
      readFileSync(join(dir, name), "utf8"),
    );
    return { hosts, hostname, resolver };
  } finally {
    rmSync(dir, { recursive: true });
  }
}

describe("the files of a container", () => {
  test("with loopback alone name itself, and what was given", () => {
    const more = { hosts: ["10.0.0.1\tone"], resolver: { servers: ["9.9.9.9"], search: [], options: [] } };
    expect(filesOf("none", more, undefined)).toEqual({
      hosts: `${loopback}127.0.0.1\tbox\n10.0.0.1\tone\n`,
      hostname: "box\n",
      resolver: "nameserver 9.9.9.9\n",
    });
    expect(() => filesOf("none", { hosts: ["host-gateway\tgate"] }, undefined)).toThrow("gate:host-gateway");
  });

  test("at the bridge name the host, too", () => {
    const { hosts } = filesOf("bridge", { hosts: ["host-gateway\tgate"] }, connected);
    const names = "host.docker.internal host.containers.internal";
    expect(hosts).toBe(`${loopback}10.87.0.1\t${names}\n10.87.1.2\tbox\n10.87.0.1\tgate\n`);
    // One that is only made has no address yet.
    expect(filesOf("bridge", {}, undefined).hosts).toBe(`${loopback}127.0.0.1\tbox\n`);
  });

  test("with the host's network are the host's", () => {
    const { hosts, resolver } = filesOf("host", { hosts: ["host-gateway\tgate"] }, undefined);
    expect(hosts).toBe(`${readFileSync("/etc/hosts", "utf8")}127.0.0.1\tgate\n`);
    expect(resolver).toBe(readFileSync("/etc/resolv.conf", "utf8"));
  });

  test("in another's network are that one's, as they are at each start", () => {
    const other = mkdtempSync(join(tmpdir(), "ocibox-names-"));
    try {
      writeFileSync(join(other, "hosts"), "10.87.3.4\tother\n");
      writeFileSync(join(other, "resolv.conf"), "nameserver 1.1.1.1\n");
      const like = { ports: [], like: other };
      const shared = filesOf("container:other", {}, like);
      expect([shared.hosts, shared.resolver]).toEqual(["10.87.3.4\tother\n", "nameserver 1.1.1.1\n"]);
      const resolver = { servers: ["9.9.9.9"], search: ["."], options: ["rotate"] };
      writeStartFiles(other, "box", { network: "bridge", hosts: ["10.0.0.1\tone"], resolver }, connected);
      expect(readFileSync(join(other, "hosts"), "utf8")).toEndWith("10.87.1.2\tbox\n10.0.0.1\tone\n");
      expect(readFileSync(join(other, "resolv.conf"), "utf8")).toBe("nameserver 9.9.9.9\noptions rotate\n");
    } finally {
      rmSync(other, { recursive: true });
    }
  });
});
