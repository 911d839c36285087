/**
 * Which servers are asked for a repository, and how: containers-registries.conf(5) version 2, containerd's hosts.toml,
 * and the certificates of certs.d (containers-certs.d(5)).
 */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { OciboxError } from "../errors.ts";
import { dockerHub, type Reference } from "../reference/reference.ts";
import { type Environment, isTable, namesEnding, readConfig, readToml, type Table } from "./files.ts";
import { isLoopback } from "./hosts.ts";
import type { TlsSettings } from "./http.ts";

/** One server that may have the repository. */
export interface Endpoint {
  /** Host and port as configured, for credentials and messages; "docker.io" for Docker Hub. */
  readonly host: string;
  /** Host and port that are connected to. */
  readonly address: string;
  /** Undefined: https, or where `plainAllowed` whatever the server speaks. */
  readonly scheme: "https" | "http" | undefined;
  /** What comes before "/REPOSITORY/manifests": "/v2". */
  readonly prefix: string;
  readonly repository: string;
  /** Plain HTTP may be used: the host is this machine, or is configured so. */
  readonly plainAllowed: boolean;
  readonly tls: TlsSettings;
  readonly headers: Readonly<Record<string, string>>;
  /** containerd: ask the mirror for its namespace with "?ns=HOST". */
  readonly namespace: string | undefined;
  readonly mirror: boolean;
}

export interface ConfigOptions {
  readonly env: Environment;
  /** Folders with a folder for each host. */
  readonly certsDirs?: readonly string[] | undefined;
  /** --tls-verify=false: the upstream itself is taken for insecure, its mirrors are not. */
  readonly insecure?: boolean | undefined;
}

const defaultCertsDirs = ["/etc/containers/certs.d", "/etc/docker/certs.d", "/etc/containerd/certs.d"] as const;

/** The files of containers-registries.conf(5), the main one first; later ones override it by prefix. */
export function registriesFiles(env: Environment): string[] {
  const own = env.OCIBOX_REGISTRIES_CONF;
  if (own !== undefined && own !== "") return [own];
  const home = env.HOME;
  const configHome = env.XDG_CONFIG_HOME ?? (home === undefined ? undefined : `${home}/.config`);
  const users = configHome === undefined ? undefined : `${configHome}/containers`;
  const drops = (folder: string) => namesEnding(folder, ".conf").map((name) => `${folder}/${name}`);
  const named = env.CONTAINERS_REGISTRIES_CONF;
  const mains = named
    ? [named]
    : ["/etc/containers/registries.conf", ...(users === undefined ? [] : [`${users}/registries.conf`])];
  return [
    ...mains,
    ...drops("/etc/containers/registries.conf.d"),
    ...(users === undefined ? [] : drops(`${users}/registries.conf.d`)),
  ];
}

interface RegistryTable {
  readonly prefix: string;
  readonly location: string;
  readonly insecure: boolean;
  readonly blocked: boolean;
  readonly mirrors: readonly { location: string; insecure: boolean; for: "all" | "digest-only" | "tag-only" }[];
  readonly file: string;
}

function text(table: Table, key: string): string | undefined {
  const value = table[key];
  return typeof value === "string" && value !== "" ? value : undefined;
}

function registryTables(file: string, toml: Table): RegistryTable[] {
  const list = toml.registry;
  if (!Array.isArray(list)) return [];
  const tables: RegistryTable[] = [];
  for (const entry of list) {
    if (!isTable(entry)) continue;
    const location = text(entry, "location");
    const prefix = text(entry, "prefix") ?? location;
    if (prefix === undefined)
      throw new OciboxError("INVALID", `"${file}" has a [[registry]] without location and prefix`);
    const mirrors = Array.isArray(entry.mirror) ? entry.mirror.filter(isTable) : [];
    const digestOnly = entry["mirror-by-digest-only"] === true;
    tables.push({
      prefix,
      location: location ?? prefix,
      insecure: entry.insecure === true,
      blocked: entry.blocked === true,
      mirrors: mirrors.flatMap((mirror) => {
        const at = text(mirror, "location");
        const which = text(mirror, "pull-from-mirror");
        const use = which === "digest-only" || which === "tag-only" ? which : digestOnly ? "digest-only" : "all";
        return at === undefined ? [] : [{ location: at, insecure: mirror.insecure === true, for: use }];
      }),
      file,
    });
  }
  return tables;
}

