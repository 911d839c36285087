/** What users get wrong, and what registries and disks do: one clear line, the right exit code, and nothing left. */
import { describe, expect } from "bun:test";
import { chmodSync, cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { blobOf, noise } from "../lib/oci-fixture.ts";
import { freePort, run, startRegistry } from "../lib/registry.ts";
import { binary, type Ended, folder, inventory, type RunOptions, Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "setpriv", "mkfs.ext4"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = owned.use(await Sandbox.make());
});

/** One line, naming what was asked for; nothing on stdout; nothing unfinished in the store. */
async function refused(
  words: readonly string[],
  says: readonly RegExp[],
  code = 125,
  options: RunOptions = {},
): Promise<Ended> {
  const ended = await box.ocibox(words, options);
  expect(ended.out).toBe("");
  expect(ended.err).toMatch(/^ocibox: [^\n]+\n$/);
  for (const each of says) expect(ended.err).toMatch(each);
  expect(ended.code).toBe(code);
  expect(box.leftovers()).toEqual([]);
  return ended;
}

describe("the command line", () => {
  test("an unknown flag and an unknown command name the nearest", async () => {
    await refused(["run", "--tmp", "/x", "alpine"], [/"--tmp"/, /--tmpfs/]);
    await refused(["run", "--rmm", "alpine"], [/"--rmm"/, /--rm\b/]);
    await refused(["rnu", "alpine"], [/"rnu"/, /\brun\b/]);
    await refused(["pull", "--platfrom", "linux/arm64", "alpine"], [/--platform/]);
  });

  test("what is missing or makes no sense", async () => {
    await refused(["run"], [/wants an argument/]);
    await refused(["run", "--memory"], [/--memory wants a value/]);
    await refused(["run", "--memory", "lots", "alpine"], [/lots/]);
    await refused(["run", "--cpus", "-1", "alpine"], [/-1/]);
    await refused(["run", "--pids-limit", "x", "alpine"], [/"x"/]);
    await refused(["run", "--ulimit", "nofile", "alpine"], [/nofile/]);
    await refused(["run", "--ulimit", "nofiles=1", "alpine"], [/nofiles/]);
    await refused(["run", "--network", "blue", "alpine"], [/"blue"/, /bridge, none, host/]);
    await refused(["run", "-p", "eighty", "alpine"], [/--publish is "eighty"/]);
    await refused(["run", "--ip", "10.87.0.9", "alpine"], [/--ip wants --network bridge/]);
    await refused(["run", "--pull", "sometimes", "alpine"], [/sometimes/]);
    await refused(["run", "-v", "only", "alpine"], [/only/]);
    await refused(["run", "--security-opt", "magic", "alpine"], [/magic/]);
    await refused(["run", "--env-file", "/no/such/file", "alpine"], [/no\/such\/file/]);
    await refused(["run", "--name", "../x", "alpine"], [/\.\.\/x/]);
  });

  test("a reference that is none", async () => {
    for (const word of [
      "UPPER",
      "a b",
      "alpine:",
      "alpine@sha256:12",
      "alpine@sha256:../../x",
      "-",
      "a//b",
      "http://x/y",
    ])
      await refused(["pull", "--", word], [/./]);
  });

  test("there is no such container or image", async () => {
    expect((await refused(["rm", "nobody"], [/"nobody"/])).err).toContain("ps -a");
    await refused(["rmi", "nobody"], [/nobody/]);
    await refused(["inspect", "nobody"], [/nobody/]);
    await refused(["run", "--pull", "never", "alpine:other"], [/alpine:other/, /ocibox pull/]);
  });

  test("a user is told whose the store is that is meant", async () => {
    // The program is copied to where that user can reach it.
    const dir = folder(box, "for-others");
    chmodSync(box.dir, 0o755);
    cpSync(binary, join(dir, "ocibox"));
    const as = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", join(dir, "ocibox")];
    const child = Bun.spawnSync([...as, "run", "alpine", "true"], { env: { ...box.env } });
    rmSync(dir, { recursive: true });
    expect(child.exitCode).toBe(125);
    const told = `ocibox: cannot write to the store "${box.root}": openat(AT_FDCWD, "${box.root}/lock", `;
    expect(child.stderr.toString()).toStartWith(told);
    expect(child.stderr.toString()).toEndWith(
      ": permission denied; choose another place with --root; images of one that is only read can be used with --additional-store\n",
    );
  });
});

