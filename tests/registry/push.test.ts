/** push, login and logout, at real registries: what comes out again is the same, and nothing is sent twice. */
import { describe, expect } from "bun:test";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, temporary } from "../lib/around.ts";
import { buildIndex } from "../lib/multi-platform.ts";
import { testWith } from "../lib/needs.ts";
import { run, startRegistry, type TestRegistry } from "../lib/registry.ts";
import { binary, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "skopeo", "busybox", "podman", "tmux"] };
const test = testWith(needs);
let box: Sandbox;
let locked: TestRegistry;
let folder: string;

around(needs, async (owned) => {
  box = owned.use(await Sandbox.make());
  folder = temporary(owned, "push");
  // More than a chunk, and not to be compressed.
  const noise = new Uint8Array(5 << 20);
  for (let at = 0; at < noise.length; at += 65_536) crypto.getRandomValues(noise.subarray(at, at + 65_536));
  writeFileSync(join(box.tree, "noise"), noise);
  await box.push("noisy");
  locked = owned.use(await startRegistry({ htpasswd: { username: "alice", password: "secret:word" } }));
  for (const name of ["alpine", "noisy"]) expect((await box.ocibox(["pull", "-q", name])).code).toBe(0);
});

function digestAt(reference: string, ...flags: string[]): Promise<string> {
  return run("skopeo", "inspect", "--tls-verify=false", ...flags, "-f", "{{.Digest}}", `docker://${reference}`).then(
    (text) => text.trim(),
  );
}

