/** Image configuration and flags to config.json: pure, so every host and image is made up. */
import { describe, expect, test } from "bun:test";
import { type BundleInput, checkOptions, createSpec } from "../../src/bundle/bundle.ts";
import type { RunOptions } from "../../src/bundle/command.ts";
import { parseMountFlag } from "../../src/bundle/mount-flag.ts";
import { hostLine, resolverFlags } from "../../src/bundle/names.ts";
import { resolverFile } from "../../src/bundle/resolver.ts";
import { lookUpUser } from "../../src/bundle/user.ts";
import { parseSize, parseUlimit, parseVolume } from "../../src/bundle/values.ts";
import { OciboxError } from "../../src/errors.ts";
import { facts, factsV2 } from "../lib/facts.ts";
import { violations } from "../lib/schema.ts";

const plain: RunOptions = {
  command: [],
  entrypoint: undefined,
  env: [],
  workdir: undefined,
  user: undefined,
  hostname: undefined,
  tty: false,
  readOnly: false,
  volumes: [],
  tmpfs: [],
  capAdd: [],
  capDrop: [],
  securityOpt: [],
  strict: false,
  memory: undefined,
  cpus: undefined,
  pidsLimit: undefined,
  ulimits: [],
  network: "none",
  more: {},
};

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const passwd = bytes("root:x:0:0:root:/root:/bin/sh\n# a comment\nweb:x:33:33::/var/www:/bin/sh\n1000:x:0:0::/:\n");
const group = bytes("root:x:0:\nweb:x:33:\nlog:x:4:web,other\nssl:x:101:web\n");

function input(options: Partial<RunOptions> = {}, image: BundleInput["image"] = { Cmd: ["sh"] }): BundleInput {
  const id = "0123456789abcdef".repeat(4);
  return {
    id,
    image,
    options: { ...plain, ...options },
    passwd,
    group,
    facts,
    cgroupsPath: `/ocibox-${id}`,
    files: "/store/containers/x",
    networkPath: "/proc/self/fd/66",
  };
}

const everything: Partial<RunOptions> = {
  command: ["-c", "true"],
  entrypoint: "/bin/sh",
  env: ["A=1", "PATH=/bin"],
  workdir: "/srv//x/",
  user: "web",
  hostname: "name.example",
  tty: true,
  readOnly: true,
  volumes: [parseVolume("/srv/data:/data/in:ro", "/"), parseVolume("./here:/here", "/home/me")],
  tmpfs: ["/scratch:size=64m,mode=1777"],
  capAdd: ["NET_ADMIN"],
  capDrop: ["CHOWN"],
  securityOpt: ["no-new-privileges", "label=disable"],
  memory: "64m",
  cpus: "1.5",
  pidsLimit: "100",
  ulimits: ["nofile=64:128", "core=0"],
  network: "host",
};

const rare: Partial<RunOptions> = {
  memory: "64m",
  more: {
    groups: ["log", "7777"],
    umask: "0027",
    domainname: "example.org",
    annotations: ["org.example=a=b"],
    sysctls: ["net.ipv4.ip_forward=1"],
    memorySwap: "100m",
    memoryReservation: "32m",
    cpuShares: "512",
    cpuPeriod: "50000",
    cpuQuota: "20000",
    cpusetCpus: "0-1,3",
    cpusetMems: "0",
    oomScoreAdj: "-5",
    shmSize: "1m",
    devices: [
      {
        source: "/dev/y",
        path: "/dev/x",
        type: "c",
        major: 10,
        minor: 200,
        fileMode: 0o660,
        uid: 0,
        gid: 5,
        access: "rw",
      },
      {
        source: "/dev/z",
        path: "/dev/disk",
        type: "b",
        major: 7,
        minor: 0,
        fileMode: 0o660,
        uid: 0,
        gid: 6,
        access: "r",
      },
    ],
    deviceRules: ["c 1:* rwm", "a *:* m"],
  },
};

