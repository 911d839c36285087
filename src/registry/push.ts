/**
 * Sending an image: distribution-spec 1.1, "Push". Blobs that are there are left alone, or mounted from another
 * repository of the same registry; others are sent in one piece, or in chunks that can be gone on with where one fails.
 */
import { OciboxError } from "../errors.ts";
import { familiar, type Reference } from "../reference/reference.ts";
import { type Digest, sha256 } from "../spec/digest.ts";
import { loginHint } from "./auth.ts";
import type { RepositoryOptions } from "./client.ts";
import { type ConfigOptions, endpointsFor } from "./config.ts";
import { findCredentials } from "./credentials.ts";
import { defaultTiming, type Exchange, networkFailure, pause } from "./http.ts";
import { readError, Server } from "./server.ts";

export interface PushOptions extends RepositoryOptions {
  /** Repositories of the same registry that may have the blobs already. */
  readonly from?: readonly string[];
  /** Bytes; blobs larger than this are sent in chunks of it. */
  readonly chunk?: number;
}

export interface PushBlob {
  readonly digest: Digest;
  readonly size: number;
  readonly file: Blob;
}

/** How a blob has come to be there; "withheld": it has not. */
export type PushOutcome = "there" | "mounted" | "sent" | "withheld";

const usualChunk = 64 << 20;
/** A slower line than this is taken for a stall. Bytes a second. */
const slowest = 20_000;

/** A repository that is pushed to: the registry itself, never a mirror of it. */
export class Uploads implements Disposable {
  readonly #doing: string;
  readonly #closed = new AbortController();
  #server: Promise<Server> | undefined;

  constructor(
    private readonly reference: Reference,
    private readonly options: PushOptions = {},
  ) {
    this.#doing = `cannot push ${JSON.stringify(familiar(reference))}`;
  }

  [Symbol.dispose](): void {
    this.#closed.abort(new OciboxError("INTERRUPTED", `${this.#doing}: it was given up`));
  }

