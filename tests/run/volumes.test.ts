/** Volumes: by name, without one, of another container; what the image has goes into them, and who may remove them. */
import { describe, expect } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { run as tar } from "../lib/registry.ts";
import { inventory, Sandbox } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "strace"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  // A directory with all that is to be kept of it.
  const data = join(box.tree, "srv/data");
  mkdirSync(join(data, "deep"), { recursive: true });
  writeFileSync(join(data, "deep/file"), "of the image\n");
  symlinkSync("deep/file", join(data, "link"));
  chmodSync(data, 0o2750);
  chownSync(data, 77, 78);
  chownSync(join(data, "deep/file"), 77, 0);
  symlinkSync("/srv/data", join(box.tree, "srv/way"));
  // What is pushed is all root's: an import keeps the owners.
  await tar("tar", "-C", box.tree, "-cf", join(box.dir, "filled.tar"), ".");
  expect((await box.ocibox(["import", join(box.dir, "filled.tar"), "filled"])).code).toBe(0);
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

const ok = (...words: string[]): Promise<string> => box.ok(...words);

/** What a script prints in a container of these flags. */
async function sh(image: string, flags: readonly string[], script: string): Promise<string> {
  return ok("run", "--rm", ...flags, image, "sh", "-c", script);
}

const refused = (...words: string[]): Promise<string> => box.refused(...words);

function onDisk(): string[] {
  const path = join(box.root, "volumes");
  return existsSync(path) ? readdirSync(path) : [];
}

