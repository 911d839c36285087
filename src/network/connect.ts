/**
 * A container's place at the bridge: a network namespace with a device, an address that nobody else has, and the way out.
 *
 * The namespace is made here, by a thread that goes there and comes back, and kept by a descriptor, which the container's
 * process joins by. With the last that holds it the kernel removes the namespace, and both ends of the device: nothing of
 * it is left wherever something fails, and a killed supervisor leaves none either.
 *
 * An address is taken by a name in the abstract namespace of unix(7), which is of the network namespace that the bridge
 * is in: the kernel frees it with the descriptor. There is no list of addresses that could be wrong.
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
  SOCK,
  VETH_INFO_PEER,
} from "../../ffi/constants.ts";
import { direct, tolerate } from "../../ffi/direct.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { addressBody, attribute, bigEndian, linkBody, netlinkMessage, packed, routeBody } from "../../ffi/netlink.ts";
import { NetlinkSocket } from "../../ffi/netlink-socket.ts";
import { OciboxError } from "../errors.ts";
import { dotted, hostsIn, isIn, writtenSubnet } from "./addresses.ts";
import { askLink, type Bridge, hardwareAddress, indexOf, refused, setting, tell } from "./bridge.ts";
import { insideName } from "./names.ts";

/** A container's place, while both descriptors are held. */
export interface Connection extends Disposable {
  readonly namespace: OwnedFd;
  readonly lease: OwnedFd;
  readonly address: number;
}

/** struct sockaddr_un of a name that no file has. */
function abstractName(name: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(3 + name.length);
  bytes[0] = AF.AF_UNIX;
  bytes.set(new TextEncoder().encode(name), 3);
  return bytes;
}

/** Holds an address; undefined while somebody else does. */
function hold(address: number): OwnedFd | undefined {
  const socket = new OwnedFd(direct.socket(AF.AF_UNIX, SOCK.SOCK_DGRAM | SOCK.SOCK_CLOEXEC, 0));
  const name = abstractName(`ocibox/${dotted(address)}`);
  if (tolerate(["EADDRINUSE"], "bind", socket.fd, name, name.byteLength) >= 0) return socket;
  socket[Symbol.dispose]();
  return undefined;
}

interface Lease {
  readonly lease: OwnedFd;
  readonly address: number;
}

/** @throws OciboxError USAGE for one that is not of the bridge's, IN_USE for one that somebody has */
function take(bridge: Bridge, wanted: number): Lease {
  const { subnet } = bridge;
  const last = subnet.network + hostsIn(subnet) + 1;
  if (!isIn(subnet, wanted) || wanted === subnet.network || wanted === last || wanted === bridge.address)
    throw new OciboxError("USAGE", `--ip is "${dotted(wanted)}", which is no container's in ${writtenSubnet(subnet)}`);
  const lease = hold(wanted);
  if (lease === undefined) throw new OciboxError("IN_USE", `--ip is "${dotted(wanted)}", which another container has`);
  return { lease, address: wanted };
}

/** What is made up anew for each place. */
function random(bytes: number): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(bytes));
}

/**
 * An address that is free. The search begins anywhere, so that one that was just given back is not the next to be taken:
 * others may still know its last owner, whose namespace the kernel takes apart in its own time.
 * @throws OciboxError HOST where all are taken
 */
function takeAny(bridge: Bridge): Lease {
  const { subnet } = bridge;
  const count = hostsIn(subnet);
  const from = Number.parseInt(random(4).toHex(), 16);
  for (let turn = 0; turn < count; turn++) {
    const address = subnet.network + 1 + ((from + turn) % count);
    if (address === bridge.address) continue;
    const lease = hold(address);
    if (lease !== undefined) return { lease, address };
  }
  throw new OciboxError("HOST", `all addresses of ${writtenSubnet(subnet)} are taken`);
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

/**
 * The two ends of the device: one at the bridge, one in the container. Its name on the host is not the container's, which may
 * be started again before the kernel has removed the device that it had.
 */
function makeDevice(bridge: Bridge, namespace: number, address: number): void {
  const name = `ocb${random(6).toHex()}`;
  const peer = packed([
    attribute(IFLA.IFLA_IFNAME, insideName),
    attribute(IFLA.IFLA_MTU, bridge.mtu),
    attribute(IFLA.IFLA_ADDRESS, hardwareAddress(address)),
    attribute(IFLA.IFLA_NET_NS_FD, namespace),
  ]);
  const message = netlinkMessage(RTM.RTM_NEWLINK, once, linkBody(0, IFF_UP, IFF_UP), [
    attribute(IFLA.IFLA_IFNAME, name),
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
  using socket = new NetlinkSocket(NETLINK.NETLINK_ROUTE);
  tell(socket, `RTM_NEWLINK("${name}", veth)`, message);
  setting(`ipv6/conf/${name}/disable_ipv6`, "1", true);
  const link = askLink(socket, name);
  if (link === undefined) refused(`RTM_GETLINK("${name}")`, errnoOf("ENODEV"));
  // Where bridges hand their packets to the rules (br_netfilter), what a container sends to its own published port is turned
  // round within the bridge.
  const hairpin = netlinkMessage(RTM.RTM_SETLINK, NLM_F.NLM_F_ACK, linkBody(indexOf(link), 0, 0, AF.AF_BRIDGE), [
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
  const index = indexOf(link);
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
  const { lease, address } = wanted === undefined ? takeAny(bridge) : take(bridge, wanted);
  let namespace: OwnedFd | undefined;
  try {
    const inside = makeNamespace();
    namespace = inside.namespace;
    using socket = inside.socket;
    makeDevice(bridge, namespace.fd, address);
    configure(bridge, socket, address);
  } catch (error) {
    namespace?.[Symbol.dispose]();
    lease[Symbol.dispose]();
    throw error;
  }
  const held = namespace;
  return {
    namespace: held,
    lease,
    address,
    [Symbol.dispose]() {
      held[Symbol.dispose]();
      lease[Symbol.dispose]();
    },
  };
}
