import { describe, expect, test } from "bun:test";
import { OciboxError } from "../../src/errors.ts";
import { canonical, familiar, parseReference } from "../../src/reference/reference.ts";

const hex = "0123456789abcdef".repeat(4);

describe("names in full and as people write them", () => {
  const rows: [text: string, full: string, short: string][] = [
    ["alpine", "docker.io/library/alpine:latest", "alpine:latest"],
    ["alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"],
    ["grafana/loki", "docker.io/grafana/loki:latest", "grafana/loki:latest"],
    ["docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"],
    ["index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"],
    ["registry-1.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"],
    ["localhost/x", "localhost/x:latest", "localhost/x:latest"],
    ["localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"],
    ["127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"],
    ["[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"],
    ["ghcr.io/x/y", "ghcr.io/x/y:latest", "ghcr.io/x/y:latest"],
    ["GHCR.io/x/y", "ghcr.io/x/y:latest", "ghcr.io/x/y:latest"],
    ["host/x", "docker.io/host/x:latest", "host/x:latest"],
    [`alpine@sha256:${hex}`, `docker.io/library/alpine@sha256:${hex}`, `alpine@sha256:${hex}`],
    [`a.b:1/x:t@sha256:${hex}`, `a.b:1/x:t@sha256:${hex}`, `a.b:1/x:t@sha256:${hex}`],
    ["a_b/c__d/e---f.g", "docker.io/a_b/c__d/e---f.g:latest", "a_b/c__d/e---f.g:latest"],
    [`x:${"t".repeat(128)}`, `docker.io/library/x:${"t".repeat(128)}`, `x:${"t".repeat(128)}`],
    // A colon after the last slash always begins a tag, so this is the tag "5000" of an image on Docker Hub.
    ["localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"],
    // What looks like a host is none behind docker.io.
    ["docker.io/ghcr.io/x", "docker.io/ghcr.io/x:latest", "docker.io/ghcr.io/x:latest"],
    ["docker.io/localhost/x/y", "docker.io/localhost/x/y:latest", "docker.io/localhost/x/y:latest"],
  ];
  test.each(rows)("%s", (text, full, short) => {
    const parsed = parseReference(text);
    expect(canonical(parsed)).toBe(full);
    expect(familiar(parsed)).toBe(short);
    expect(parseReference(full)).toEqual(parsed);
    expect(parseReference(short)).toEqual(parsed);
  });
});

describe("names refused", () => {
  const rows: [text: string, why: RegExp][] = [
    ["", /empty/],
    ["Alpine", /lower case/],
    ["ghcr.io/Foo/bar", /lower case/],
    ["a//b", /empty component/],
    ["a/", /empty component/],
    ["/a", /empty component/],
    ["a/../b", /path component/],
    ["a.b/..", /path component/],
    ["-a", /path component/],
    ["a___b", /path component/],
    ["a..b", /path component/],
    ["a b", /path component/],
    ["a\n", /path component/],
    ["a:", /not a tag/],
    ["a:-x", /not a tag/],
    ["a:b/c", /host|component/],
    ["a:b c", /not a tag/],
    [`x:${"t".repeat(129)}`, /not a tag/],
    ["a@", /not a digest/],
    ["a@sha256:abc", /not a digest/],
    [`a@sha256:${hex.toUpperCase()}`, /not a digest/],
    [`a@sha512:${hex}${hex}`, /not a digest/],
    ["a@sha256:../../x", /not a digest/],
    [`a@sha256:${hex}@sha256:${hex}`, /not a digest/],
    [hex, /id/],
    ["a.b:0/x", /no port/],
    ["a.b:99999/x", /no port/],
    ["-.b/x", /host name/],
    ["user@host.com/x", /digest/],
    ["https://ghcr.io/x", /host name|component/],
    [`${"a".repeat(250)}`, /longer than 255/],
    ["a".repeat(2000), /characters long/],
    ["é", /path component/],
  ];
  test.each(rows)("%j", (text, why) => {
    let thrown: unknown;
    try {
      parseReference(text);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(OciboxError);
    expect((thrown as OciboxError).code).toBe("NAME_INVALID");
    expect((thrown as OciboxError).message).toMatch(why);
    expect((thrown as OciboxError).message).not.toContain("\n");
  });
});

test("an upper-case name's hint is the name in lower case", () => {
  expect(() => parseReference("ghcr.io/Foo/Bar:V1")).toThrow(OciboxError);
  try {
    parseReference("ghcr.io/Foo/Bar:V1");
  } catch (error) {
    expect((error as OciboxError).hint).toContain("ghcr.io/foo/bar:V1");
  }
});
