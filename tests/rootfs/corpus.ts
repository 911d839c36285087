/** Images of one to four small layers, each with something that back ends of the rootfs could make different things of. */
import type { Member } from "../lib/tar.ts";

export interface Case {
  readonly name: string;
  /** The lowest first. */
  readonly layers: readonly (readonly Member[])[];
  /** Bytes that the last layer's archive lacks at its end: two blocks of zeros, and before them what fills a block. */
  readonly lacks?: number;
  /** Why umoci's tree is another one: only the back ends are compared with each other. */
  readonly unlikeUmoci?: string;
  /** Where umoci leaves a directory the time of unpacking though the archive tells another. */
  readonly umociLosesTimes?: true;
}

const dir = (name: string, more: Partial<Member> = {}): Member => ({ name: `${name}/`, type: "5", ...more });
const file = (name: string, body = name, more: Partial<Member> = {}): Member => ({ name, body, ...more });
const soft = (name: string, link: string): Member => ({ name, type: "2", link, mode: 0o777 });
const hard = (name: string, link: string): Member => ({ name, type: "1", link });
const gone = (name: string): Member => {
  const slash = name.lastIndexOf("/") + 1;
  return { name: `${name.slice(0, slash)}.wh.${name.slice(slash)}` };
};
const opaque = (name: string): Member => ({ name: name === "" ? ".wh..wh..opq" : `${name}/.wh..wh..opq` });
const numbered = (from: number, to: number, make: (n: number) => Member): Member[] =>
  Array.from({ length: to - from }, (_, at) => make(from + at));
const long = "n".repeat(250);

