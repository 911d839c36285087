/** --network, and what there is where it is not given. */
import type { NetworkMode } from "../bundle/command.ts";
import type { Connect } from "../container/network.ts";
import { findRecord } from "../container/record.ts";
import { OciboxError, reason } from "../errors.ts";
import type { HostFacts } from "../plan/facts.ts";
import type { Places } from "./globals.ts";
import type { Given } from "./options.ts";
import { say } from "./output.ts";

export interface NetworkChoice {
  readonly network: NetworkMode;
  /** Undefined where the plan does all of it. */
  readonly connect: Connect | undefined;
}

/** docker's and podman's other names. */
const alsoCalled: Readonly<Record<string, NetworkMode>> = { default: "bridge", private: "bridge", podman: "bridge" };

/** @throws OciboxError USAGE */
function parseNetwork(text: string, what: string): NetworkMode {
  const word = Object.hasOwn(alsoCalled, text) ? (alsoCalled[text] as NetworkMode) : text;
  if (word === "none" || word === "host" || word === "bridge") return word;
  if (/^container:./.test(word) || /^ns:\//.test(word)) return word as NetworkMode;
  throw new OciboxError("USAGE", `${what} is "${text}", and there is no network of that name`, {
    hint: "bridge, none, host, container:NAME or ns:/PATH",
  });
}

/** Another container's by its id, which it keeps. @throws OciboxError NOT_FOUND */
function byId({ root }: Places, network: NetworkMode): NetworkMode {
  const word = /^container:(.*)$/s.exec(network)?.[1];
  return word === undefined ? network : `container:${findRecord(root, word).id}`;
}

/** @throws OciboxError UNSUPPORTED for what root of a user namespace cannot have */
function checkUser(network: NetworkMode, { userNamespace }: HostFacts): void {
  if (!userNamespace || network === "none" || network === "host") return;
  throw new OciboxError("UNSUPPORTED", `--network ${network} wants root: a user cannot change the host's network`, {
    hint: "--network host has the host's network, --network none has loopback alone",
  });
}

/** How a container of a network is connected; undefined where the plan does all of it. @throws OciboxError HOST */
export async function connectFor(
  network: string,
  places: Pick<Places, "root" | "state">,
): Promise<Connect | undefined> {
  if (network === "none" || network === "host") return undefined;
  const subnet = Bun.env.OCIBOX_SUBNET || undefined;
  return (await import("../container/connect.ts")).connectBy(network, { ...places, subnet });
}

/**
 * The network that was asked for. Where none was: the bridge for root, which does without it where this host has none, and
 * says so; loopback alone for a user.
 * @param unconnected the container is not run
 * @throws OciboxError
 */
export async function networkFor(
  given: Given,
  facts: HostFacts,
  places: Places,
  unconnected: boolean,
): Promise<NetworkChoice> {
  const [text, variable] = [given.text("network"), Bun.env.OCIBOX_NETWORK || undefined];
  const asked = text ?? variable;
  if (asked === "none" || asked === "host") return { network: asked, connect: undefined };
  const what = text === undefined ? "OCIBOX_NETWORK" : "--network";
  const network =
    asked === undefined ? (facts.userNamespace ? "none" : "bridge") : byId(places, parseNetwork(asked, what));
  checkUser(network, facts);
  if (unconnected) return { network, connect: undefined };
  try {
    return { network, connect: await connectFor(network, places) };
  } catch (error) {
    const publishes = given.all("publish").length > 0 || given.flag("publish-all") || given.text("ip") !== undefined;
    if (asked !== undefined || publishes || !(error instanceof OciboxError) || error.code !== "HOST") throw error;
    if (!given.flag("quiet")) say(`ocibox: ${reason(error)}; the container has loopback alone (--network none)`);
    return { network: "none", connect: undefined };
  }
}
