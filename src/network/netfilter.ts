/**
 * Messages of nf_tables as bytes: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h. What nft(8) would be told in
 * words; pure. Numbers in attributes have their highest byte first.
 */
import { AF, NLM_F } from "../../ffi/constants.ts";
import { type Attribute, attribute, attributesIn, bigEndian, netlinkMessage, packed } from "../../ffi/netlink.ts";

/** NFNL_SUBSYS_* */
const subsystem = 10;
const conntrack = 1;
const NFNL_MSG_BATCH_BEGIN = 0x10;
const NFNL_MSG_BATCH_END = 0x11;
/** What the hooks see, by the order in which tables see it. */
export const priority = { raw: -300, dstnat: -100, filter: 0, srcnat: 100 } as const;
/** NF_INET_*: where a base chain hangs. */
export const hook = { prerouting: 0, forward: 2, output: 3, postrouting: 4 } as const;

export const MSG = {
  NFT_MSG_NEWTABLE: 0,
  NFT_MSG_GETTABLE: 1,
  NFT_MSG_DELTABLE: 2,
  NFT_MSG_NEWCHAIN: 3,
  NFT_MSG_GETCHAIN: 4,
  NFT_MSG_NEWRULE: 6,
  NFT_MSG_GETRULE: 7,
  NFT_MSG_DELRULE: 8,
  NFT_MSG_NEWSET: 9,
  NFT_MSG_NEWSETELEM: 12,
  NFT_MSG_GETSETELEM: 13,
  NFT_MSG_DELSETELEM: 14,
} as const;

/** struct nfgenmsg */
function body(family: number, resource = 0): Uint8Array {
  const bytes = new Uint8Array(4);
  bytes[0] = family;
  bytes.set(bigEndian(resource, 2), 2);
  return bytes;
}

export const bodySize = 4;

function typeOfMessage(type: number): number {
  return (subsystem << 8) | type;
}

/** A message about what the tables of IPv4 have. @param type of MSG */
function message(type: number, flags: number, attributes: readonly Attribute[]): Uint8Array<ArrayBuffer> {
  return netlinkMessage(typeOfMessage(type), flags, body(AF.AF_INET), attributes).bytes;
}

/** Messages that hold together or not at all, as one. Each says how it went: NLM_F_ACK is added to their flags. */
export function batch(messages: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const begin = netlinkMessage(NFNL_MSG_BATCH_BEGIN, 0, body(0, subsystem)).bytes;
  const end = netlinkMessage(NFNL_MSG_BATCH_END, 0, body(0, subsystem)).bytes;
  const all = [begin, ...messages, end];
  const bytes = new Uint8Array(new ArrayBuffer(all.reduce((sum, each) => sum + each.byteLength, 0)));
  let at = 0;
  for (const each of all) {
    bytes.set(each, at);
    at += each.byteLength;
  }
  return bytes;
}

const create = NLM_F.NLM_F_ACK | NLM_F.NLM_F_CREATE;

const IPPROTO_UDP = 17;

/** A connection that conntrack(8) knows: linux/netfilter/nfnetlink_conntrack.h. */
export interface Tracked {
  readonly destination: number;
  readonly port: number;
  /** Attributes that tell it from every other. */
  readonly tuple: Uint8Array;
}

/** The request for all connections of IPv4. */
export const trackedConnections: readonly [type: number, body: Uint8Array] = [(conntrack << 8) | 1, body(AF.AF_INET)];

/** A connection of datagrams in what the kernel has told; undefined for another. */
export function datagramsIn(answer: Uint8Array): Tracked | undefined {
  const tuple = attributesIn(answer, bodySize).get(1);
  const [address, ports] = [1, 2].map((type) =>
    attributesIn(attributesIn(tuple ?? new Uint8Array(), 0).get(type) ?? new Uint8Array(), 0),
  );
  const [destination, port] = [address?.get(2), ports?.get(3)];
  if (tuple === undefined || ports?.get(1)?.[0] !== IPPROTO_UDP || destination === undefined || port === undefined)
    return undefined;
  return { destination: numberIn(destination), port: numberIn(port), tuple: tuple.slice() };
}