export const cases: readonly Case[] = [
  { name: "a layer with nothing in it", layers: [[]] },
  { name: "nothing upon something", layers: [[dir("."), file("a")], []] },
  {
    name: "files of sizes around a block",
    layers: [[511, 512, 513, 0, 1, 4095, 4096, 4097, 70_000].map((n) => file(`f${n}`, "x".repeat(n)))],
  },
  {
    name: "an archive that ends with its last file's last byte, as umoci's insert writes it",
    layers: [[file("a")], [dir("d"), file("d/b", "x".repeat(700))]],
    lacks: 1024 + 324,
  },
  { name: "an archive that ends in its last block", layers: [[file("a", "x".repeat(5000))]], lacks: 1024 + 100 },
  { name: "the root's own owner and mode", layers: [[{ name: "./", type: "5", mode: 0o700, uid: 7 }, file("a")]] },
  {
    name: "the root described anew",
    layers: [[dir("."), file("a")], [{ name: "./", type: "5", mode: 0o711, uid: 8 }]],
  },
  { name: "directories that nobody names", layers: [[file("a/b/c/d")]] },
  {
    name: "directories that only a lower layer names",
    layers: [
      [dir("a", { mode: 0o700, uid: 5, pax: { mtime: "1234.5" } }), dir("a/b", { mode: 0o1777 })],
      [file("a/b/c")],
    ],
  },
  { name: "a directory described after what is in it", layers: [[file("a/b"), dir("a", { mode: 0o2750, uid: 3 })]] },
  {
    name: "a directory with new attributes",
    layers: [[dir("a", { mode: 0o700 }), file("a/x")], [dir("a", { mode: 0o755, uid: 9 })]],
  },
  {
    name: "a directory's attributes are replaced, not added to",
    layers: [
      [dir("a", { pax: { "SCHILY.xattr.user.old": "1" } })],
      [dir("a", { pax: { "SCHILY.xattr.user.new": "2" } })],
    ],
  },
  { name: "a file is replaced", layers: [[file("a", "one"), file("b")], [file("a", "two", { mode: 0o600 })]] },
  {
    name: "a file becomes a directory, and that a file",
    layers: [
      [file("a"), dir("b"), file("b/x")],
      [dir("a"), file("a/y"), file("b")],
      [file("a"), dir("b")],
    ],
  },
  {
    name: "a file becomes a symlink, and that a device",
    layers: [[file("a")], [soft("a", "b")], [{ name: "a", type: "3", major: 1, minor: 3 }]],
  },
  {
    name: "a directory becomes a symlink to another",
    layers: [
      [dir("a"), file("a/x"), dir("b")],
      [gone("a"), soft("a", "b")],
    ],
  },
  {
    name: "a directory becomes a symlink without a whiteout",
    layers: [[dir("a"), file("a/x"), dir("b")], [soft("a", "b")]],
  },
  { name: "a whiteout of a file", layers: [[dir("d"), file("d/a"), file("d/b")], [gone("d/a")]] },
  { name: "a whiteout of a directory", layers: [[dir("d"), dir("d/s"), file("d/s/a")], [gone("d/s")]] },
  { name: "a whiteout of what is not there", layers: [[dir("d")], [gone("d/a"), gone("e")]] },
  { name: "a whiteout, and the name again above", layers: [[file("a", "one")], [gone("a")], [file("a", "three")]] },
  { name: "a whiteout in the layer of its name", layers: [[file("a", "one")], [file("a", "two"), gone("a")]] },
  {
    name: "a whiteout before the name in its layer",
    layers: [
      [dir("d"), file("d/old")],
      [gone("d"), dir("d", { mode: 0o700 }), file("d/new")],
    ],
  },
  {
    name: "a whiteout behind what is in the directory",
    umociLosesTimes: true,
    layers: [
      [dir("d"), file("d/old"), dir("d/s"), file("d/s/old")],
      [dir("d"), file("d/new"), gone("d")],
    ],
  },
  {
    name: "an opaque directory",
    layers: [
      [dir("d"), file("d/old"), dir("d/s"), file("d/s/x")],
      [dir("d"), opaque("d"), file("d/new")],
    ],
  },
  {
    name: "an opaque directory, said at the end",
    umociLosesTimes: true,
    layers: [
      [dir("d"), file("d/old"), dir("d/s"), file("d/s/old")],
      [dir("d"), dir("d/s", { mode: 0o700 }), file("d/s/new"), opaque("d")],
    ],
  },
  {
    name: "an opaque directory that is not named",
    layers: [
      [dir("d", { mode: 0o710 }), file("d/old")],
      [opaque("d"), file("d/new")],
    ],
  },
  {
    name: "opaque over three layers",
    layers: [
      [dir("d"), file("d/1")],
      [dir("d"), file("d/2")],
      [dir("d"), opaque("d")],
      [dir("d"), file("d/4")],
    ],
  },
  {
    name: "an opaque directory in one that is opaque",
    layers: [
      [dir("a"), dir("a/b"), file("a/b/1"), file("a/2")],
      [dir("a"), opaque("a"), dir("a/b"), opaque("a/b"), file("a/b/3")],
    ],
  },
  {
    name: "an opaque root",
    layers: [
      [dir("d"), file("d/x"), file("y")],
      [opaque(""), file("z")],
    ],
  },
  { name: "names that only look like whiteouts", layers: [[file("a.wh.b"), file("wh.c"), dir(".whx")]] },
  {
    name: "whiteouts that aufs kept for itself",
    layers: [[file("a")], [{ name: ".wh..wh.aufs" }, { name: ".wh..wh.orph/", type: "5" }, file("b")]],
  },
  { name: "hard links in a layer", layers: [[file("a", "one"), hard("b", "a"), dir("d"), hard("d/c", "b")]] },
  {
    name: "a hard link to a symlink, and to a device",
    layers: [[soft("s", "x"), hard("t", "s"), { name: "n", type: "3", major: 1, minor: 5 }, hard("m", "n")]],
  },
  { name: "a hard link in the place of a file", layers: [[file("a", "one"), file("b", "two"), hard("b", "a")]] },
  {
    name: "one name of a hard link is replaced",
    layers: [[file("a", "one"), hard("b", "a"), hard("c", "a")], [file("a", "new")]],
  },
  {
    name: "one name of a hard link is removed",
    layers: [[file("a", "one"), hard("b", "a"), hard("c", "a")], [gone("b")]],
  },
  {
    name: "a hard link into a lower layer",
    layers: [
      [
        dir("d", { mode: 0o750 }),
        file("d/a", "below", { mode: 0o4755, uid: 6, pax: { mtime: "99.25", "SCHILY.xattr.user.k": "v" } }),
      ],
      [hard("b", "d/a")],
    ],
  },
  {
    name: "a hard link into a lower layer, whose file has other names",
    layers: [[file("a", "one"), hard("b", "a")], [hard("c", "a")]],
    unlikeUmoci: "it links all four names; in an overlay the old ones keep the old file",
  },
  {
    name: "symlinks short, long, absolute, dangling, to themselves",
    layers: [
      [
        soft("a", "b"),
        soft("b", "/nowhere"),
        soft("c", "c"),
        soft("d", "../.."),
        { ...soft("e", "x"), pax: { linkpath: "l/".repeat(400) } },
        { ...soft("f", "x"), pax: { linkpath: `${"m".repeat(390)}` } },
        { ...soft("g", "x"), pax: { linkpath: "p".repeat(440) } },
      ],
    ],
  },
  {
    name: "a way through a symlink of the same layer",
    layers: [[dir("real"), soft("way", "real"), file("way/x"), dir("way/s"), file("way/s/y")]],
  },
  {
    name: "a way through an absolute symlink of the same layer",
    umociLosesTimes: true,
    layers: [[dir("a"), dir("a/b"), soft("way", "/a/b"), file("way/x"), file("way/new/y")]],
  },
  {
    name: "a way through a symlink of a lower layer",
    layers: [[dir("usr"), dir("usr/lib"), soft("lib", "usr/lib")], [file("lib/x")]],
    unlikeUmoci:
      "it follows the link; in an overlay the directory of the upper layer hides it, as podman and docker have it",
  },
  { name: "a file of a lower layer in the way", layers: [[file("a")], [file("a/b")]], unlikeUmoci: "it refuses" },
  {
    name: "modes with every special bit",
    layers: [
      [0o4755, 0o2755, 0o6711, 0o1777, 0, 0o7777].flatMap((mode) => [
        file(`f${mode}`, "x", { mode }),
        dir(`d${mode}`, { mode }),
      ]),
    ],
  },
  {
    name: "owners up to the last",
    layers: [
      [1, 65_535, 65_536, 2_000_000, 4_294_967_294].map((id) =>
        file(`u${id}`, "x", { pax: { uid: String(id), gid: String(id) } }),
      ),
    ],
  },
  {
    name: "times with fractions, early and late",
    layers: [
      ["0", "0.000000001", "1.999999999", "1700000000.5", "4102444800.25", "-1.5", "-100"].map((mtime, at) =>
        file(`t${at}`, "x", { pax: { mtime } }),
      ),
    ],
  },
  {
    name: "extended attributes of every kind",
    layers: [
      [
        file("a", "x", {
          pax: {
            "SCHILY.xattr.user.a": "1",
            "SCHILY.xattr.user.empty": "",
            "SCHILY.xattr.trusted.t": "t",
            [`SCHILY.xattr.user.${"k".repeat(200)}`]: "v".repeat(1000),
          },
        }),
        dir("d", { pax: { "SCHILY.xattr.user.d": "on a directory" } }),
        soft("s", "a"),
      ],
    ],
  },
  {
    name: "a capability, and it gone with the next file",
    layers: [
      [
        file("a", "x", {
          pax: { "SCHILY.xattr.security.capability": "\u0001\0\0\u0002\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0" },
        }),
        file("b", "x", {
          pax: { "SCHILY.xattr.security.capability": "\u0001\0\0\u0002\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0" },
        }),
      ],
      [file("b", "y")],
    ],
  },
  {
    name: "devices, FIFOs, numbers of several bytes",
    layers: [
      [
        { name: "n", type: "3", major: 1, minor: 3 },
        { name: "b", type: "4", major: 259, minor: 70_000 },
        { name: "c", type: "3", major: 4095, minor: 255 },
        { name: "p", type: "6", mode: 0o620 },
      ],
    ],
  },
  {
    name: "names of every length around a block's",
    layers: [numbered(1, 256, (n) => file("x", "y", { pax: { path: "l".repeat(n) } }))],
  },
  {
    name: "names of 250 bytes, many of them",
    layers: [numbered(0, 40, (n) => file("x", String(n), { pax: { path: `${long}${String(n).padStart(2, "0")}` } }))],
  },
  {
    name: "names that sort before the dot, and bytes above 127",
    layers: [
      [
        " ",
        "!",
        "-",
        "+x",
        "ä",
        "文件",
        "\u{1f98a}",
        "~",
        "A",
        "a",
        "a b",
        'q"q',
        "back\\slash",
        "new\nline",
        "é",
        "e\u0301",
      ].map((name) => file(name, name)),
    ],
  },
  {
    name: "a directory of a thousand names",
    layers: [
      [dir("d"), ...numbered(0, 1000, (n) => file(`d/file-${n}`, String(n)))],
      [
        ...numbered(0, 1000, (n) => gone(`d/file-${n}`)).filter((_, at) => at % 3 === 0),
        ...numbered(990, 1010, (n) => file(`d/file-${n}`, "new")),
      ],
    ],
  },
  {
    name: "directories a hundred deep",
    layers: [[file("x", "deep", { pax: { path: `${"d/".repeat(100)}f` } })], [gone(`${"d/".repeat(40)}d`)]],
  },
  {
    name: "a name twice, of two kinds",
    layers: [[file("a"), dir("a"), file("a/x"), soft("b", "c"), file("b", "last")]],
  },
  {
    name: "dots and slashes in names",
    layers: [[file("./a"), file("/b"), file("c//d"), file("./e/./f"), dir("./g/.")]],
  },
  {
    name: "four layers of changes",
    layers: [
      [
        dir("etc"),
        file("etc/passwd", "root"),
        dir("var"),
        dir("var/lib"),
        file("var/lib/a"),
        dir("usr"),
        file("usr/x"),
      ],
      [file("etc/passwd", "root\nuser"), gone("usr/x"), file("var/lib/b")],
      [
        dir("var"),
        dir("var/lib", { mode: 0o700 }),
        opaque("var/lib"),
        file("var/lib/c"),
        hard("var/lib/d", "var/lib/c"),
      ],
      [gone("etc"), dir("etc"), file("etc/new"), file("var/lib/b", "again"), soft("usr/x", "y")],
    ],
  },
  {
    name: "whiteouts that hide nothing, for no layer has the directory",
    layers: [[dir("a"), file("a/x"), gone("a/y"), gone("z"), dir("b"), opaque("b"), gone("b/y"), file("b/x")]],
  },
  {
    name: "whiteouts beside an opaque directory's mark",
    layers: [
      [dir("a"), file("a/x"), file("a/y"), dir("a/sub"), file("a/sub/z")],
      [dir("a"), opaque("a"), gone("a/x"), file("a/new")],
    ],
  },
  {
    name: "a whiteout, then something in a directory of that name",
    layers: [
      [dir("a", { mode: 0o700 }), file("a/old")],
      [gone("a"), file("a/new")],
    ],
    unlikeUmoci: "it lets the whiteout hide what comes after it",
  },
  {
    name: "a file in a directory's place, then a directory again",
    layers: [
      [dir("a"), file("a/old")],
      [file("a"), dir("a"), file("a/new")],
    ],
  },
  {
    name: "a symlink to where it is, replaced through itself",
    layers: [[dir("."), soft("a", "."), file("a/a", "instead")]],
    unlikeUmoci: "it replaces the link before it goes through it",
  },
];
