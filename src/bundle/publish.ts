/** -p, --publish and --expose: which ports of the host lead to which of the container's. docker-run(1). Pure. */
import { isIP } from "node:net";
import { OciboxError } from "../errors.ts";

/** A port to be published. */
export interface PublishFlag {
  readonly protocol: "tcp" | "udp";
  /** Undefined for every address of the host's. */
  readonly hostAddress?: string;
  /** From this number to the other any will do; both are 0 where any that is free will. */
  readonly hostPort: number;
  readonly upTo: number;
  readonly containerPort: number;
}

interface Range {
  readonly from: number;
  readonly to: number;
}

const largest = 65_535;

function rangeOf(text: string, least: number, refuse: () => never): Range {
  const found = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  const from = Number(found?.[1]);
  const to = Number(found?.[2] ?? found?.[1]);
  if (found === null || from < least || to > largest || to < from) refuse();
  return { from, to };
}

function protocolOf(word: string, flag: string, text: string): "tcp" | "udp" {
  if (word === "tcp" || word === "udp") return word;
  if (word === "sctp") throw new OciboxError("UNSUPPORTED", `${flag} is "${text}": there is no sctp yet`);
  throw new OciboxError("USAGE", `${flag} is "${text}", and "${word}" is neither tcp nor udp`);
}

/** --publish [[ADDRESS:]PORT:]PORT[/PROTOCOL], where a port may be a range. @throws OciboxError USAGE, UNSUPPORTED */
export function parsePublish(text: string): PublishFlag[] {
  const refuse = (): never => {
    throw new OciboxError("USAGE", `--publish is "${text}", which is not [[ADDRESS:]PORT:]PORT[/tcp|/udp]`);
  };
  const [where = "", word = "tcp", ...rest] = text.split("/");
  if (rest.length > 0) refuse();
  const protocol = protocolOf(word.toLowerCase(), "--publish", text);
  if (where.startsWith("["))
    throw new OciboxError("UNSUPPORTED", `--publish is "${text}": there is no IPv6 yet`, {
      hint: "--network host has the host's network",
    });
  const parts = where.split(":");
  if (parts.length > 3) refuse();
  const inside = rangeOf(parts.at(-1) ?? "", 1, refuse);
  const outside = parts.at(-2) ?? "";
  const host = outside === "" ? undefined : rangeOf(outside, 0, refuse);
  const address = parts.length === 3 && parts[0] !== "0.0.0.0" ? parts[0] : undefined;
  if (address !== undefined && isIP(address) !== 4) refuse();
  const count = inside.to - inside.from + 1;
  if (host !== undefined && count > 1 && host.to - host.from + 1 !== count)
    throw new OciboxError("USAGE", `--publish is "${text}", whose two ranges differ in length`);
  return Array.from({ length: count }, (_, index) => ({
    protocol,
    ...(address === undefined ? {} : { hostAddress: address }),
    hostPort: host === undefined ? 0 : host.from + index,
    upTo: host === undefined ? 0 : count === 1 ? host.to : host.from + index,
    containerPort: inside.from + index,
  }));
}

/** --expose PORT[/PROTOCOL], and what an image has so. @throws OciboxError USAGE */
export function parseExposed(text: string, flag = "--expose"): PublishFlag[] {
  const [ports = "", word = "tcp", ...rest] = text.split("/");
  const refuse = (): never => {
    throw new OciboxError("USAGE", `${flag} is "${text}", which is not PORT[/tcp|/udp]`);
  };
  if (rest.length > 0) refuse();
  const { from, to } = rangeOf(ports, 1, refuse);
  const protocol = protocolOf(word.toLowerCase(), flag, text);
  return Array.from({ length: to - from + 1 }, (_, index) => ({
    protocol,
    hostPort: 0,
    upTo: 0,
    containerPort: from + index,
  }));
}

/** What is published in the end: with -P all that is exposed, and not published by itself. */
export function allPublished(
  given: readonly PublishFlag[],
  exposed: readonly string[],
  image: Readonly<Record<string, unknown>>,
): PublishFlag[] {
  const found = [...given];
  for (const each of [
    ...exposed.flatMap((text) => parseExposed(text)),
    ...Object.keys(image).flatMap((text) => parseExposed(text, "an exposed port of the image")),
  ])
    if (!found.some((other) => other.containerPort === each.containerPort && other.protocol === each.protocol))
      found.push(each);
  return found;
}
