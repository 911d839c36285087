/** Who logs in where: containers-auth.json(5), Docker's config.json, and docker-credential-* programs. */
import { OciboxError, reason } from "../errors.ts";
import { dockerHub } from "../reference/reference.ts";
import { type Environment, readJson, type Table, tableAt } from "./files.ts";

export type Credentials =
  | { readonly kind: "password"; readonly username: string; readonly password: string }
  | { readonly kind: "identity"; readonly token: string };

export interface CredentialsFound {
  readonly credentials: Credentials | undefined;
  /** Helpers that failed, for the hint of a later "denied": they must not break what needs no login. */
  readonly problems: readonly string[];
}

export interface CredentialOptions {
  /** A file that must exist, from --authfile. */
  readonly authfile?: string | undefined;
  readonly env: Environment;
}

/** The name under which Docker itself stores Docker Hub's credentials. */
export const dockerHubKey = "https://index.docker.io/v1/";
export const helperTimeout = 20_000;

/** Where credentials are looked for, first hit wins (conventions of podman and docker). */
export function credentialFiles(options: CredentialOptions): string[] {
  const { env } = options;
  const home = env.HOME;
  const under = (folder: string | undefined, rest: string) =>
    folder === undefined || folder === "" ? [] : [`${folder}/${rest}`];
  const configHome = env.XDG_CONFIG_HOME ?? (home === undefined ? undefined : `${home}/.config`);
  return [
    ...(options.authfile === undefined ? [] : [options.authfile]),
    ...(env.REGISTRY_AUTH_FILE ? [env.REGISTRY_AUTH_FILE] : []),
    ...under(env.XDG_RUNTIME_DIR, "containers/auth.json"),
    ...under(configHome, "containers/auth.json"),
    ...(env.DOCKER_CONFIG ? [`${env.DOCKER_CONFIG}/config.json`] : under(home, ".docker/config.json")),
  ];
}

