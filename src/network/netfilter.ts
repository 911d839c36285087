/**
 * Messages of nf_tables as bytes: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h. What nft(8) would be told in
 * words; pure. Numbers in attributes have their highest byte first.
 */
import { AF, NLM_F } from "../../ffi/constants.ts";
import { CTA, IPCTNL_MSG, NFNL_MSG, NFNL_SUBSYS, NFT, NFT_MSG, NFTA } from "../../ffi/netfilter-constants.ts";
import {
  type Attribute,
  attribute,
  attributesIn,
  bigEndian,
  netlinkMessage,
  numberIn,
  packed,
} from "../../ffi/netlink.ts";

const subsystem = NFNL_SUBSYS.NFNL_SUBSYS_NFTABLES;
const conntrack = NFNL_SUBSYS.NFNL_SUBSYS_CTNETLINK << 8;
/** What the hooks see, by the order in which tables see it. */
export const priority = { raw: -300, dstnat: -100, filter: 0, srcnat: 100 } as const;
/** NF_INET_*: where a base chain hangs. */
export const hook = { prerouting: 0, forward: 2, output: 3, postrouting: 4 } as const;

/** struct nfgenmsg */
function body(family: number, resource = 0): Uint8Array {
  const bytes = new Uint8Array(4);
  bytes[0] = family;
  bytes.set(bigEndian(resource, 2), 2);
  return bytes;
}

const bodySize = 4;

function typeOfMessage(type: number): number {
  return (subsystem << 8) | type;
}

/** A message about what the tables of IPv4 have. @param type of NFT_MSG */
function message(type: number, flags: number, attributes: readonly Attribute[]): Uint8Array<ArrayBuffer> {
  return netlinkMessage(typeOfMessage(type), flags, body(AF.AF_INET), attributes).bytes;
}