describe("registries", () => {
  test("no such image, no such tag, no such digest", async () => {
    await refused(
      ["run", "--rm", `${box.host}/nothing-of-the-kind`, "true"],
      [/"nothing-of-the-kind:latest"|nothing-of-the-kind/, /has no (?:tag|repository)/],
    );
    await refused(["run", "--rm", `${box.host}/library/alpine:no-such-tag`, "true"], [/no-such-tag/]);
    await refused(["run", "--rm", `${box.host}/library/alpine@sha256:${"0".repeat(64)}`, "true"], [/sha256:0000/]);
  });

  test("nobody answers", async () => {
    const port = freePort();
    await refused(["pull", `127.0.0.1:${port}/x`], [new RegExp(`127.0.0.1:${port}`), /refuses the connection/]);
    await refused(["pull", "no-such-host.invalid/x"], [/no-such-host\.invalid/, /resolve/]);
  });

  test("an image for another platform", async () => {
    await refused(["run", "--rm", "--platform", "linux/s390x", "alpine", "true"], [/s390x/, /amd64|arm64/]);
    await refused(["pull", "--platform", "plan9", "alpine"], [/plan9/]);
  });

  test("wrong credentials and none", async () => {
    await using registry = await startRegistry({ htpasswd: { username: "user", password: "right" } });
    const image = `${registry.host}/private:1`;
    const none = await refused(["pull", image], [/401|denied|login/i, /log in with/]);
    expect(none.err).toContain(registry.host);
    const file = join(folder(box, "auth"), "auth.json");
    const auth = Buffer.from("user:wrong-secret").toString("base64");
    writeFileSync(file, JSON.stringify({ auths: { [registry.host]: { auth } } }));
    const wrong = await refused(["pull", "--authfile", file, image], [/401|denied/i]);
    expect(wrong.err).not.toContain("wrong-secret");
    expect(wrong.err).not.toContain(auth);
  });
});

/** A registry that serves what a test gives it, true or not. */
function serve(
  blobs: ReadonlyMap<string, Uint8Array>,
  manifest: Uint8Array,
  type: string,
): { host: string; stop(): void } {
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const { pathname } = new URL(request.url);
      if (pathname === "/v2/") return new Response("{}");
      if (pathname.includes("/manifests/"))
        return new Response(Buffer.from(manifest), { headers: { "Content-Type": type } });
      const blob = blobs.get(pathname.split("/").at(-1) ?? "");
      return blob === undefined ? new Response("{}", { status: 404 }) : new Response(Buffer.from(blob));
    },
  });
  return { host: `127.0.0.1:${server.port}`, stop: () => server.stop(true) };
}

const manifestType = "application/vnd.oci.image.manifest.v1+json";

interface Lie {
  readonly layer: Uint8Array;
  readonly type?: string;
  readonly served?: Uint8Array;
  readonly diffId?: string;
  readonly size?: number;
}

async function pullLie(lie: Lie, says: RegExp): Promise<void> {
  const layer = blobOf(lie.layer);
  const config = blobOf({
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    os: "linux",
    config: {},
    rootfs: { type: "layers", diff_ids: [lie.diffId ?? layer.digest] },
  });
  const descriptor = { mediaType: lie.type ?? "application/vnd.oci.image.layer.v1.tar", digest: layer.digest };
  const manifest = blobOf({
    schemaVersion: 2,
    mediaType: manifestType,
    config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: config.digest, size: config.size },
    layers: [{ ...descriptor, size: lie.size ?? layer.size }],
  });
  const server = serve(
    new Map([
      [config.digest, config.bytes],
      [layer.digest, lie.served ?? layer.bytes],
    ]),
    manifest.bytes,
    manifestType,
  );
  try {
    const ended = await refused(["pull", "-q", `${server.host}/liar:1`], [says]);
    expect(ended.err).not.toContain("this should not happen");
    expect((await box.ocibox(["images", "-q"])).out).toBe("");
    expect(readdirSync(join(box.root, "layers"))).toEqual([]);
  } finally {
    server.stop();
  }
}

async function tarOf(script: string): Promise<Uint8Array> {
  const dir = folder(box, `tar-${crypto.randomUUID()}`);
  await run("sh", "-c", `cd ${dir} && mkdir t && cd t && ${script} && tar -cf ../t.tar .`);
  return Bun.file(join(dir, "t.tar")).bytes();
}