/** The highest byte first. */
function numberIn(bytes: Uint8Array): number {
  return bytes.reduce((value, byte) => value * 256 + byte, 0);
}

/** A connection is forgotten. */
export function forget({ tuple }: Tracked): Uint8Array<ArrayBuffer> {
  const IPCTNL_MSG_CT_DELETE = 2;
  const NLA_F_NESTED = 0x8000;
  const named = [attribute(1 | NLA_F_NESTED, tuple)];
  return netlinkMessage((conntrack << 8) | IPCTNL_MSG_CT_DELETE, NLM_F.NLM_F_ACK, body(AF.AF_INET), named).bytes;
}

/** A table; where there is one of the name it is EEXIST for all of the batch. */
export function newTable(table: string): Uint8Array {
  return message(MSG.NFT_MSG_NEWTABLE, create | NLM_F.NLM_F_EXCL, [attribute(1, table)]);
}

/** Whether there is a table: ENOENT where there is none. */
export function askTable(table: string): Uint8Array<ArrayBuffer> {
  return message(MSG.NFT_MSG_GETTABLE, 0, [attribute(1, table)]);
}

export function deleteTable(table: string): Uint8Array<ArrayBuffer> {
  return batch([message(MSG.NFT_MSG_DELTABLE, NLM_F.NLM_F_ACK, [attribute(1, table)])]);
}

/** A chain of another table's: `policyIn` reads the answer. ENOENT where there is none. */
export function askChain(table: string, chain: string): Uint8Array<ArrayBuffer> {
  return message(MSG.NFT_MSG_GETCHAIN, 0, [attribute(1, table), attribute(3, chain)]);
}

/** What becomes of a packet that no rule of a base chain decides; undefined for another chain. */
export function policyIn(answer: Uint8Array): "drop" | "accept" | undefined {
  const bytes = attributesIn(answer, bodySize).get(5);
  return bytes === undefined ? undefined : bytes.at(-1) === verdicts.drop ? "drop" : "accept";
}

/** The body of a request for all rules of a chain. */
export function rulesOf(table: string, chain: string): readonly [type: number, body: Uint8Array] {
  const attributes = packed([attribute(1, table), attribute(2, chain)]);
  return [typeOfMessage(MSG.NFT_MSG_GETRULE), new Uint8Array([...body(AF.AF_INET), ...attributes])];
}

/** Whether a rule has a comment. */
export function hasComment(rule: Uint8Array, text: string): boolean {
  const own = comment(text);
  const found = attributesIn(rule, bodySize).get(7);
  return found !== undefined && own.every((byte, at) => found[at] === byte);
}

/** Takes a rule back. @param rule as the kernel has told it */
export function deleteRule(table: string, chain: string, rule: Uint8Array): Uint8Array<ArrayBuffer> {
  const handle = attributesIn(rule, bodySize).get(3) ?? new Uint8Array(8);
  const named = [attribute(1, table), attribute(2, chain), attribute(3, handle)];
  return batch([message(MSG.NFT_MSG_DELRULE, NLM_F.NLM_F_ACK, named)]);
}

/** A chain; one that hangs at a hook sees packets, others are jumped to. */
export function newChain(
  table: string,
  name: string,
  base?: { readonly type: "nat" | "filter"; readonly hook: number; readonly priority: number },
): Uint8Array {
  const hangs =
    base === undefined
      ? []
      : [
          attribute(4, [attribute(1, bigEndian(base.hook)), attribute(2, bigEndian(base.priority))]),
          attribute(7, base.type),
        ];
  return message(MSG.NFT_MSG_NEWCHAIN, create, [attribute(1, table), attribute(3, name), ...hangs]);
}

const NFT_SET_MAP = 8;
/** What nft(8) calls the parts of a key, by number: six bits of the type each. */
const datatypes = { ipv4_addr: { id: 7, size: 4 }, inet_proto: { id: 12, size: 1 }, inet_service: { id: 13, size: 2 } };
type Datatype = keyof typeof datatypes;

