/**
 * Published ports: each is held by a socket of the host's, so that nobody else gets it and one that is taken is an error,
 * and leads to its container by an element of a map (rules.ts). Nothing is ever read from the socket.
 */
import { AF, NETLINK, SOCK, SOL_SOCKET } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { errnoWords, failedBy } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { bigEndian, numberIn, type Received } from "../../ffi/netlink.ts";
import { NetlinkError, NetlinkSocket } from "../../ffi/netlink-socket.ts";
import { OciboxError } from "../errors.ts";
import { parseAddress } from "./addresses.ts";
import { openSocket, ownAddresses, tellAll } from "./bridge.ts";
import { datagramsIn, forget, trackedConnections, valueIn } from "./netfilter.ts";
import { type PublishedPort, publishedMessage, publishMessage, withdrawMessage } from "./rules.ts";

/** A port that is asked for. */
export interface WantedPort extends PublishedPort {
  /** Any from `hostPort` to this one; where both are 0, any that is free. */
  readonly upTo: number;
}

export interface HeldPort {
  readonly socket: OwnedFd;
  /** With the number that it has. */
  readonly port: PublishedPort;
}

/** struct sockaddr_in */
function socketAddress(address: number, port: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(16);
  bytes[0] = AF.AF_INET;
  bytes.set(bigEndian(port, 2), 2);
  bytes.set(bigEndian(address), 4);
  return bytes;
}

/** A port as people write it. */
export function writtenPort({ hostAddress, hostPort, containerPort, protocol }: PublishedPort): string {
  const address = hostAddress === undefined ? "" : `${hostAddress}:`;
  return `${address}${hostPort}:${containerPort}${protocol === "tcp" ? "" : `/${protocol}`}`;
}

/** @returns the errno, negative, where that cannot be had */
function hold({ protocol, hostAddress }: PublishedPort, number: number): HeldPort["socket"] | number {
  const type = protocol === "tcp" ? SOCK.SOCK_STREAM : SOCK.SOCK_DGRAM;
  const socket = new OwnedFd(direct.socket(AF.AF_INET, type | SOCK.SOCK_CLOEXEC, 0));
  const bytes = socketAddress((hostAddress && parseAddress(hostAddress)) || 0, number);
  // Connections that somebody has had there and left are in nobody's way, as with other servers; who listens is.
  if (protocol === "tcp")
    direct.setsockopt(socket.fd, SOL_SOCKET.SOL_SOCKET, SOL_SOCKET.SO_REUSEADDR, new Uint8Array([1, 0, 0, 0]), 4);
  let result = attempt("bind", socket.fd, bytes, bytes.byteLength);
  if (result >= 0 && protocol === "tcp") result = attempt("listen", socket.fd, 1);
  if (result >= 0) return socket;
  socket[Symbol.dispose]();
  return result;
}

function numberOf(socket: OwnedFd): number {
  const bytes = socketAddress(0, 0);
  direct.getsockname(socket.fd, bytes, new Uint8Array([bytes.byteLength, 0, 0, 0]));
  return (bytes[2] ?? 0) * 256 + (bytes[3] ?? 0);
}

/** @throws OciboxError USAGE, IN_USE where somebody has it, HOST where the address is none of this host's */
export function holdPort({ upTo, ...wanted }: WantedPort): HeldPort {
  if (wanted.hostAddress !== undefined && parseAddress(wanted.hostAddress) === undefined)
    throw new OciboxError("USAGE", `--publish has "${wanted.hostAddress}", which is no IPv4 address`);
  let failed = 0;
  for (let number = wanted.hostPort; number <= upTo; number++) {
    const socket = hold(wanted, number);
    if (typeof socket !== "number") return { socket, port: { ...wanted, hostPort: numberOf(socket) } };
    failed = socket;
    if (!failedBy(failed, "EADDRINUSE")) break;
  }
  const taken = failedBy(failed, "EADDRINUSE");
  throw new OciboxError(
    taken ? "IN_USE" : "HOST",
    `cannot publish the port ${writtenPort(wanted)}: ${errnoWords(-failed)}`,
    { hint: taken ? "another program or container has it; who: ss -ltnup" : "is the address one of this host's?" },
  );
}

/** An address that was written by ocibox. */
function numberFor(address: string): number {
  return parseAddress(address) ?? 0;
}

/** Lets ports lead to a container. @throws OciboxError HOST; some may be published then */
export function publish(ports: readonly PublishedPort[], to: string): void {
  if (ports.length === 0) return;
  using socket = openSocket("NETLINK_NETFILTER");
  for (const port of ports) {
    // Who has the socket has the port: what is there is left of somebody who was killed.
    socket.tellAll({ bytes: withdrawMessage(port) });
    tellAll(socket, `NFT_MSG_NEWSETELEM(${writtenPort(port)})`, { bytes: publishMessage(port, numberFor(to)) });
  }
  // Who has been sending all along would be led to where the port led before, or nowhere, for as long as they do.
  forgetDatagrams(socket, ports);
}

/** All connections; none where the kernel does not tell of them. */
function known(socket: NetlinkSocket): readonly Received[] {
  try {
    return socket.dump(...trackedConnections);
  } catch (error) {
    if (error instanceof NetlinkError) return [];
    throw error;
  }
}

/** What is known of datagrams to published ports of this host's. */
function forgetDatagrams(socket: NetlinkSocket, ports: readonly PublishedPort[]): void {
  const numbers = new Set<number>();
  for (const { protocol, hostPort } of ports) if (protocol === "udp") numbers.add(hostPort);
  if (numbers.size === 0) return;
  const own = ownAddresses();
  for (const { body } of known(socket)) {
    const tracked = datagramsIn(body);
    if (tracked !== undefined && numbers.has(tracked.port) && own.has(tracked.destination))
      socket.tell({ bytes: forget(tracked) });
  }
}

/** Where a published port leads; undefined where it does not. */
function leadsTo(socket: NetlinkSocket, port: PublishedPort): number | undefined {
  const answer = socket.ask({ bytes: publishedMessage(port) });
  if (typeof answer === "number") return undefined;
  const value = valueIn(answer.body);
  return value && numberIn(value.subarray(0, 4));
}

/** Takes back what leads to a container that is not there any more, and no more than that. */
export function withdraw(ports: readonly PublishedPort[], from: string): void {
  if (ports.length === 0) return;
  try {
    using socket = new NetlinkSocket(NETLINK.NETLINK_NETFILTER);
    for (const port of ports)
      if (leadsTo(socket, port) === numberFor(from)) socket.tellAll({ bytes: withdrawMessage(port) });
  } catch (error) {
    // Where the kernel has no nf_tables (any more) there is nothing to be taken back.
    if (!(error instanceof SyscallError)) throw error;
  }
}