/** Messages that hold together or not at all, as one. Each says how it went: NLM_F_ACK is added to their flags. */
export function batch(messages: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const begin = netlinkMessage(NFNL_MSG.NFNL_MSG_BATCH_BEGIN, 0, body(0, subsystem)).bytes;
  const end = netlinkMessage(NFNL_MSG.NFNL_MSG_BATCH_END, 0, body(0, subsystem)).bytes;
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
export const trackedConnections: readonly [type: number, body: Uint8Array] = [
  conntrack | IPCTNL_MSG.IPCTNL_MSG_CT_GET,
  body(AF.AF_INET),
];

/** A connection of datagrams in what the kernel has told; undefined for another. */
export function datagramsIn(answer: Uint8Array): Tracked | undefined {
  const tuple = attributesIn(answer, bodySize).get(CTA.CTA_TUPLE_ORIG);
  const [address, ports] = [CTA.CTA_TUPLE_IP, CTA.CTA_TUPLE_PROTO].map((type) =>
    attributesIn(attributesIn(tuple ?? new Uint8Array(), 0).get(type) ?? new Uint8Array(), 0),
  );
  const [destination, port] = [address?.get(CTA.CTA_IP_V4_DST), ports?.get(CTA.CTA_PROTO_DST_PORT)];
  if (
    tuple === undefined ||
    ports?.get(CTA.CTA_PROTO_NUM)?.[0] !== IPPROTO_UDP ||
    destination === undefined ||
    port === undefined
  )
    return undefined;
  return { destination: numberIn(destination), port: numberIn(port), tuple: tuple.slice() };
}

/** A connection is forgotten. */
export function forget({ tuple }: Tracked): Uint8Array<ArrayBuffer> {
  const NLA_F_NESTED = 0x8000;
  const named = [attribute(CTA.CTA_TUPLE_ORIG | NLA_F_NESTED, tuple)];
  return netlinkMessage(conntrack | IPCTNL_MSG.IPCTNL_MSG_CT_DELETE, NLM_F.NLM_F_ACK, body(AF.AF_INET), named).bytes;
}

/** A table; where there is one of the name it is EEXIST for all of the batch. */
export function newTable(table: string): Uint8Array {
  return message(NFT_MSG.NFT_MSG_NEWTABLE, create | NLM_F.NLM_F_EXCL, [attribute(NFTA.NFTA_TABLE_NAME, table)]);
}

/** Whether there is a table: ENOENT where there is none. */
export function askTable(table: string): Uint8Array<ArrayBuffer> {
  return message(NFT_MSG.NFT_MSG_GETTABLE, 0, [attribute(NFTA.NFTA_TABLE_NAME, table)]);
}

export function deleteTable(table: string): Uint8Array<ArrayBuffer> {
  return batch([message(NFT_MSG.NFT_MSG_DELTABLE, NLM_F.NLM_F_ACK, [attribute(NFTA.NFTA_TABLE_NAME, table)])]);
}

/** A chain of another table's: `policyIn` reads the answer. ENOENT where there is none. */
export function askChain(table: string, chain: string): Uint8Array<ArrayBuffer> {
  return message(NFT_MSG.NFT_MSG_GETCHAIN, 0, [
    attribute(NFTA.NFTA_CHAIN_TABLE, table),
    attribute(NFTA.NFTA_CHAIN_NAME, chain),
  ]);
}

/** What becomes of a packet that no rule of a base chain decides; undefined for another chain. */
export function policyIn(answer: Uint8Array): "drop" | "accept" | undefined {
  const bytes = attributesIn(answer, bodySize).get(NFTA.NFTA_CHAIN_POLICY);
  return bytes === undefined ? undefined : bytes.at(-1) === verdicts.drop ? "drop" : "accept";
}

/** The body of a request for all rules of a chain. */
export function rulesOf(table: string, chain: string): readonly [type: number, body: Uint8Array] {
  const attributes = packed([attribute(NFTA.NFTA_RULE_TABLE, table), attribute(NFTA.NFTA_RULE_CHAIN, chain)]);
  return [typeOfMessage(NFT_MSG.NFT_MSG_GETRULE), new Uint8Array([...body(AF.AF_INET), ...attributes])];
}

/** Whether a rule has a comment. */
export function hasComment(rule: Uint8Array, text: string): boolean {
  const own = comment(text);
  const found = attributesIn(rule, bodySize).get(NFTA.NFTA_RULE_USERDATA);
  return found !== undefined && own.every((byte, at) => found[at] === byte);
}

/** Takes a rule back. @param rule as the kernel has told it */
export function deleteRule(table: string, chain: string, rule: Uint8Array): Uint8Array<ArrayBuffer> {
  const handle = attributesIn(rule, bodySize).get(NFTA.NFTA_RULE_HANDLE) ?? new Uint8Array(8);
  const named = [
    attribute(NFTA.NFTA_RULE_TABLE, table),
    attribute(NFTA.NFTA_RULE_CHAIN, chain),
    attribute(NFTA.NFTA_RULE_HANDLE, handle),
  ];
  return batch([message(NFT_MSG.NFT_MSG_DELRULE, NLM_F.NLM_F_ACK, named)]);
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
          attribute(NFTA.NFTA_CHAIN_HOOK, [
            attribute(NFTA.NFTA_HOOK_HOOKNUM, bigEndian(base.hook)),
            attribute(NFTA.NFTA_HOOK_PRIORITY, bigEndian(base.priority)),
          ]),
          attribute(NFTA.NFTA_CHAIN_TYPE, base.type),
        ];
  return message(NFT_MSG.NFT_MSG_NEWCHAIN, create, [
    attribute(NFTA.NFTA_CHAIN_TABLE, table),
    attribute(NFTA.NFTA_CHAIN_NAME, name),
    ...hangs,
  ]);
}

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
  return message(NFT_MSG.NFT_MSG_NEWSET, create, [
    attribute(NFTA.NFTA_SET_TABLE, table),
    attribute(NFTA.NFTA_SET_NAME, name),
    attribute(NFTA.NFTA_SET_FLAGS, bigEndian(NFT.NFT_SET_MAP)),
    attribute(NFTA.NFTA_SET_KEY_TYPE, typeOf(key)),
    attribute(NFTA.NFTA_SET_KEY_LEN, lengthOf(key)),
    attribute(NFTA.NFTA_SET_DATA_TYPE, typeOf(value)),
    attribute(NFTA.NFTA_SET_DATA_LEN, lengthOf(value)),
    attribute(NFTA.NFTA_SET_ID, bigEndian(number)),
  ]);
}

function dataOf(bytes: Uint8Array): readonly Attribute[] {
  return [attribute(NFTA.NFTA_DATA_VALUE, bytes)];
}