describe("a volume with a name", () => {
  test("is made where it is not there, and outlives its containers", async () => {
    await sh("alpine", ["-v", "kept:/here"], "echo one > /here/file");
    expect(
      await sh("alpine", ["-v", "kept:/there:ro"], "cat /there/file; touch /there/x 2> /dev/null || echo ro"),
    ).toBe("one\nro\n");
    expect(await sh("alpine", ["--mount", "src=kept,dst=/m,readonly"], "cat /m/file")).toBe("one\n");
    expect(await ok("volume", "ls", "-q")).toBe("kept\n");
    expect(await ok("volume", "rm", "kept")).toBe("kept\n");
    expect([await ok("volume", "ls", "-q"), onDisk()]).toEqual(["", []]);
  });

  test("gets what the image has at its place, with owners and modes, once", async () => {
    const look = "stat -c '%u:%g %a' .; stat -c '%u' deep/file; cat link";
    for (const [name, place] of [
      ["plain", "/srv/data"],
      ["byway", "/srv/way"],
    ] as const) {
      expect(await sh("filled", ["-v", `${name}:${place}`, "-w", place], `${look}; echo more >> deep/file`)).toBe(
        "77:78 2750\n77\nof the image\n",
      );
      expect(await sh("filled", ["-v", `${name}:${place}`], `cat ${place}/link`)).toBe("of the image\nmore\n");
      expect(readdirSync(join(box.root, "volumes", name)).sort()).toEqual(["_data", "lock", "volume.json"]);
    }
    expect(await sh("filled", ["-v", "bare:/srv/data:nocopy"], "ls /srv/data; stat -c '%u' /srv/data")).toBe("0\n");
    expect(await sh("filled", ["-v", "nowhere:/not/there"], "ls /not/there")).toBe("");
    await ok("volume", "rm", "plain", "byway", "bare", "nowhere");
  });

  test("is filled by one of those that begin at once", async () => {
    const all = await Promise.all(
      Array.from({ length: 8 }, () => box.run(["-v", "crowd:/srv/data", "filled", "cat", "/srv/data/link"])),
    );
    expect(all).toEqual(all.map(() => ({ out: "of the image\n", err: "", code: 0 })));
    await ok("volume", "rm", "crowd");
  });

  test("whose filling was cut short is filled anew", async () => {
    const killed = await box.shell(
      `strace -f -qq -o /dev/null -e trace=renameat2,mkdirat,symlinkat -e inject=symlinkat:signal=KILL:when=1 "$OCIBOX" run --rm -v cut:/srv/data filled true`,
    );
    expect(killed.code).not.toBe(0);
    expect(await ok("volume", "ls", "-q")).toBe("cut\n");
    expect(readdirSync(join(box.root, "volumes/cut/_data"))).toEqual([]);
    expect(await sh("filled", ["-v", "cut:/srv/data"], "cat /srv/data/link")).toBe("of the image\n");
    await ok("volume", "rm", "cut");
  });

  test("whose filling was cut short while it was moved in is completed, and what is there by then stays", async () => {
    // Renames are of volume.json, of the volume, of the copy that is whole, and then of what is in it, a name each.
    for (const when of [4, 5]) {
      const inject = `inject=renameat2:signal=KILL:when=${when}`;
      await box.shell(
        `strace -f -qq -o /dev/null -e trace=renameat2 -e ${inject} "$OCIBOX" run --rm -v half:/srv/data filled true`,
      );
      expect(readdirSync(join(box.root, "volumes/half"))).toContain("_ready");
      writeFileSync(join(box.root, "volumes/half/_data/mine"), "");
      const look = "cat link; stat -c '%u:%g %a' .; ls";
      expect(await sh("filled", ["-v", "half:/srv/data", "-w", "/srv/data"], look)).toBe(
        "of the image\n77:78 2750\ndeep\nlink\nmine\n",
      );
      expect(readdirSync(join(box.root, "volumes/half")).sort()).toEqual(["_data", "lock", "volume.json"]);
      await ok("volume", "rm", "half");
    }
  });

  test("stays while a container has it, running or not", async () => {
    await ok("create", "--name", "user", "-v", "used:/u", "alpine", "true");
    try {
      expect(await refused("volume", "rm", "used")).toBe(
        'ocibox: the volume "used" is in use by the container "user"; remove that first, with: ocibox rm user\n',
      );
      expect(await ok("volume", "prune", "-af")).toBe("Removed 0 volumes\n");
      expect(await ok("volume", "ls", "-q", "-f", "dangling=true")).toBe("");
      expect(await ok("ps", "-aq", "-f", "volume=used", "--format", "{{.Names}}")).toHaveLength(13);
      expect(await ok("inspect", "-f", "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}}{{end}}", "user")).toBe(
        "volume used /u\n",
      );
    } finally {
      await ok("rm", "user");
    }
    expect(await ok("volume", "prune", "-f")).toBe("Removed 0 volumes\n");
    expect(await ok("volume", "prune", "-af")).toBe("used\nRemoved 1 volume\n");
  });

  test("that was made for a run that could not be goes again", async () => {
    expect(await refused("run", "--rm", "-v", "short:/s", "--cidfile", box.tree, "alpine", "true")).toContain(
      "--cidfile",
    );
    expect((await box.run(["-v", "short:/s", "--explain", "alpine", "true"])).code).toBe(0);
    expect(onDisk()).toEqual([]);
  });
});

describe("a volume without a name", () => {
  test("is the container's own, begins with what the image has, and goes with it", async () => {
    await ok(
      "create",
      "--name",
      "own",
      "-v",
      "/srv/data",
      "--mount",
      "type=volume,dst=/m",
      "filled",
      "sh",
      "-c",
      "cat /srv/data/link; echo x >> /srv/data/deep/file",
    );
    try {
      expect(await ok("start", "-a", "own")).toBe("of the image\n");
      expect(await ok("start", "-a", "own")).toBe("of the image\nx\n");
      expect(
        await sh("alpine", ["--volumes-from", "own:ro"], "cat /srv/data/deep/file; touch /m/x 2> /dev/null || echo ro"),
      ).toBe("of the image\nx\nx\nro\n");
      expect([await ok("volume", "ls", "-q"), await ok("diff", "own")]).toEqual([
        "",
        expect.not.stringContaining("deep"),
      ]);
    } finally {
      await ok("rm", "-v", "own");
    }
    const named = ["--name", "lends", "-v", "/lent"];
    await ok("create", ...named, "alpine", "true");
    await ok("create", "--name", "borrows", "--volumes-from", "lends", "-v", "own:/lent", "alpine", "true");
    await ok("rm", "borrows");
    await ok("create", "--name", "borrows", "--volumes-from", "lends", "alpine", "true");
    expect(await refused("rm", "lends")).toContain('the container "borrows" mounts a volume of "lends"');
    expect(await refused("rm", "-f", "lends")).toContain("mounts a volume of");
    await ok("rm", "-f", "lends", "borrows");
    await ok("volume", "rm", "own");
    // The second of a kind by its kept plan, each with a directory of its own.
    for (let turn = 0; turn < 3; turn++)
      expect(await sh("alpine", ["-v", "/once"], "ls /once; touch /once/there")).toBe("");
    expect(readdirSync(join(box.root, "containers"))).toEqual([]);
  });
});

