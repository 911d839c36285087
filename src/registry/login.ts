/** Logging in and out: credentials are tried at the registry, and then written where podman, docker and ocibox find them. */
import { chmod, mkdir, rename, writeFile } from "node:fs/promises";
import { OciboxError, reason } from "../errors.ts";
import { dockerHub, parseReference } from "../reference/reference.ts";
import type { RepositoryOptions } from "./client.ts";
import { endpointsFor } from "./config.ts";
import { credentialFiles, dockerHubKey, helperProgram, helperTimeout, withKey } from "./credentials.ts";
import { type Environment, readJson, type Table, tableAt } from "./files.ts";
import { defaultTiming } from "./http.ts";
import { Server } from "./server.ts";

export interface Login {
  readonly username: string;
  readonly password: string;
}

/** "docker.io" for all of its names; @throws OciboxError NAME_INVALID for what is no host of a registry */
export function registryOf(word: string): string {
  const bare = word.replace(/^https?:\/\//, "").replace(/\/(v[12]\/?)?$/, "");
  // A name without a dot or a port would be taken for one of Docker Hub's.
  if (!/[.:]/.test(bare) && bare !== "localhost")
    throw new OciboxError("NAME_INVALID", `"${word}" is no registry: a host has a dot or a port, or is "localhost"`);
  if (bare.includes("/"))
    throw new OciboxError("NAME_INVALID", `"${word}" is no registry, but something in one`, {
      hint: "name the host alone",
    });
  return parseReference(`${bare}/login`).registry;
}

/** @throws OciboxError DENIED where the registry does not take them, NETWORK, REGISTRY */
export async function tryLogin(registry: string, login: Login, options: RepositoryOptions = {}): Promise<void> {
  const env = options.env ?? process.env;
  const doing = `cannot log in to ${JSON.stringify(registry)}`;
  const config = { env, certsDirs: options.certsDirs, insecure: options.insecure };
  const endpoint = endpointsFor(parseReference(`${registry}/login`), config).at(-1);
  if (endpoint === undefined) throw new OciboxError("REGISTRY", `${doing}: no server is configured for it`);
  const credentials = { credentials: { kind: "password", ...login } as const, problems: [] };
  const server = new Server(endpoint, {
    doing,
    config,
    timing: { ...defaultTiming, ...options.timing },
    credentials: () => Promise.resolve(credentials),
    scopes: [],
  });
  const status = await server.greet();
  if (status === 401 || status === 403)
    throw new OciboxError("DENIED", `${doing}: the user name or the password is wrong (${status})`);
  if (status !== 200) throw new OciboxError("REGISTRY", `${doing}: it answers ${status}`);
}

/** The file that a login is written to: the one that was named, or the first of those that are looked in. */
function fileFor(options: { readonly authfile?: string | undefined; readonly env: Environment }): string {
  const [first] = credentialFiles(options);
  if (first === undefined)
    throw new OciboxError("HOST", "there is no place for a login: neither HOME nor XDG_RUNTIME_DIR is set", {
      hint: "name a file with --authfile",
    });
  return first;
}

/** For the owner alone, whole or not at all. */
async function write(path: string, content: Table): Promise<void> {
  await mkdir(path.slice(0, path.lastIndexOf("/")) || "/", { recursive: true, mode: 0o700 });
  const temporary = `${path}.${crypto.randomUUID()}`;
  await writeFile(temporary, `${JSON.stringify(content, null, "\t")}\n`, { mode: 0o600, flag: "wx" });
  await chmod(temporary, 0o600);
  await rename(temporary, path);
}

async function helper(name: string, verb: "store" | "erase", input: string, env: Environment): Promise<void> {
  try {
    const child = Bun.spawn([helperProgram(name, env), verb], {
      stdin: new TextEncoder().encode(input),
      stdout: "ignore",
      stderr: "ignore",
      env: { ...env },
      timeout: helperTimeout,
      killSignal: "SIGKILL",
    });
    const code = await child.exited;
    if (code !== 0) throw new Error(`it ended with ${code}`);
  } catch (error) {
    throw new OciboxError("HOST", `the credential helper "docker-credential-${name}" failed: ${reason(error)}`);
  }
}

function helperFor(file: Table, registry: string): string | undefined {
  const own = withKey(tableAt(file, "credHelpers"), registry)?.[1] ?? file.credsStore;
  return typeof own === "string" && own !== "" ? own : undefined;
}

interface Place {
  readonly authfile?: string | undefined;
  readonly env: Environment;
}

/** @returns where it was written: a file, or a helper */
export async function storeLogin(registry: string, login: Login, place: Place): Promise<string> {
  const path = fileFor(place);
  const file = readJson(path) ?? {};
  const program = helperFor(file, registry);
  if (program !== undefined) {
    const server = registry === dockerHub ? dockerHubKey : registry;
    const input = JSON.stringify({ ServerURL: server, Username: login.username, Secret: login.password });
    await helper(program, "store", input, place.env);
    return `docker-credential-${program}`;
  }
  const auths = { ...tableAt(file, "auths") };
  const key = withKey(auths, registry)?.[0] ?? registry;
  auths[key] = { auth: new TextEncoder().encode(`${login.username}:${login.password}`).toBase64() };
  await write(path, { ...file, auths });
  return path;
}

/** @returns the places that it was removed from */
export async function removeLogin(registry: string | undefined, place: Place): Promise<string[]> {
  const removed: string[] = [];
  // The one that was named, or all that are looked in.
  const files = place.authfile === undefined ? credentialFiles(place) : [place.authfile];
  for (const path of files) {
    const file = readJson(path);
    if (file === undefined) continue;
    const program = registry === undefined ? undefined : helperFor(file, registry);
    if (program !== undefined && registry !== undefined) {
      await helper(program, "erase", registry === dockerHub ? dockerHubKey : registry, place.env);
      removed.push(`docker-credential-${program}`);
    }
    const auths = tableAt(file, "auths") ?? {};
    const keys =
      registry === undefined ? Object.keys(auths) : [withKey(auths, registry)?.[0]].filter((key) => key !== undefined);
    if (keys.length === 0) continue;
    await write(path, {
      ...file,
      auths: Object.fromEntries(Object.entries(auths).filter(([key]) => !keys.includes(key))),
    });
    removed.push(path);
  }
  return removed;
}
