/**
 * A container's place at the bridge: a network namespace with a device, an address that nobody else has, and the way out.
 *
 * The namespace is made here, by a thread that goes there and comes back, and kept by a descriptor, which the container's
 * process joins by. With the last that holds it the kernel removes the namespace, and both ends of the device: nothing of
 * it is left wherever something fails, and a killed supervisor leaves none either.
 *
 * An address is taken by the device's name on the host, which follows from it: while there is a device there is no other of
 * the name. There is no list of addresses that could be wrong, and it is taken for as long as anybody is in the namespace.
 */
import {
  AF,
  AT_FDCWD,
  CLONE,
  IFA,
  IFF_UP,
  IFLA,
  IFLA_BRPORT_MODE,
  IFLA_INFO,
  NETLINK,
  NLM_F,
  O,
  RTA,
  RTM,
  RTPROT,
  VETH_INFO_PEER,
} from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import {
  addressBody,
  attribute,
  bigEndian,
  linkBody,
  linkIndex,
  netlinkMessage,
  packed,
  routeBody,
} from "../../ffi/netlink.ts";
import { NetlinkSocket } from "../../ffi/netlink-socket.ts";
import { Undo } from "../../ffi/undo.ts";
import { OciboxError } from "../errors.ts";
import { dotted, hostsIn, isIn, writtenSubnet } from "./addresses.ts";
import { askLink, type Bridge, hardwareAddress, openSocket, refused, setting, tell } from "./bridge.ts";
import { insideName } from "./names.ts";

/** A container's place, while its namespace is held. */
export interface Connection extends Disposable {
  readonly namespace: OwnedFd;
  readonly address: number;
}

interface Inside {
  readonly namespace: OwnedFd;
  readonly socket: NetlinkSocket;
}

const ownNamespace = "/proc/thread-self/ns/net";

/** A new network namespace, and a socket that speaks with it. This thread is where it was afterwards. */
function makeNamespace(): Inside {
  const flags = O.O_RDONLY | O.O_CLOEXEC;
  using own = new OwnedFd(direct.openat(AT_FDCWD, ownNamespace, flags, 0));
  direct.unshare(CLONE.CLONE_NEWNET);
  try {
    // Before there is a device that it would be of: it has no way to anywhere by IPv6.
    setting("ipv6/conf/default/disable_ipv6", "1", true);
    return {
      namespace: new OwnedFd(direct.openat(AT_FDCWD, ownNamespace, flags, 0)),
      socket: new NetlinkSocket(NETLINK.NETLINK_ROUTE),
    };
  } finally {
    direct.setns(own.fd, CLONE.CLONE_NEWNET);
  }
}

const once = NLM_F.NLM_F_ACK | NLM_F.NLM_F_CREATE | NLM_F.NLM_F_EXCL;

/** What its device is called on the host. */
function deviceName(address: number): string {
  return `ocb${bigEndian(address).toHex()}`;
}

/** The two ends of a device: one at the bridge, one in the container. @returns 0, or the errno */
function makeDevice(socket: NetlinkSocket, bridge: Bridge, namespace: number, address: number): number {
  const peer = packed([
    attribute(IFLA.IFLA_IFNAME, insideName),
    attribute(IFLA.IFLA_MTU, bridge.mtu),
    attribute(IFLA.IFLA_ADDRESS, hardwareAddress(address)),
    attribute(IFLA.IFLA_NET_NS_FD, namespace),
  ]);
  const message = netlinkMessage(RTM.RTM_NEWLINK, once, linkBody(0, IFF_UP, IFF_UP), [
    attribute(IFLA.IFLA_IFNAME, deviceName(address)),
    attribute(IFLA.IFLA_MTU, bridge.mtu),
    attribute(IFLA.IFLA_MASTER, bridge.index),
    attribute(IFLA.IFLA_LINKINFO, [
      attribute(IFLA_INFO.IFLA_INFO_KIND, "veth"),
      attribute(IFLA_INFO.IFLA_INFO_DATA, [
        // Not up yet: it has no other end while it is made.
        attribute(VETH_INFO_PEER, new Uint8Array([...linkBody(0), ...peer])),
      ]),
    ]),
  ]);
  return socket.tell(message);
}

/** How long the last owner of an address is waited for, ms: the kernel takes namespaces apart in its own time. */
const patience = 2000;

