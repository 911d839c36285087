/** What a container has of the host's network, as it is kept in its folder; and the files in it that tell of it. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { readText, writeFully } from "../../ffi/files.ts";
import type { Undo } from "../../ffi/undo.ts";
import type { RunOptions } from "../bundle/command.ts";
import { namesOthers, resolverFile } from "../bundle/resolver.ts";
import { OciboxError } from "../errors.ts";
import type { PublishedPort } from "../network/rules.ts";
import { type ContainerRecord, containerDirectory } from "./record.ts";
import { type ContainerId, inherited } from "./state.ts";

/** Addresses as text. */
interface Place {
  readonly address: string;
  /** Bits of the network's. */
  readonly prefix: number;
  readonly gateway: string;
  readonly hardwareAddress: string;
}

/** How a container is connected while it runs. */
export interface Connected {
  /** At the bridge; undefined in another's namespace. */
  readonly place?: Place;
  readonly ports: readonly PublishedPort[];
  /** The folder of the container whose network it is. */
  readonly like?: string;
}

/**
 * Connects a container: init inherits what holds it, from `inherited.network` on. What fails, and what follows it and
 * fails, leaves nothing.
 * @throws OciboxError
 */
export type Connect = (id: ContainerId, wanted: Pick<ContainerRecord, "publish" | "address">, undo: Undo) => Connected;

/** The last number that init inherits something by. @param ports how many are published */
export function lastInherited(network: string, ports: number): number {
  if (network === "none" || network === "host") return inherited.lock;
  return network === "bridge" ? inherited.lease + ports : inherited.network;
}

/** A namespace by the descriptor that init inherits. */
export const namespacePath = `/proc/self/fd/${inherited.network}`;

function fileOf(root: string, id: ContainerId): string {
  return `${containerDirectory(root, id)}/network.json`;
}

/** Made anew each time a container starts. */
function rewrite(path: string, text: string, mode: number): void {
  attempt("unlinkat", AT_FDCWD, path, 0);
  const flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
  using file = new OwnedFd(direct.openat(AT_FDCWD, path, flags, mode));
  writeFully(file.fd, text);
}

export function keepConnected(root: string, id: ContainerId, connected: Connected): void {
  rewrite(fileOf(root, id), JSON.stringify(connected), 0o600);
}

/** How a container is, or was when it ran the last time; undefined where it has its own loopback or the host's network. */
export function readConnected(root: string, id: ContainerId): Connected | undefined {
  const text = readText(fileOf(root, id));
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as Connected;
  } catch {
    // The disk was full.
    return undefined;
  }
}

/** What the teardown of a killed supervisor's has not come to: nothing leads to the container any more. */
export function disconnect(root: string, id: ContainerId): void {
  const { place, ports = [] } = readConnected(root, id) ?? {};
  if (place === undefined || ports.length === 0) return;
  // Seldom needed, by what every command begins with.
  const { withdraw } = require("../network/ports.ts") as typeof import("../network/ports.ts");
  withdraw(ports, place.address);
}

function hostsText(hostname: string, place: Place | undefined): string {
  const local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
  if (place === undefined) return `${local}127.0.0.1\t${hostname}\n`;
  const names = "host.docker.internal host.containers.internal";
  return `${local}${place.gateway}\t${names}\n${place.address}\t${hostname}\n`;
}

/** --add-host NAME:host-gateway: what the host is for the container. @throws OciboxError USAGE */
function addedHost(line: string, network: string, place: Place | undefined): string {
  const [address = "", name] = line.split("\t");
  if (address !== "host-gateway") return `${line}\n`;
  if (network === "host") return `127.0.0.1\t${name}\n`;
  // Of one that is only made it is not known yet.
  if (place !== undefined || network === "bridge") return `${place?.gateway ?? "0.0.0.0"}\t${name}\n`;
  throw new OciboxError(
    "USAGE",
    `--add-host is "${name}:host-gateway", and with --network ${network} there is no gateway`,
  );
}

/** Whose /etc/hosts and /etc/resolv.conf are its own, too. */
function filesLike(network: string, connected: Connected | undefined): string | undefined {
  if (connected?.like !== undefined) return connected.like;
  return network === "host" || network.startsWith("ns:") ? "/etc" : undefined;
}

/** A container's own /etc/hosts: as it is when it starts. @param added what --add-host adds */
export function writeHosts(
  directory: string,
  hostname: string,
  network: string,
  connected: Connected | undefined,
  added: readonly string[],
): void {
  const like = filesLike(network, connected);
  const own = like && readText(`${like}/hosts`);
  const lines = added.map((line) => addedHost(line, network, connected?.place));
  rewrite(`${directory}/hosts`, (own ?? hostsText(hostname, connected?.place)) + lines.join(""), 0o644);
}

/** The host's resolv.conf; where it names only the host itself, and systemd-resolved is that, whom it asks. */
function hostsResolver(): string {
  const text = readText("/etc/resolv.conf") ?? "";
  if (namesOthers(text)) return text;
  const behind = readText("/run/systemd/resolve/resolv.conf");
  return behind !== undefined && namesOthers(behind) ? behind : text;
}

/** hosts, hostname and resolv.conf of a new container; with the host's network, the host's own words. */
export function writeNetworkFiles(
  directory: string,
  hostname: string,
  { network, more }: RunOptions,
  connected: Connected | undefined,
): void {
  rewrite(`${directory}/hostname`, `${hostname}\n`, 0o644);
  writeHosts(directory, hostname, network, connected, more.hosts ?? []);
  const like = filesLike(network, connected);
  const theirs = like === undefined ? (network === "none" ? "" : hostsResolver()) : readText(`${like}/resolv.conf`);
  rewrite(`${directory}/resolv.conf`, resolverFile(theirs ?? "", more.resolver, like === undefined), 0o644);
}
