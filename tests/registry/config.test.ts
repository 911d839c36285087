import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { OciboxError } from "../../src/errors.ts";
import { parseReference } from "../../src/reference/reference.ts";
import { certificatesFor, endpointsFor } from "../../src/registry/config.ts";
import { isLinkLocal, isLoopback } from "../../src/registry/hosts.ts";
import { around, temporary } from "../lib/around.ts";

let folder: string;
around({}, (owned) => {
  folder = temporary(owned, "config");
});

function put(path: string, content: string): string {
  const full = join(folder, path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, content);
  return full;
}

const absent = { OCIBOX_REGISTRIES_CONF: "/nonexistent" };
const hex = "0123456789abcdef".repeat(4);

async function servers(name: string, conf: string, certsDirs: string[] = []): Promise<string[]> {
  const env = { OCIBOX_REGISTRIES_CONF: put("registries.conf", conf) };
  const endpoints = await endpointsFor(parseReference(name), { env, certsDirs });
  return endpoints.map(
    (each) =>
      `${each.scheme ?? (each.plainAllowed ? "any" : "https")}://${each.address}${each.prefix}/${each.repository}${each.mirror ? " mirror" : ""}${each.tls.skipVerify ? " insecure" : ""}`,
  );
}

describe("without configuration", () => {
  test.each([
    ["alpine", "https://registry-1.docker.io/v2/library/alpine"],
    ["ghcr.io/a/b", "https://ghcr.io/v2/a/b"],
    ["localhost:5000/a", "any://localhost:5000/v2/a"],
    ["127.3.2.1:5000/a", "any://127.3.2.1:5000/v2/a"],
    ["[::1]:5000/a", "any://[::1]:5000/v2/a"],
    ["127.0.0.1.evil.test/a", "https://127.0.0.1.evil.test/v2/a"],
    ["localhost.evil.test/a", "https://localhost.evil.test/v2/a"],
  ])("%s", async (name, server) => {
    expect(await servers(name, "")).toEqual([server]);
  });
});

describe("registries.conf", () => {
  const conf = `
unqualified-search-registries = ["other.test"]
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "mirror.test/hub"
[[registry.mirror]]
location = "digests.test"
insecure = true
pull-from-mirror = "digest-only"
[[registry]]
prefix = "x.test/team"
location = "y.test/z"
[[registry]]
prefix = "x.test/team/secret"
blocked = true
location = "x.test/team/secret"
[[registry]]
prefix = "*.wild.test"
location = "127.0.0.1:5000"
[[registry]]
location = "old.test:80"
insecure = true
`;
  test.each([
    ["alpine", ["https://mirror.test/v2/hub/library/alpine mirror", "https://registry-1.docker.io/v2/library/alpine"]],
    [
      `a/b@sha256:${hex}`,
      [
        "https://mirror.test/v2/hub/a/b mirror",
        "any://digests.test/v2/a/b mirror insecure",
        "https://registry-1.docker.io/v2/a/b",
      ],
    ],
    ["x.test/team/app", ["https://y.test/v2/z/app"]],
    ["x.test/teamwork/app", ["https://x.test/v2/teamwork/app"]],
    ["a.wild.test/b", ["any://127.0.0.1:5000/v2/b"]],
    ["wild.test/b", ["https://wild.test/v2/b"]],
    ["old.test:80/b", ["any://old.test:80/v2/b insecure"]],
  ])("%s", async (name, expected) => {
    expect(await servers(name, conf)).toEqual(expected);
  });

  test("blocked, and what is not TOML", async () => {
    await expect(servers("x.test/team/secret/a", conf)).rejects.toThrow(/blocks x\.test\/team\/secret/);
    await expect(servers("x.test/a", "[[registry")).rejects.toThrow(OciboxError);
  });

  test("files of registries.conf.d override by prefix", async () => {
    const home = join(folder, "home");
    const main = put("main.conf", '[[registry]]\nlocation = "d.test"\ninsecure = true\n');
    put("home/.config/containers/registries.conf.d/10.conf", '[[registry]]\nprefix = "d.test"\nlocation = "e.test"\n');
    const env = { HOME: home, CONTAINERS_REGISTRIES_CONF: main };
    const [endpoint] = await endpointsFor(parseReference("d.test/a"), { env, certsDirs: [] });
    expect(endpoint?.address).toBe("e.test");
  });
});

describe("certs.d", () => {
  test("hosts.toml: mirrors in their order, paths, capabilities, the server", async () => {
    const certs = join(folder, "certs.d");
    put(
      "certs.d/docker.io/hosts.toml",
      `server = "https://registry-1.docker.io"
[host."https://m.test/v2/hub"]
  capabilities = ["pull", "resolve"]
  override_path = true
[host."https://push.test"]
  capabilities = ["push"]
[host."http://plain.test:5000"]
`,
    );
    put("certs.d/_default/hosts.toml", '[host."https://any.test"]\nskip_verify = true\n');
    expect(await servers("alpine", "", [certs])).toEqual([
      "https://m.test/v2/hub/library/alpine mirror",
      "http://plain.test:5000/v2/library/alpine mirror",
      "https://registry-1.docker.io/v2/library/alpine",
    ]);
    expect(await servers("other.test/a", "", [certs])).toEqual([
      "https://any.test/v2/a mirror insecure",
      "https://other.test/v2/a",
    ]);
  });

  test("authorities and a client's certificate", async () => {
    const certs = join(folder, "tls.d");
    put("tls.d/t.test:5000/ca.crt", "CA");
    put("tls.d/t.test:5000/client.cert", "CERT");
    put("tls.d/t.test:5000/client.key", "KEY");
    put("tls.d/t.test/other.crt", "OTHER");
    expect(await certificatesFor("t.test:5000", { env: absent, certsDirs: [certs] })).toEqual({
      ca: ["CA", "OTHER"],
      cert: "CERT",
      key: "KEY",
    });
    expect(await certificatesFor("u.test", { env: absent, certsDirs: [certs] })).toEqual({});
  });
});

test("which hosts are near", () => {
  expect(["localhost", "LOCALHOST:1", "127.9.9.9:80", "[::1]", "::1"].filter((host) => !isLoopback(host))).toEqual([]);
  expect(["127.0.0.1.x", "localhost.x", "128.0.0.1", "[::2]", "127.1"].filter(isLoopback)).toEqual([]);
  const near = ["169.254.169.254", "169.254.1.1:80", "[fe80::1]", "[febf::1]:80", "[::ffff:a9fe:a9fe]"];
  expect(near.filter((host) => !isLinkLocal(host))).toEqual([]);
  expect(["169.255.0.1", "[fec0::1]", "fe80.test"].filter(isLinkLocal)).toEqual([]);
});