describe("a registry that lies", () => {
  test("another blob of the same size", async () => {
    const layer = await tarOf("echo x > file");
    const served = layer.slice();
    served[600] = (served[600] ?? 0) ^ 1;
    await pullLie({ layer, served }, /digest|sha256/);
  });

  test("too short and too long", async () => {
    const layer = await tarOf("echo x > file");
    await pullLie({ layer, served: layer.slice(0, 5000) }, /size|short|bytes|ended/);
    await pullLie({ layer, served: Buffer.concat([layer, new Uint8Array(512)]) }, /size|long|bytes|more/);
  });

  test("a layer that is not what the configuration promises", async () => {
    const layer = await tarOf("echo x > file");
    await pullLie({ layer, diffId: `sha256:${"1".repeat(64)}` }, /DiffID/);
  });

  test("a corrupt layer: no gzip, cut gzip, no tar, noise", async () => {
    const gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    const plain = await tarOf("seq 10000 > file");
    const zipped = Bun.gzipSync(Buffer.from(plain));
    const header = zipped.slice();
    header[3] = 0xff;
    await pullLie({ layer: header, type: gzip }, /gzip|compressed|magic/);
    await pullLie({ layer: zipped.slice(0, zipped.length - 100), type: gzip }, /cut|end|gzip|compressed/);
    await pullLie({ layer: noise(4096) }, /tar/);
    await pullLie({ layer: plain.slice(0, 1500) }, /tar|end/);
  });

  test("a layer that leads out of the container", async () => {
    const dir = folder(box, "escape");
    await run(
      "sh",
      "-c",
      `cd ${dir} && echo x > a && tar -cPf t.tar --transform 's,a,../../../../../../tmp/ocibox-escaped,' a`,
    );
    await pullLie({ layer: await Bun.file(join(dir, "t.tar")).bytes() }, /"\.\./);
    expect(await Bun.file("/tmp/ocibox-escaped").exists()).toBe(false);
  });

  test("manifests that are none", async () => {
    const texts = [
      "",
      "{",
      "[]",
      '{"schemaVersion":1}',
      '{"schemaVersion":2,"layers":[],"manifests":[]}',
      '{"schemaVersion":2,"schemaVersion":2}',
    ];
    for (const text of texts) {
      const server = serve(new Map(), new TextEncoder().encode(text), manifestType);
      try {
        await refused(["pull", "-q", `${server.host}/liar:1`], [/manifest/]);
      } finally {
        server.stop();
      }
    }
  });
});

describe("disks", () => {
  test("a full one: what fits still runs, and can be removed", async () => {
    const dir = folder(box, "disk");
    const place = join(dir, "mnt");
    mkdirSync(place);
    await run("truncate", "-s", "16M", join(dir, "image"));
    await run("mkfs.ext4", "-q", "-O", "^has_journal", join(dir, "image"));
    await run("mount", "-o", "loop", join(dir, "image"), place);
    try {
      const env = { OCIBOX_ROOT: join(place, "root") };
      await run("sh", "-c", `head -c 30000000 /dev/urandom > ${box.tree}/big`);
      await box.push("big");
      rmSync(join(box.tree, "big"));
      expect((await box.ocibox(["pull", "-q", "alpine"], { env })).err).toBe("");
      await refused(["run", "--rm", "-q", "big", "true"], [/disk is full|no space left/i], 125, { env });
      expect(readdirSync(join(place, "root/tmp"))).toEqual([]);
      expect((await box.run(["alpine", "echo", "still"], { env })).out).toBe("still\n");
      expect((await box.ocibox(["rmi", "alpine"], { env })).code).toBe(0);
      expect(readdirSync(join(place, "root/layers"))).toEqual([]);
    } finally {
      await run("umount", place);
    }
  });

  test("a read-only one", async () => {
    const place = folder(box, "read-only");
    await run("mount", "-t", "tmpfs", "-o", "ro", "none", place);
    try {
      await refused(["pull", "alpine"], [/read-only/], 125, { env: { OCIBOX_ROOT: join(place, "root") } });
    } finally {
      await run("umount", place);
    }
  });
});

describe("a machine where nothing is yet", () => {
  test("run pulls, and makes all that it needs", async () => {
    const env = { OCIBOX_ROOT: join(box.dir, "new/root"), OCIBOX_STATE: join(box.dir, "new/state") };
    const ended = await box.ocibox(["run", "--rm", "alpine", "echo", "up"], { env });
    expect([ended.code, ended.out]).toEqual([0, "up\n"]);
    expect(ended.err).toMatch(/Pull/);
    for (const words of [["images"], ["ps", "-a"], ["info"]])
      expect(
        (
          await box.ocibox(words, {
            env: { OCIBOX_ROOT: join(box.dir, "newer/root"), OCIBOX_STATE: join(box.dir, "newer/state") },
          })
        ).code,
      ).toBe(0);
  });
});
