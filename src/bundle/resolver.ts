/** A container's /etc/resolv.conf, resolv.conf(5): what was given, and for the rest the host's. Pure. */

/** --dns, --dns-search and --dns-option. */
export interface ResolverFlags {
  readonly servers: readonly string[];
  readonly search: readonly string[];
  readonly options: readonly string[];
}

/** Who is asked where the host has none but itself to ask, as docker does. */
const anybody = ["8.8.8.8", "8.8.4.4"];

function wordsOf(text: string, keyword: string): string[] {
  const found: string[] = [];
  for (const line of text.split("\n")) {
    const [first, ...words] = line.trim().split(/\s+/);
    if (first === keyword) found.push(...words);
  }
  return found;
}

/** From another network namespace, which has IPv4 alone. */
function isReachable(address: string): boolean {
  return !address.startsWith("127.") && !address.includes(":");
}

/** Whether somebody is named who can be asked from another network namespace. */
export function namesOthers(text: string): boolean {
  for (const each of wordsOf(text, "nameserver")) if (isReachable(each)) return true;
  return false;
}

/**
 * @param host the host's own file; "" where the container has no way there
 * @param apart whether the container's loopback is not the host's
 */
export function resolverFile(host: string, flags: ResolverFlags | undefined, apart: boolean): string {
  if (flags === undefined && !apart) return host;
  const reached = wordsOf(host, "nameserver").filter((each) => !apart || isReachable(each));
  const found = reached.length === 0 && apart && host !== "" ? anybody : reached;
  const servers = flags === undefined || flags.servers.length === 0 ? found : flags.servers;
  // The last line of domains is the one that counts.
  const own = host.split("\n").findLast((line) => /^\s*(?:search|domain)\s/.test(line));
  const search =
    flags === undefined || flags.search.length === 0 ? (own?.trim().split(/\s+/).slice(1) ?? []) : flags.search;
  const options = flags === undefined || flags.options.length === 0 ? wordsOf(host, "options") : flags.options;
  const domains = search.filter((each) => each !== ".");
  return [
    ...(domains.length === 0 ? [] : [`search ${domains.join(" ")}`]),
    ...servers.map((each) => `nameserver ${each}`),
    ...(options.length === 0 ? [] : [`options ${options.join(" ")}`]),
    "",
  ].join("\n");
}
