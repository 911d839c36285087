/** import: a tar of a root becomes an image, from a file or a pipe, plain or compressed. */
import { expect } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { inventory, Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "tar", "gzip", "zstd", "skopeo"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  await run("tar", "-C", box.tree, "-cf", join(box.dir, "root.tar"), ".");
  await run("gzip", "-k", join(box.dir, "root.tar"));
  await run("zstd", "-q", join(box.dir, "root.tar"));
});

test("plain, gzip, zstd: one and the same tree", async () => {
  for (const name of ["root.tar", "root.tar.gz", "root.tar.zst"]) {
    const imported = await box.ocibox(["import", "-q", join(box.dir, name), `made:${name.replaceAll(".", "-")}`]);
    expect([imported.err, imported.code]).toEqual(["", 0]);
    expect(imported.out).toMatch(/^sha256:[0-9a-f]{64}\n$/);
    const ran = await box.run([`made:${name.replaceAll(".", "-")}`, "/bin/cat", "/etc/passwd"]);
    expect(ran.out).toContain("root:x:0:0:");
  }
  expect((await box.ocibox(["check"])).out).toBe("all is well\n");
  // Another reader finds it sound.
  await run("skopeo", "copy", "-q", `oci:${box.root}/image:docker.io/library/made:root-tar-gz`, `dir:${box.dir}/out`);
});

test("from a pipe, with a configuration", async () => {
  const changes = [
    'CMD ["sh", "-c", "echo $GREETING; pwd; id -u"]',
    "ENV GREETING=hello there",
    "WORKDIR /tmp",
    "USER 7",
    "EXPOSE 80",
    "LABEL a b",
    "VOLUME /data",
    "STOPSIGNAL SIGINT",
  ];
  const words = ["import", "-q", ...changes.flatMap((change) => ["-c", change]), "-m", "by hand", "-", "piped"];
  const imported = await box.shell(
    `cat ${box.dir}/root.tar.gz | "$OCIBOX" ${words.map((word) => `'${word}'`).join(" ")}`,
  );
  expect([imported.err, imported.code]).toEqual(["", 0]);
  expect((await box.run(["piped"])).out).toBe("hello there\n/tmp\n7\n");
  const [shown] = JSON.parse((await box.ocibox(["inspect", "piped"])).out) as { Config: Record<string, unknown> }[];
  expect(shown?.Config).toMatchObject({ User: "7", WorkingDir: "/tmp", StopSignal: "SIGINT", Labels: { a: "b" } });
  expect((await box.ocibox(["history", "piped"])).out).toContain("by hand");
});

test("without a name it goes by its id, until a prune", async () => {
  const id = (await box.ocibox(["import", "-q", join(box.dir, "root.tar")])).out.trim().slice(7, 19);
  expect((await box.run([id, "/bin/true"])).code).toBe(0);
  expect((await box.ocibox(["prune", "-f"])).out).toMatch(/^Removed 1 image\n/);
});

test("what is no archive, what is not there, what is no instruction", async () => {
  writeFileSync(join(box.dir, "noise"), "no archive at all, but long enough to be looked at\n".repeat(40));
  writeFileSync(join(box.dir, "nothing"), "");
  for (const [words, error] of [
    [["import", "-q", join(box.dir, "noise"), "bad"], /no tar|is not a tar|header|checksum/i],
    [["import", "-q", join(box.dir, "nothing"), "bad"], /is empty, where an archive was expected/],
    [["import", "-q", join(box.dir, "absent"), "bad"], /there is no file/],
    [["import", "-q", "-c", "RUN true", join(box.dir, "root.tar")], /no instruction about the configuration/],
    [["import", "-q", "-c", 'CMD ["a"', join(box.dir, "root.tar")], /no JSON of words/],
  ] as const) {
    const ended = await box.ocibox([...words]);
    expect([words, ended.code, ended.out]).toEqual([words, 125, ""]);
    expect(ended.err).toMatch(error);
  }
  expect((await box.ocibox(["images", "-q", "bad"])).out).toBe("");
});