describe("config.json", () => {
  test("of an image without flags", () => {
    expect(createSpec(input())).toMatchSnapshot();
  });

  for (const [name, given] of [
    ["of no flags", input()],
    ["of every flag", input(everything)],
    ["on cgroup v2", { ...input(everything), facts: factsV2 }],
    ["of the rarer flags", input(rare)],
    ["of --privileged", input({ capAdd: ["ALL"], more: { privileged: true } })],
    ["with the host's namespaces", input({ more: { hostIpc: ["/dev/shm"], hostUts: true, hostCgroups: true } })],
    ["of --security strict", input({ strict: true })],
    ["without seccomp", input({ securityOpt: ["seccomp=unconfined"], capAdd: ["ALL"] })],
  ] as const) {
    test(`${name} is valid by the specification's schema`, () => {
      // As it is written: undefined fields are not there.
      expect(violations("config-schema.json", JSON.parse(JSON.stringify(createSpec(given))))).toEqual([]);
    });
  }

  test("the schema finds what is wrong", () => {
    const spec = { ...createSpec(input()), hostname: 5, linux: { namespaces: [{ type: "cosmos" }] } };
    expect(violations("config-schema.json", spec).length).toBeGreaterThan(1);
  });

  test("every flag reaches its field", () => {
    const spec = createSpec(input(everything));
    expect(spec.process).toMatchObject({
      terminal: true,
      args: ["/bin/sh", "-c", "true"],
      cwd: "/srv/x",
      user: { uid: 33, gid: 33, additionalGids: [4, 101] },
      noNewPrivileges: true,
      rlimits: [
        { type: "RLIMIT_NOFILE", soft: 64, hard: 128 },
        { type: "RLIMIT_CORE", soft: 0, hard: 0 },
      ],
    });
    expect(spec.process?.env).toEqual(["PATH=/bin", "HOSTNAME=name.example", "TERM=xterm", "A=1", "HOME=/var/www"]);
    expect(spec.process?.capabilities?.bounding).toContain("CAP_NET_ADMIN");
    expect(spec.process?.capabilities?.bounding).not.toContain("CAP_CHOWN");
    // Who is not root holds none of them.
    expect(spec.process?.capabilities?.effective).toEqual([]);
    expect(spec.root?.readonly).toBe(true);
    expect(spec.linux?.namespaces?.map((each) => each.type)).not.toContain("network");
    expect(spec.linux?.resources).toMatchObject({
      memory: { limit: 64 << 20, swap: 128 << 20 },
      cpu: { quota: 150_000, period: 100_000 },
      pids: { limit: 100 },
    });
    const own = spec.mounts?.slice(-3).map((mount) => [mount.destination, mount.source, mount.type]);
    expect(own).toEqual([
      ["/here", "/home/me/here", "bind"],
      ["/scratch", "tmpfs", "tmpfs"],
      ["/data/in", "/srv/data", "bind"],
    ]);
  });

  test("every rarer flag reaches its field", () => {
    const spec = createSpec(input(rare));
    expect(spec).toMatchObject({ domainname: "example.org", annotations: { "org.example": "a=b" } });
    expect(spec.process).toMatchObject({
      user: { uid: 0, gid: 0, umask: 0o027, additionalGids: [4, 7777] },
      oomScoreAdj: -5,
    });
    expect(spec.linux?.sysctl).toMatchObject({ "net.ipv4.ip_forward": "1" });
    expect(spec.linux?.resources).toEqual({
      devices: [
        { allow: false, access: "rwm" },
        { allow: true, type: "c", major: 10, minor: 200, access: "rw" },
        { allow: true, type: "b", major: 7, minor: 0, access: "r" },
        { allow: true, type: "c", major: 1, minor: -1, access: "rwm" },
        { allow: true, type: "a", major: -1, minor: -1, access: "m" },
      ],
      memory: { limit: 64 << 20, swap: 100 << 20, reservation: 32 << 20 },
      cpu: { shares: 512, period: 50_000, quota: 20_000, cpus: "0-1,3", mems: "0" },
      pids: { limit: 2048 },
    });
    expect(spec.linux?.devices).toEqual([
      { path: "/dev/x", type: "c", major: 10, minor: 200, fileMode: 0o660, uid: 0, gid: 5 },
      { path: "/dev/disk", type: "b", major: 7, minor: 0, fileMode: 0o660, uid: 0, gid: 6 },
    ]);
    const shm = spec.mounts?.find(({ destination }) => destination === "/dev/shm");
    expect(shm?.options).toContain("size=1024k");
  });

  test("--device where devices cannot be made: the host's are bound", () => {
    const spec = createSpec({ ...input(rare), facts: { ...facts, userNamespace: true } });
    expect(spec.linux?.devices).toBeUndefined();
    const bound = spec.mounts?.filter(({ source }) => source === "/dev/y" || source === "/dev/z");
    expect(bound).toEqual([
      { destination: "/dev/x", type: "bind", source: "/dev/y", options: ["bind", "nosuid", "noexec"] },
      { destination: "/dev/disk", type: "bind", source: "/dev/z", options: ["bind", "nosuid", "noexec", "ro"] },
    ]);
  });

  test("--privileged: no masks, nothing read-only, every device; what the host has in common", () => {
    const all = createSpec(input({ capAdd: ["ALL"], securityOpt: ["seccomp=unconfined"], more: { privileged: true } }));
    expect([all.linux?.maskedPaths, all.linux?.readonlyPaths, all.linux?.seccomp]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    expect(all.linux?.resources?.devices).toEqual([{ allow: true, access: "rwm" }]);
    for (const place of ["/sys", "/sys/fs/cgroup"])
      expect(all.mounts?.find(({ destination }) => destination === place)?.options).toContain("rw");
    const shared = createSpec(input({ more: { hostIpc: ["/dev/shm"], hostUts: true, hostCgroups: true } }));
    expect(shared.linux?.namespaces?.map(({ type }) => type)).toEqual(["pid", "mount", "network"]);
    expect(shared.hostname).toBeUndefined();
    expect(shared.mounts?.find(({ destination }) => destination === "/dev/shm")?.type).toBe("bind");
    expect(shared.mounts?.find(({ destination }) => destination === "/dev/mqueue")?.type).toBe("mqueue");
  });

  for (const [more, words, memory] of [
    [{ umask: "9" }, "--umask"],
    [{ umask: "7777" }, "--umask"],
    [{ annotations: ["x"] }, "--annotation"],
    [{ sysctls: ["=1"] }, "--sysctl"],
    [{ memorySwap: "1g" }, "wants --memory"],
    [{ memorySwap: "32m" }, "less than --memory", "64m"],
    [{ memoryReservation: "65m" }, "more than --memory", "64m"],
    [{ cpuShares: "-1" }, "--cpu-shares"],
    [{ cpuPeriod: "10" }, "--cpu-period"],
    [{ cpusetCpus: "a" }, "--cpuset-cpus"],
    [{ oomScoreAdj: "1001" }, "--oom-score-adj"],
    [{ shmSize: "much" }, "--shm-size"],
    [{ deviceRules: ["c 1:3"] }, "--device-cgroup-rule"],
    [{ groups: ["none"] }, "--group-add"],
    [{ groups: ["-1"] }, "--group-add"],
  ] as const)
    test(`refused: ${JSON.stringify(more)}`, () => {
      expect(() => createSpec(input({ more, memory }))).toThrow(words);
    });

  test("entrypoint and command go together as docker's", () => {
    const image = { Entrypoint: ["/entry", "a"], Cmd: ["b"] };
    const args = (options: Partial<RunOptions>): readonly string[] | undefined =>
      createSpec(input(options, image)).process?.args;
    expect(args({})).toEqual(["/entry", "a", "b"]);
    expect(args({ command: ["c"] })).toEqual(["/entry", "a", "c"]);
    expect(args({ entrypoint: "/other" })).toEqual(["/other"]);
    expect(args({ entrypoint: "", command: ["x"] })).toEqual(["x"]);
    expect(() => args({ entrypoint: "" })).toThrow("nothing to run");
  });

  test("the environment: ours, the image's, the caller's", () => {
    const env = createSpec(input({ env: ["B=caller", "C="] }, { Cmd: ["x"], Env: ["A=image", "B=image", "HOME=/h"] }));
    expect(env.process?.env?.slice(2)).toEqual(["A=image", "B=caller", "HOME=/h", "C="]);
  });

  test("a thousand hostile labels of an image change nothing", () => {
    const before = JSON.stringify(createSpec(input()));
    const Labels = Object.fromEntries(Array.from({ length: 1000 }, (_, n) => [`__proto__${n}\n"}]`, "../../x\u0000"]));
    expect(JSON.stringify(createSpec(input({}, { Cmd: ["sh"], Labels } as BundleInput["image"])))).toBe(before);
  });
});

describe("what cannot be", () => {
  const refused: readonly (readonly [string, Partial<RunOptions>, string])[] = [
    ["a user that is not there", { user: "nobody" }, 'has no "nobody"'],
    ["a group that is not there", { user: "0:nogroup" }, 'has no "nogroup"'],
    ["too little memory", { memory: "1m" }, "too little"],
    ["memory that is no size", { memory: "lots" }, "lots"],
    ["a capability that is none", { capAdd: ["FLY"] }, "FLY"],
    ["a security option that is none", { securityOpt: ["magic"] }, "magic"],
    ["AppArmor where it is not active", { securityOpt: ["apparmor=mine"] }, "not active"],
    ["a limit of no name", { ulimits: ["sky=1"] }, "sky"],
    ["two mounts in one place", { tmpfs: ["/x", "/x"] }, "same destination"],
    ["a host name with a space", { hostname: "a b" }, "a b"],
    ["half a process", { pidsLimit: "0.5" }, "0.5"],
  ];
  for (const [what, options, words] of refused) {
    test(what, () => {
      expect(() => createSpec(input(options))).toThrow(OciboxError);
      expect(() => createSpec(input(options))).toThrow(words);
    });
  }

  test("an environment of an image's without a name", () => {
    for (const item of ["=x", "novalue", "A\0=b"])
      expect(() => createSpec(input({}, { Cmd: ["x"], Env: [item] }))).toThrow("environment");
  });

  test("a limit without a controller for it, when it is asked for", () => {
    const bare = { ...facts, cgroup: { mode: "v1" as const, controllers: [], writable: false } };
    expect(() => checkOptions({ ...plain, memory: "64m" }, bare)).toThrow("--memory cannot be kept");
    expect(() => checkOptions(plain, bare)).not.toThrow();
  });
});

describe("USER and passwd (2016-3697, 2024-40635, 2026-46680, 2022-4318)", () => {
  test("a number is itself, whatever a passwd line calls itself", () => {
    expect(lookUpUser("1000", passwd, group)).toMatchObject({ uid: 1000, gid: 0 });
    expect(lookUpUser("33", passwd, group)).toMatchObject({ uid: 33, gid: 33, additionalGids: [4, 101] });
    expect(lookUpUser("4294967294", undefined, undefined).uid).toBe(4_294_967_294);
  });

  for (const user of ["-1", "01", "+1", "4294967295", "4294967296", "1:", ":1", "1:2:3", "a\nb", "1:-1", "0x1", " 1"]) {
    test(`${JSON.stringify(user)} is refused`, () => {
      expect(() => lookUpUser(user, passwd, group)).toThrow("cannot run as the user");
    });
  }

  test("no files: root and numbers alone", () => {
    expect(lookUpUser("", undefined, undefined)).toEqual({ uid: 0, gid: 0, additionalGids: [], home: "/" });
    expect(() => lookUpUser("root", undefined, undefined)).toThrow("/etc/passwd");
  });
});

describe("values", () => {
  test("sizes", () => {
    const sizes = { "1": 1, "1b": 1, "1k": 1024, "1K": 1024, "1m": 1 << 20, "2g": 2 ** 31, "1.5g": 1.5 * 2 ** 30 };
    for (const [text, size] of Object.entries(sizes)) expect(parseSize(text, "--x")).toBe(size);
    for (const text of ["", "m", "-1m", "1e3", "0x10", "1mm"]) expect(() => parseSize(text, "--x")).toThrow("--x");
  });

  test("ulimits", () => {
    expect(parseUlimit("nofile=1")).toEqual({ type: "RLIMIT_NOFILE", soft: 1, hard: 1 });
    for (const text of ["nofile", "nofile=", "nofile=2:1", "nofile=a"]) expect(() => parseUlimit(text)).toThrow();
  });

  test("volumes", () => {
    expect(parseVolume("/a", "/")).toEqual({ source: "", destination: "/a", options: [] });
    expect(parseVolume("data:/a:ro,nocopy", "/")).toEqual({
      source: "data",
      volume: "data",
      destination: "/a",
      options: ["ro"],
      nocopy: true,
    });
    for (const text of ["", ":", ":/a", "a:", "a b:/c", "a/b:/c", "a:b", "/a:/b:ro:rw", "relative"])
      expect(() => parseVolume(text, "/")).toThrow("--volume");
    expect(() => parseVolume("/a:b", "/")).toThrow();
    expect(() => parseVolume("/a:/b:sideways", "/")).toThrow("sideways");
  });
});

describe("--mount", () => {
  for (const [text, found] of [
    ["type=bind,src=/a,dst=/b", { volume: { source: "/a", destination: "/b", options: ["rw"] } }],
    ["type=bind,source=./a,target=/b,ro", { volume: { source: "/here/a", destination: "/b", options: ["ro"] } }],
    [
      "type=bind,source=/a,destination=/b,readonly=false,bind-propagation=rslave",
      { volume: { source: "/a", destination: "/b", options: ["rw", "rslave"] } },
    ],
    ["type=tmpfs,dst=/t", { tmpfs: "/t" }],
    ["type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770,ro", { tmpfs: "/t:size=1m,mode=1770,ro" }],
  ] as const)
    test(text, () => {
      expect(parseMountFlag(text, "/here") as object).toEqual(found);
    });

  for (const [text, words] of [
    ["type=bind,src=/a", "no destination"],
    ["type=bind,dst=/a", "no source"],
    ["type=bind,src=/a,dst=/b,tmpfs-size=5", '"tmpfs-size" is nothing of a mount of type bind'],
    ["type=bind,src=/a,dst=/b,ro=maybe", "not true or false"],
    ["type=bind,src=/a:b,dst=/b", "a colon"],
    ["type=bind,src=/a,dst=/b,bind-propagation=up", '"up" is no option'],
    ["src=/name,dst=/b", "no name of a volume"],
    ["type=volume,dst=/etc:/x", "a colon in its destination"],
    ["src=name,dst=/b,tmpfs-size=1m", '"tmpfs-size" is nothing of a mount of type volume'],
    ["type=npipe,src=/a,dst=/b", "type npipe are not there yet"],
  ] as const)
    test(`refused: ${text}`, () => {
      expect(() => parseMountFlag(text, "/")).toThrow(words);
    });
});

describe("--add-host and --dns", () => {
  test("lines of the two files", () => {
    expect(hostLine("a.b:1.2.3.4")).toBe("1.2.3.4\ta.b");
    expect(hostLine("six:::1")).toBe("::1\tsix");
    expect(hostLine("six=[fe80::1]")).toBe("fe80::1\tsix");
    expect(hostLine("a:host-gateway")).toBe("host-gateway\ta");
    const flags = resolverFlags(["9.9.9.9", "::1"], ["a.b", "."], ["ndots:2", "rotate"]);
    expect(resolverFile("", flags, true)).toBe(
      "search a.b\nnameserver 9.9.9.9\nnameserver ::1\noptions ndots:2 rotate\n",
    );
  });

  for (const text of ["a", ":1.2.3.4", "a:1.2.3", "a b:1.2.3.4", "a\nb:1.2.3.4", "a:1.2.3.4\n5.6.7.8 b"])
    test(`--add-host refused: ${JSON.stringify(text)}`, () => {
      expect(() => hostLine(text)).toThrow("--add-host");
    });

  test("what cannot stand there is refused", () => {
    expect(() => resolverFlags(["x"], [], [])).toThrow("--dns");
    expect(() => resolverFlags([], ["a b"], [])).toThrow("--dns-search");
    expect(() => resolverFlags([], [], ["ndots:2\nnameserver 6.6.6.6"])).toThrow("--dns-option");
  });

  test("what is not given is the host's, where it can be reached", () => {
    const host = "# made by somebody\nsearch one.example\nnameserver 127.0.0.53\nnameserver 9.9.9.9\noptions edns0\n";
    expect(resolverFile(host, undefined, false)).toBe(host);
    expect(resolverFile(host, undefined, true)).toBe("search one.example\nnameserver 9.9.9.9\noptions edns0\n");
    expect(resolverFile(host, resolverFlags([], ["two.example"], []), false)).toBe(
      "search two.example\nnameserver 127.0.0.53\nnameserver 9.9.9.9\noptions edns0\n",
    );
    expect(resolverFile(host, resolverFlags(["1.1.1.1"], ["."], ["rotate"]), true)).toBe(
      "nameserver 1.1.1.1\noptions rotate\n",
    );
    // As docker: whoever has only itself to ask asks somebody.
    expect(resolverFile("nameserver 127.0.0.1\n", undefined, true)).toBe("nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    expect(resolverFile("nameserver 2001:db8::1\nnameserver 9.9.9.9\n", undefined, true)).toBe("nameserver 9.9.9.9\n");
    expect(resolverFile("", undefined, true)).toBe("");
  });
});
