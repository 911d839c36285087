/** export and diff of a container: the same as docker's of one that did the same to the same image. */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Client } from "../lib/client.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { inventory, Sandbox, until } from "../lib/sandbox.ts";
import { describeTree } from "../lib/tree.ts";

const needs = {
  root: true,
  programs: [
    ...["docker-registry", "buildah", "skopeo", "getfattr", "setcap", "busybox", "tar", "script"],
    ...["dockerd", "docker", "containerd"],
  ],
};
const test = testWith(needs);
let box: Sandbox;
let client: Client;
let image = "";

/** Everything that can happen to a tree, with busybox alone. */
const changes = [
  "echo new > /home/new; mkdir -p /srv/deep/er; echo x > /srv/deep/er/file",
  "echo more >> /etc/passwd; chmod 640 /etc/group",
  // Deleted: a file, a directory, one name of two, a symlink.
  "rm /home/empty; rm -r /var/sticky; rm /usr/lib/two; rm /usr/lib/dangling",
  // Made anew: a directory, of which one file is back; a file as directory; a directory as file.
  "rm -r /var/lib/gone; mkdir /var/lib/gone; echo again > /var/lib/gone/new; echo other > /var/lib/gone/other",
  "rm -r /var/lib/data; mkdir -p /var/lib/data/9; echo x > /var/lib/data/9/in",
  "rm /usr/lib/up; mkdir /usr/lib/up; echo y > /usr/lib/up/in; rm /usr/lib/chain; echo file > /usr/lib/chain",
  // A directory of other attributes, with what is in it untouched.
  "chmod 711 /home/user",
  "mkfifo /home/pipe; ln -s new /home/link; ln /home/new /home/newer; echo o > '/home/odd name'",
  "touch -d '2001-02-03 04:05:06' /home/new",
].join("; ");

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  owned.defer(async () => {
    await box.ocibox(["rm", "-f", "changed", "running"]);
  });
  client = owned.use(new Client());
  image = await box.pushRich();
  await ok("pull", "-q", image);
  await ok("run", "--name", "changed", image, "sh", "-c", changes);
});

async function ok(...words: string[]): Promise<string> {
  const ended = await box.ocibox(words);
  expect([words, ended.code, ended.err]).toEqual([words, 0, ""]);
  return ended.out;
}

async function unpack(archive: string, into: string): Promise<string> {
  const place = join(box.dir, into);
  mkdirSync(place);
  await run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", join(box.dir, archive), "-C", place);
  return place;
}

/** All but the root itself, which is no member. */
const below = (lines: readonly string[]): string[] => lines.filter((line) => !line.startsWith('"" '));

