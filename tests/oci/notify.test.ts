/** SCMP_ACT_NOTIFY: a program outside is handed the filter's listener with the container's state, and answers for the kernel. */
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Spec } from "../../src/spec/runtime.ts";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { testWith } from "../lib/needs.ts";
import { inventory, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["busybox", "python3"] };
const test = testWith(needs);
let box: Bundles;

around(needs, (owned) => {
  unchanged(owned, inventory);
  box = Bundles.ownedBy(owned, "rmdir");
});

/**
 * Answers every call with "no space left on device" (28), or lets it go on (SECCOMP_USER_NOTIF_FLAG_CONTINUE); writes down
 * what it was told, and how often it was asked.
 */
const program = `
import array, fcntl, json, os, socket, struct, sys
path, out, goes_on = sys.argv[1], sys.argv[2], sys.argv[3] == "on"
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(8)
print("there", flush=True)
while True:
    peer, _ = server.accept()
    text, control, _, _ = peer.recvmsg(65536, socket.CMSG_LEN(4))
    if not control:
        peer.close()
        continue
    fds = array.array("i")
    fds.frombytes(control[0][2][:4])
    fd = fds[0]
    with open(out, "a") as file:
        file.write(text.decode() + "\\n")
    if os.fork() != 0:
        os.close(fd)
        peer.close()
        continue
    server.close()
    while True:
        request = bytearray(80)
        try:
            fcntl.ioctl(fd, 0xC0502100, request)
        except OSError:
            os._exit(0)
        number, = struct.unpack_from("Q", request, 0)
        with open(out + ".asked", "a") as file:
            file.write("asked\\n")
        try:
            fcntl.ioctl(fd, 0xC0182101, bytearray(struct.pack("QqiI", number, 0, 0 if goes_on else -28, int(goes_on))))
        except OSError:
            pass
`;

