/**
 * The bridge that containers are at: a device of the host's with an address of its own, which is their gateway, and the
 * rules beside it. It is made when the first container needs it, and stays, as other tools' bridges do.
 *
 * Nothing is locked: each part can be made by two at once, of whom the second finds it there. What lets packets
 * through is set last.
 */
import { AF, AT_FDCWD, IFA, IFF_UP, IFLA, IFLA_INFO, NETLINK, NLM_F, O, RTM } from "../../ffi/constants.ts";
import { attempt, SyscallError } from "../../ffi/direct.ts";
import { type ErrnoName, errnoOf, errnoWords, failedBy } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { readText, writeFully } from "../../ffi/files.ts";
import {
  addressBody,
  addressSize,
  attribute,
  attributesIn,
  bigEndian,
  linkBody,
  linkIndex,
  linkSize,
  type NetlinkMessage,
  netlinkMessage,
  numberIn,
  type Received,
  wordOf,
} from "../../ffi/netlink.ts";
import { NetlinkSocket } from "../../ffi/netlink-socket.ts";
import { OciboxError } from "../errors.ts";
import { overlap, type Route, routesIn, type Subnet, subnetOf, writtenSubnet } from "./addresses.ts";
import { bridgeName, tableName } from "./names.ts";
import { askChain, askTable, deleteRule, deleteTable, hasComment, policyIn, rulesOf } from "./netfilter.ts";
import { others, passMessages, tableMessages } from "./rules.ts";

export interface Bridge {
  /** Of the device. */
  readonly index: number;
  /** The host's own at it: the containers' gateway. */
  readonly address: number;
  readonly subnet: Subnet;
  /** Bytes. */
  readonly mtu: number;
}

const usualMtu = 1500;
/** Of the networks that are tried, bits. */
const prefix = 16;
/** Tried in turn, until one is not on the way to anywhere else: 10.87 and those before it, and some of 172.16/12. */
const candidates = (): number[] => [
  ...[87, 86, 85, 84, 83, 82, 81, 80].map((second) => ((10 << 24) | (second << 16)) >>> 0),
  ...[29, 28, 27, 26].map((second) => ((172 << 24) | (second << 16)) >>> 0),
];
const withoutIt = "--network host has the host's network, --network none has loopback alone";

/** @throws OciboxError HOST */
export function refused(deed: string, errno: number): never {
  throw new OciboxError("HOST", `cannot change the network: ${deed} failed: ${errnoWords(errno)}`, { hint: withoutIt });
}

/** @throws OciboxError HOST where the kernel has no such sockets, or somebody forbids them */
export function openSocket(protocol: keyof typeof NETLINK): NetlinkSocket {
  try {
    return new NetlinkSocket(NETLINK[protocol]);
  } catch (error) {
    if (error instanceof SyscallError) refused(`socket(AF_NETLINK, ${protocol})`, error.errno);
    throw error;
  }
}

/** Tells the kernel something; the errnos named are no failure. @throws OciboxError HOST */
export function tell(
  socket: NetlinkSocket,
  deed: string,
  message: Pick<NetlinkMessage, "bytes">,
  ...tolerated: readonly ErrnoName[]
): void {
  refuseIf(deed, socket.tell(message), tolerated);
}

/** The same for messages that hold together. @throws OciboxError HOST */
export function tellAll(
  socket: NetlinkSocket,
  deed: string,
  messages: Pick<NetlinkMessage, "bytes">,
  ...tolerated: readonly ErrnoName[]
): void {
  refuseIf(deed, socket.tellAll(messages), tolerated);
}

function refuseIf(deed: string, errno: number, tolerated: readonly ErrnoName[]): void {
  if (errno !== 0 && !tolerated.some((each) => errnoOf(each) === errno)) refused(deed, errno);
}

/** The device of a name; undefined where there is none. @throws OciboxError HOST */
export function askLink(socket: NetlinkSocket, name: string): Received | undefined {
  const answer = socket.link(name);
  if (typeof answer !== "number") return answer;
  if (answer === errnoOf("ENODEV")) return undefined;
  refused(`RTM_GETLINK("${name}")`, answer);
}

function mtuOf({ body }: Received): number {
  return wordOf(attributesIn(body, linkSize), IFLA.IFLA_MTU) || usualMtu;
}

interface OwnAddress {
  readonly index: number;
  readonly address: number;
  readonly prefix: number;
}

/** This host's addresses of IPv4. */
function addresses(socket: NetlinkSocket): OwnAddress[] {
  const found: OwnAddress[] = [];
  for (const answer of socket.dump(RTM.RTM_GETADDR, addressBody(AF.AF_INET, 0, 0, 0))) {
    const { body } = answer;
    const bytes = attributesIn(body, addressSize).get(IFA.IFA_LOCAL);
    if (bytes?.byteLength !== 4) continue;
    const address = numberIn(bytes);
    found.push({ index: linkIndex(answer), address, prefix: body[1] ?? prefix });
  }
  return found;
}

