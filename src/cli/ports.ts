/** Published ports, as docker shows them. */
import type { PublishedPort } from "../network/rules.ts";

function host({ hostAddress, hostPort }: PublishedPort): string {
  return `${hostAddress ?? "0.0.0.0"}:${hostPort}`;
}

/** "80/tcp" */
function insideOf({ containerPort, protocol }: PublishedPort): string {
  return `${containerPort}/${protocol}`;
}

/** The column of `ps`: "0.0.0.0:8080->80/tcp", by commas. */
export function portsColumn(ports: readonly PublishedPort[]): string {
  return ports.map((port) => `${host(port)}->${insideOf(port)}`).join(", ");
}

/** Lines of `port`. @param of a port of the container's: then its places on the host alone */
export function portLines(ports: readonly PublishedPort[], of: string | undefined): string[] {
  if (of === undefined) return ports.map((port) => `${insideOf(port)} -> ${host(port)}`);
  return ports.filter((port) => insideOf(port) === of).map(host);
}

/** What `inspect` has under NetworkSettings.Ports. */
export function portsShown(ports: readonly PublishedPort[]): Record<string, object[]> {
  const found: Record<string, object[]> = {};
  for (const port of ports) {
    const inside = insideOf(port);
    const before = found[inside] ?? [];
    found[inside] = [...before, { HostIp: port.hostAddress ?? "0.0.0.0", HostPort: String(port.hostPort) }];
  }
  return found;
}
