/** One server of a repository: where it is, how it is spoken to, and one authorized request with its retries. */
import { OciboxError } from "../errors.ts";
import { Authenticator } from "./auth.ts";
import { parseChallenges } from "./challenge.ts";
import { type ConfigOptions, certificatesFor, type Endpoint } from "./config.ts";
import type { CredentialsFound } from "./credentials.ts";
import { hostnameOf, isLoopback } from "./hosts.ts";
import {
  type Exchange,
  isCertificateError,
  isTransient,
  isUnanswered,
  networkFailure,
  type Policy,
  pause,
  retryAfter,
  type Send,
  send,
  type Timing,
  type TlsSettings,
  UnsafeUrlError,
} from "./http.ts";

/** A registry that asks for more patience than this is not waited for. Milliseconds. */
const longestWait = 60_000;
/** Registries describe their errors in JSON; no more of it is read. Bytes. */
const errorBodyLimit = 65_536;
/** Of a URL that an image names, in an error. Characters. */
export const shownUrl = 200;

export interface ServerOptions {
  readonly doing: string;
  readonly config: ConfigOptions;
  readonly timing: Timing;
  readonly credentials: (endpoint: Endpoint) => Promise<CredentialsFound>;
  /** What a token is asked for; to pull from the repository, where nothing else is said. */
  readonly scopes?: readonly string[];
  /** Of a server that an image names: who named it. It is told nothing, and what it asks for is not given. */
  readonly namedBy?: URL;
}

export interface ServerRequest extends Pick<Send, "method" | "body" | "patience"> {
  /** After the repository: "manifests/latest"; or a whole URL, where the server has named one. */
  readonly path: string | URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
}

/** What the registry says of an error, for people: distribution-spec, "Error Codes". */
export interface RegistryError {
  readonly code: string;
  readonly message: string;
}

/** Text from a server in an error of ours: on one line, without control characters, short. */
function quietly(text: string): string {
  const plain = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").trim();
  return plain.length > 200 ? `${plain.slice(0, 200)}…` : plain;
}

export async function readError(exchange: Exchange): Promise<RegistryError> {
  const none = { code: "", message: "" };
  try {
    const body = await exchange.bytes(errorBodyLimit);
    if (body === undefined) return none;
    const document: unknown = JSON.parse(new TextDecoder().decode(body));
    const first = (document as { errors?: { code?: unknown; message?: unknown }[] } | null)?.errors?.[0];
    const text = (value: unknown) => (typeof value === "string" ? quietly(value) : "");
    return { code: text(first?.code), message: text(first?.message) };
  } catch {
    return none;
  }
}

export class Server {
  readonly #policy: Policy;
  readonly #certificates = new Map<string, TlsSettings>();
  #base: Promise<URL> | undefined;
  #auth: Authenticator | undefined;
  #credentials: Promise<CredentialsFound> | undefined;

