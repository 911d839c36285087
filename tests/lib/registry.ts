/** A real registry for tests: Debian's docker-registry on a free port of 127.0.0.1, its data in a folder of its own. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface RegistryOptions {
  readonly htpasswd?: { readonly username: string; readonly password: string };
  /** TLS with a private authority of its own. */
  readonly tls?: boolean;
  /** It takes manifests whose foreign layers are at any URL. */
  readonly foreign?: boolean;
}

export interface TestRegistry extends AsyncDisposable {
  /** "127.0.0.1:PORT" */
  readonly host: string;
  readonly url: string;
  /** The registry's storage; blobs lie under docker/registry/v2/blobs. */
  readonly dir: string;
  /** The private authority's certificate (PEM), with `tls`. */
  readonly ca: string | undefined;
  stop(): Promise<void>;
}

/** A port that was free a moment ago. */
export function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

/** Runs a program to its end. @throws Error with its output where it fails */
export async function run(...command: string[]): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", stdin: "ignore" });
  const [out, error, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (code !== 0) throw new Error(`${command.join(" ")} ended with ${code}: ${error}${out}`);
  return out;
}

/** A certificate for 127.0.0.1 and the authority that signed it, both in `dir`. @param days until it expires */
export async function makeCertificates(dir: string, days = 2): Promise<{ ca: string; cert: string; key: string }> {
  const at = (name: string) => join(dir, name);
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  await run(
    ...["openssl", "req", "-x509", ...key, "-keyout", at("ca.key"), "-out", at("ca.crt"), "-days", "2"],
    ...["-subj", "/CN=test authority"],
  );
  await run("openssl", "req", ...key, "-keyout", at("tls.key"), "-out", at("tls.csr"), "-subj", "/CN=registry");
  writeFileSync(at("ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n");
  await run(
    ...["openssl", "x509", "-req", "-in", at("tls.csr"), "-CA", at("ca.crt"), "-CAkey", at("ca.key")],
    ...["-CAcreateserial", "-days", String(days), "-extfile", at("ext"), "-out", at("tls.crt")],
  );
  return { ca: await Bun.file(at("ca.crt")).text(), cert: at("tls.crt"), key: at("tls.key") };
}

async function configuration(dir: string, port: number, options: RegistryOptions) {
  const lines = [
    "version: 0.1",
    "log: {level: error, accesslog: {disabled: true}}",
    "storage:",
    `  filesystem: {rootdirectory: ${JSON.stringify(join(dir, "data"))}}`,
    "  delete: {enabled: true}",
    "http:",
    `  addr: 127.0.0.1:${port}`,
    "  secret: not-secret",
  ];
  let ca: string | undefined;
  if (options.tls === true) {
    const made = await makeCertificates(dir);
    ca = made.ca;
    lines.push("  tls:", `    certificate: ${made.cert}`, `    key: ${made.key}`);
  }
  if (options.foreign === true) lines.push('validation: {manifests: {urls: {allow: ["^https?://"]}}}');
  if (options.htpasswd !== undefined) {
    const { username, password } = options.htpasswd;
    const hash = await Bun.password.hash(password, { algorithm: "bcrypt", cost: 4 });
    writeFileSync(join(dir, "htpasswd"), `${username}:${hash}\n`);
    lines.push("auth:", `  htpasswd: {realm: test, path: ${JSON.stringify(join(dir, "htpasswd"))}}`);
  }
  return { text: `${lines.join("\n")}\n`, ca };
}

/** Starts a registry and waits until it answers. Stop it in a finally, or hold it by `await using`. */
export async function startRegistry(options: RegistryOptions = {}): Promise<TestRegistry> {
  const dir = mkdtempSync(join(tmpdir(), "ocibox-registry-"));
  const port = freePort();
  const url = `${options.tls === true ? "https" : "http"}://127.0.0.1:${port}`;
  const { text, ca } = await configuration(dir, port, options);
  writeFileSync(join(dir, "config.yml"), text);
  const child = Bun.spawn(["docker-registry", "serve", join(dir, "config.yml")], {
    stdout: "ignore",
    stderr: Bun.file(join(dir, "log")),
    stdin: "ignore",
  });
  const stop = async () => {
    child.kill("SIGKILL");
    await child.exited;
    rmSync(dir, { recursive: true, force: true });
  };
  for (let tries = 0; ; tries++) {
    try {
      const answer = await fetch(`${url}/v2/`, ca === undefined ? {} : { tls: { ca } });
      await answer.body?.cancel();
      break;
    } catch (error) {
      if (tries < 200 && child.exitCode === null) {
        await Bun.sleep(25);
        continue;
      }
      const log = await Bun.file(join(dir, "log")).text();
      await stop();
      throw new Error(`docker-registry does not start: ${String(error)} ${log}`);
    }
  }
  return { host: `127.0.0.1:${port}`, url, dir: join(dir, "data"), ca, stop, [Symbol.asyncDispose]: stop };
}