/** Keys of "auths" are hosts, paths or URLs: "ghcr.io", "quay.io/team", "https://index.docker.io/v1/". */
function normalKey(key: string): string {
  const bare = key.replace(/^https?:\/\//, "").replace(/\/+$/, "");
  const plain = bare === key ? bare : bare.replace(/\/v[12]$/, "");
  const slash = plain.indexOf("/");
  const host = (slash < 0 ? plain : plain.slice(0, slash)).toLowerCase();
  const path = slash < 0 ? "" : plain.slice(slash);
  if (host === "index.docker.io" || host === "registry-1.docker.io" || host === dockerHub)
    return `${dockerHub}${path.replace(/^\/v[12]$/, "")}`;
  return `${host}${path}`;
}

/** "host/a/b", "host/a", "host": the most special first. */
function candidates(host: string, repository: string): string[] {
  const parts = repository === "" ? [] : repository.split("/");
  return Array.from({ length: parts.length + 1 }, (_, cut) => [host, ...parts.slice(0, parts.length - cut)].join("/"));
}

function fromEntry(entry: Table): Credentials | undefined {
  const text = (key: string) => {
    const value = entry[key];
    return typeof value === "string" && value !== "" ? value : undefined;
  };
  const identity = text("identitytoken");
  if (identity !== undefined) return { kind: "identity", token: identity };
  const username = text("username");
  const password = text("password");
  if (username !== undefined && password !== undefined) return { kind: "password", username, password };
  const auth = text("auth");
  if (auth === undefined) return undefined;
  let pair: string;
  try {
    pair = new TextDecoder().decode(Uint8Array.fromBase64(auth)).replace(/\0+$/, "");
  } catch {
    return undefined;
  }
  const colon = pair.indexOf(":");
  if (colon < 1) return undefined;
  return { kind: "password", username: pair.slice(0, colon), password: pair.slice(colon + 1) };
}

export function withKey(table: Table | undefined, wanted: string): [key: string, value: unknown] | undefined {
  if (table === undefined) return undefined;
  return Object.entries(table).find(([key]) => normalKey(key) === wanted);
}

/** @throws Error where there is no such program */
export function helperProgram(name: string, env: Environment): string {
  if (!/^[A-Za-z0-9_.-]{1,64}$/.test(name)) throw new Error("its name is not one of a program");
  const program = Bun.which(`docker-credential-${name}`, { PATH: env.PATH ?? "" });
  if (program === null) throw new Error("it is not installed");
  return program;
}

/**
 * Asks docker-credential-NAME, as docker-credential-helpers describes it: the server's name on its stdin, JSON on its
 * stdout.
 * @throws Error where the program is missing or fails
 */
async function askHelper(name: string, server: string, env: Environment): Promise<Credentials | undefined> {
  const program = helperProgram(name, env);
  await using helper = Bun.spawn([program, "get"], {
    stdin: new TextEncoder().encode(server),
    stdout: "pipe",
    stderr: "ignore",
    env: { ...env },
    timeout: helperTimeout,
    killSignal: "SIGKILL",
  });
  let output = "";
  const decoder = new TextDecoder();
  for await (const chunk of helper.stdout) {
    output += decoder.decode(chunk, { stream: true });
    if (output.length > 1 << 20) throw new Error("its answer is too long");
  }
  const code = await helper.exited;
  if (code !== 0) {
    // A helper says on stdout that it knows nothing of a server: that is an answer, not a failure.
    if (/credentials not found/i.test(output)) return undefined;
    throw new Error(helper.signalCode === null ? `it ended with code ${code}` : `it was ended by ${helper.signalCode}`);
  }
  const answer: unknown = JSON.parse(output);
  if (typeof answer !== "object" || answer === null) throw new Error("its answer is not an object");
  const { Username: username, Secret: secret } = answer as Table;
  if (typeof username !== "string" || typeof secret !== "string" || secret === "") return undefined;
  if (username === "<token>") return { kind: "identity", token: secret };
  return username === "" ? undefined : { kind: "password", username, password: secret };
}

async function fromFile(
  file: Table,
  host: string,
  repository: string,
  env: Environment,
  problems: string[],
): Promise<Credentials | undefined> {
  const ask = async (name: unknown, server: string): Promise<Credentials | undefined> => {
    if (typeof name !== "string" || name === "") return undefined;
    try {
      return await askHelper(name, server, env);
    } catch (error) {
      problems.push(`the credential helper "docker-credential-${name.slice(0, 64)}" failed: ${reason(error)}`);
      return undefined;
    }
  };
  const helpers = tableAt(file, "credHelpers");
  const auths = tableAt(file, "auths");
  for (const key of candidates(host, repository)) {
    const helper = withKey(helpers, key);
    const found = helper === undefined ? undefined : await ask(helper[1], helper[0]);
    if (found !== undefined) return found;
    const entry = withKey(auths, key)?.[1];
    const stored = typeof entry === "object" && entry !== null ? fromEntry(entry as Table) : undefined;
    if (stored !== undefined) return stored;
  }
  return ask(file.credsStore, host === dockerHub ? dockerHubKey : host);
}

/**
 * Credentials for a repository of a host.
 * @param host "docker.io" for Docker Hub, otherwise host and port
 * @throws OciboxError INVALID for a file that cannot be read, NOT_FOUND for a missing --authfile
 */
export async function findCredentials(
  host: string,
  repository: string,
  options: CredentialOptions,
): Promise<CredentialsFound> {
  const problems: string[] = [];
  for (const path of credentialFiles(options)) {
    const file = readJson(path);
    if (file === undefined) {
      if (path === options.authfile && !(await Bun.file(path).exists()))
        throw new OciboxError("NOT_FOUND", `cannot read the credentials in "${path}": there is no such file`);
      continue;
    }
    const credentials = await fromFile(file, normalKey(host), repository, options.env, problems);
    if (credentials !== undefined) return { credentials, problems };
  }
  return { credentials: undefined, problems };
}
