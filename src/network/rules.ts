/**
 * The rules of ocibox's network, as one table of nf_tables: what containers send goes out under the host's address, ports
 * that are published lead to their container, and nothing else comes in from outside. Pure.
 *
 * What is published is in two maps, so that a port comes and goes by one element and no rule is ever changed.
 */
import { NFT_MSG } from "../../ffi/netfilter-constants.ts";
import { bigEndian } from "../../ffi/netlink.ts";
import { parseAddress, type Subnet } from "./addresses.ts";
import { bridgeName, tableName } from "./names.ts";
import {
  address,
  batch,
  connection,
  counter,
  destinationPort,
  device,
  type Expression,
  element,
  forThisHost,
  hook,
  joined,
  lookUp,
  masquerade,
  newChain,
  newMap,
  newRule,
  newTable,
  priority,
  protocol,
  redirect,
  register,
  verdict,
  within,
} from "./netfilter.ts";

/** conntrack(8): the bits of a connection's state, and of what was done with it. */
const ESTABLISHED = 2;
const RELATED = 4;
const IPS_DST_NAT = 32;

const loopback: Subnet = { network: 0x7f000000, prefix: 8 };
/** Ports of every address of the host's, and of one of them. */
const maps = { any: "ports", one: "address-ports" } as const;

/** A port of the host that leads to a container's. */
export interface PublishedPort {
  readonly protocol: "tcp" | "udp";
  /** One of the host's; every one of them where it is not there. */
  readonly hostAddress?: string;
  readonly hostPort: number;
  readonly containerPort: number;
}

const numbers = { tcp: 6, udp: 17 } as const;

function inSubnet(which: "saddr" | "daddr", { network, prefix }: Subnet): Expression[] {
  return within(which, network, prefix);
}

/** The table with all but what is published. @param subnet that the containers are in */
export function tableMessages(subnet: Subnet): Uint8Array<ArrayBuffer> {
  const chain = (
    name: string,
    type: "nat" | "filter",
    at: keyof typeof hook,
    when: keyof typeof priority,
  ): Uint8Array => newChain(tableName, name, { type, hook: hook[at], priority: priority[when] });
  const rule = (name: string, ...expressions: readonly (Expression | readonly Expression[])[]): Uint8Array =>
    newRule(tableName, name, expressions.flat());
  const [inward, outward] = [device("oifname", "==", bridgeName), device("oifname", "!=", bridgeName)];
  return batch([
    newTable(tableName),
    newMap(tableName, maps.any, 1, ["inet_proto", "inet_service"], ["ipv4_addr", "inet_service"]),
    newMap(tableName, maps.one, 2, ["inet_proto", "ipv4_addr", "inet_service"], ["ipv4_addr", "inet_service"]),

    newChain(tableName, "published"),
    rule(
      "published",
      protocol(register(0)),
      address("daddr", register(1)),
      destinationPort(register(2)),
      lookUp(maps.one, register(0), register(4)),
      redirect(register(4), register(5)),
    ),
    rule(
      "published",
      protocol(register(0)),
      destinationPort(register(1)),
      lookUp(maps.any, register(0), register(4)),
      redirect(register(4), register(5)),
    ),
    chain("prerouting", "nat", "prerouting", "dstnat"),
    rule("prerouting", forThisHost(), verdict("jump", "published")),
    chain("output", "nat", "output", "dstnat"),
    rule("output", forThisHost(), verdict("jump", "published")),

    chain("postrouting", "nat", "postrouting", "srcnat"),
    // A client on the host that has called 127.0.0.1, and a container that has called a port of the host's: the answer
    // is to come by the way that the question went.
    rule("postrouting", inward, inSubnet("saddr", loopback), masquerade()),
    rule("postrouting", inward, inSubnet("saddr", subnet), connection("status", IPS_DST_NAT), masquerade()),
    rule("postrouting", outward, inSubnet("saddr", subnet), masquerade()),

    // Nobody outside speaks with 127.0.0.1: neither containers, though the bridge leads there for the answers of published
    // ports (route_localnet), nor a neighbour, who would be led to a port that is published there alone.
    chain("martians", "filter", "prerouting", "raw"),
    rule("martians", device("iifname", "!=", "lo"), inSubnet("daddr", loopback), verdict("drop")),
    rule("martians", device("iifname", "==", bridgeName), inSubnet("saddr", loopback), verdict("drop")),

    chain("forward", "filter", "forward", "filter"),
    rule("forward", outward, verdict("return")),
    rule("forward", device("iifname", "==", bridgeName), verdict("return")),
    rule("forward", connection("state", ESTABLISHED | RELATED), verdict("return")),
    rule("forward", connection("status", IPS_DST_NAT), verdict("return")),
    rule("forward", counter(), verdict("drop")),
  ]);
}

/** iptables(8)'s, and so docker's and ufw's, who let it drop what they do not know. */
export const others = { table: "filter", chain: "FORWARD" } as const;

/** Lets others' rules pass on what comes from containers and goes to them; what may, the own table says. */
export function passMessages(): Uint8Array<ArrayBuffer> {
  const { table, chain } = others;
  const pass = (which: "iifname" | "oifname"): Uint8Array =>
    newRule(table, chain, [...device(which, "==", bridgeName), counter(), verdict("accept")], {
      first: true,
      says: tableName,
    });
  return batch([pass("oifname"), pass("iifname")]);
}

function keyOf(port: PublishedPort): { readonly map: string; readonly key: Uint8Array } {
  const [number, service] = [bigEndian(numbers[port.protocol], 1), bigEndian(port.hostPort, 2)];
  return port.hostAddress === undefined
    ? { map: maps.any, key: joined(number, service) }
    : { map: maps.one, key: joined(number, bigEndian(parseAddress(port.hostAddress) ?? 0), service) };
}

function placeOf(to: number, port: PublishedPort): Uint8Array {
  return joined(bigEndian(to), bigEndian(port.containerPort, 2));
}

/** Publishes a port. @param to the container's address */
export function publishMessage(port: PublishedPort, to: number): Uint8Array<ArrayBuffer> {
  const { map, key } = keyOf(port);
  return batch([element(NFT_MSG.NFT_MSG_NEWSETELEM, tableName, map, key, placeOf(to, port))]);
}

/** Takes back what publishes a port, wherever it leads. ENOENT where nothing does. */
export function withdrawMessage(port: PublishedPort): Uint8Array<ArrayBuffer> {
  const { map, key } = keyOf(port);
  return batch([element(NFT_MSG.NFT_MSG_DELSETELEM, tableName, map, key)]);
}

/** Asks where a published port leads: `leadsTo` reads the answer. ENOENT where it is not published. */
export function publishedMessage(port: PublishedPort): Uint8Array<ArrayBuffer> {
  const { map, key } = keyOf(port);
  return element(NFT_MSG.NFT_MSG_GETSETELEM, tableName, map, key);
}