describe("export", () => {
  test("is the tree, name by name", async () => {
    await ok("export", "-o", join(box.dir, "changed.tar"), "changed");
    const exported = await describeTree(await unpack("changed.tar", "exported"));
    // The kernel's own view of the same directories.
    const [id = ""] = readdirSync(join(box.root, "containers"));
    const lower = (await ok("inspect", "-f", '{{join .GraphDriver.Data.Lower " "}}', image)).trim().split(" ");
    const layers = [join(box.root, "containers", id, "upper"), ...lower];
    const place = join(box.dir, "merged");
    mkdirSync(place);
    await run("mount", "-t", "overlay", "-o", `ro,lowerdir=${layers.join(":")}`, "none", place);
    try {
      expect(below(exported)).toEqual(below(await describeTree(place)));
    } finally {
      await run("umount", place);
    }
    const all = exported.join("\n");
    for (const word of ["security.capability=", "user.ocibox=", " 4755 ", " p ", "links, first", " -> ", '"home/new"'])
      expect(all).toContain(word);
    for (const word of ["home/empty", "var/sticky", "usr/lib/two", "var/lib/data/1"])
      expect(all).not.toContain(`"${word}`);
  });

  test("to stdout, and back in by import", async () => {
    const piped = await box.shell(
      `$OCIBOX export changed | $OCIBOX import -q - imported:1 && $OCIBOX unpack imported:1 ${box.dir}/back`,
    );
    expect([piped.code, piped.err]).toEqual([0, ""]);
    expect(below(await describeTree(join(box.dir, "back")))).toEqual(
      below(await describeTree(join(box.dir, "exported"))),
    );
    const twice = await box.shell(`$OCIBOX container export changed | sha256sum; sha256sum < ${box.dir}/changed.tar`);
    expect(new Set(twice.out.trim().split("\n")).size).toBe(1);
  });

  test("what is refused: a terminal, no such container, a place that is not there", async () => {
    const terminal = await box.shell(`script -qec "$OCIBOX export changed" ${box.dir}/typescript`);
    expect([terminal.code, terminal.out]).toEqual([125, expect.stringContaining("stdout, which is a terminal")]);
    for (const [words, says] of [
      [["export", "nobody"], 'there is no container "nobody"'],
      [["diff", "nobody"], 'there is no container "nobody"'],
      [["export", "-o", `${box.dir}/no/where`, "changed"], "no/where"],
    ] as const) {
      const ended = await box.ocibox(words);
      expect([ended.code, ended.out, ended.err]).toEqual([125, "", expect.stringContaining(says)]);
    }
    expect(readdirSync(box.dir).filter((each) => each.includes(".ocibox-"))).toEqual([]);
    const full = await box.shell("$OCIBOX export changed > /dev/full");
    expect([full.code, full.err]).toEqual([125, expect.stringContaining("no space left")]);
  });

  test("of a container that runs", async () => {
    const script = "echo here > /home/written; echo up; exec cat";
    const ended = await box.ocibox(["run", "--rm", "-i", "--name", "running", image, "sh", "-c", script], {
      stdin: "",
      started: async () => {},
    });
    expect(ended.out).toBe("up\n");
    const fifo = join(box.dir, "fifo");
    await run("mkfifo", fifo);
    const live = await box.shell(
      `$OCIBOX run --rm -i --name running ${image} sh -c '${script}' < ${fifo} > ${box.dir}/said &
       exec 3> ${fifo}
       until grep -q up ${box.dir}/said; do sleep 0.05; done
       $OCIBOX export running | tar -xOf - home/written
       $OCIBOX diff running
       exec 3>&-; wait`,
    );
    expect([live.code, live.out, live.err]).toEqual([0, "here\nC /home\nA /home/written\n", ""]);
    expect(await until(() => !existsSync(join(box.root, "names/running")))).toBe(true);
  });
});

describe("layers that are kept in another way", () => {
  for (const kind of ["erofs", "copy"] as const)
    test(`${kind}: the same archive and the same changes`, async () => {
      const root = ["--root", join(box.dir, kind), "--snapshotter", kind];
      const pulled = await box.ocibox([...root, "pull", "-q", image]);
      // Not every kernel can: what it says then is tested where the ways are.
      if (kind === "erofs" && pulled.code !== 0) return expect(pulled.err).toMatch(/erofs/i);
      expect([pulled.code, pulled.err]).toEqual([0, ""]);
      await ok(...root, "run", "--name", "changed", image, "sh", "-c", changes);
      expect(await ok(...root, "diff", "changed")).toBe(await ok("diff", "changed"));
      await ok(...root, "export", "-o", join(box.dir, `${kind}.tar`), "changed");
      const tree = await unpack(`${kind}.tar`, `exported-${kind}`);
      // The times of what the two containers have made are their own.
      const timeless = async (place: string) =>
        (await describeTree(place)).map((line) => line.replace(/ \d{10}\.\d{10}/, ""));
      expect(below(await timeless(tree))).toEqual(below(await timeless(join(box.dir, "exported"))));
      await ok(...root, "rm", "changed");
    });
});

describe("docker", () => {
  const docker = (...words: string[]) => client.docker(...words);

  test("says the same", async () => {
    await client.dockerd(...client.asRuntime);
    await ok("tag", image, "rich:1");
    await ok("save", "-o", join(box.dir, "rich.tar"), "rich:1");
    expect((await docker("load", "-q", "-i", join(box.dir, "rich.tar"))).err).toBe("");
    const ran = await docker("run", "--network", "none", "--name", "changed", "rich:1", "sh", "-c", changes);
    expect([ran.code, ran.err]).toEqual([0, ""]);

    const theirs = (await docker("diff", "changed")).out.trim().split("\n").sort();
    expect((await ok("diff", "changed")).trim().split("\n").sort()).toEqual(theirs);
    expect(theirs.length).toBeGreaterThan(25);

    await docker("export", "-o", join(box.dir, "docker.tar"), "changed");
    const list = async (name: string) => (await run("tar", "-tf", join(box.dir, name))).trim().split("\n").sort();
    // What docker makes to mount on besides.
    const extra = [".dockerenv", "dev/console", "dev/pts/", "dev/shm/", "etc/mtab"];
    expect(await list("changed.tar")).toEqual((await list("docker.tar")).filter((each) => !extra.includes(each)));
  }, 60_000);
});
