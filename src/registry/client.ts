/** The distribution client: a Repository over mirrors and upstream. distribution-spec 1.1, "Pull". */
import { OciboxError, reason } from "../errors.ts";
import { familiar, type Reference } from "../reference/reference.ts";
import { type Digest, isDigest, sha256 } from "../spec/digest.ts";
import { manifestLimit } from "../spec/image-decode.ts";
import { dockerIndex, dockerManifest, ociIndex, ociManifest } from "../spec/media-types.ts";
import { loginHint } from "./auth.ts";
import { type ConfigOptions, type Endpoint, endpointsFor } from "./config.ts";
import { findCredentials } from "./credentials.ts";
import type { Environment } from "./files.ts";
import { defaultTiming, type Exchange, isTransient, networkFailure, pause, type Timing } from "./http.ts";
import type { BlobOptions, BlobRequest, FetchedManifest, FetchOptions, Repository } from "./repository.ts";
import { readError, Server, shownUrl } from "./server.ts";

export interface RepositoryOptions {
  /** From --authfile. */
  readonly authfile?: string | undefined;
  /** Where the configuration's folders and proxies are named; the process's own if left out. */
  readonly env?: Environment | undefined;
  /** Folders with certificates and hosts.toml for each host; those of podman, docker and containerd if left out. */
  readonly certsDirs?: readonly string[] | undefined;
  readonly timing?: Partial<Timing> | undefined;
  /** --tls-verify=false */
  readonly insecure?: boolean | undefined;
}

const accept = [ociIndex, ociManifest, dockerIndex, dockerManifest].join(", ");
/** A try that brought this much does not count as one in vain. Bytes. */
const worthwhile = 1 << 20;

/** Opens the repository of an image. Nothing is read or sent before something is asked of it. */
export function openRepository(reference: Reference, options: RepositoryOptions = {}): Repository {
  return new DistributionRepository(reference, options);
}

/** A failure that another server might not have: remembered, and named if all fail. */
interface Failure {
  readonly endpoint: Endpoint;
  readonly error: unknown;
}

/** Where a blob may be. */
interface Source {
  readonly server: Server;
  /** As `ServerRequest` has it. */
  readonly path: string | URL;
}

/** Of those that an image names for a layer, no more are tried. */
const mostUrls = 16;

class DistributionRepository implements Repository {
  readonly name: string;
  readonly #image: string;
  readonly #doing: string;
  readonly #closed = new AbortController();
  readonly #config: ConfigOptions;
  readonly #timing: Timing;
  #servers: Promise<Server[]> | undefined;

  constructor(
    private readonly reference: Reference,
    private readonly options: RepositoryOptions,
  ) {
    this.name = `${reference.registry}/${reference.repository}`;
    this.#image = familiar(reference);
    this.#doing = `cannot pull ${JSON.stringify(this.#image)}`;
    const env = options.env ?? process.env;
    this.#config = { env, certsDirs: options.certsDirs, insecure: options.insecure };
    this.#timing = { ...defaultTiming, ...options.timing };
  }

  [Symbol.dispose](): void {
    this.#closed.abort(new OciboxError("INTERRUPTED", `${this.#doing}: it was given up`));
  }