describe("volume", () => {
  test("create, ls, inspect", async () => {
    expect(await ok("volume", "create", "-l", "for=tests", "made")).toBe("made\n");
    expect(await ok("volume", "create", "made")).toBe("made\n");
    const random = (await ok("volume", "create")).trim();
    expect(random).toMatch(/^[0-9a-f]{64}$/);
    expect(await ok("volume", "ls")).toMatch(/^DRIVER +VOLUME NAME\nlocal +\S+\nlocal +\S+\n$/);
    expect(await ok("volume", "ls", "-q", "-f", "label=for")).toBe("made\n");
    expect(await ok("volume", "list", "--format", "{{.Name}} {{.Labels}}", "-f", "name=mad")).toBe("made for=tests\n");
    const [shown] = JSON.parse(await ok("volume", "inspect", "made")) as [Record<string, unknown>];
    expect(shown).toMatchObject({ Name: "made", Driver: "local", Labels: { for: "tests" } });
    expect(statSync(String(shown.Mountpoint)).isDirectory()).toBe(true);
    expect((await ok("system", "df")).split("\n")).toContainEqual(expect.stringMatching(/^Volumes +2 +0 /));
    expect(await ok("volume", "prune", "-f")).toBe(`${random}\nRemoved 1 volume\n`);
    expect(await ok("volume", "rm", "-f", "made", "made", "nobody")).toBe("made\n");
  });

  test("what a killed command has not made whole goes with the next removal, and masks do not count", async () => {
    mkdirSync(join(box.root, "volumes/.unfinished"), { recursive: true });
    await box.shell('umask 077; "$OCIBOX" volume create masked');
    expect(statSync(join(box.root, "volumes/masked/_data")).mode & 0o777).toBe(0o755);
    await ok("volume", "rm", "masked");
    expect(onDisk()).toEqual([]);
    const fresh = join(box.dir, "fresh");
    expect(await ok("--root", fresh, "volume", "prune", "-af")).toBe("Removed 0 volumes\n");
    await ok("--root", fresh, "volume", "create", "a");
    expect(await ok("--root", fresh, "volume", "rm", "a")).toBe("a\n");
    expect(await ok("--root", fresh, "volume", "ls", "-q")).toBe("");
  });

  test("names that cannot be, and what is not there", async () => {
    for (const name of ["a/b", "..", ".hidden", "-x/", "a b"])
      expect(await refused("volume", "create", "--", name)).toContain("a name that is not letters");
    for (const name of ["nobody", "../containers", "."])
      expect(await refused("volume", "inspect", name)).toContain(`there is no volume "${name}"`);
    expect(await refused("volume", "rm", "nobody")).toContain("ocibox volume ls");
    expect(await refused("run", "-v", "a/b:/x", "alpine", "true")).toContain('"a/b" is no name of a volume');
    expect(await refused("run", "--volumes-from", "nobody", "alpine", "true")).toContain('no container "nobody"');
    expect(await refused("volume", "prune")).toContain("-f");
    expect(onDisk()).toEqual([]);
  });
});