async function listener(
  name: string,
  answer: "on" | "no" = "no",
): Promise<{ path: string; told(): unknown[]; asked(): number; end(): Promise<void> }> {
  const path = join(box.dir, `${name}.sock`);
  const out = join(box.dir, `${name}.out`);
  const child = Bun.spawn(["setsid", "python3", "-c", program, path, out, answer], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await child.stdout.getReader().read();
  const lines = (file: string): string[] => {
    try {
      return readFileSync(file, "utf8").trim().split("\n");
    } catch {
      return [];
    }
  };
  return {
    path,
    told: () => lines(out).map((line) => JSON.parse(line) as unknown),
    asked: () => lines(`${out}.asked`).length,
    async end() {
      // With the processes that it has made, which are of its group.
      process.kill(-child.pid, "SIGKILL");
      await child.exited;
    },
  };
}

function profile(spec: Spec, listenerPath: string, ...names: string[]): void {
  if (spec.linux === undefined) return;
  spec.linux.seccomp = {
    defaultAction: "SCMP_ACT_ALLOW",
    listenerPath,
    listenerMetadata: "told so",
    flags: ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
    syscalls: [{ names, action: "SCMP_ACT_NOTIFY" }],
  };
}

for (const strict of [true, false])
  test(`run, create, exec; ${strict ? "no new privileges" : "with new privileges"}`, async () => {
    const agent = await listener(`agent-${strict}`);
    try {
      const write = (...args: string[]): void =>
        box.write((spec) => {
          if (spec.process === undefined) return;
          spec.process.args = args;
          spec.process.noNewPrivileges = strict;
          spec.annotations = { why: "asked" };
          profile(spec, agent.path, "mkdir", "mkdirat");
        });
      write("sh", "-c", "mkdir /tmp/no; echo $?; [ -d /tmp/no ] || echo kept");
      const ran = await box.call("run", "asking");
      expect([ran.out, ran.code]).toEqual(["1\nkept\n", 0]);
      expect(ran.err).toContain("No space left on device");
      const [state] = agent.told() as { pid: number; state: { pid: number } }[];
      expect(state).toEqual({
        ociVersion: "1.3.0",
        fds: ["seccompFd"],
        pid: expect.any(Number),
        metadata: "told so",
        state: { ociVersion: "1.3.0", id: "asking", status: "creating", pid: state?.pid ?? 0, bundle: box.bundle },
      } as never);
      expect(agent.asked()).toBe(1);
      write("sleep", "1000");
      expect(await box.call("create", "asking")).toEqual({ out: "", err: "", code: 0 });
      expect((await box.call("start", "asking")).code).toBe(0);
      const inside = await box.call("exec", "asking", "mkdir", "/tmp/no");
      expect([inside.code, inside.err]).toEqual([1, expect.stringContaining("No space left on device")]);
      expect((await box.call("exec", "asking", "id", "-u")).out).toBe("0\n");
      expect((await box.call("delete", "-f", "asking")).code).toBe(0);
      const all = agent.told() as { state: { status: string } }[];
      expect(all.map((each) => each.state.status)).toEqual(["creating", "creating", "running", "running"]);
      expect(await until(() => agent.asked() === 2)).toBe(true);
    } finally {
      await agent.end();
    }
  });

test("calls that the process itself waits by are asked about, too", async () => {
  const agent = await listener("reading", "on");
  try {
    for (const strict of [true, false]) {
      box.write((spec) => {
        if (spec.process === undefined) return;
        spec.process.args = ["cat", "/proc/self/comm"];
        spec.process.noNewPrivileges = strict;
        profile(spec, agent.path, "read", "close", "fchdir", "execve");
      });
      expect(await box.call("run", "asking")).toEqual({ out: "cat\n", err: "", code: 0 });
    }
    expect(agent.asked()).toBeGreaterThan(4);
  } finally {
    await agent.end();
  }
});

test("each step failing in turn", async () => {
  const agent = await listener("faults");
  try {
    box.write((spec) => {
      if (spec.process !== undefined) spec.process.args = ["true"];
      profile(spec, agent.path, "mkdir");
    });
    const shown = (await box.call("create", "--explain", "asking")).out.split("\n");
    const first = shown.findIndex((line) => line.includes("linux.seccomp"));
    expect(first).toBeGreaterThan(0);
    const wrong: string[] = [];
    for (let step = 0; step < shown.length; step++) {
      if (!shown[step]?.includes("linux.seccomp")) continue;
      const ended = await box.call("create", "--inject", `${step}=EIO`, "asking");
      if (box.left().length > 0) await box.call("delete", "-f", "asking");
      if ((ended.code !== 0 && !/failed: |cannot /.test(ended.err)) || box.left().length > 0)
        wrong.push(`step ${step}: ${ended.code} ${ended.err}`);
    }
    expect(wrong).toEqual([]);
  } finally {
    await agent.end();
  }
}, 60_000);

test("what would wait for itself, or for nobody", async () => {
  const cases: readonly (readonly [
    change: (seccomp: NonNullable<NonNullable<Spec["linux"]>["seccomp"]>) => void,
    words: string,
  ])[] = [
    [
      (seccomp) => {
        seccomp.defaultAction = "SCMP_ACT_NOTIFY";
      },
      "SCMP_ACT_NOTIFY is for single system calls",
    ],
    [
      (seccomp) => {
        seccomp.syscalls?.push({ names: ["write"], action: "SCMP_ACT_NOTIFY" });
      },
      "cannot be used for write",
    ],
    [
      (seccomp) => {
        delete seccomp.listenerPath;
      },
      "linux.seccomp.listenerPath is empty",
    ],
    [
      (seccomp) => {
        seccomp.listenerPath = "/nowhere";
      },
      'linux.seccomp.listenerPath: cannot connect to \\"/nowhere\\"',
    ],
  ];
  for (const [change, words] of cases) {
    box.write((spec) => {
      profile(spec, "/nowhere", "mkdir");
      if (spec.linux?.seccomp !== undefined) change(spec.linux.seccomp);
    });
    const ended = await box.call("create", "asking");
    expect([words, ended.code, ended.err]).toEqual([words, 1, expect.stringContaining(words)]);
    expect(box.left()).toEqual([]);
  }
});
