/**
 * Finding repositories and tags: docker's /v1/search where a registry has it, else the catalog of what it holds
 * (/v2/_catalog of the distribution registry), and /v2/NAME/tags/list of distribution-spec.
 */
import { OciboxError } from "../errors.ts";
import { dockerHub, type Reference } from "../reference/reference.ts";
import { loginHint } from "./auth.ts";
import type { RepositoryOptions } from "./client.ts";
import { type ConfigOptions, endpointsFor } from "./config.ts";
import { findCredentials } from "./credentials.ts";
import { defaultTiming, type Exchange } from "./http.ts";
import { readError, Server } from "./server.ts";

export interface FoundRepository {
  /** In the registry, as it tells it: "library/alpine", and on Docker Hub "alpine" too. */
  readonly name: string;
  readonly description: string;
  readonly stars: number;
  readonly official: boolean;
}

export interface SearchOptions extends RepositoryOptions {
  /** Most that are wanted. */
  readonly limit: number;
  readonly signal: AbortSignal;
}

/** Docker Hub has its search on another host than its images. */
const hubSearch = "https://index.docker.io";
const pageSize = 1000;
const mostPages = 200;
const mostBytes = 8 << 20;
const repositoryName = /^[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:\/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*$/;
const tagName = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;

/** The registry itself, never a mirror of it. */
async function openServer(reference: Reference, doing: string, scope: string, options: SearchOptions): Promise<Server> {
  const env = options.env ?? process.env;
  const config: ConfigOptions = { env, certsDirs: options.certsDirs, insecure: options.insecure };
  const endpoint = endpointsFor(reference, config).at(-1);
  if (endpoint === undefined) throw new OciboxError("REGISTRY", `${doing}: no server is configured for it`);
  return new Server(endpoint, {
    doing,
    config,
    timing: { ...defaultTiming, ...options.timing },
    credentials: (each) => findCredentials(each.host, each.repository, { authfile: options.authfile, env }),
    scopes: [scope],
  });
}

/** A document of the server's; undefined for what is none. */
async function documentOf(exchange: Exchange): Promise<Record<string, unknown> | undefined> {
  const bytes = await exchange.bytes(mostBytes);
  try {
    const document: unknown = JSON.parse(new TextDecoder().decode(bytes ?? new Uint8Array()));
    return typeof document === "object" && document !== null ? (document as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** Text of strangers, for a line of a table. */
function plain(value: unknown): string {
  return typeof value === "string" ? value.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").trim() : "";
}

function foundIn(results: readonly unknown[]): FoundRepository[] {
  return results.flatMap((each) => {
    const found = (each ?? {}) as Readonly<Record<string, unknown>>;
    if (typeof found.name !== "string" || !repositoryName.test(found.name)) return [];
    const stars = typeof found.star_count === "number" ? found.star_count : 0;
    const description = plain(found.description);
    return [{ name: found.name, description, stars, official: found.is_official === true }];
  });
}

/** docker's search; undefined where the registry does not offer it. */
async function byIndex(server: Server, term: string, options: SearchOptions): Promise<FoundRepository[] | undefined> {
  const { signal, limit } = options;
  const hub = server.endpoint.host === dockerHub && server.endpoint.address.endsWith("docker.io");
  const url = new URL("/v1/search", hub ? hubSearch : await server.base(signal));
  url.searchParams.set("q", term);
  url.searchParams.set("n", String(Math.min(limit, 100)));
  const exchange = await server.request({ path: url, signal });
  if (exchange.status !== 200) {
    exchange.cancel();
    return undefined;
  }
  const results = (await documentOf(exchange))?.results;
  return Array.isArray(results) ? foundIn(results).slice(0, limit) : undefined;
}

/** RFC 8288: where the next page is, on the same server. */
function nextPage(exchange: Exchange, from: URL): URL | undefined {
  const target = /<([^>]*)>\s*;[^,]*\brel="?next"?/i.exec(exchange.header("link") ?? "")?.[1];
  if (target === undefined) return undefined;
  const url = new URL(target, from);
  return url.origin === from.origin ? url : undefined;
}

/** A list in pages, as far as it is wanted. @returns the status where it is not 200 */
async function pages(
  server: Server,
  first: URL,
  field: string,
  signal: AbortSignal,
  take: (items: readonly unknown[]) => boolean,
): Promise<Exchange | undefined> {
  let url: URL | undefined = first;
  for (let page = 0; url !== undefined && page < mostPages; page++) {
    const exchange: Exchange = await server.request({ path: url, signal });
    if (exchange.status !== 200) return exchange;
    const items = (await documentOf(exchange))?.[field];
    if (!Array.isArray(items) || !take(items)) return undefined;
    url = nextPage(exchange, url);
  }
  return undefined;
}

async function refusal(server: Server, doing: string, exchange: Exchange, what: OciboxError): Promise<OciboxError> {
  const { host } = server.endpoint;
  const { message } = await readError(exchange);
  if (exchange.status === 401 || exchange.status === 403) {
    const { problems } = await server.credentials();
    return new OciboxError(
      "DENIED",
      `${doing}: ${host} does not let this user (${exchange.status}${message === "" ? "" : `: ${message}`})`,
      { hint: loginHint(host, problems) },
    );
  }
  return what;
}

/**
 * Repositories whose name, or what the registry knows of them, has the term.
 * @throws OciboxError UNSUPPORTED where the registry offers neither way, DENIED, NETWORK, REGISTRY
 */
export async function searchRegistry(
  registry: string,
  term: string,
  options: SearchOptions,
): Promise<FoundRepository[]> {
  const doing = `cannot search ${JSON.stringify(registry)}`;
  const reference = { registry, repository: "search" };
  const server = await openServer(reference, doing, "registry:catalog:*", options);
  const { signal, limit } = options;
  const ready = await byIndex(server, term, options);
  if (ready !== undefined) return ready;
  const found: FoundRepository[] = [];
  const first = new URL(`/v2/_catalog?n=${pageSize}`, await server.base(signal));
  let listed = false;
  const refused = await pages(server, first, "repositories", signal, (items) => {
    listed = true;
    const names = items.filter((each) => typeof each === "string" && repositoryName.test(each) && each.includes(term));
    found.push(...foundIn(names.map((name) => ({ name }))));
    return found.length < limit;
  });
  const none = new OciboxError("UNSUPPORTED", `${doing}: it offers neither /v1/search nor /v2/_catalog`, {
    hint: "look at the registry's own pages for what it has",
  });
  if (refused !== undefined) throw await refusal(server, doing, refused, none);
  if (!listed) throw none;
  return found.slice(0, limit);
}

/** The tags of a repository. @throws OciboxError NOT_FOUND, DENIED, NETWORK, REGISTRY */
export async function listTags(reference: Reference, options: SearchOptions): Promise<string[]> {
  const name = `${reference.registry}/${reference.repository}`;
  const doing = `cannot list the tags of ${JSON.stringify(name)}`;
  const server = await openServer(reference, doing, `repository:${reference.repository}:pull`, options);
  const { signal, limit } = options;
  const { prefix, repository, host } = server.endpoint;
  const found: string[] = [];
  const first = new URL(`${prefix}/${repository}/tags/list?n=${pageSize}`, await server.base(signal));
  const refused = await pages(server, first, "tags", signal, (items) => {
    found.push(...items.filter((each): each is string => typeof each === "string" && tagName.test(each)));
    return found.length < limit;
  });
  const missing = new OciboxError("NOT_FOUND", `${doing}: ${host} has no repository "${repository}"`, {
    hint: "check the name's spelling",
  });
  if (refused !== undefined) throw await refusal(server, doing, refused, missing);
  return found.slice(0, limit);
}