  #signal(options: FetchOptions | undefined): AbortSignal {
    return options?.signal === undefined ? this.#closed.signal : AbortSignal.any([options.signal, this.#closed.signal]);
  }

  #open(): Promise<Server[]> {
    this.#servers ??= this.#findServers();
    return this.#servers;
  }

  async #findServers(): Promise<Server[]> {
    const { authfile } = this.options;
    const { env } = this.#config;
    return endpointsFor(this.reference, this.#config).map(
      (endpoint) =>
        new Server(endpoint, {
          doing: this.#doing,
          config: this.#config,
          timing: this.#timing,
          credentials: ({ host, repository }) => findCredentials(host, repository, { authfile, env }),
        }),
    );
  }

  /** Asks one server after the other until one can do it. */
  async #anywhere<T>(signal: AbortSignal, ask: (server: Server) => Promise<T>): Promise<T> {
    const failures: Failure[] = [];
    for (const server of await this.#open()) {
      try {
        return await ask(server);
      } catch (error) {
        signal.throwIfAborted();
        failures.push({ endpoint: server.endpoint, error });
      }
    }
    throw this.#allFailed(failures);
  }

  /** An error's words for the middle of a line that begins with what is done. */
  #why(error: unknown): string {
    const why = reason(error);
    return why.startsWith(`${this.#doing}: `) ? why.slice(this.#doing.length + 2) : why;
  }

  /** The upstream's error; the mirrors' ones before it are told in its line. */
  #allFailed(failures: readonly Failure[]): unknown {
    const last = failures.at(-1);
    if (last === undefined) return new OciboxError("REGISTRY", `${this.#doing}: no server is configured for it`);
    const before = failures.slice(0, -1);
    if (before.length === 0 || !(last.error instanceof OciboxError)) return last.error;
    const said = before.map(({ endpoint, error }) => {
      return `${endpoint.host}: ${this.#why(error)}`;
    });
    return new OciboxError(last.error.code, `${last.error.message} (before it, ${said.join("; ")})`, {
      cause: last.error,
      ...(last.error.hint === undefined ? {} : { hint: last.error.hint }),
    });
  }

  manifest(tagOrDigest: string, options?: FetchOptions): Promise<FetchedManifest> {
    const signal = this.#signal(options);
    return this.#anywhere(signal, (server) => this.#manifestFrom(server, checkedName(tagOrDigest), signal));
  }

  async #manifestFrom(server: Server, name: string, signal: AbortSignal): Promise<FetchedManifest> {
    const { host } = server.endpoint;
    const bytes = await this.#patiently(server, signal, async () => {
      const exchange = await server.request({ path: `manifests/${name}`, headers: { accept }, signal });
      if (exchange.status !== 200) throw await this.#refusal(server, exchange, `manifests/${name}`);
      const body = await exchange.bytes(manifestLimit);
      if (body === undefined)
        throw new OciboxError("REGISTRY", `${this.#doing}: ${host} sends a manifest of over ${manifestLimit} bytes`);
      return { body, exchange };
    });
    const digest = sha256(bytes.body);
    const promised = bytes.exchange.header("docker-content-digest");
    const wanted = isDigest(name) ? name : isDigest(promised) ? promised : digest;
    if (wanted !== digest || (isDigest(promised) && promised !== digest))
      throw new OciboxError(
        "DIGEST_MISMATCH",
        `${this.#doing}: the manifest from ${host} has the digest ${digest}, not ${wanted === digest ? promised : wanted}`,
        { hint: "something between here and the registry changes data; nothing was kept" },
      );
    return { bytes: bytes.body, mediaType: contentType(bytes.exchange), digest };
  }

  /** Reads something small whole, again where the connection breaks in the middle. */
  async #patiently<T>(server: Server, signal: AbortSignal, read: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await read();
      } catch (error) {
        signal.throwIfAborted();
        const wait = isTransient(error) ? server.waitBefore(attempt, undefined) : undefined;
        if (wait === undefined) throw networkFailure(error, this.#doing, server.endpoint.host);
        await pause(wait, signal);
      }
    }
  }

  resolve(tagOrDigest: string, options?: FetchOptions): Promise<Digest | undefined> {
    const signal = this.#signal(options);
    const path = `manifests/${checkedName(tagOrDigest)}`;
    return this.#anywhere(signal, async (server) => {
      const exchange = await server.request({ method: "HEAD", path, headers: { accept }, signal });
      if (exchange.status !== 200) throw await this.#refusal(server, exchange, path);
      exchange.cancel();
      const digest = exchange.header("docker-content-digest");
      return isDigest(digest) ? digest : undefined;
    });
  }

  async *blob(blob: BlobRequest, options: BlobOptions = {}): AsyncGenerator<Uint8Array> {
    const signal = this.#signal(options);
    if (!isDigest(blob.digest) || !Number.isSafeInteger(blob.size) || blob.size < 0)
      throw new OciboxError("INVALID", `${this.#doing}: its manifest has a layer without digest or size`);
    const from = options.from ?? 0;
    const progress = new BlobProgress(blob, from, from === 0 && options.unhashed !== true);
    const failures: Failure[] = [];
    for (const server of await this.#open()) {
      try {
        yield* this.#blobFrom({ server, path: `blobs/${blob.digest}` }, progress, signal);
        this.#checkDigest(server, progress);
        return;
      } catch (error) {
        signal.throwIfAborted();
        // Where wrong bytes have been given out already, no other server can mend that.
        const given = progress.received > from;
        if (given && error instanceof OciboxError && error.code === "DIGEST_MISMATCH") throw error;
        failures.push({ endpoint: server.endpoint, error });
      }
    }
    const lacking = failures.every(({ error }) => error instanceof OciboxError && error.code === "NOT_FOUND");
    if (!lacking || blob.urls === undefined || blob.urls.length === 0) throw this.#allFailed(failures);
    yield* this.#foreign(blob.urls, progress, signal);
  }

  /** A blob that the registry does not have, from where the image says that it is: its maker's own server. */
  async *#foreign(urls: readonly string[], progress: BlobProgress, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const { digest } = progress.blob;
    const registry = (await this.#open()).at(-1) as Server;
    const start = progress.received;
    const failures: string[] = [];
    for (const text of urls.slice(0, mostUrls)) {
      try {
        const source = await this.#sourceAt(text, registry, signal);
        yield* this.#blobFrom(source, progress, signal);
        this.#checkDigest(source.server, progress);
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (progress.received > start && error instanceof OciboxError && error.code === "DIGEST_MISMATCH") throw error;
        failures.push(this.#why(error));
      }
    }
    throw new OciboxError(
      "NOT_FOUND",
      `${this.#doing}: ${registry.endpoint.host} does not have the layer ${digest}, nor can it be had from where the image says: ${failures.join("; ")}`,
      { hint: "ask the image's maker" },
    );
  }

  /** @throws OciboxError REGISTRY for a URL that nothing is asked of */
  async #sourceAt(text: string, registry: Server, signal: AbortSignal): Promise<Source> {
    const { endpoint } = registry;
    if (!URL.canParse(text))
      throw new OciboxError("REGISTRY", `${JSON.stringify(text.slice(0, shownUrl))} is not a URL`);
    const url = new URL(text);
    if (url.username !== "" || url.password !== "")
      throw new OciboxError("REGISTRY", "a URL with a user name in it is not asked");
    const namedBy = await registry.base(signal);
    const server = new Server(
      {
        host: url.host,
        address: url.host,
        scheme: url.protocol === "http:" ? "http" : "https",
        prefix: "",
        repository: "",
        plainAllowed: endpoint.plainAllowed,
        tls: {},
        headers: {},
        namespace: undefined,
        mirror: true,
      },
      {
        doing: this.#doing,
        config: this.#config,
        timing: this.#timing,
        credentials: async () => ({ credentials: undefined, problems: [] }),
        namedBy,
      },
    );
    return { server, path: url };
  }

  #checkDigest(server: Server, progress: BlobProgress): void {
    const { blob } = progress;
    const digest = progress.digest();
    if (digest === undefined || digest === blob.digest) return;
    throw new OciboxError(
      "DIGEST_MISMATCH",
      `${this.#doing}: the layer ${blob.digest} from ${server.endpoint.host} has the digest ${digest}`,
      { hint: "something between here and the registry changes data; nothing was kept" },
    );
  }

  /** The rest of a blob from one server, resumed where the connection breaks. */
  async *#blobFrom(source: Source, progress: BlobProgress, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const { server } = source;
    const { blob } = progress;
    const { host } = server.endpoint;
    if (blob.size === 0 && progress.received === 0) return;
    for (let attempt = 1; progress.received < blob.size; attempt++) {
      const before = progress.received;
      let failure: unknown;
      try {
        yield* this.#attempt(source, progress, signal);
        if (progress.received === blob.size) return;
        failure = new OciboxError(
          "REGISTRY",
          `${this.#doing}: ${host} ends the layer ${blob.digest} after ${progress.received} of ${blob.size} bytes`,
          { hint: "try again; the registry's copy may be damaged" },
        );
      } catch (error) {
        signal.throwIfAborted();
        if (!isTransient(error)) throw networkFailure(error, this.#doing, host);
        failure = error;
      }
      if (progress.received - before >= worthwhile) attempt = 1;
      const wait = server.waitBefore(attempt, undefined);
      if (wait === undefined) throw networkFailure(failure, this.#doing, host);
      await pause(wait, signal);
    }
  }

  /** One request for what is missing of the blob, as far as it goes. */
  async *#attempt({ server, path }: Source, progress: BlobProgress, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const { blob } = progress;
    const start = progress.received;
    const headers: Record<string, string> = start === 0 ? {} : { range: `bytes=${start}-` };
    const exchange = await server.request({ path, headers, signal });
    if (exchange.status !== 200 && exchange.status !== 206) throw await this.#refusal(server, exchange, path);
    // A server that knows nothing of ranges sends everything again: what is here already is passed over.
    let skip = this.#startOf(server, exchange, progress) === start ? 0 : start;
    for await (const chunk of exchange.body()) {
      const fresh = skip === 0 ? chunk : chunk.subarray(Math.min(skip, chunk.byteLength));
      skip -= Math.min(skip, chunk.byteLength);
      if (fresh.byteLength === 0) continue;
      if (progress.received + fresh.byteLength > blob.size) throw this.#tooLong(server, progress);
      progress.take(fresh);
      yield fresh;
    }
  }

  #tooLong(server: Server, { blob }: BlobProgress): OciboxError {
    return new OciboxError(
      "DIGEST_MISMATCH",
      `${this.#doing}: ${server.endpoint.host} sends more than the ${blob.size} bytes of the layer ${blob.digest}`,
      { hint: "something between here and the registry changes data; nothing was kept" },
    );
  }

  /** Where in the blob the answer begins, from Content-Range (RFC 9110, 14.4). */
  #startOf(server: Server, exchange: Exchange, { blob, received }: BlobProgress): number {
    if (exchange.status === 200) {
      const length = exchange.header("content-length");
      if (length === undefined || Number(length) === blob.size) return 0;
      exchange.cancel();
      throw new OciboxError(
        "DIGEST_MISMATCH",
        `${this.#doing}: ${server.endpoint.host} has ${length} bytes as the layer ${blob.digest}, not ${blob.size}`,
        { hint: "the registry's copy is damaged, or something between here and there changes data" },
      );
    }
    const header = exchange.header("content-range") ?? "";
    const range = /^bytes ([0-9]{1,15})-([0-9]{1,15})\/([0-9]{1,15}|\*)$/.exec(header);
    if (
      range !== null &&
      Number(range[1]) === received &&
      Number(range[2]) < blob.size &&
      (range[3] === "*" || Number(range[3]) === blob.size)
    )
      return received;
    exchange.cancel();
    throw new OciboxError(
      "REGISTRY",
      `${this.#doing}: ${server.endpoint.host} was asked for byte ${received} and after, and sends ${JSON.stringify(header.slice(0, 80))}`,
    );
  }

  /** Why the registry does not give something, for people. */
  async #refusal(server: Server, exchange: Exchange, path: string | URL): Promise<OciboxError> {
    const { host, repository } = server.endpoint;
    if (typeof path !== "string") {
      exchange.cancel();
      return new OciboxError("NOT_FOUND", `${this.#doing}: ${path.href.slice(0, shownUrl)} answers ${exchange.status}`);
    }
    const error = await readError(exchange);
    const said = [error.code, error.message].filter((text) => text !== "").join(", ");
    const { status } = exchange;
    if (status === 401 || status === 403) return this.#denied(server, status, said);
    if (status !== 404)
      return new OciboxError(
        "REGISTRY",
        `${this.#doing}: ${host} answers ${status}${said === "" ? "" : ` (${said})`} to ${path}`,
      );
    if (path.startsWith("blobs/"))
      return new OciboxError("NOT_FOUND", `${this.#doing}: ${host} does not have the layer ${path.slice(6)}`, {
        hint: "the registry has lost a part of the image; push it again",
      });
    if (error.code === "NAME_UNKNOWN")
      return new OciboxError("NOT_FOUND", `${this.#doing}: ${host} has no repository "${repository}"`, {
        hint: "check the name's spelling",
      });
    const name = path.slice("manifests/".length);
    return new OciboxError(
      "NOT_FOUND",
      `${this.#doing}: "${repository}" on ${host} has no ${isDigest(name) ? "image with the digest" : "tag"} "${name}"`,
      { hint: "check the name and the tag" },
    );
  }

  async #denied(server: Server, status: number, said: string): Promise<OciboxError> {
    const { host, repository } = server.endpoint;
    const { credentials, problems } = await server.credentials();
    const added = said === "" ? "" : `; it says: ${said}`;
    if (credentials === undefined)
      return new OciboxError(
        "DENIED",
        `${this.#doing}: "${repository}" does not exist on ${host} or needs a login (${status}${added})`,
        { hint: `check the name, or ${loginHint(host, problems)}` },
      );
    const why =
      status === 401
        ? "does not accept the user name or password"
        : "does not let the user that is logged in have it, or it does not exist";
    return new OciboxError("DENIED", `${this.#doing}: ${host} ${why} (${status}${added})`, {
      hint: loginHint(host, problems),
    });
  }
}

/** How far a blob has come, over all tries and servers. */
class BlobProgress {
  readonly #hasher: Bun.CryptoHasher | undefined;

  constructor(
    readonly blob: BlobRequest,
    public received: number,
    hashes: boolean,
  ) {
    this.#hasher = hashes ? new Bun.CryptoHasher("sha256") : undefined;
  }

  take(chunk: Uint8Array): void {
    this.received += chunk.byteLength;
    this.#hasher?.update(chunk);
  }

  /** Of all bytes, where they were hashed. */
  digest(): Digest | undefined {
    return this.#hasher === undefined ? undefined : (`sha256:${this.#hasher.digest("hex")}` as Digest);
  }
}

function contentType(exchange: Exchange): string {
  return (exchange.header("content-type") ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
}

/** A tag or digest that goes into a URL's path. @throws OciboxError NAME_INVALID */
function checkedName(tagOrDigest: string): string {
  if (isDigest(tagOrDigest) || /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/.test(tagOrDigest)) return tagOrDigest;
  throw new OciboxError("NAME_INVALID", `${JSON.stringify(tagOrDigest)} is neither a tag nor a digest`);
}
