/**
 * HTTP as a registry client needs it: redirects followed by hand, secrets kept to the origin they are for, every wait
 * bounded. fetch() itself would read file: URLs, follow anything and wait for ever.
 */
import { OciboxError } from "../errors.ts";
import { isLinkLocal, isLoopback } from "./hosts.ts";

export interface TlsSettings {
  /** PEM. Replaces the built-in authorities for this host. */
  readonly ca?: readonly string[];
  readonly cert?: string;
  readonly key?: string;
  /** The host is configured insecure: its certificate is not checked. */
  readonly skipVerify?: boolean;
}

export interface Timing {
  /** Milliseconds without an answer, or with next to no bytes of a body, until a try is given up. */
  readonly idle: number;
  /** Milliseconds before the second try; doubled for each one after it. */
  readonly backoff: number;
  /** How often a thing is tried before it fails. */
  readonly tries: number;
}

export const defaultTiming: Timing = { idle: 30_000, backoff: 500, tries: 5 };

/** Less than this much in one idle period is taken for a stall. Bytes. */
const leastProgress = 1024;
const redirectLimit = 10;
/** Headers that a redirect to another origin may take along. */
const harmless = new Set(["accept", "accept-encoding", "range", "user-agent"]);

export interface Send {
  readonly method?: "GET" | "HEAD" | "POST" | "PUT" | "PATCH";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array<ArrayBuffer> | Blob;
  /** Milliseconds until the answer begins, where sending the body takes longer than the usual patience. */
  readonly patience?: number;
  readonly signal?: AbortSignal | undefined;
}

/** What the host that is asked is allowed to do. */
export interface Policy {
  /** Plain HTTP may be used for this URL. */
  readonly plainAllowed: (url: URL) => boolean;
  /** A redirect may lead from https to plain HTTP: the registry is configured insecure. */
  readonly downgradeAllowed: boolean;
  readonly tlsFor: (url: URL) => TlsSettings;
  readonly timing: Timing;
  /** Who has named the first URL, where it is another's than the user's own word. */
  readonly from?: URL;
}

/** The server stopped answering in the middle: worth another try. */
class StallError extends Error {
  override readonly name = "StallError";
}

/** A redirect or an address that is not followed. */
export class UnsafeUrlError extends Error {
  override readonly name = "UnsafeUrlError";
}

/** One answer; its body must be read or cancelled. */
export class Exchange {
  constructor(
    readonly response: Response,
    readonly url: URL,
    private readonly controller: AbortController,
    private readonly idle: number,
  ) {}

  get status(): number {
    return this.response.status;
  }

  header(name: string): string | undefined {
    return this.response.headers.get(name) ?? undefined;
  }

  /** Calls once the body has been read or given up. */
  onEnd(call: () => void): void {
    if (this.controller.signal.aborted) call();
    else this.controller.signal.addEventListener("abort", call, { once: true });
  }

  /** Gives the connection up. */
  cancel(): void {
    this.controller.abort();
  }

  /**
   * The body as it comes. Time that the consumer takes is not held against the server.
   * @throws StallError where an idle period brings next to nothing; what fetch throws
   */
  async *body(): AsyncGenerator<Uint8Array> {
    const reader = this.response.body?.getReader();
    if (reader === undefined) {
      this.controller.abort();
      return;
    }
    let bytes = 0;
    let waited = 0;
    let waitingSince: number | undefined;
    const watch = setInterval(() => {
      const now = performance.now();
      const waiting = waited + (waitingSince === undefined ? 0 : now - waitingSince);
      if (waiting > this.idle * 0.8 && bytes < leastProgress)
        this.controller.abort(new StallError("no more data came"));
      bytes = 0;
      waited = 0;
      if (waitingSince !== undefined) waitingSince = now;
    }, this.idle);
    try {
      for (;;) {
        waitingSince = performance.now();
        const { done, value } = await reader.read();
        waited += performance.now() - waitingSince;
        waitingSince = undefined;
        if (done) return;
        bytes += value.byteLength;
        yield value;
      }
    } finally {
      clearInterval(watch);
      this.controller.abort();
    }
  }

  /** The whole body, or undefined where it is longer than `limit` bytes. */
  async bytes(limit: number): Promise<Uint8Array | undefined> {
    const chunks: Uint8Array[] = [];
    let length = 0;
    for await (const chunk of this.body()) {
      length += chunk.byteLength;
      if (length > limit) return undefined;
      chunks.push(chunk);
    }
    const whole = new Uint8Array(length);
    let at = 0;
    for (const chunk of chunks) {
      whole.set(chunk, at);
      at += chunk.byteLength;
    }
    return whole;
  }
}

