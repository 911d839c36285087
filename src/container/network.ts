/** What a container has of the host's network, as it is kept in its folder. */
import { readText } from "../../ffi/files.ts";
import type { Undo } from "../../ffi/undo.ts";
import type { PublishedPort } from "../network/rules.ts";
import { type ContainerRecord, containerDirectory } from "./record.ts";
import { type ContainerId, inherited } from "./state.ts";

/** Addresses as text. */
export interface Place {
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
  return inherited.network + ports;
}

/** A namespace by the descriptor that init inherits. */
export const namespacePath = `/proc/self/fd/${inherited.network}`;

/** What every container's /etc/hosts begins with. */
export const loopbackNames = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/** Where what `Connected` says is kept. */
export function connectedFile(root: string, id: ContainerId): string {
  return `${containerDirectory(root, id)}/network.json`;
}

/** How a container is, or was when it ran the last time; undefined where it has its own loopback or the host's network. */
export function readConnected(root: string, id: ContainerId): Connected | undefined {
  const text = readText(connectedFile(root, id));
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
