/** The devices that linux.netDevices names, as they are before they are moved: asked of rtnetlink(7). */
import { AF, AT_FDCWD, IFA, IFF_UP, IFLA, NETLINK, RTA, RTM, RTPROT } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { errnoOf, errnoWords } from "../../ffi/errno.ts";
import {
  addressSize,
  attribute,
  attributesIn,
  linkIndex,
  linkSize,
  type Received,
  routeSize,
  textOf,
  wordOf,
} from "../../ffi/netlink.ts";
import { NetlinkError, NetlinkSocket } from "../../ffi/netlink-socket.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { OciboxError } from "../errors.ts";
import { type NetAddress, type NetDevice, netDeviceNames } from "../plan/net-devices.ts";
import type { Spec } from "../spec/runtime.ts";

const STATX_INO = 0x100;
const ownNamespace = "/proc/self/ns/net";
const infinity = 0xffffffff;
/** RTNH_F_PERVASIVE and RTNH_F_ONLINK: the other flags of a route tell how it is. */
const settableRouteFlags = 6;

/** All addresses or routes of this host. @throws OciboxError HOST */
function dump(socket: NetlinkSocket, type: number, bodySize: number): Received[] {
  try {
    return socket.dump(type, new Uint8Array(bodySize));
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error;
    throw new OciboxError("HOST", `linux.netDevices: the addresses of this host cannot be had: ${error.message}`);
  }
}

/** @throws OciboxError INVALID where there is none */
function link(socket: NetlinkSocket, key: string): Omit<NetDevice, "addresses" | "routes"> {
  const field = `linux.netDevices.${key}`;
  const answer = socket.link(key);
  if (typeof answer === "number")
    throw new OciboxError(
      answer === errnoOf("ENODEV") ? "INVALID" : "HOST",
      `${field}: RTM_GETLINK(IFLA_IFNAME=${JSON.stringify(key)}) failed: ${errnoWords(answer)}`,
    );
  const { body } = answer;
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const attributes = attributesIn(body, linkSize);
  return {
    key,
    name: textOf(attributes, IFLA.IFLA_IFNAME),
    index: linkIndex(answer),
    up: (view.getUint32(8, true) & IFF_UP) !== 0,
    master: wordOf(attributes, IFLA.IFLA_MASTER),
  };
}

const kept: readonly number[] = [IFA.IFA_ADDRESS, IFA.IFA_LOCAL, IFA.IFA_LABEL, IFA.IFA_BROADCAST];
const keptToo: readonly number[] = [IFA.IFA_RT_PRIORITY, IFA.IFA_PROTO];

/** struct ifa_cacheinfo: how long the address is preferred and valid, in seconds. */
function isForever(bytes: Uint8Array): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view.getUint32(0, true) === infinity && view.getUint32(4, true) === infinity;
}

function addressIn({ body }: Received): NetAddress {
  const found = attributesIn(body, addressSize);
  const lifetime = found.get(IFA.IFA_CACHEINFO);
  const attributes = [...found]
    .filter(([type]) => kept.includes(type) || keptToo.includes(type))
    .map(([type, bytes]) => attribute(type, bytes));
  if (lifetime !== undefined && !isForever(lifetime)) attributes.push(attribute(IFA.IFA_CACHEINFO, lifetime));
  const [family = 0, prefix = 0, flags = 0, scope = 0] = body;
  return {
    family,
    prefix,
    scope,
    flags: found.has(IFA.IFA_FLAGS) ? wordOf(found, IFA.IFA_FLAGS) : flags,
    attributes,
  };
}

/** Of IPv6's the last that was added is told first. */
function addressesOf(index: number, all: readonly Received[]): NetAddress[] {
  const own = all
    .filter(({ body }) => new DataView(body.buffer, body.byteOffset).getUint32(4, true) === index)
    .map(addressIn);
  const isIPv6 = (each: NetAddress): boolean => each.family === AF.AF_INET6;
  return [...own.filter((each) => !isIPv6(each)), ...own.filter(isIPv6).reverse()];
}

/**
 * Routes over the device alone that the kernel has not made, and does not make again, by itself; first those that others
 * lead through.
 */
function routesOf(index: number, all: readonly Received[]): Uint8Array[] {
  const own = all
    .map(({ body }) => ({ body, attributes: attributesIn(body, routeSize) }))
    .filter(({ body, attributes }) => {
      const protocol = body[5] ?? 0;
      const made: readonly number[] = [RTPROT.RTPROT_KERNEL, RTPROT.RTPROT_REDIRECT, RTPROT.RTPROT_RA];
      return (
        wordOf(attributes, RTA.RTA_OIF) === index && !made.includes(protocol) && !attributes.has(RTA.RTA_MULTIPATH)
      );
    });
  const through = ({ attributes }: (typeof own)[number]): number =>
    attributes.has(RTA.RTA_GATEWAY) || attributes.has(RTA.RTA_VIA) ? 1 : 0;
  return own
    .toSorted((a, b) => through(a) - through(b))
    .map(({ body }) => {
      const view = new DataView(body.buffer, body.byteOffset);
      view.setUint32(8, view.getUint32(8, true) & settableRouteFlags, true);
      return body;
    });
}

function numberOf(path: string): number | undefined {
  const stat = alloc(256);
  return attempt("statx", AT_FDCWD, path, 0, STATX_INO, stat) < 0 ? undefined : readField("statx", stat, "stx_ino");
}

/** @throws OciboxError INVALID where the container is to have the network namespace that the devices are in */
function checkNamespace({ linux }: Spec, key: string): void {
  const path = linux?.namespaces?.find((each) => each.type === "network")?.path ?? "";
  if (path !== "" && numberOf(path) === numberOf(ownNamespace))
    throw new OciboxError(
      "INVALID",
      `linux.netDevices.${key} wants a network namespace of the container's own: linux.namespaces[network].path is this one`,
    );
}

/**
 * What the plan is told of linux.netDevices; nothing where there are none.
 * @throws OciboxError INVALID for what is wrong with a name, for a device that is not there
 */
export function netDevicesFor(spec: Spec): NetDevice[] {
  const names = [...netDeviceNames(spec.linux ?? {}).keys()];
  const [first] = names;
  if (first === undefined) return [];
  checkNamespace(spec, first);
  using socket = new NetlinkSocket(NETLINK.NETLINK_ROUTE);
  const links = names.map((key) => link(socket, key));
  links.forEach(({ key, index }, at) => {
    const other = links.findIndex((each) => each.index === index);
    if (other !== at)
      throw new OciboxError(
        "INVALID",
        `linux.netDevices.${key} is the device that linux.netDevices.${names[other]} is`,
      );
  });
  const addresses = dump(socket, RTM.RTM_GETADDR, addressSize);
  const routes = dump(socket, RTM.RTM_GETROUTE, routeSize);
  return links.map((each) => ({
    ...each,
    addresses: addressesOf(each.index, addresses),
    routes: routesOf(each.index, routes),
  }));
}