/** Every address that packets to this host may have. */
export function ownAddresses(): ReadonlySet<number> {
  using socket = openSocket("NETLINK_ROUTE");
  const found = new Set<number>();
  for (const { address } of addresses(socket)) found.add(address);
  return found;
}

/** The address that a device has, if any. */
function addressAt(socket: NetlinkSocket, index: number): Pick<Bridge, "address" | "subnet"> | undefined {
  for (const each of addresses(socket))
    if (each.index === index) return { address: each.address, subnet: subnetOf(each.address, each.prefix) };
  return undefined;
}

function lookFor(socket: NetlinkSocket): Bridge | undefined {
  const link = askLink(socket, bridgeName);
  if (link === undefined) return undefined;
  const index = linkIndex(link);
  const at = addressAt(socket, index);
  return at && { index, mtu: mtuOf(link), ...at };
}

/** A network that none of the host's routes leads to. @throws OciboxError HOST */
export function freeSubnet(routes: readonly Route[]): Subnet {
  const taken = routes.filter((each) => each.prefix > 0 && each.device !== bridgeName);
  const subnets = candidates().map((network) => ({ network, prefix }));
  const free = subnets.find((each) => !taken.some((other) => overlap(each, other)));
  if (free !== undefined) return free;
  const tried = `${writtenSubnet({ network: candidates()[0] ?? 0, prefix })} and ${subnets.length - 1} others`;
  throw new OciboxError("HOST", `cannot make a container's network: this host has ways to ${tried}`, {
    hint: `name one that is free: OCIBOX_SUBNET=192.168.77.0/24; ${withoutIt}`,
  });
}

/** 02:42 and the address, as docker has it: locally administered, and no other's on the bridge. */
export function hardwareAddress(address: number): Uint8Array {
  return new Uint8Array([2, 0x42, ...bigEndian(address)]);
}

function isSet(name: string, value: string): boolean {
  return readText(`/proc/sys/net/${name}`)?.trim() === value;
}

/** Writes a setting of the host's. @throws OciboxError HOST, but where there is none of the name and it is `optional` */
export function setting(name: string, value: string, optional = false): void {
  const path = `/proc/sys/net/${name}`;
  if (isSet(name, value)) return;
  const fd = attempt("openat", AT_FDCWD, path, O.O_WRONLY | O.O_CLOEXEC, 0);
  if (fd < 0 && optional && failedBy(fd, "ENOENT")) return;
  if (fd < 0) refused(`writing ${path}`, -fd);
  using file = new OwnedFd(fd);
  try {
    writeFully(file.fd, value);
  } catch (error) {
    if (error instanceof SyscallError) refused(`writing ${path}`, error.errno);
    throw error;
  }
}

/** What is set when all else is there. */
const loopbackRoutes = [`ipv4/conf/${bridgeName}/route_localnet`, "1"] as const;
const forwarding = ["ipv4/ip_forward", "1"] as const;

/** What a packet to the rest of the world may have: less than usual where the host is in a tunnel. */
function mtuOutside(socket: NetlinkSocket, routes: readonly Route[]): number {
  const way = routes.find((each) => each.prefix === 0);
  const link = way && askLink(socket, way.device);
  return link === undefined ? usualMtu : mtuOf(link);
}

function make(socket: NetlinkSocket, filter: NetlinkSocket, wanted: Subnet | undefined): Bridge {
  const routes = routesIn(readText("/proc/net/route") ?? "");
  const once = NLM_F.NLM_F_ACK | NLM_F.NLM_F_CREATE | NLM_F.NLM_F_EXCL;
  const subnet = wanted ?? freeSubnet(routes);
  const chosen = subnet.network + 1;
  const device = netlinkMessage(RTM.RTM_NEWLINK, once, linkBody(0, IFF_UP, IFF_UP), [
    attribute(IFLA.IFLA_IFNAME, bridgeName),
    // Else it is that of whichever container came first.
    attribute(IFLA.IFLA_ADDRESS, hardwareAddress(chosen)),
    attribute(IFLA.IFLA_LINKINFO, [attribute(IFLA_INFO.IFLA_INFO_KIND, "bridge")]),
  ]);
  tell(socket, `RTM_NEWLINK("${bridgeName}", bridge)`, device, "EEXIST");
  setting(`ipv6/conf/${bridgeName}/disable_ipv6`, "1", true);
  const link = askLink(socket, bridgeName);
  const index = link === undefined ? 0 : linkIndex(link);
  // Told afterwards: else the kernel takes it for its own to choose, and forgets it with the last container.
  const narrow = netlinkMessage(RTM.RTM_NEWLINK, NLM_F.NLM_F_ACK, linkBody(index), [
    attribute(IFLA.IFLA_MTU, mtuOutside(socket, routes)),
  ]);
  tell(socket, `RTM_NEWLINK("${bridgeName}", IFLA_MTU)`, narrow);
  if (addressAt(socket, index) === undefined) {
    const bytes = bigEndian(chosen);
    const message = netlinkMessage(RTM.RTM_NEWADDR, once, addressBody(AF.AF_INET, subnet.prefix, 0, index), [
      attribute(IFA.IFA_LOCAL, bytes),
      attribute(IFA.IFA_ADDRESS, bytes),
    ]);
    tell(socket, `RTM_NEWADDR("${bridgeName}")`, message, "EEXIST");
  }
  const bridge = lookFor(socket);
  if (bridge === undefined) refused(`RTM_GETADDR("${bridgeName}")`, errnoOf("ENODEV"));
  const table = { bytes: tableMessages(bridge.subnet) };
  tellAll(filter, `NFT_MSG_NEWTABLE("${tableName}") of nf_tables`, table, "EEXIST");
  // Not before there are rules.
  setting(...loopbackRoutes);
  setting(...forwarding);
  return bridge;
}