  #open(): Promise<Server> {
    this.#server ??= this.#find();
    return this.#server;
  }

  async #find(): Promise<Server> {
    const { options, reference } = this;
    const env = options.env ?? process.env;
    const config: ConfigOptions = { env, certsDirs: options.certsDirs, insecure: options.insecure };
    const endpoint = endpointsFor(reference, config).at(-1);
    if (endpoint === undefined) throw new OciboxError("REGISTRY", `${this.#doing}: no server is configured for it`);
    return new Server(endpoint, {
      doing: this.#doing,
      config,
      timing: { ...defaultTiming, ...options.timing },
      credentials: (each) => findCredentials(each.host, each.repository, { authfile: options.authfile, env }),
      scopes: [
        `repository:${endpoint.repository}:pull,push`,
        ...(options.from ?? []).map((name) => `repository:${name}:pull`),
      ],
    });
  }

  #signal(signal: AbortSignal | undefined): AbortSignal {
    return signal === undefined ? this.#closed.signal : AbortSignal.any([signal, this.#closed.signal]);
  }

  async #refusal(server: Server, exchange: Exchange, what: string): Promise<OciboxError> {
    const { host } = server.endpoint;
    const { code, message } = await readError(exchange);
    const said = message === "" ? code : message;
    const why = said === "" ? `answers ${exchange.status}` : `answers ${exchange.status}: ${said}`;
    if (exchange.status === 401 || exchange.status === 403) {
      const { credentials, problems } = await server.credentials();
      return new OciboxError(
        "DENIED",
        `${this.#doing}: ${host} does not let ${credentials === undefined ? "an anonymous user" : "this user"} push (${exchange.status})`,
        {
          hint: loginHint(host, problems),
        },
      );
    }
    return new OciboxError("REGISTRY", `${this.#doing}: ${host} does not take ${what}: it ${why}`);
  }

  /** Whether the registry has a blob, or a manifest, of this digest. */
  async has(kind: "blobs" | "manifests", digest: Digest, mediaType?: string, given?: AbortSignal): Promise<boolean> {
    const signal = this.#signal(given);
    const server = await this.#open();
    const headers = mediaType === undefined ? {} : { accept: mediaType };
    const exchange = await server.request({ method: "HEAD", path: `${kind}/${digest}`, headers, signal });
    exchange.cancel();
    if (exchange.status === 200) return true;
    if (exchange.status === 401 || exchange.status === 403) throw await this.#refusal(server, exchange, digest);
    return false;
  }

  /** @throws OciboxError DENIED, REGISTRY, NETWORK */
  async blob(blob: PushBlob, given?: AbortSignal): Promise<PushOutcome> {
    const signal = this.#signal(given);
    if (await this.has("blobs", blob.digest, undefined, signal)) return "there";
    const server = await this.#open();
    for (const from of this.options.from ?? []) {
      const path = `blobs/uploads/?mount=${encodeURIComponent(blob.digest)}&from=${encodeURIComponent(from)}`;
      const exchange = await server.request({ method: "POST", path, signal });
      exchange.cancel();
      if (exchange.status === 201) return "mounted";
      // 202: an upload was begun instead, which it will forget.
    }
    await this.#send(server, blob, signal);
    return "sent";
  }

  async #begin(server: Server, blob: PushBlob, signal: AbortSignal): Promise<URL> {
    const exchange = await server.request({ method: "POST", path: "blobs/uploads/", signal });
    if (exchange.status !== 202) throw await this.#refusal(server, exchange, blob.digest);
    exchange.cancel();
    return this.#location(server, exchange);
  }

  #location(server: Server, exchange: Exchange): URL {
    const location = exchange.header("location");
    if (location === undefined || !URL.canParse(location, exchange.url.href))
      throw new OciboxError("REGISTRY", `${this.#doing}: ${server.endpoint.host} does not say where to send a blob`);
    return new URL(location, exchange.url);
  }

  /** The whole of it, and from the beginning where that fails on the way; chunks go on where they were. */
  async #send(server: Server, blob: PushBlob, signal: AbortSignal): Promise<void> {
    const chunk = this.options.chunk ?? usualChunk;
    for (let attempt = 1; ; attempt++) {
      try {
        const place = await this.#begin(server, blob, signal);
        const last = blob.size > chunk ? await this.#chunks(server, blob, place, chunk, signal) : place;
        const rest = blob.size > chunk ? undefined : blob.file;
        last.searchParams.set("digest", blob.digest);
        const exchange = await server.request({
          method: "PUT",
          path: last,
          headers: {
            "content-type": "application/octet-stream",
            ...(rest === undefined ? { "content-length": "0" } : {}),
          },
          body: rest ?? new Uint8Array(),
          patience: this.#patience(rest === undefined ? 0 : blob.size),
          signal,
        });
        if (exchange.status === 201) {
          exchange.cancel();
          return;
        }
        // The registry has forgotten the upload: that is no refusal of the blob.
        if (exchange.status !== 404 && exchange.status !== 416)
          throw await this.#refusal(server, exchange, blob.digest);
        exchange.cancel();
        throw networkFailure(new Error("the upload was lost"), this.#doing, server.endpoint.host);
      } catch (error) {
        signal.throwIfAborted();
        const wait =
          error instanceof OciboxError && error.code === "NETWORK" ? server.waitBefore(attempt, undefined) : undefined;
        if (wait === undefined) throw error;
        await pause(wait, signal);
      }
    }
  }

  #patience(size: number): number {
    return (this.options.timing?.idle ?? defaultTiming.idle) + (size / slowest) * 1000;
  }

  /** "Pushing a blob in chunks". @returns where the end is to be told */
  async #chunks(server: Server, blob: PushBlob, start: URL, chunk: number, signal: AbortSignal): Promise<URL> {
    let place = start;
    for (let from = 0, vain = 0; from < blob.size; ) {
      const to = Math.min(blob.size, from + chunk);
      const exchange = await server.request({
        method: "PATCH",
        path: place,
        headers: {
          "content-type": "application/octet-stream",
          "content-range": `${from}-${to - 1}`,
          "content-length": String(to - from),
        },
        body: blob.file.slice(from, to),
        patience: this.#patience(to - from),
        signal,
      });
      if (exchange.status === 202 || exchange.status === 204) {
        exchange.cancel();
        place = this.#location(server, exchange);
        from = to;
        vain = 0;
        continue;
      }
      if (exchange.status === 404) {
        // The registry has forgotten the upload, or has taken the chunk and does not know the place any more.
        exchange.cancel();
        throw networkFailure(new Error("the upload was lost"), this.#doing, server.endpoint.host);
      }
      if (exchange.status !== 416 || vain++ > 2) throw await this.#refusal(server, exchange, blob.digest);
      exchange.cancel();
      // It has more, or less, than was thought: a try that failed on its way back.
      const status = await server.request({ path: place, signal });
      status.cancel();
      const end = /^(?:bytes=)?0-(\d+)$/.exec(status.header("range") ?? "")?.[1];
      if (status.status !== 204)
        throw networkFailure(new Error("the upload was lost"), this.#doing, server.endpoint.host);
      place = this.#location(server, status);
      from = end === undefined ? 0 : Number(end) + 1;
    }
    return place;
  }

  /**
   * A manifest or an index, when all that it names is there.
   * @param name a tag or a digest
   * @throws OciboxError DENIED, REGISTRY, NETWORK
   */
  async manifest(
    name: string,
    bytes: Uint8Array<ArrayBuffer>,
    mediaType: string,
    given?: AbortSignal,
  ): Promise<Digest> {
    const signal = this.#signal(given);
    const server = await this.#open();
    const exchange = await server.request({
      method: "PUT",
      path: `manifests/${name}`,
      headers: { "content-type": mediaType },
      body: bytes,
      signal,
    });
    if (exchange.status !== 201 && exchange.status !== 202 && exchange.status !== 200)
      throw await this.#refusal(server, exchange, `the manifest ${JSON.stringify(name)}`);
    exchange.cancel();
    const digest = sha256(bytes);
    const told = exchange.header("docker-content-digest");
    if (told !== undefined && told !== digest)
      throw new OciboxError(
        "REGISTRY",
        `${this.#doing}: ${server.endpoint.host} has stored ${told.slice(0, 100)} in place of ${digest}`,
      );
    return digest;
  }
}