/** How many characters of the name a prefix covers, -1 for none. "*.host" stands for every host below it. */
function covers(prefix: string, name: string): number {
  if (prefix.startsWith("*.")) {
    const slash = name.indexOf("/");
    return name.slice(0, slash).endsWith(prefix.slice(1)) ? slash : -1;
  }
  if (!name.startsWith(prefix)) return -1;
  return name.length === prefix.length || "/:@".includes(name[prefix.length] as string) ? prefix.length : -1;
}

function registryTableFor(name: string, env: Environment): [RegistryTable, covered: number] | undefined {
  const byPrefix = new Map<string, RegistryTable>();
  for (const file of registriesFiles(env)) {
    const toml = readToml(file);
    if (toml !== undefined) for (const table of registryTables(file, toml)) byPrefix.set(table.prefix, table);
  }
  let best: [RegistryTable, number] | undefined;
  for (const table of byPrefix.values()) {
    const covered = covers(table.prefix, name);
    // Of a name and a wildcard that cover as much, the name is the more special.
    if (
      covered >= 0 &&
      (best === undefined || covered > best[1] || (covered === best[1] && !table.prefix.startsWith("*")))
    )
      best = [table, covered];
  }
  return best;
}

/** "host:port/path" cut in two. */
function cut(location: string): { host: string; path: string } {
  const slash = location.indexOf("/");
  return slash < 0 ? { host: location, path: "" } : { host: location.slice(0, slash), path: location.slice(slash + 1) };
}

function addressOf(host: string): string {
  return host === dockerHub || host === "index.docker.io" ? "registry-1.docker.io" : host;
}

function plainEndpoint(host: string, repository: string, insecure: boolean, mirror: boolean): Endpoint {
  return {
    host,
    address: addressOf(host),
    scheme: undefined,
    prefix: "/v2",
    repository,
    plainAllowed: insecure || isLoopback(host),
    tls: insecure ? { skipVerify: true } : {},
    headers: {},
    namespace: undefined,
    mirror,
  };
}

/** certs.d's folder for a host: its name, or containerd's HOST_PORT_; of those of `dirs` that are there. */
function hostFolders(dirs: readonly string[], host: string): string[] {
  const there = dirs.filter((dir) => attempt("faccessat2", AT_FDCWD, dir, 0, 0) >= 0);
  const names = [host, host.replace(/:([0-9]+)$/, "_$1_"), host.replace(/:[0-9]+$/, "")];
  return there.flatMap((dir) => [...new Set(names)].map((name) => `${dir}/${name}`));
}

/**
 * Authorities and client certificates for a host: *.crt are authorities, X.cert goes with X.key (containers-certs.d(5)).
 */
export function certificatesFor(host: string, options: ConfigOptions): TlsSettings {
  const ca: string[] = [];
  let client: { cert: string; key: string } | undefined;
  for (const folder of hostFolders(options.certsDirs ?? defaultCertsDirs, host)) {
    for (const name of namesEnding(folder, ".crt", ".cert")) {
      const pem = readConfig(`${folder}/${name}`);
      if (pem === undefined) continue;
      if (name.endsWith(".crt")) ca.push(pem);
      else {
        const key = readConfig(`${folder}/${name.slice(0, -"cert".length)}key`);
        if (key !== undefined) client ??= { cert: pem, key };
      }
    }
  }
  return { ...(ca.length === 0 ? {} : { ca }), ...client };
}

function pems(folder: string, value: unknown): string[] {
  const names = (Array.isArray(value) ? value.flat() : [value]).filter((name) => typeof name === "string");
  const read = names.map((name) => readConfig(name.startsWith("/") ? name : `${folder}/${name}`));
  return read.filter((pem) => pem !== undefined);
}

function stringHeaders(value: unknown): Record<string, string> {
  if (!isTable(value)) return {};
  return Object.fromEntries(
    Object.entries(value).flatMap(([name, given]) => {
      const one = Array.isArray(given) ? given[0] : given;
      return typeof one === "string" ? [[name, one]] : [];
    }),
  );
}