  constructor(
    readonly endpoint: Endpoint,
    private readonly options: ServerOptions,
  ) {
    this.#policy = {
      plainAllowed: (url) => endpoint.plainAllowed || isLoopback(url.host),
      downgradeAllowed: endpoint.tls.skipVerify === true,
      tlsFor: (url) => this.#tlsFor(url),
      timing: options.timing,
      ...(options.namedBy === undefined ? {} : { from: options.namedBy }),
    };
  }

  /** Credentials for this server, looked up once. */
  credentials(): Promise<CredentialsFound> {
    this.#credentials ??= this.options.credentials(this.endpoint);
    return this.#credentials;
  }

  /** Certificates of the configured host go with the endpoint's own settings, those of other hosts are their own. */
  #tlsFor(url: URL): TlsSettings {
    const { endpoint } = this;
    const own = url.host === new URL(`https://${endpoint.address}`).host;
    const host = own ? endpoint.host : url.host;
    const found = this.#certificates.get(host) ?? certificatesFor(host, this.options.config);
    this.#certificates.set(host, found);
    if (this.options.namedBy !== undefined) return found.ca === undefined ? {} : { ca: found.ca };
    const same = hostnameOf(url.host) === hostnameOf(endpoint.address);
    return same ? { ...found, ...endpoint.tls } : found;
  }

  /**
   * Where the registry's API begins. Of a host that may use plain HTTP it is found out by asking for TLS first; on this
   * machine itself, where nobody listens on the way, by the first request: `#plainly`.
   * @throws what fetch throws
   */
  base(signal: AbortSignal | undefined): Promise<URL> {
    this.#base ??= this.#findBase(signal).catch((error: unknown) => {
      this.#base = undefined;
      throw error;
    });
    return this.#base;
  }

  async #findBase(signal: AbortSignal | undefined): Promise<URL> {
    const { endpoint } = this;
    const at = (scheme: string) => new URL(`${scheme}://${endpoint.address}`);
    if (endpoint.scheme !== undefined || !endpoint.plainAllowed) return at(endpoint.scheme ?? "https");
    const timing = { ...this.options.timing, idle: Math.min(3000, this.options.timing.idle) };
    try {
      const probe = await send(new URL("/v2/", at("https")), { headers: {}, signal }, { ...this.#policy, timing });
      probe.cancel();
      return at("https");
    } catch (error) {
      signal?.throwIfAborted();
      if (isCertificateError(error)) throw error;
      // It spoke TLS: only where it sends its visitors is not to our liking.
      if (error instanceof UnsafeUrlError) return at("https");
      return at("http");
    }
  }

  /**
   * A first request to a registry on this machine, over plain HTTP and with nothing secret: an attempt at TLS would cost
   * more than all the rest of a small pull.
   * @returns undefined where it may speak TLS, and is asked again
   */
  async #plainly(request: ServerRequest): Promise<Exchange | undefined> {
    const { endpoint } = this;
    const { path, method = "GET", signal } = request;
    if (this.#base !== undefined || endpoint.scheme !== undefined || !isLoopback(endpoint.address)) return undefined;
    if (typeof path !== "string" || (method !== "GET" && method !== "HEAD")) return undefined;
    const base = new URL(`http://${endpoint.address}`);
    try {
      const url = new URL(`${endpoint.prefix}/${endpoint.repository}/${path}`, base);
      const exchange = await send(url, { method, headers: { ...request.headers }, signal }, this.#policy);
      // 400 is what a server for TLS says to this; others lead to it.
      const led = exchange.url.protocol === "https:" && hostnameOf(exchange.url.host) === hostnameOf(base.host);
      if (exchange.status !== 400 && !led) {
        this.#base ??= Promise.resolve(base);
        return exchange;
      }
      exchange.cancel();
    } catch (error) {
      signal?.throwIfAborted();
      // A server for TLS may also hang up, or answer with what is no HTTP.
      if (error instanceof UnsafeUrlError || isUnanswered(error)) throw error;
    }
    return undefined;
  }

  async #authenticator(signal: AbortSignal | undefined): Promise<Authenticator> {
    // Before the assignment: requests that start together must share one, and with it one token.
    const base = await this.base(signal);
    this.#auth ??= new Authenticator({
      doing: this.options.doing,
      host: this.endpoint.host,
      base,
      scopes: this.options.scopes ?? [`repository:${this.endpoint.repository}:pull`],
      policy: this.#policy,
      credentials: () => this.credentials(),
    });
    return this.#auth;
  }

  /** One request, and once more with fresh authorization where the first answer is 401. */
  async #authorized(request: ServerRequest): Promise<Exchange> {
    const { endpoint } = this;
    if (this.options.namedBy !== undefined) {
      const { path, headers = {}, signal } = request;
      try {
        return await send(new URL(path), { headers, signal }, this.#policy);
      } catch (error) {
        if (!(error instanceof UnsafeUrlError)) throw error;
        const shown = String(path).slice(0, shownUrl);
        throw new OciboxError("REGISTRY", `${this.options.doing}: ${shown} is not followed: ${error.message}`);
      }
    }
    const plain = await this.#plainly(request);
    const base = await this.base(request.signal);
    const auth = await this.#authenticator(request.signal);
    const url =
      typeof request.path === "string"
        ? new URL(`${endpoint.prefix}/${endpoint.repository}/${request.path}`, base)
        : request.path;
    if (endpoint.namespace !== undefined && typeof request.path === "string")
      url.searchParams.set("ns", endpoint.namespace);
    // What is secret goes to the registry alone, wherever it says that a blob is to be sent.
    const own = url.origin === base.origin;
    const ask = (header: string | undefined) =>
      send(
        url,
        {
          method: request.method ?? "GET",
          headers: {
            ...(own ? endpoint.headers : {}),
            ...request.headers,
            ...(header === undefined || !own ? {} : { authorization: header }),
          },
          ...(request.body === undefined ? {} : { body: request.body }),
          ...(request.patience === undefined ? {} : { patience: request.patience }),
          signal: request.signal,
        },
        this.#policy,
      );
    const used = plain === undefined ? auth.header : undefined;
    const first = plain ?? (await ask(used));
    // A 401 from where a redirect led is not the registry's own: what it asks for is not given.
    if (first.status !== 401 || first.url.origin !== url.origin) return first;
    const challenges = parseChallenges(first.header("www-authenticate") ?? "");
    if (!(await auth.answer(challenges, used, request.signal))) return first;
    first.cancel();
    return ask(auth.header);
  }

  /** Whether the registry lets this user in, whatever it then allows: GET /v2/. @throws OciboxError as `request` does */
  async greet(signal?: AbortSignal): Promise<number> {
    const exchange = await this.request({ path: new URL("/v2/", await this.#reach(signal)), signal });
    exchange.cancel();
    return exchange.status;
  }

  async #reach(signal: AbortSignal | undefined): Promise<URL> {
    try {
      return await this.base(signal);
    } catch (error) {
      signal?.throwIfAborted();
      throw networkFailure(error, this.options.doing, this.endpoint.host);
    }
  }

  /** Milliseconds to wait before another try, or undefined where there is none to be made. */
  waitBefore(attempt: number, exchange: Exchange | undefined): number | undefined {
    const { tries, backoff } = this.options.timing;
    if (attempt >= tries) return undefined;
    const asked = retryAfter(exchange?.header("retry-after"), Date.now());
    if (asked !== undefined) return asked > longestWait ? undefined : asked;
    return Math.min(longestWait, backoff * 2 ** (attempt - 1) * (0.75 + Math.random() / 2));
  }

  /**
   * A request with its retries: resets and stalls, 429 and 5xx, with the pause that the server asks for (up to 60 s).
   * The answer may have any other status.
   * @throws OciboxError NETWORK, REGISTRY, DENIED; the signal's reason
   */
  async request(request: ServerRequest): Promise<Exchange> {
    const { doing } = this.options;
    const { host } = this.endpoint;
    for (let attempt = 1; ; attempt++) {
      let exchange: Exchange | undefined;
      let failure: unknown;
      try {
        exchange = await this.#authorized(request);
      } catch (error) {
        request.signal?.throwIfAborted();
        failure = error;
      }
      if (exchange === undefined) {
        const wait = isTransient(failure) ? this.waitBefore(attempt, undefined) : undefined;
        if (wait === undefined) throw networkFailure(failure, doing, host);
        await pause(wait, request.signal);
        continue;
      }
      if (exchange.status !== 429 && exchange.status !== 408 && exchange.status < 500) return exchange;
      const wait = this.waitBefore(attempt, exchange);
      if (wait === undefined) throw await this.#busy(exchange);
      exchange.cancel();
      await pause(wait, request.signal);
    }
  }

  async #busy(exchange: Exchange): Promise<OciboxError> {
    const { doing } = this.options;
    const later = exchange.header("retry-after");
    const { message } = await readError(exchange);
    const why = exchange.status === 429 ? "too many requests (429)" : `an error of its own (${exchange.status})`;
    return new OciboxError(
      "REGISTRY",
      `${doing}: ${this.endpoint.host} answers with ${why}${message === "" ? "" : `: ${message}`}`,
      {
        hint:
          exchange.status === 429
            ? `try again ${later === undefined ? "later" : `after ${quietly(later)}${/^[0-9]+$/.test(later) ? " seconds" : ""}`}, or log in: registries allow more then`
            : "try again later",
      },
    );
  }
}