function typeOf(parts: readonly Datatype[]): Attribute["bytes"] {
  return bigEndian(parts.reduce((type, part) => (type << 6) | datatypes[part].id, 0));
}

/** Each part of a key or of a value has four bytes or more. */
function lengthOf(parts: readonly Datatype[]): Attribute["bytes"] {
  return bigEndian(4 * parts.length);
}

/** A map. @param number tells the maps of a batch apart */
export function newMap(
  table: string,
  name: string,
  number: number,
  key: readonly Datatype[],
  value: readonly Datatype[],
): Uint8Array {
  return message(MSG.NFT_MSG_NEWSET, create, [
    attribute(1, table),
    attribute(2, name),
    attribute(3, bigEndian(NFT_SET_MAP)),
    attribute(4, typeOf(key)),
    attribute(5, lengthOf(key)),
    attribute(6, typeOf(value)),
    attribute(7, lengthOf(value)),
    attribute(10, bigEndian(number)),
  ]);
}

function dataOf(bytes: Uint8Array): readonly Attribute[] {
  return [attribute(1, bytes)];
}

/** A message about one element of a map. @param type NFT_MSG_NEWSETELEM, …GETSETELEM, …DELSETELEM */
export function element(
  type: number,
  table: string,
  map: string,
  key: Uint8Array,
  value?: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const flags = type === MSG.NFT_MSG_GETSETELEM ? 0 : type === MSG.NFT_MSG_NEWSETELEM ? create : NLM_F.NLM_F_ACK;
  const parts = [attribute(1, dataOf(key)), ...(value === undefined ? [] : [attribute(2, dataOf(value))])];
  return message(type, flags, [attribute(1, table), attribute(2, map), attribute(3, [attribute(1, parts)])]);
}

/** Parts of a key or of a value, four bytes each, as registers have them. */
export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(4 * parts.length);
  parts.forEach((part, index) => {
    bytes.set(part, 4 * index);
  });
  return bytes;
}

/** One part of a rule: a name of the kernel's, and what it is to do. */
export type Expression = Attribute;

function expression(name: string, data: readonly Attribute[]): Expression {
  return attribute(1, [attribute(1, name), attribute(2, data)]);
}

/** Registers of four bytes: NFT_REG32_00 and those behind it. */
export function register(index: number): number {
  return 8 + index;
}

const META = { oifname: 7, iifname: 6, l4proto: 16 } as const;
const nameSize = 16;

function load(key: keyof typeof META, into: number): Expression {
  return expression("meta", [attribute(2, bigEndian(META[key])), attribute(1, bigEndian(into))]);
}

function compare(operator: "==" | "!=", from: number, bytes: Uint8Array): Expression {
  return expression("cmp", [
    attribute(1, bigEndian(from)),
    attribute(2, bigEndian(operator === "==" ? 0 : 1)),
    attribute(3, dataOf(bytes)),
  ]);
}

/** The name of the device that a packet comes in by, or goes out by. */
export function device(which: "iifname" | "oifname", operator: "==" | "!=", name: string): Expression[] {
  const bytes = new Uint8Array(nameSize);
  bytes.set(new TextEncoder().encode(name));
  // A register of sixteen bytes, which the first four of four are.
  return [load(which, 1), compare(operator, 1, bytes)];
}

const NETWORK_HEADER = 1;
const TRANSPORT_HEADER = 2;

function payload(base: number, offset: number, size: number, into: number): Expression {
  return expression("payload", [
    attribute(1, bigEndian(into)),
    attribute(2, bigEndian(base)),
    attribute(3, bigEndian(offset)),
    attribute(4, bigEndian(size)),
  ]);
}

/** struct iphdr */
const addressAt = { saddr: 12, daddr: 16 } as const;

export function address(which: keyof typeof addressAt, into: number): Expression {
  return payload(NETWORK_HEADER, addressAt[which], 4, into);
}

export function protocol(into: number): Expression {
  return load("l4proto", into);
}

export function destinationPort(into: number): Expression {
  return payload(TRANSPORT_HEADER, 2, 2, into);
}

