/** search: docker's own way where a registry has it, the catalog where it has that, and a clear word where neither. */
import { expect } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { around } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { startRegistry } from "../lib/registry.ts";
import { folder, Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  box = owned.use(await Sandbox.make());
  for (const name of ["busybox", "alpine-extra"]) await box.push(name);
});

async function ok(...words: string[]): Promise<string> {
  const ended = await box.ocibox(words);
  expect([words, ended.code, ended.err]).toEqual([words, 0, ""]);
  return ended.out;
}

async function refused(words: readonly string[], ...says: readonly string[]): Promise<void> {
  const ended = await box.ocibox(words);
  expect([words, ended.code, ended.out]).toEqual([words, 125, ""]);
  for (const each of says) expect(ended.err).toContain(each);
}

function serve(answer: (url: URL, request: Request) => Response | undefined) {
  return Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request) => answer(new URL(request.url), request) ?? new Response("{}", { status: 404 }),
  });
}

const names = (out: string): string[] =>
  out
    .trim()
    .split("\n")
    .filter((line) => line !== "");

test("a real registry, by its catalog", async () => {
  const found = (term: string, ...flags: string[]) =>
    ok("search", ...flags, "--format", "{{.Name}}", `${box.host}/${term}`).then(names);
  expect(await found("alpine")).toEqual([`${box.host}/library/alpine`, `${box.host}/library/alpine-extra`]);
  expect(await found("")).toEqual(["alpine", "alpine-extra", "busybox"].map((each) => `${box.host}/library/${each}`));
  expect(await found("", "--limit", "2")).toEqual(
    ["alpine", "alpine-extra"].map((each) => `${box.host}/library/${each}`),
  );
  expect(await found("nothing")).toEqual([]);
  expect((await ok("search", `${box.host}/busy`)).split("\n")[0]).toMatch(/^NAME +DESCRIPTION +STARS +OFFICIAL$/);
  expect(await ok("search", "--list-tags", "--format", "{{.Tag}}", `${box.host}/library/alpine`)).toBe("latest\n");
  // What is found can be pulled as it stands there.
  await ok("pull", "-q", (await found("busy"))[0] as string);
});

test("a registry that wants a login", async () => {
  await using registry = await startRegistry({ htpasswd: { username: "user", password: "secret" } });
  await refused(["search", `${registry.host}/x`], "401", `ocibox login ${registry.host}`);
  const file = join(folder(box, "auth"), "auth.json");
  const auth = Buffer.from("user:secret").toString("base64");
  writeFileSync(file, JSON.stringify({ auths: { [registry.host]: { auth } } }));
  expect(names(await ok("search", "--authfile", file, "--format", "{{.Name}}", `${registry.host}/`))).toEqual([]);
});

test("docker's search: stars, officials, filters, descriptions of strangers", async () => {
  const asked: string[] = [];
  using server = serve((url) => {
    asked.push(url.pathname + url.search);
    if (url.pathname !== "/v1/search") return undefined;
    const results = [
      { name: "alpine", description: "A minimal image", star_count: 11_000, is_official: true },
      { name: "some/alpine", description: `${"long ".repeat(20)}\u001b[31mred\n`, star_count: 3, is_official: false },
      { name: "../evil", description: "", star_count: 1 },
      { name: 7 },
      null,
    ];
    return Response.json({ num_results: 5, query: "alpine", results });
  });
  const host = `127.0.0.1:${server.port}`;
  const found = (...flags: string[]) => ok("search", ...flags, `${host}/alpine`);
  expect(names(await found("--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}"))).toEqual([
    `${host}/alpine 11000 [OK]`,
    `${host}/some/alpine 3 `.trim(),
  ]);
  expect(asked).toContain("/v1/search?q=alpine&n=25");
  expect(asked.some((each) => each.startsWith("/v2/_catalog"))).toBe(false);
  expect(names(await found("-f", "is-official=true", "--format", "{{.Name}}"))).toEqual([`${host}/alpine`]);
  expect(names(await found("-f", "stars=4", "--format", "{{.Name}}"))).toEqual([`${host}/alpine`]);
  const whole = await found("--no-trunc");
  expect(whole).not.toContain("\u001b");
  expect(whole).toContain("long long long long long long long long long long long long");
  expect((await found()).split("\n").every((line) => line.length < 120)).toBe(true);
  expect(JSON.parse(names(await found("--format", "json"))[0] as string)).toMatchObject({ StarCount: 11_000 });
});

test("Docker Hub is where it is configured to be", async () => {
  using server = serve((url) =>
    url.pathname === "/v1/search"
      ? Response.json({ results: [{ name: "nginx" }, { name: "bitnami/nginx" }] })
      : undefined,
  );
  const file = join(folder(box, "hub"), "registries.conf");
  writeFileSync(file, `[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:${server.port}"\ninsecure = true\n`);
  const ended = await box.ocibox(["search", "--format", "{{.Name}}", "nginx"], {
    env: { OCIBOX_REGISTRIES_CONF: file },
  });
  expect(ended).toEqual({ code: 0, err: "", out: "nginx\nbitnami/nginx\n" });
});

test("a catalog in pages, which ends somewhere", async () => {
  let asked = 0;
  using server = serve((url) => {
    if (url.pathname !== "/v2/_catalog") return undefined;
    asked++;
    const at = Number(url.searchParams.get("last") ?? "0");
    const repositories = Array.from({ length: 5 }, (_, index) => `app/n${at + index}`);
    // The next page of the last leads elsewhere: it is not followed.
    const target = at < 20 ? `/v2/_catalog?last=${at + 5}&n=5` : "http://127.0.0.1:1/v2/_catalog";
    return Response.json({ repositories }, { headers: { link: `<${target}>; rel="next"` } });
  });
  const host = `127.0.0.1:${server.port}`;
  const out = await ok("search", "--limit", "100", "--format", "{{.Name}}", `${host}/app`);
  expect(names(out).length).toBe(25);
  expect(asked).toBe(5);
  asked = 0;
  await ok("search", "--limit", "7", `${host}/app`);
  expect(asked).toBe(2);
  // A registry that never comes to an end.
  using endless = serve((url) =>
    url.pathname === "/v2/_catalog"
      ? Response.json({ repositories: ["other"] }, { headers: { link: `<${url.pathname}?n=1>; rel=next` } })
      : undefined,
  );
  expect(await ok("search", "--format", "{{.Name}}", `127.0.0.1:${endless.port}/app`)).toBe("");
});

test("neither way, and what makes no sense", async () => {
  using server = serve((url) => (url.pathname === "/v2/" ? new Response("{}") : undefined));
  const host = `127.0.0.1:${server.port}`;
  await refused(["search", `${host}/x`], `"${host}"`, "neither /v1/search nor /v2/_catalog");
  using pages = serve(() => new Response("<html>welcome</html>"));
  await refused(["search", `127.0.0.1:${pages.port}/x`], "neither /v1/search nor /v2/_catalog");
  await refused(["search", "--list-tags", `${box.host}/library/nothing`], 'no repository "library/nothing"');
  await refused(["search", "--limit", "0", "x"], '--limit is "0"');
  await refused(["search", "-f", "colour=red", "x"], '--filter is "colour=red"');
  for (const term of ["/", "", "..."]) await refused(["search", term], "wants something to look for");
  await refused(["search"], "wants an argument");
});