/** @throws OciboxError USAGE for one that is not of the bridge's, IN_USE for one that somebody has */
function take(socket: NetlinkSocket, bridge: Bridge, namespace: number, wanted: number): number {
  const { subnet } = bridge;
  const last = subnet.network + hostsIn(subnet) + 1;
  if (!isIn(subnet, wanted) || wanted === subnet.network || wanted === last || wanted === bridge.address)
    throw new OciboxError("USAGE", `--ip is "${dotted(wanted)}", which is no container's in ${writtenSubnet(subnet)}`);
  for (const end = performance.now() + patience; ; Bun.sleepSync(10)) {
    const errno = makeDevice(socket, bridge, namespace, wanted);
    if (errno === 0) return wanted;
    if (errno !== errnoOf("EEXIST")) refused(`RTM_NEWLINK("${deviceName(wanted)}", veth)`, errno);
    if (performance.now() > end)
      throw new OciboxError("IN_USE", `--ip is "${dotted(wanted)}", which another container has`);
  }
}

/**
 * An address that is free. The search begins anywhere, so that one that was just given back is not the next to be taken:
 * others may still know its last owner.
 * @throws OciboxError HOST where all are taken
 */
function takeAny(socket: NetlinkSocket, bridge: Bridge, namespace: number): number {
  const { subnet } = bridge;
  const count = hostsIn(subnet);
  const from = Number.parseInt(crypto.getRandomValues(new Uint8Array(4)).toHex(), 16);
  for (let turn = 0; turn < count; turn++) {
    const address = subnet.network + 1 + ((from + turn) % count);
    if (address === bridge.address) continue;
    const errno = makeDevice(socket, bridge, namespace, address);
    if (errno === 0) return address;
    if (errno !== errnoOf("EEXIST")) refused(`RTM_NEWLINK("${deviceName(address)}", veth)`, errno);
  }
  throw new OciboxError("HOST", `all addresses of ${writtenSubnet(subnet)} are taken`);
}

/** The end at the bridge. */
function configureOutside(socket: NetlinkSocket, address: number): void {
  const name = deviceName(address);
  setting(`ipv6/conf/${name}/disable_ipv6`, "1", true);
  const link = askLink(socket, name);
  if (link === undefined) refused(`RTM_GETLINK("${name}")`, errnoOf("ENODEV"));
  // Where bridges hand their packets to the rules (br_netfilter), what a container sends to its own published port is turned
  // round within the bridge.
  const hairpin = netlinkMessage(RTM.RTM_SETLINK, NLM_F.NLM_F_ACK, linkBody(linkIndex(link), 0, 0, AF.AF_BRIDGE), [
    attribute(IFLA.IFLA_PROTINFO, [attribute(IFLA_BRPORT_MODE, Uint8Array.of(1))]),
  ]);
  tell(socket, `RTM_SETLINK("${name}", IFLA_BRPORT_MODE)`, hairpin);
}

/** The address, loopback, and the way out by the gateway. */
function configure(bridge: Bridge, socket: NetlinkSocket, address: number): void {
  const raise = (name: string, index: number): void => {
    const up = netlinkMessage(RTM.RTM_NEWLINK, NLM_F.NLM_F_ACK, linkBody(index, IFF_UP, IFF_UP));
    tell(socket, `RTM_NEWLINK("${name}", IFF_UP)`, up);
  };
  const LOOPBACK = 1;
  raise("lo", LOOPBACK);
  const link = askLink(socket, insideName);
  if (link === undefined) refused(`RTM_GETLINK("${insideName}")`, errnoOf("ENODEV"));
  const index = linkIndex(link);
  raise(insideName, index);
  const { subnet } = bridge;
  const own = bigEndian(address);
  const added = netlinkMessage(RTM.RTM_NEWADDR, once, addressBody(AF.AF_INET, subnet.prefix, 0, index), [
    attribute(IFA.IFA_LOCAL, own),
    attribute(IFA.IFA_ADDRESS, own),
    attribute(IFA.IFA_BROADCAST, bigEndian(subnet.network + hostsIn(subnet) + 1)),
  ]);
  tell(socket, `RTM_NEWADDR("${insideName}", ${dotted(address)})`, added);
  const route = netlinkMessage(RTM.RTM_NEWROUTE, once, routeBody(AF.AF_INET, 0, RTPROT.RTPROT_STATIC), [
    attribute(RTA.RTA_GATEWAY, bigEndian(bridge.address)),
  ]);
  tell(socket, `RTM_NEWROUTE(default via ${dotted(bridge.address)})`, route);
}

/**
 * Gives a container its place.
 * @param wanted the address; undefined where any will do
 * @throws OciboxError HOST, SyscallError; nothing is left then
 */
export function connect(bridge: Bridge, wanted: number | undefined): Connection {
  const { namespace, socket: inner } = makeNamespace();
  using inside = inner;
  using undo = new Undo();
  undo.use(namespace);
  using outside = openSocket("NETLINK_ROUTE");
  const address =
    wanted === undefined ? takeAny(outside, bridge, namespace.fd) : take(outside, bridge, namespace.fd, wanted);
  configureOutside(outside, address);
  configure(bridge, inside, address);
  undo.keep();
  return { namespace, address, [Symbol.dispose]: () => namespace[Symbol.dispose]() };
}
