/**
 * Logging in as a registry asks for it: Basic (RFC 7617), or a token from the server that its challenge names
 * (distribution, docs/spec/auth/token.md and oauth.md).
 */
import { OciboxError } from "../errors.ts";
import type { Challenge } from "./challenge.ts";
import type { Credentials, CredentialsFound } from "./credentials.ts";
import { isLinkLocal, isLoopback } from "./hosts.ts";
import { networkFailure, type Policy, send } from "./http.ts";

/** No honest token is longer. Bytes. */
const tokenBodyLimit = 1 << 20;

export interface AuthContext {
  /** 'cannot pull "alpine:latest"' */
  readonly doing: string;
  /** The registry's name, for messages and hints. */
  readonly host: string;
  /** Where the registry itself is asked. */
  readonly base: URL;
  /** "repository:library/alpine:pull"; none to log in only */
  readonly scopes: readonly string[];
  readonly policy: Policy;
  /** Looked up when first asked for, and not before: helpers are slow, and most pulls are anonymous. */
  readonly credentials: () => Promise<CredentialsFound>;
}

/** What to do when a login fails. */
export function loginHint(host: string, problems: readonly string[] = []): string {
  const hint = `log in with: ocibox login ${host} (the logins of podman and docker are found too)`;
  return problems.length === 0 ? hint : `${problems.join("; ")}; ${hint}`;
}

/**
 * The token server's address. Credentials go there, so a registry cannot send them over plain HTTP, or to this machine
 * or the cloud's metadata service, unless it is itself there.
 * @throws OciboxError REGISTRY
 */
function checkRealm(realm: string, context: Pick<AuthContext, "base" | "doing" | "host">): URL {
  const refuse = (why: string): never => {
    throw new OciboxError(
      "REGISTRY",
      `${context.doing}: ${context.host} names a token server that is not asked: ${why}`,
    );
  };
  if (!URL.canParse(realm)) return refuse(`${JSON.stringify(realm.slice(0, 200))} is not a URL`);
  const url = new URL(realm);
  const { base } = context;
  if (url.protocol !== "https:" && url.protocol !== "http:") return refuse(`its address begins with "${url.protocol}"`);
  if (url.username !== "" || url.password !== "") return refuse("its address has a password in it");
  if (isLinkLocal(url.hostname) && url.hostname !== base.hostname) return refuse(`${url.host} is a link-local address`);
  if (isLoopback(url.hostname) && !isLoopback(base.hostname)) return refuse(`${url.host} is this machine itself`);
  if (url.protocol === "http:") {
    const sameKind = url.hostname === base.hostname || (isLoopback(url.hostname) && isLoopback(base.hostname));
    if (base.protocol !== "http:" || !sameKind) return refuse(`${url.host} would get passwords over plain HTTP`);
  }
  return url;
}

function basic(username: string, password: string): string {
  return `Basic ${new TextEncoder().encode(`${username}:${password}`).toBase64()}`;
}

function tokenIn(body: Uint8Array): string | undefined {
  let answer: unknown;
  try {
    answer = JSON.parse(new TextDecoder().decode(body));
  } catch {
    return undefined;
  }
  if (typeof answer !== "object" || answer === null) return undefined;
  const { token, access_token } = answer as Record<string, unknown>;
  const found = token ?? access_token;
  return typeof found === "string" && /^[\x21-\x7e]+$/.test(found) ? found : undefined;
}

/** The Authorization header of one registry, got when it is asked for and got again when it is no longer taken. */
export class Authenticator {
  #header: string | undefined;
  #running: Promise<string | undefined> | undefined;

  constructor(private readonly context: AuthContext) {}

  /** The header to send, once one is known. */
  get header(): string | undefined {
    return this.#header;
  }

  /**
   * Answers a 401. Requests that fail together are answered once.
   * @param used the header that was refused
   * @returns is there another header to try?
   * @throws OciboxError DENIED, REGISTRY, NETWORK
   */
  async answer(challenges: readonly Challenge[], used: string | undefined, signal?: AbortSignal): Promise<boolean> {
    if (this.#header !== undefined && this.#header !== used) return true;
    this.#running ??= this.#obtain(challenges, signal).finally(() => {
      this.#running = undefined;
    });
    const header = await this.#running;
    if (header === undefined) return false;
    // The same password again would be refused again; a token is another one each time.
    if (header === used) return false;
    this.#header = header;
    return true;
  }

  async #obtain(challenges: readonly Challenge[], signal: AbortSignal | undefined): Promise<string | undefined> {
    const bearer = challenges.find((each) => each.scheme === "bearer" && each.parameters.has("realm"));
    if (bearer !== undefined) return `Bearer ${await this.#token(bearer, signal)}`;
    if (!challenges.some((each) => each.scheme === "basic")) return undefined;
    const { credentials } = await this.context.credentials();
    return credentials?.kind === "password" ? basic(credentials.username, credentials.password) : undefined;
  }

  async #token(challenge: Challenge, signal: AbortSignal | undefined): Promise<string> {
    const { context } = this;
    const realm = checkRealm(challenge.parameters.get("realm") ?? "", context);
    const service = challenge.parameters.get("service");
    const { credentials, problems } = await context.credentials();
    const exchange = await this.#ask(realm, service, credentials, signal);
    if (exchange.status === 401 || exchange.status === 403 || exchange.status === 400) {
      exchange.cancel();
      throw new OciboxError(
        "DENIED",
        credentials === undefined
          ? `${context.doing}: ${context.host} gives no token without a login (${exchange.status})`
          : `${context.doing}: ${context.host} does not accept the user name or password (${exchange.status})`,
        { hint: loginHint(context.host, problems) },
      );
    }
    if (exchange.status !== 200) {
      exchange.cancel();
      throw new OciboxError("REGISTRY", `${context.doing}: the token server ${realm.host} answers ${exchange.status}`);
    }
    const body = await exchange.bytes(tokenBodyLimit).catch((error: unknown) => {
      throw networkFailure(error, context.doing, realm.host);
    });
    const token = body === undefined ? undefined : tokenIn(body);
    if (token === undefined)
      throw new OciboxError(
        "REGISTRY",
        `${context.doing}: the token server ${realm.host} sends ${body === undefined ? `more than ${tokenBodyLimit} bytes` : "no token"}`,
      );
    return token;
  }

  async #ask(realm: URL, service: string | undefined, credentials: Credentials | undefined, signal?: AbortSignal) {
    const { context } = this;
    const url = new URL(realm);
    const named = service === undefined ? {} : { service };
    try {
      if (credentials?.kind === "identity") {
        const form = { grant_type: "refresh_token", client_id: "ocibox", scope: context.scopes.join(" "), ...named };
        return await send(
          url,
          {
            method: "POST",
            headers: { "content-type": "application/x-www-form-urlencoded" },
            body: new URLSearchParams({ ...form, refresh_token: credentials.token }).toString(),
            signal,
          },
          context.policy,
        );
      }
      for (const [name, value] of Object.entries(named)) url.searchParams.set(name, value);
      for (const scope of context.scopes) url.searchParams.append("scope", scope);
      const headers: Record<string, string> =
        credentials === undefined ? {} : { authorization: basic(credentials.username, credentials.password) };
      return await send(url, { headers, signal }, context.policy);
    } catch (error) {
      signal?.throwIfAborted();
      throw networkFailure(error, context.doing, realm.host);
    }
  }
}