/** @throws UnsafeUrlError for a URL that nothing is to be asked of. @param from who has named it */
function checkUrl(url: URL, from: URL | undefined, policy: Policy): void {
  if (url.protocol !== "https:" && url.protocol !== "http:")
    throw new UnsafeUrlError(`it points to ${JSON.stringify(url.protocol)}, which is neither https nor http`);
  const downgrade = from?.protocol === "https:" && !policy.downgradeAllowed;
  if (url.protocol === "http:" && (downgrade || !policy.plainAllowed(url)))
    throw new UnsafeUrlError(`it points from https to plain http at ${url.host}`);
  if (from === undefined) return;
  if (isLinkLocal(url.hostname) && from.hostname !== url.hostname)
    throw new UnsafeUrlError(`it points to the link-local address ${url.host}`);
  if (isLoopback(url.hostname) && !isLoopback(from.hostname))
    throw new UnsafeUrlError(`it points to this machine itself, ${url.host}`);
}

/**
 * fetch, for this machine's own addresses without a proxy: other clients (Go's net/http) never send those to one, but
 * Bun does. It reads no_proxy before fetch returns, and has no option that says "none".
 */
function fetchOf(url: URL): (href: string, init: BunFetchRequestInit) => Promise<Response> {
  if (!isLoopback(url.hostname)) return fetch;
  return (href, init) => {
    const before = process.env.no_proxy;
    process.env.no_proxy = "*";
    try {
      return fetch(href, init);
    } finally {
      if (before === undefined) delete process.env.no_proxy;
      else process.env.no_proxy = before;
    }
  };
}

/** Origins that speak HTTP/2 and nothing else, and the end of the answer that each is giving. */
const onlyHttp2 = new Map<string, Promise<void>>();

/** One request over HTTP/2, when the one before it is over. */
async function inTurn(url: URL, send: Send, headers: Record<string, string>, policy: Policy): Promise<Exchange> {
  const before = onlyHttp2.get(url.origin);
  const { promise: over, resolve } = Promise.withResolvers<void>();
  onlyHttp2.set(
    url.origin,
    over.then(() => before),
  );
  await before;
  try {
    send.signal?.throwIfAborted();
    const exchange = await spoken("http2", url, send, headers, policy);
    exchange.onEnd(resolve);
    return exchange;
  } catch (error) {
    resolve();
    throw error;
  }
}

/**
 * One request, over HTTP/1.1. HTTP/2 is for a server that refuses the former, and there one after the other: large
 * answers that come side by side break each other off in Bun's client (docs/decisions.md).
 */
async function once(url: URL, send: Send, headers: Record<string, string>, policy: Policy): Promise<Exchange> {
  if (onlyHttp2.has(url.origin)) return inTurn(url, send, headers, policy);
  try {
    return await spoken("http1.1", url, send, headers, policy);
  } catch (error) {
    // What a server says to a handshake that does not offer HTTP/2; and what one without TLS says to any.
    if (url.protocol !== "https:" || errorCode(error) !== "EPROTO") throw error;
    try {
      return await inTurn(url, send, headers, policy);
    } catch {
      onlyHttp2.delete(url.origin);
      throw error;
    }
  }
}

async function spoken(
  protocol: "http1.1" | "http2",
  url: URL,
  send: Send,
  headers: Record<string, string>,
  policy: Policy,
): Promise<Exchange> {
  const controller = new AbortController();
  const patience = send.patience ?? policy.timing.idle;
  const slow = setTimeout(() => controller.abort(new StallError("the server does not answer")), patience);
  const tls = url.protocol === "https:" ? policy.tlsFor(url) : {};
  try {
    const response = await fetchOf(url)(url.href, {
      method: send.method ?? "GET",
      headers: { "accept-encoding": "identity", "user-agent": "ocibox", ...headers },
      ...(send.body === undefined ? {} : { body: send.body }),
      redirect: "manual",
      decompress: false,
      // Of https alone.
      ...(url.protocol === "https:" ? { protocol } : {}),
      // Explicit, so that NODE_TLS_REJECT_UNAUTHORIZED and BUN_CONFIG_VERBOSE_FETCH change nothing.
      verbose: false,
      tls: {
        rejectUnauthorized: tls.skipVerify !== true,
        ...(tls.ca === undefined || tls.ca.length === 0 ? {} : { ca: [...tls.ca] }),
        ...(tls.cert === undefined ? {} : { cert: tls.cert }),
        ...(tls.key === undefined ? {} : { key: tls.key }),
      },
      signal: send.signal === undefined ? controller.signal : AbortSignal.any([send.signal, controller.signal]),
    });
    return new Exchange(response, url, controller, policy.timing.idle);
  } finally {
    clearTimeout(slow);
  }
}

function onlyHarmless(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => harmless.has(name.toLowerCase())));
}