/** The rules of somebody else's chain: those that are ours, and how many there are. */
function forwardRules(filter: NetlinkSocket): { readonly own: readonly Received[]; readonly all: number } {
  const rules = filter.dump(...rulesOf(others.table, others.chain));
  return { own: rules.filter(({ body }) => hasComment(body, tableName)), all: rules.length };
}

/**
 * Where somebody else's rules may drop what is sent on, what is sent on by containers and to them is let through: docker and
 * ufw have such rules. A packet that one table drops no other can save.
 */
function passOthers(filter: NetlinkSocket): void {
  const chain = filter.ask({ bytes: askChain(others.table, others.chain) });
  if (typeof chain === "number") return;
  const { own, all } = forwardRules(filter);
  // Without rules, and let through in the end: nobody is in the way.
  if (own.length > 0 || (all === 0 && policyIn(chain.body) !== "drop")) return;
  tellAll(filter, `NFT_MSG_NEWRULE("${others.chain}") of nf_tables`, { bytes: passMessages() });
}

/**
 * Takes the bridge and its rules away where no container is at it.
 * @returns whether it was there, and is not any more
 */
export function removeBridge(): boolean {
  using socket = openSocket("NETLINK_ROUTE");
  const link = askLink(socket, bridgeName);
  if (link === undefined) return false;
  const index = linkIndex(link);
  const all = socket.dump(RTM.RTM_GETLINK, linkBody(0));
  if (all.some(({ body }) => wordOf(attributesIn(body, linkSize), IFLA.IFLA_MASTER) === index)) return false;
  using filter = openSocket("NETLINK_NETFILTER");
  if (typeof filter.ask({ bytes: askChain(others.table, others.chain) }) !== "number")
    for (const { body } of forwardRules(filter).own)
      filter.tellAll({ bytes: deleteRule(others.table, others.chain, body) });
  tellAll(filter, `NFT_MSG_DELTABLE("${tableName}") of nf_tables`, { bytes: deleteTable(tableName) }, "ENOENT");
  tell(
    socket,
    `RTM_DELLINK("${bridgeName}")`,
    netlinkMessage(RTM.RTM_DELLINK, NLM_F.NLM_F_ACK, linkBody(index)),
    "ENODEV",
  );
  return true;
}

/** The bridge as it is; undefined where there is none. @throws OciboxError HOST */
export function findBridge(): Bridge | undefined {
  using socket = openSocket("NETLINK_ROUTE");
  return lookFor(socket);
}

/**
 * The bridge, made where it is not there.
 * @param wanted its network
 * @throws OciboxError HOST where the kernel refuses it, or has no bridges, or no nf_tables; IN_USE where it has another network
 */
export function openBridge(wanted?: Subnet): Bridge {
  using socket = openSocket("NETLINK_ROUTE");
  using filter = openSocket("NETLINK_NETFILTER");
  const found = lookFor(socket);
  const table = filter.ask({ bytes: askTable(tableName) });
  // Before anything of the host's is changed.
  if (typeof table === "number" && table !== errnoOf("ENOENT")) refused("NFT_MSG_GETTABLE of nf_tables", table);
  const whole = found !== undefined && typeof table !== "number" && isSet(...loopbackRoutes) && isSet(...forwarding);
  const bridge = whole ? found : make(socket, filter, wanted);
  passOthers(filter);
  if (wanted === undefined || writtenSubnet(wanted) === writtenSubnet(bridge.subnet)) return bridge;
  throw new OciboxError(
    "IN_USE",
    `OCIBOX_SUBNET is "${writtenSubnet(wanted)}", and ${bridgeName} is ${writtenSubnet(bridge.subnet)} already`,
    { hint: "ocibox prune takes it away when no container is at it" },
  );
}
