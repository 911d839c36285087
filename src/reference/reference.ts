/**
 * Image names. The grammar is distribution's (reference/reference.go), the short forms are Docker's: "alpine" means
 * docker.io/library/alpine:latest. What else a machine's configuration lets them mean: registry/short-names.ts.
 */
import { OciboxError } from "../errors.ts";
import { type Digest, isDigest } from "../spec/digest.ts";

export interface Reference {
  /** Host with an optional port; "docker.io" for Docker Hub, whose API is at another host. */
  readonly registry: string;
  /** Path in the registry, "library/alpine". */
  readonly repository: string;
  /** "latest" where neither tag nor digest was given. */
  readonly tag?: string;
  readonly digest?: Digest;
}

export const dockerHub = "docker.io";
/** distribution's limit on registry and repository together. */
const nameLimit = 255;

const component = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const hostName =
  /^(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])(?:\.(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]))*(?::[0-9]{1,5})?$/;
const hostV6 = /^\[[0-9A-Fa-f:]+\](?::[0-9]{1,5})?$/;

function refuse(text: string, why: string, hint?: string): never {
  const shown = text.length > 300 ? `${text.slice(0, 300)}…` : text;
  const message = `cannot use ${JSON.stringify(shown)} as an image name: ${why}`;
  throw new OciboxError("NAME_INVALID", message, hint === undefined ? {} : { hint });
}

function checkRegistry(text: string, host: string): string {
  if (!hostName.test(host) && !hostV6.test(host))
    refuse(text, `${JSON.stringify(host)} is not a registry's host name with an optional port`);
  const port = /:([0-9]+)$/.exec(host.startsWith("[") ? host.slice(host.indexOf("]")) : host)?.[1];
  if (port !== undefined && (Number(port) < 1 || Number(port) > 65_535)) refuse(text, `there is no port ${port}`);
  const lower = host.toLowerCase();
  return lower === "index.docker.io" || lower === "registry-1.docker.io" ? dockerHub : lower;
}

function checkRepository(text: string, path: string): void {
  if (path === "") refuse(text, "the repository's name is missing");
  for (const part of path.split("/")) {
    if (component.test(part)) continue;
    if (part === "") refuse(text, "there is an empty component between two slashes");
    if (/[A-Z]/.test(part))
      refuse(
        text,
        "repository names are lower case",
        `write it in lower case: ${text.replace(path, path.toLowerCase())}`,
      );
    refuse(
      text,
      `${JSON.stringify(part)} is not a path component: lower-case letters and digits, with ".", "_", "__" or "-" between them`,
    );
  }
}

/** Cuts "registry/path" as Docker does: the first part is a host if it has a dot or a colon or is "localhost". */
function splitRegistry(name: string): { host: string | undefined; path: string } {
  const slash = name.indexOf("/");
  if (slash < 0) return { host: undefined, path: name };
  const first = name.slice(0, slash);
  const isHost = first.includes(".") || first.includes(":") || first === "localhost";
  return isHost ? { host: first, path: name.slice(slash + 1) } : { host: undefined, path: name };
}

/** Whether a name leaves the registry out: "alpine", "team/app:1". */
export function isShortName(text: string): boolean {
  return splitRegistry(text).host === undefined;
}

/** The name alone: what stands before tag and digest. */
export function bareName(text: string): string {
  const at = text.indexOf("@");
  const name = at < 0 ? text : text.slice(0, at);
  const colon = name.lastIndexOf(":");
  return colon > name.lastIndexOf("/") ? name.slice(0, colon) : name;
}

/**
 * An image's name in full.
 * @throws OciboxError NAME_INVALID
 */
export function parseReference(text: string): Reference {
  if (text === "") refuse(text, "it is empty");
  if (text.length > 1024) refuse(text, `it is ${text.length} characters long`);
  let rest = text;
  let digest: Digest | undefined;
  const at = rest.indexOf("@");
  if (at >= 0) {
    const digestText = rest.slice(at + 1);
    if (!isDigest(digestText))
      refuse(
        text,
        `${JSON.stringify(digestText)} is not a digest`,
        'a digest is "sha256:" and 64 lower-case hexadecimal digits',
      );
    digest = digestText;
    rest = rest.slice(0, at);
  }
  let tag: string | undefined;
  const colon = rest.lastIndexOf(":");
  if (colon > rest.lastIndexOf("/")) {
    tag = rest.slice(colon + 1);
    if (!tagPattern.test(tag))
      refuse(
        text,
        `${JSON.stringify(tag)} is not a tag`,
        "a tag is at most 128 letters, digits, dots, dashes and underscores",
      );
    rest = rest.slice(0, colon);
  }
  if (digest === undefined && tag === undefined && /^[0-9a-f]{64}$/.test(rest))
    refuse(text, "64 hexadecimal digits are an image's id, not a name");
  const { host, path } = splitRegistry(rest);
  const registry = host === undefined ? dockerHub : checkRegistry(text, host);
  checkRepository(text, path);
  const repository = registry === dockerHub && !path.includes("/") ? `library/${path}` : path;
  if (registry.length + 1 + repository.length > nameLimit)
    refuse(text, `registry and repository are longer than ${nameLimit} characters`);
  if (digest === undefined) return { registry, repository, tag: tag ?? "latest" };
  return tag === undefined ? { registry, repository, digest } : { registry, repository, tag, digest };
}

/** Whether a word names an image in a file or a directory, as containers-transports(5) has it. */
export function isTransport(word: string): boolean {
  return /^(?:oci|oci-archive|docker-archive|dir):/.test(word);
}

function suffix(ref: Reference): string {
  return `${ref.tag === undefined ? "" : `:${ref.tag}`}${ref.digest === undefined ? "" : `@${ref.digest}`}`;
}

/** The name in full: "docker.io/library/alpine:latest". */
export function canonical(ref: Reference): string {
  return `${ref.registry}/${ref.repository}${suffix(ref)}`;
}

/** The name as people write it: "alpine:latest". */
export function familiar(ref: Reference): string {
  return `${familiarName(ref)}${suffix(ref)}`;
}

/** The name as people write it, without tag and digest: "alpine". */
export function familiarName(ref: Reference): string {
  if (ref.registry !== dockerHub) return `${ref.registry}/${ref.repository}`;
  const short = /^library\/([^/]+)$/.exec(ref.repository)?.[1] ?? ref.repository;
  // "docker.io/ghcr.io/x" would be another registry's without its own.
  return splitRegistry(short).host === undefined ? short : `${ref.registry}/${ref.repository}`;
}