/** A message about one element of a map. @param type NFT_MSG_NEWSETELEM, …GETSETELEM, …DELSETELEM */
export function element(
  type: number,
  table: string,
  map: string,
  key: Uint8Array,
  value?: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const flags =
    type === NFT_MSG.NFT_MSG_GETSETELEM ? 0 : type === NFT_MSG.NFT_MSG_NEWSETELEM ? create : NLM_F.NLM_F_ACK;
  const parts = [
    attribute(NFTA.NFTA_SET_ELEM_KEY, dataOf(key)),
    ...(value === undefined ? [] : [attribute(NFTA.NFTA_SET_ELEM_DATA, dataOf(value))]),
  ];
  return message(type, flags, [
    attribute(NFTA.NFTA_SET_ELEM_LIST_TABLE, table),
    attribute(NFTA.NFTA_SET_ELEM_LIST_SET, map),
    attribute(NFTA.NFTA_SET_ELEM_LIST_ELEMENTS, [attribute(NFTA.NFTA_LIST_ELEM, parts)]),
  ]);
}

/** The value of the one element in what the kernel has told of a map; undefined where there is none. */
export function valueIn(answer: Uint8Array): Uint8Array | undefined {
  let found: Uint8Array | undefined = answer;
  let header = bodySize;
  for (const type of [
    NFTA.NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA.NFTA_LIST_ELEM,
    NFTA.NFTA_SET_ELEM_DATA,
    NFTA.NFTA_DATA_VALUE,
  ]) {
    found = found && attributesIn(found, header).get(type);
    header = 0;
  }
  return found;
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
  return attribute(NFTA.NFTA_LIST_ELEM, [attribute(NFTA.NFTA_EXPR_NAME, name), attribute(NFTA.NFTA_EXPR_DATA, data)]);
}

/** Registers of four bytes. */
export function register(index: number): number {
  return NFT.NFT_REG32_00 + index;
}

const META = { oifname: NFT.NFT_META_OIFNAME, iifname: NFT.NFT_META_IIFNAME, l4proto: NFT.NFT_META_L4PROTO } as const;
const nameSize = 16;

function load(key: keyof typeof META, into: number): Expression {
  return expression("meta", [
    attribute(NFTA.NFTA_META_KEY, bigEndian(META[key])),
    attribute(NFTA.NFTA_META_DREG, bigEndian(into)),
  ]);
}

function compare(operator: "==" | "!=", from: number, bytes: Uint8Array): Expression {
  return expression("cmp", [
    attribute(NFTA.NFTA_CMP_SREG, bigEndian(from)),
    attribute(NFTA.NFTA_CMP_OP, bigEndian(operator === "==" ? NFT.NFT_CMP_EQ : NFT.NFT_CMP_NEQ)),
    attribute(NFTA.NFTA_CMP_DATA, dataOf(bytes)),
  ]);
}

/** The name of the device that a packet comes in by, or goes out by. */
export function device(which: "iifname" | "oifname", operator: "==" | "!=", name: string): Expression[] {
  const bytes = new Uint8Array(nameSize);
  bytes.set(new TextEncoder().encode(name));
  // A register of sixteen bytes, which the first four of four are.
  return [load(which, NFT.NFT_REG_1), compare(operator, NFT.NFT_REG_1, bytes)];
}

function payload(base: number, offset: number, size: number, into: number): Expression {
  return expression("payload", [
    attribute(NFTA.NFTA_PAYLOAD_DREG, bigEndian(into)),
    attribute(NFTA.NFTA_PAYLOAD_BASE, bigEndian(base)),
    attribute(NFTA.NFTA_PAYLOAD_OFFSET, bigEndian(offset)),
    attribute(NFTA.NFTA_PAYLOAD_LEN, bigEndian(size)),
  ]);
}

/** struct iphdr */
const addressAt = { saddr: 12, daddr: 16 } as const;

export function address(which: keyof typeof addressAt, into: number): Expression {
  return payload(NFT.NFT_PAYLOAD_NETWORK_HEADER, addressAt[which], 4, into);
}

export function protocol(into: number): Expression {
  return load("l4proto", into);
}

export function destinationPort(into: number): Expression {
  return payload(NFT.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, into);
}

function masked(from: number, mask: Uint8Array): Expression {
  return expression("bitwise", [
    attribute(NFTA.NFTA_BITWISE_SREG, bigEndian(from)),
    attribute(NFTA.NFTA_BITWISE_DREG, bigEndian(from)),
    attribute(NFTA.NFTA_BITWISE_LEN, bigEndian(mask.byteLength)),
    attribute(NFTA.NFTA_BITWISE_MASK, dataOf(mask)),
    attribute(NFTA.NFTA_BITWISE_XOR, dataOf(new Uint8Array(mask.byteLength))),
  ]);
}

