/** Addresses, ports and messages of the bridge, without a kernel. */
import { describe, expect, test } from "bun:test";
import { allPublished, type PublishFlag, parseExposed, parsePublish } from "../../src/bundle/publish.ts";
import {
  dotted,
  hostsIn,
  isIn,
  overlap,
  parseAddress,
  parseSubnet,
  routesIn,
  subnetOf,
} from "../../src/network/addresses.ts";
import { freeSubnet } from "../../src/network/bridge.ts";

function address(text: string): number {
  const found = parseAddress(text);
  if (found === undefined) throw new Error(text);
  return found;
}

describe("addresses", () => {
  test("are read and written", () => {
    for (const text of ["0.0.0.0", "10.87.0.1", "127.0.0.1", "255.255.255.255"])
      expect(dotted(address(text))).toBe(text);
    for (const text of ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.-4", "1.2.3.4 ", "a.b.c.d", "::1"])
      expect(parseAddress(text)).toBeUndefined();
  });

  test("are in networks, which overlap or do not", () => {
    const net = subnetOf(address("10.87.33.4"), 16);
    expect([dotted(net.network), hostsIn(net)]).toEqual(["10.87.0.0", 65_534]);
    expect(isIn(net, address("10.87.255.255"))).toBe(true);
    expect(isIn(net, address("10.88.0.0"))).toBe(false);
    const all = { network: 0, prefix: 0 };
    expect(isIn(all, address("200.1.2.3"))).toBe(true);
    const [wide, narrow] = [subnetOf(address("10.0.0.0"), 8), subnetOf(address("10.87.3.0"), 24)];
    expect([overlap(wide, net), overlap(net, wide), overlap(net, narrow), overlap(narrow, net)]).toEqual([
      true,
      true,
      true,
      true,
    ]);
    expect(overlap(net, subnetOf(address("10.86.0.0"), 16))).toBe(false);
    expect(overlap(subnetOf(address("200.0.0.0"), 6), subnetOf(address("203.0.113.0"), 24))).toBe(true);
  });

  const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
  const way = (device: string, destination: string, mask: string): string =>
    `${device}\t${destination}\t00000000\t0001\t0\t0\t0\t${mask}\t0\t0\t0\n`;

  test("the host's routes, as /proc has them", () => {
    expect(routesIn(head + way("eth0", "00000000", "00000000") + way("eth1", "000200C0", "00FFFFFF"))).toEqual([
      { device: "eth0", network: 0, prefix: 0 },
      { device: "eth1", network: address("192.0.2.0"), prefix: 24 },
    ]);
    expect(routesIn("")).toEqual([]);
  });

  test("the bridge's network is on the way to nowhere else", () => {
    const taken = (...rows: string[]): string => dotted(freeSubnet(routesIn(head + rows.join(""))).network);
    expect(taken()).toBe("10.87.0.0");
    expect(taken(way("eth0", "00000000", "00000000"))).toBe("10.87.0.0");
    expect(taken(way("tun0", "0005570A", "00FFFFFF"))).toBe("10.86.0.0");
    // Its own, of before.
    expect(taken(way("ocibox0", "0000570A", "0000FFFF"))).toBe("10.87.0.0");
    expect(taken(way("vpn", "0000000A", "000000FF"))).toBe("172.29.0.0");
    expect(() => taken(way("a", "0000000A", "000000FF"), way("b", "000010AC", "0000F0FF"))).toThrow("10.87.0.0/16");
  });
});

describe("OCIBOX_SUBNET", () => {
  test("is a network with room in it", () => {
    expect(parseSubnet("192.168.77.5/24")).toEqual({ network: address("192.168.77.0"), prefix: 24 });
    for (const text of ["", "1.2.3.4", "1.2.3.4/", "1.2.3.4/30", "1.2.3.4/7", "1.2.3/24", "1.2.3.4/24/1", "1.2.3.4/x"])
      expect(parseSubnet(text)).toBeUndefined();
  });
});

describe("--publish", () => {
  const tcp = (hostPort: number, containerPort: number, upTo = hostPort): PublishFlag => ({
    protocol: "tcp",
    hostPort,
    upTo,
    containerPort,
  });

  for (const [text, ...found] of [
    ["80", tcp(0, 80)],
    ["8080:80", tcp(8080, 80)],
    ["8080:80/tcp", tcp(8080, 80)],
    ["53:53/udp", { ...tcp(53, 53), protocol: "udp" }],
    ["53:53/UDP", { ...tcp(53, 53), protocol: "udp" }],
    ["0:80", tcp(0, 80)],
    ["127.0.0.1:8080:80", { ...tcp(8080, 80), hostAddress: "127.0.0.1" }],
    ["127.0.0.1::80", { ...tcp(0, 80), hostAddress: "127.0.0.1" }],
    ["0.0.0.0:8080:80", tcp(8080, 80)],
    ["8080-8081:80-81", tcp(8080, 80), tcp(8081, 81)],
    ["8080-8090:80", tcp(8080, 80, 8090)],
    ["80-81", tcp(0, 80), tcp(0, 81)],
  ] as const satisfies readonly (readonly [string, ...PublishFlag[]])[])
    test(text, () => {
      expect(parsePublish(text)).toEqual(found);
    });

  for (const text of [
    "",
    "x",
    "0",
    "65536",
    "80:",
    ":80:",
    "8080:0",
    "80/icmp",
    "80/tcp/udp",
    "81-80",
    "8080-8081:80-82",
    "a.b:80:80",
    "1.2.3.4:5:6:7",
    "[::1]:80:80",
    "80/sctp",
    "-80",
    "8080 :80",
  ])
    test(`${JSON.stringify(text)} is refused`, () => {
      expect(() => parsePublish(text)).toThrow("--publish");
    });

  test("-P: what is exposed, and not published by itself", () => {
    const given = parsePublish("8080:80");
    expect(allPublished(given, ["90-91/udp"], { "80/tcp": {}, "81": {}, "80/udp": {} })).toEqual([
      ...given,
      { ...tcp(0, 90), protocol: "udp" },
      { ...tcp(0, 91), protocol: "udp" },
      // As JavaScript orders the keys of an object: numbers first.
      tcp(0, 81),
      { ...tcp(0, 80), protocol: "udp" },
    ]);
    expect(() => parseExposed("80/x")).toThrow("--expose");
    expect(() => allPublished([], [], { "x/tcp": {} })).toThrow("an exposed port of the image");
  });
});