/**
 * One request, redirects followed. What is secret goes to the first origin only, and does not come back into use if a
 * redirect leads back to it.
 * @throws UnsafeUrlError, StallError, and what fetch throws
 */
export async function send(start: URL, request: Send, policy: Policy): Promise<Exchange> {
  let url = start;
  let headers: Record<string, string> = { ...request.headers };
  checkUrl(url, policy.from, policy);
  for (let hop = 0; hop <= redirectLimit; hop++) {
    const exchange = await once(url, request, headers, policy);
    const location = exchange.header("location");
    if (location === undefined || ![301, 302, 303, 307, 308].includes(exchange.status)) return exchange;
    exchange.cancel();
    // 201 and 202 of an upload have a Location too, and are answers.
    if (request.method !== undefined && request.method !== "GET" && request.method !== "HEAD")
      throw new UnsafeUrlError("a request that sends something is redirected");
    let next: URL;
    try {
      next = new URL(location, url);
    } catch {
      throw new UnsafeUrlError("it points to something that is not a URL");
    }
    next.username = "";
    next.password = "";
    checkUrl(next, url, policy);
    if (next.origin !== url.origin) headers = onlyHarmless(headers);
    url = next;
  }
  throw new UnsafeUrlError(`there are more than ${redirectLimit} redirects`);
}

/**
 * Retry-After: RFC 9110, 10.2.3, seconds or a date.
 * @returns milliseconds from now, undefined where there is none that can be read
 */
export function retryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined;
  if (/^[0-9]{1,9}$/.test(header.trim())) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/** @throws the signal's reason when it is aborted before the time is over */
export async function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  signal?.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
  signal?.throwIfAborted();
}

function errorCode(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
}

const certificateCodes =
  /CERT|ISSUER|SELF_SIGNED|ALTNAME|CRL|UNABLE_TO_(?:GET|VERIFY|DECODE|DECRYPT)|INVALID_(?:CA|PURPOSE)|PATH_LENGTH/;

export function isCertificateError(error: unknown): boolean {
  return certificateCodes.test(errorCode(error));
}

/** Is another try of the same thing worth while? */
export function isTransient(error: unknown): boolean {
  if (error instanceof StallError) return true;
  return /^(?:HTTP2(?!Unsupported)[A-Za-z]+|ECONNRESET|EPIPE|ETIMEDOUT|ECONNABORTED|EAI_AGAIN|UND_ERR_SOCKET|ConnectionClosed|ERR_STREAM_PREMATURE_CLOSE)$/.test(
    errorCode(error),
  );
}

/** Nobody is there, or says nothing. */
export function isUnanswered(error: unknown): boolean {
  return error instanceof StallError || errorCode(error) === "ECONNREFUSED";
}

function clockHint(error: Error): string | undefined {
  if (!/EXPIRED|NOT_YET_VALID/.test(errorCode(error))) return undefined;
  return `this machine's clock says ${new Date().toISOString().slice(0, 16)}Z; if that is wrong, set it`;
}

/**
 * Why a request failed, for people.
 * @param doing 'cannot pull "alpine:latest"'
 */
export function networkFailure(error: unknown, doing: string, host: string): OciboxError {
  if (error instanceof OciboxError) return error;
  const fail = (why: string, hint?: string) =>
    new OciboxError("NETWORK", `${doing}: ${why}`, { cause: error, ...(hint === undefined ? {} : { hint }) });
  if (error instanceof UnsafeUrlError)
    return new OciboxError("REGISTRY", `${doing}: ${host} sends a redirect that is not followed: ${error.message}`);
  if (error instanceof StallError) return fail(`${host} does not answer: ${error.message}`, "check network and proxy");
  if (!(error instanceof Error)) return fail(`${host}: ${String(error)}`);
  if (isCertificateError(error))
    return fail(
      `the TLS certificate of ${host} is not accepted: ${error.message}`,
      clockHint(error) ??
        `put its authority's certificate in /etc/containers/certs.d/${host}/ca.crt, or mark the registry insecure in registries.conf`,
    );
  switch (errorCode(error)) {
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return fail(`the host name ${host} cannot be resolved`, "check the name, the network and /etc/resolv.conf");
    case "ECONNREFUSED":
      return fail(`${host} refuses the connection or cannot be reached`, "check the registry, network and proxy");
    case "EPROTO":
      return fail(
        `${host} does not speak TLS`,
        "a registry with plain HTTP must be marked insecure in registries.conf",
      );
    case "ECONNRESET":
      return fail(`${host} closes the connection`, "try again; check network and proxy");
    default:
      return fail(`${host}: ${error.message.split(/[\n.]/)[0]}`, "check network and proxy");
  }
}