/** An address of a packet is in a network. */
export function within(which: keyof typeof addressAt, network: number, prefix: number): Expression[] {
  const mask = bigEndian((-1 << (32 - prefix)) >>> 0);
  return [address(which, register(0)), masked(register(0), mask), compare("==", register(0), bigEndian(network))];
}

/** The packet is for this host, whichever of its addresses it has. */
export function forThisHost(): Expression[] {
  const RTN_LOCAL = 2;
  return [
    expression("fib", [
      attribute(NFTA.NFTA_FIB_DREG, bigEndian(register(0))),
      attribute(NFTA.NFTA_FIB_RESULT, bigEndian(NFT.NFT_FIB_RESULT_ADDRTYPE)),
      attribute(NFTA.NFTA_FIB_FLAGS, bigEndian(NFT.NFTA_FIB_F_DADDR)),
    ]),
    // A number of the machine's own, as conntrack's are.
    compare("==", register(0), littleEndian(RTN_LOCAL)),
  ];
}

function littleEndian(value: number): Uint8Array {
  return bigEndian(value).reverse();
}

const CT = { state: NFT.NFT_CT_STATE, status: NFT.NFT_CT_STATUS } as const;

/** Any of some bits of what conntrack knows of the packet's connection. */
export function connection(key: keyof typeof CT, anyOf: number): Expression[] {
  return [
    expression("ct", [
      attribute(NFTA.NFTA_CT_DREG, bigEndian(register(0))),
      attribute(NFTA.NFTA_CT_KEY, bigEndian(CT[key])),
    ]),
    masked(register(0), littleEndian(anyOf)),
    compare("!=", register(0), new Uint8Array(4)),
  ];
}

/** The value of a key in a map; where it has none the rule is at its end. */
export function lookUp(map: string, key: number, into: number): Expression {
  return expression("lookup", [
    attribute(NFTA.NFTA_LOOKUP_SET, map),
    attribute(NFTA.NFTA_LOOKUP_SREG, bigEndian(key)),
    attribute(NFTA.NFTA_LOOKUP_DREG, bigEndian(into)),
  ]);
}

/** The packet, and those of its connection, go to another address and port. */
export function redirect(toAddress: number, toPort: number): Expression {
  return expression("nat", [
    attribute(NFTA.NFTA_NAT_TYPE, bigEndian(NFT.NFT_NAT_DNAT)),
    attribute(NFTA.NFTA_NAT_FAMILY, bigEndian(AF.AF_INET)),
    attribute(NFTA.NFTA_NAT_REG_ADDR_MIN, bigEndian(toAddress)),
    attribute(NFTA.NFTA_NAT_REG_PROTO_MIN, bigEndian(toPort)),
  ]);
}

/** The connection goes on under the address of the device that it leaves by. */
export function masquerade(): Expression {
  return expression("masq", []);
}

/** NF_DROP, NF_ACCEPT, and those of nf_tables. */
const verdicts = { drop: 0, accept: 1, jump: NFT.NFT_JUMP, return: NFT.NFT_RETURN } as const;

/** What becomes of the packet. @param chain to jump to */
export function verdict(word: keyof typeof verdicts, chain?: string): Expression {
  const code = [
    attribute(NFTA.NFTA_VERDICT_CODE, bigEndian(verdicts[word])),
    ...(chain === undefined ? [] : [attribute(NFTA.NFTA_VERDICT_CHAIN, chain)]),
  ];
  return expression("immediate", [
    attribute(NFTA.NFTA_IMMEDIATE_DREG, bigEndian(NFT.NFT_REG_VERDICT)),
    attribute(NFTA.NFTA_IMMEDIATE_DATA, [attribute(NFTA.NFTA_DATA_VERDICT, code)]),
  ]);
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
  return message(NFT_MSG.NFT_MSG_NEWRULE, create | (first ? 0 : NLM_F_APPEND), [
    attribute(NFTA.NFTA_RULE_TABLE, table),
    attribute(NFTA.NFTA_RULE_CHAIN, chain),
    attribute(NFTA.NFTA_RULE_EXPRESSIONS, expressions),
    ...(says === undefined ? [] : [attribute(NFTA.NFTA_RULE_USERDATA, comment(says))]),
  ]);
}