function masked(from: number, mask: Uint8Array): Expression {
  return expression("bitwise", [
    attribute(1, bigEndian(from)),
    attribute(2, bigEndian(from)),
    attribute(3, bigEndian(mask.byteLength)),
    attribute(4, dataOf(mask)),
    attribute(5, dataOf(new Uint8Array(mask.byteLength))),
  ]);
}

/** An address of a packet is in a network. */
export function within(which: keyof typeof addressAt, network: number, prefix: number): Expression[] {
  const mask = bigEndian((-1 << (32 - prefix)) >>> 0);
  return [address(which, register(0)), masked(register(0), mask), compare("==", register(0), bigEndian(network))];
}

/** The packet is for this host, whichever of its addresses it has. */
export function forThisHost(): Expression[] {
  const NFT_FIB_RESULT_ADDRTYPE = 3;
  const NFTA_FIB_F_DADDR = 2;
  const RTN_LOCAL = 2;
  return [
    expression("fib", [
      attribute(1, bigEndian(register(0))),
      attribute(2, bigEndian(NFT_FIB_RESULT_ADDRTYPE)),
      attribute(3, bigEndian(NFTA_FIB_F_DADDR)),
    ]),
    // A number of the machine's own, as conntrack's are.
    compare("==", register(0), littleEndian(RTN_LOCAL)),
  ];
}

function littleEndian(value: number): Uint8Array {
  return bigEndian(value).reverse();
}

const CT = { state: 0, status: 2 } as const;

/** Any of some bits of what conntrack knows of the packet's connection. */
export function connection(key: keyof typeof CT, anyOf: number): Expression[] {
  return [
    expression("ct", [attribute(1, bigEndian(register(0))), attribute(2, bigEndian(CT[key]))]),
    masked(register(0), littleEndian(anyOf)),
    compare("!=", register(0), new Uint8Array(4)),
  ];
}

/** The value of a key in a map; where it has none the rule is at its end. */
export function lookUp(map: string, key: number, into: number): Expression {
  return expression("lookup", [attribute(1, map), attribute(2, bigEndian(key)), attribute(3, bigEndian(into))]);
}

/** The packet, and those of its connection, go to another address and port. */
export function redirect(toAddress: number, toPort: number): Expression {
  const NFT_NAT_DNAT = 1;
  return expression("nat", [
    attribute(1, bigEndian(NFT_NAT_DNAT)),
    attribute(2, bigEndian(AF.AF_INET)),
    attribute(3, bigEndian(toAddress)),
    attribute(5, bigEndian(toPort)),
  ]);
}

/** The connection goes on under the address of the device that it leaves by. */
export function masquerade(): Expression {
  return expression("masq", []);
}

const verdicts = { drop: 0, accept: 1, jump: -3, return: -5 } as const;

/** What becomes of the packet. @param chain to jump to */
export function verdict(word: keyof typeof verdicts, chain?: string): Expression {
  const code = [attribute(1, bigEndian(verdicts[word])), ...(chain === undefined ? [] : [attribute(2, chain)])];
  return expression("immediate", [attribute(1, bigEndian(0)), attribute(2, [attribute(2, code)])]);
}

export function counter(): Expression {
  return expression("counter", []);
}

const NFTNL_UDATA_RULE_COMMENT = 0;

/** What iptables(8) and nft(8) show as a rule's comment. */
function comment(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(`${text}\0`);
  return new Uint8Array([NFTNL_UDATA_RULE_COMMENT, bytes.byteLength, ...bytes]);
}

/** A rule behind the others of its chain, or before them. @param says its comment */
export function newRule(
  table: string,
  chain: string,
  expressions: readonly Expression[],
  { first = false, says }: { readonly first?: boolean; readonly says?: string } = {},
): Uint8Array {
  const NLM_F_APPEND = 0x800;
  return message(MSG.NFT_MSG_NEWRULE, create | (first ? 0 : NLM_F_APPEND), [
    attribute(1, table),
    attribute(2, chain),
    attribute(4, expressions),
    ...(says === undefined ? [] : [attribute(7, comment(says))]),
  ]);
}
