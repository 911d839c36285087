/** A container's /etc/hosts, /etc/hostname and /etc/resolv.conf, where it has more than its own loopback, or was given names. */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { readText, writeNew } from "../../ffi/files.ts";
import type { RunOptions } from "../bundle/command.ts";
import { namesOthers, type ResolverFlags, resolverFile } from "../bundle/resolver.ts";
import { OciboxError } from "../errors.ts";
import { type Connected, loopbackNames, type Place } from "./network.ts";
import type { ContainerRecord } from "./record.ts";

/** Made anew each time a container starts. */
export function rewrite(path: string, text: string, mode: number): void {
  attempt("unlinkat", AT_FDCWD, path, 0);
  writeNew(path, text, mode);
}

function hostsText(hostname: string, place: Place | undefined): string {
  if (place === undefined) return `${loopbackNames}127.0.0.1\t${hostname}\n`;
  const names = "host.docker.internal host.containers.internal";
  return `${loopbackNames}${place.gateway}\t${names}\n${place.address}\t${hostname}\n`;
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
function writeHosts(
  directory: string,
  hostname: string,
  network: string,
  connected: Connected | undefined,
  added: readonly string[],
): void {
  const like = filesLike(network, connected);
  const own = like && readText(`${like}/hosts`);
  let text = own ?? hostsText(hostname, connected?.place);
  for (const line of added) text += addedHost(line, network, connected?.place);
  rewrite(`${directory}/hosts`, text, 0o644);
}

/** The host's resolv.conf; where it names only the host itself, and systemd-resolved is that, whom it asks. */
function hostsResolver(): string {
  const text = readText("/etc/resolv.conf") ?? "";
  if (namesOthers(text)) return text;
  const behind = readText("/run/systemd/resolve/resolv.conf");
  return behind !== undefined && namesOthers(behind) ? behind : text;
}

/** A container's own /etc/resolv.conf: as it is when it starts. */
function writeResolver(
  directory: string,
  network: string,
  connected: Connected | undefined,
  flags: ResolverFlags | undefined,
): void {
  const like = filesLike(network, connected);
  const theirs = like === undefined ? (network === "none" ? "" : hostsResolver()) : readText(`${like}/resolv.conf`);
  rewrite(`${directory}/resolv.conf`, resolverFile(theirs ?? "", flags, like === undefined), 0o644);
}

/** What depends on where a container is, when it starts. */
export function writeStartFiles(
  directory: string,
  hostname: string,
  { network = "none", hosts = [], resolver }: Pick<ContainerRecord, "network" | "hosts" | "resolver">,
  connected: Connected,
): void {
  writeHosts(directory, hostname, network, connected, hosts);
  writeResolver(directory, network, connected, resolver);
}

/** hosts, hostname and resolv.conf of a new container; with the host's network, the host's own words. */
export function writeNetworkFiles(
  directory: string,
  hostname: string,
  { network, more }: RunOptions,
  connected: Connected | undefined,
): void {
  writeNew(`${directory}/hostname`, `${hostname}\n`, 0o644);
  writeHosts(directory, hostname, network, connected, more.hosts ?? []);
  writeResolver(directory, network, connected, more.resolver);
}
