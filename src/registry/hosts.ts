/** Which hosts are this machine or its neighbours on the link: the rules about plain HTTP and secrets depend on it. */

/** A URL's or reference's host without port and brackets, in lower case. */
export function hostnameOf(host: string): string {
  const lower = host.toLowerCase();
  if (lower.startsWith("[")) return lower.slice(1, lower.indexOf("]"));
  const colon = lower.lastIndexOf(":");
  return colon < 0 || lower.indexOf(":") !== colon ? lower : lower.slice(0, colon);
}

/** localhost, 127.0.0.0/8 or ::1 by name; nothing is resolved. */
export function isLoopback(host: string): boolean {
  const name = hostnameOf(host);
  return name === "localhost" || name === "::1" || /^127(?:\.[0-9]{1,3}){3}$/.test(name);
}

/** 169.254.0.0/16, fe80::/10 and the same written as IPv4-mapped: where clouds keep their machines' secrets. */
export function isLinkLocal(host: string): boolean {
  const name = hostnameOf(host);
  return /^169\.254\./.test(name) || /^fe[89ab][0-9a-f]:/.test(name) || /^::ffff:(?:169\.254\.|a9fe:)/.test(name);
}