/** One [host."URL"] table, or the file's top level for the server itself. containerd, docs/hosts.md. */
function hostsEndpoint(folder: string, url: string, table: Table, upstream: Endpoint, mirror: boolean): Endpoint {
  let parsed: URL;
  try {
    parsed = new URL(/^[a-z]+:\/\//.test(url) ? url : `https://${url}`);
  } catch {
    throw new OciboxError("INVALID", `"${folder}/hosts.toml" names ${JSON.stringify(url)}, which is not a URL`);
  }
  if (parsed.protocol !== "https:" && parsed.protocol !== "http:")
    throw new OciboxError(
      "INVALID",
      `"${folder}/hosts.toml" names ${JSON.stringify(url)}, which is neither https nor http`,
    );
  const ca = pems(folder, table.ca);
  const [cert, key] = pems(folder, table.client);
  const path = parsed.pathname.replace(/\/+$/, "");
  const skipVerify = table.skip_verify === true;
  return {
    host: mirror ? parsed.host : upstream.host,
    address: parsed.host,
    scheme: parsed.protocol === "http:" ? "http" : "https",
    prefix: table.override_path === true ? path : path.endsWith("/v2") ? path : `${path}/v2`,
    repository: upstream.repository,
    plainAllowed: parsed.protocol === "http:",
    tls: {
      ...(ca.length === 0 ? {} : { ca }),
      ...(cert === undefined ? {} : { cert, key: key ?? cert }),
      ...(skipVerify ? { skipVerify } : {}),
    },
    headers: stringHeaders(table.header),
    namespace: mirror && parsed.host !== upstream.address ? upstream.host : undefined,
    mirror,
  };
}

/** containerd's hosts.toml for the upstream: its hosts in their order, then the server itself. */
function fromHostsToml(upstream: Endpoint, options: ConfigOptions): Endpoint[] | undefined {
  const dirs = options.certsDirs ?? defaultCertsDirs;
  for (const folder of [...hostFolders(dirs, upstream.host), ...dirs.map((dir) => `${dir}/_default`)]) {
    const toml = readToml(`${folder}/hosts.toml`);
    if (toml === undefined) continue;
    const endpoints: Endpoint[] = [];
    const hosts = isTable(toml.host) ? toml.host : {};
    for (const [url, table] of Object.entries(hosts)) {
      if (!isTable(table)) continue;
      const can = table.capabilities;
      if (Array.isArray(can) && !can.includes("pull")) continue;
      endpoints.push(hostsEndpoint(folder, url, table, upstream, true));
    }
    const server = text(toml, "server");
    const named = server === undefined || folder.endsWith("/_default") ? undefined : server;
    const bare = named?.replace(/^https?:\/\//, "").replace(/\/+$/, "");
    const itself =
      named === undefined || bare === upstream.address || bare === upstream.host
        ? { ...upstream, ...(named?.startsWith("http://") ? { scheme: "http" as const, plainAllowed: true } : {}) }
        : hostsEndpoint(folder, named, toml, upstream, false);
    return [...endpoints, itself];
  }
  return undefined;
}

/**
 * The servers to ask for an image, in order: mirrors, then the upstream.
 * @throws OciboxError DENIED where the registry is blocked, INVALID for a configuration that cannot be read
 */
export function endpointsFor(reference: Reference, options: ConfigOptions): Endpoint[] {
  const name = `${reference.registry}/${reference.repository}`;
  const lax = options.insecure === true;
  const found = registryTableFor(name, options.env);
  if (found === undefined) {
    const upstream = plainEndpoint(reference.registry, reference.repository, lax, false);
    return fromHostsToml(upstream, options) ?? [upstream];
  }
  const [table, covered] = found;
  if (table.blocked)
    throw new OciboxError("DENIED", `cannot use ${JSON.stringify(name)}: "${table.file}" blocks ${table.prefix}`);
  const rest = name.slice(covered);
  const at = (location: string, insecure: boolean, mirror: boolean): Endpoint => {
    const { host, path } = cut(location.startsWith("*.") ? name : `${location}${rest}`);
    return plainEndpoint(host, path, insecure, mirror);
  };
  const kind = reference.digest === undefined ? "tag-only" : "digest-only";
  const mirrors = table.mirrors.filter((mirror) => mirror.for === "all" || mirror.for === kind);
  const upstream = at(table.location, table.insecure || lax, false);
  return [
    ...mirrors.map((mirror) => at(mirror.location, mirror.insecure, true)),
    ...(fromHostsToml(upstream, options) ?? [upstream]),
  ];
}