describe("push", () => {
  test("the digest is the one it had; a second push sends nothing; other repositories lend what they have", async () => {
    const first = await box.ocibox(["push", "noisy", `${box.host}/one:tag`]);
    expect(first.code).toBe(0);
    expect(first.out).toBe(`${await digestAt(`${box.host}/one:tag`)}\n`);
    expect(first.out).toBe(`${await digestAt(`${box.host}/library/noisy`)}\n`);
    expect(first.err.match(/ pushed$/gm)?.length).toBe(2);
    const again = await box.ocibox(["push", "noisy", `${box.host}/one:tag`]);
    expect(again.err.match(/ is there already$/gm)?.length).toBe(2);
    expect((await box.ocibox(["tag", "noisy", `${box.host}/one:tag`])).code).toBe(0);
    const lent = await box.ocibox(["push", `${box.host}/one:tag`, `${box.host}/two/deep`]);
    expect([lent.code, lent.err.match(/ in another repository$/gm)?.length]).toEqual([0, 2]);
    expect(await digestAt(`${box.host}/two/deep:latest`)).toBe(first.out.trim());
    const quiet = await box.ocibox(["push", "-q", `${box.host}/one:tag`]);
    expect(quiet).toEqual({ out: first.out, err: "", code: 0 });
  });

  test("in chunks, and what was pushed runs again", async () => {
    const pushed = await box.ocibox(["push", "-q", "--chunk-size", "1", "noisy", `${box.host}/chunks`]);
    expect([pushed.code, pushed.err]).toEqual([0, ""]);
    await run("skopeo", "copy", "-q", "--src-tls-verify=false", `docker://${box.host}/chunks`, `dir:${folder}/chunks`);
    expect((await box.run([`${box.host}/chunks`, "echo", "well"])).out).toBe("well\n");
  });

  test("an image from where it lies; registry → ocibox → save → registry", async () => {
    const archive = join(folder, "noisy.tar");
    expect((await box.ocibox(["save", "-o", archive, "noisy"])).code).toBe(0);
    const pushed = await box.ocibox(["push", "-q", `docker-archive:${archive}`, `${box.host}/from-archive`]);
    expect(pushed.code).toBe(0);
    expect(await digestAt(`${box.host}/from-archive`)).toBe(await digestAt(`${box.host}/library/noisy`));
  });

  test("an index with every platform, or one of them", async () => {
    await buildIndex(`http://${box.host}/v2/multi`, `http://${box.host}/v2/library/noisy`, ["amd64", "arm64"]);
    for (const platform of ["linux/amd64", "linux/arm64"])
      expect((await box.ocibox(["pull", "-q", "--platform", platform, `${box.host}/multi`])).code).toBe(0);
    const whole = await box.ocibox(["push", "-q", "--all-platforms", `${box.host}/multi`, `${box.host}/multi-copy`]);
    expect([whole.code, whole.err]).toEqual([0, ""]);
    const raw = (name: string): Promise<string> =>
      run("skopeo", "inspect", "--tls-verify=false", "--raw", `docker://${box.host}/${name}`);
    expect(await raw("multi-copy")).toBe(await raw("multi"));
    expect(
      (await box.ocibox(["push", "-q", "--platform", "linux/arm64", `${box.host}/multi`, `${box.host}/arm`])).code,
    ).toBe(0);
    expect(
      await run("skopeo", "inspect", "--tls-verify=false", "--config", "--raw", `docker://${box.host}/arm`),
    ).toContain('"arm64"');
    const alone = await box.ocibox(["push", "--all-platforms", "noisy", `${box.host}/x`]);
    expect([alone.code, alone.err]).toEqual([
      125,
      expect.stringContaining("not every platform of the image is in the store"),
    ]);
  });

  test("what goes wrong is one line", async () => {
    for (const [words, error] of [
      [["push", "nowhere"], /there is no image "nowhere" in the store/],
      [["push", "noisy", "oci:/tmp/x"], /is no place in a registry/],
      [["push", "noisy", "127.0.0.1:1/x"], /cannot push "127\.0\.0\.1:1\/x:latest"/],
      [["push", "--chunk-size", "0", "noisy", `${box.host}/x`], /--chunk-size is "0"/],
    ] as const) {
      const ended = await box.ocibox([...words]);
      expect([words, ended.code, ended.out]).toEqual([words, 125, ""]);
      expect(ended.err).toMatch(error);
      expect(ended.err.trim().split("\n").length).toBe(1);
    }
  });

  test("a server that drops connections, is busy, or loses an upload", async () => {
    const upstream = `http://${box.host}`;
    for (const [title, spoil, chunked] of [
      [
        "503 to the first of each",
        (method: string, nth: number) =>
          nth === 1 && method !== "HEAD"
            ? new Response("busy", { status: 503, headers: { "retry-after": "0" } })
            : undefined,
        false,
      ],
      [
        "the first PUT is lost",
        (method: string, nth: number) =>
          method === "PUT" && nth === 1 ? new Response("", { status: 404 }) : undefined,
        false,
      ],
      [
        "a chunk is taken, and the answer lost",
        (method: string, nth: number) => (method === "PATCH" && nth === 2 ? "swallow" : undefined),
        true,
      ],
    ] as const) {
      const counts = new Map<string, number>();
      const proxy = Bun.serve({
        hostname: "127.0.0.1",
        port: 0,
        async fetch(request) {
          const url = new URL(request.url);
          const nth = (counts.get(request.method) ?? 0) + 1;
          counts.set(request.method, nth);
          const wrong = spoil(request.method, nth);
          if (wrong instanceof Response) {
            await request.arrayBuffer();
            return wrong;
          }
          const body = request.method === "GET" || request.method === "HEAD" ? undefined : await request.arrayBuffer();
          const headers = new Headers(request.headers);
          headers.delete("host");
          const answer = await fetch(`${upstream}${url.pathname}${url.search}`, {
            method: request.method,
            headers,
            ...(body === undefined ? {} : { body }),
            redirect: "manual",
            decompress: false,
          } as RequestInit);
          const back = new Headers(answer.headers);
          const location = back.get("location");
          if (location !== null) back.set("location", location.replace(upstream, url.origin));
          if (wrong === "swallow") return new Response("", { status: 502 });
          return new Response(request.method === "HEAD" ? null : await answer.arrayBuffer(), {
            status: answer.status,
            headers: back,
          });
        },
      });
      try {
        const path = title.replace(/[^a-z0-9]+/g, "-");
        const name = `127.0.0.1:${proxy.port}/${path}`;
        const pushed = await box.ocibox(["push", "-q", ...(chunked ? ["--chunk-size", "1"] : []), "noisy", name]);
        expect([title, pushed.err, pushed.code]).toEqual([title, "", 0]);
        expect(await digestAt(`${box.host}/${path}`)).toBe(pushed.out.trim());
      } finally {
        await proxy.stop(true);
      }
    }
  }, 60_000);
});

