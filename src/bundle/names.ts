/** --add-host, --dns and their kin: what stands in a container's /etc/hosts and /etc/resolv.conf. Pure. */
import { isIP } from "node:net";
import { OciboxError } from "../errors.ts";
import type { ResolverFlags } from "./resolver.ts";

const hostName = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?$/;

/** Stands for the address that the host has for the container. */
const hostGateway = "host-gateway";

function refuse(message: string): never {
  throw new OciboxError("USAGE", message);
}

/** --add-host NAME:ADDRESS, as a line of hosts(5). */
export function hostLine(text: string): string {
  const at = text.search(/[:=]/);
  const [name, rest] = [text.slice(0, at), text.slice(at + 1)];
  const address = /^\[.*\]$/.test(rest) ? rest.slice(1, -1) : rest;
  if (at < 1 || !hostName.test(name)) refuse(`--add-host is "${text}", which is not NAME:ADDRESS`);
  if (address !== hostGateway && isIP(address) === 0)
    refuse(`--add-host is "${text}", and "${address}" is no IP address`);
  return `${address}\t${name}`;
}

/** --dns, --dns-search and --dns-option, looked at. @throws OciboxError USAGE */
export function resolverFlags(
  servers: readonly string[],
  search: readonly string[],
  options: readonly string[],
): ResolverFlags {
  for (const each of servers) if (isIP(each) === 0) refuse(`--dns is "${each}", which is no IP address`);
  for (const each of search)
    if (each !== "." && !hostName.test(each)) refuse(`--dns-search is "${each}", which is no domain`);
  for (const each of options)
    if (!/^[a-z0-9-]+(?::\d+)?$/.test(each)) refuse(`--dns-option is "${each}", which is no option of resolv.conf`);
  return { servers, search, options };
}