describe("login", () => {
  const password = "secret:word";

  test("is tried, written for the owner alone, and found by push, pull and podman; logout takes it away", async () => {
    const file = join(folder, "auth.json");
    const env = { REGISTRY_AUTH_FILE: file };
    const denied = await box.ocibox(["push", "noisy", `${locked.host}/mine`], { env });
    expect([denied.code, denied.err]).toEqual([
      125,
      expect.stringContaining("does not let an anonymous user push (401)"),
    ]);
    expect(denied.err).toContain(`log in with: ocibox login ${locked.host}`);
    const wrong = await box.ocibox(["login", "-u", "alice", "-p", "guess", locked.host], { env });
    expect([wrong.code, wrong.err]).toEqual([
      125,
      expect.stringContaining("the user name or the password is wrong (401)"),
    ]);
    expect(existsSync(file)).toBe(false);
    const right = await box.ocibox(["login", "-u", "alice", "--password-stdin", locked.host], {
      env,
      stdin: `${password}\n`,
    });
    expect([right.err, right.out, right.code]).toEqual(["", "Login Succeeded!\n", 0]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(right.out + right.err).not.toContain(password);
    expect((await box.ocibox(["push", "-q", "noisy", `${locked.host}/mine`], { env })).code).toBe(0);
    expect((await box.ocibox(["pull", "-q", `${locked.host}/mine`], { env })).code).toBe(0);
    expect((await run("podman", "login", "--authfile", file, "--get-login", locked.host)).trim()).toBe("alice");
    expect(await digestAt(`${locked.host}/mine`, "--authfile", file)).toBe(await digestAt(`${box.host}/library/noisy`));
    expect((await box.ocibox(["logout", locked.host], { env })).out).toBe(
      `Removed login credentials for ${locked.host}\n`,
    );
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({ auths: {} });
    expect((await box.ocibox(["logout", locked.host], { env })).err).toContain(`not logged in to ${locked.host}`);
    expect((await box.ocibox(["pull", "-q", `${locked.host}/mine`], { env })).code).toBe(125);
  });

  test("other logins of the file stay; --all takes every one; what is no registry is refused", async () => {
    const file = join(folder, "other.json");
    writeFileSync(file, JSON.stringify({ auths: { "quay.io": { auth: "YTpi" } }, currentContext: "kept" }));
    const login = await box.ocibox(["login", "--authfile", file, "-u", "alice", "-p", password, locked.host]);
    expect(login.code).toBe(0);
    const written = JSON.parse(readFileSync(file, "utf8")) as { auths: object; currentContext: string };
    expect([Object.keys(written.auths), written.currentContext]).toEqual([["quay.io", locked.host], "kept"]);
    expect((await box.ocibox(["logout", "--authfile", file, "--all"])).code).toBe(0);
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({ auths: {}, currentContext: "kept" });
    for (const word of ["alice", "quay.io/team/x"])
      expect((await box.ocibox(["login", "-u", "a", "-p", "b", word])).err).toContain("is no registry");
    expect((await box.ocibox(["login", "-p", "b", locked.host])).err).toContain("there is no terminal to ask at");
  });

  test("a credential helper keeps it in the file's place", async () => {
    const bin = join(folder, "bin");
    const kept = join(folder, "kept");
    await run("mkdir", "-p", bin);
    writeFileSync(
      join(bin, "docker-credential-box"),
      `#!/bin/sh\ncase $1 in store) cat > ${kept};; erase) cat > ${kept}.erased;; esac\n`,
      { mode: 0o755 },
    );
    const file = join(folder, "helper.json");
    writeFileSync(file, JSON.stringify({ credsStore: "box" }));
    const env = { PATH: `${bin}:${process.env.PATH}` };
    expect(
      (await box.ocibox(["login", "--authfile", file, "-u", "alice", "-p", password, locked.host], { env })).code,
    ).toBe(0);
    expect(JSON.parse(readFileSync(kept, "utf8"))).toEqual({
      ServerURL: locked.host,
      Username: "alice",
      Secret: password,
    });
    expect(readFileSync(file, "utf8")).not.toContain("auths");
    expect((await box.ocibox(["logout", "--authfile", file, locked.host], { env })).code).toBe(0);
    expect(readFileSync(`${kept}.erased`, "utf8")).toBe(locked.host);
  });
});

test("at a terminal user name and password are asked for, and the password is not seen", async () => {
  const session = `ocibox-login-${process.pid}`;
  const tmux = (...words: string[]) =>
    Bun.spawnSync(["tmux", "-L", session, "-f", "/dev/null", ...words]).stdout.toString();
  const file = join(folder, "asked.json");
  tmux(
    "new-session",
    "-d",
    "-s",
    session,
    "-x",
    "100",
    "-y",
    "20",
    `${binary} login --authfile ${file} ${locked.host}; sleep 30`,
  );
  try {
    const screen = (): string => tmux("capture-pane", "-p", "-t", session);
    expect(await until(() => screen().includes("Username:"))).toBe(true);
    tmux("send-keys", "-t", session, "alice", "Enter");
    expect(await until(() => screen().includes("Password:"))).toBe(true);
    // A wrong letter taken back.
    tmux("send-keys", "-t", session, "secret:wordx", "BSpace", "Enter");
    expect(await until(() => screen().includes("Login Succeeded!"))).toBe(true);
    expect(screen()).not.toContain("secret");
    expect(readFileSync(file, "utf8")).toContain(locked.host);
  } finally {
    tmux("kill-server");
  }
});
