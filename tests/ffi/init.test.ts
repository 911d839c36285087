import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { O } from "../../ffi/constants.ts";
import { encodePlan } from "../../ffi/encode.ts";
import { explain } from "../../ffi/explain.ts";
import { spawnInit } from "../../ffi/launch.ts";
import { Recorder, type Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";
import { contain, exec, run } from "./plans.ts";

const root = process.geteuid?.() === 0;
const asRoot = test.skipIf(!root);
const why = root ? "" : " (skipped: new namespaces need root)";

describe("plans", () => {
  test("calls, exit codes and the end of a plan", async () => {
    expect(await run((p) => p.add({ op: "exit", code: 7 }))).toEqual({ code: 7, stdout: "", stderr: "" });
    const hello = await run((p) => {
      p.sys.write(1, "hello\n", 6);
    });
    expect(hello).toEqual({ code: 125, stdout: "hello\n", stderr: "" });
  });

  test("a failure names the call, its arguments and the field", async () => {
    const { code, stderr } = await run((p) => {
      p.field("linux.maskedPaths[3]");
      p.sys.openat2(-100, '/no\n"x', struct<Slot>("open_how", { flags: 0o12000000, resolve: 16 }), 24);
    });
    expect(code).toBe(125);
    expect(stderr).toBe(
      'ocibox: cannot start the container: openat2(AT_FDCWD, "/no\\n\\"x", {flags=O_PATH|O_CLOEXEC, resolve=RESOLVE_IN_ROOT}, 24) failed: no such file or directory (asked for by linux.maskedPaths[3] in config.json)\n'.replace(
        "O_PATH|O_CLOEXEC",
        "O_CLOEXEC|O_PATH",
      ),
    );
  });

  test("a command that cannot be run is 127 or 126", async () => {
    const missing = await run((p) => exec(p, "/no/such/program"));
    expect(missing).toEqual({
      code: 127,
      stdout: "",
      stderr: 'ocibox: cannot run "/no/such/program": no such file or directory\n',
    });
    expect((await run((p) => exec(p, "/etc"))).code).toBe(126);
    const fail = await run((p) => {
      p.add({ op: "fail", errno: 2, says: 'cannot run "nope": not found in $PATH', blame: "command" });
    });
    expect(fail).toEqual({ code: 127, stdout: "", stderr: 'ocibox: cannot run "nope": not found in $PATH\n' });
  });

  test("an errno in a slot is told in words", async () => {
    const { code, stderr } = await run((p) => {
      const errno = p.slot("errno");
      for (const value of [-19, -4000]) {
        p.add({ op: "set", slot: errno, value });
        p.add({ op: "fail", errno, says: "no luck", blame: "ocibox", warning: value === -19 });
      }
    });
    expect([code, stderr]).toEqual([125, "ocibox: no luck: no such device\nocibox: no luck: error 4000\n"]);
  });

  test("slots, branches, tolerance, text with slots in it, stores and loads", async () => {
    const { code, stderr } = await run((p) => {
      const bad = p.newLabel("bad");
      const missing = p.newLabel("missing");
      const fd = p.sys.openat(-100, p.text`/proc/${p.sys.getpid()}/status`, 0, 0);
      p.branch(fd, "<", 0, bad);
      const memory = p.memory("word", 8);
      const value = p.slot("value");
      const back = p.slot("back");
      p.add({ op: "set", slot: value, value: -5 });
      p.add({ op: "store", memory, offset: 4, slot: value });
      p.add({ op: "load", memory, offset: 4, slot: back });
      p.branch(back, "!=", -5, bad);
      p.orElse(missing, "ENOENT").openat(-100, "/no/such/file", 0, 0);
      p.place(bad);
      p.add({ op: "exit", code: 1 });
      p.place(missing);
      p.carryOn().openat(-100, "/no/such/file", 0, 0);
      p.add({ op: "exit", code: 42 });
    });
    expect(code).toBe(42);
    expect(stderr).toStartWith('ocibox: warning: openat(AT_FDCWD, "/no/such/file", O_RDONLY, 00) failed: ');
  });

  test("a descriptor is sent over a socket with SCM_RIGHTS", async () => {
    const { code, stdout } = await run((p) => {
      const pair = p.slot("pair");
      p.sys.socketpair(1, 5, 0, pair);
      const control = p.memory("control", 24);
      const set = (offset: number, value: number) => {
        const slot = p.slot("value");
        p.add({ op: "set", slot, value });
        p.add({ op: "store", memory: control, offset, slot });
      };
      set(0, 20);
      set(8, 1);
      set(12, 1);
      set(16, 1);
      const message = struct<Slot>("msghdr", {
        msg_iov: struct<Slot>("iovec", { iov_base: "x", iov_len: 1 }),
        msg_iovlen: 1,
        msg_control: control,
        msg_controllen: 24,
      });
      p.sys.sendmsg(p.half(pair, 0), message, 0);
      const received = p.memory("received", 24);
      const room = struct<Slot>("msghdr", {
        msg_iov: struct<Slot>("iovec", { iov_base: p.memory("byte", 1), iov_len: 1 }),
        msg_iovlen: 1,
        msg_control: received,
        msg_controllen: 24,
      });
      p.sys.recvmsg(p.half(pair, 1), room, 0);
      const fd = p.slot("fd");
      p.add({ op: "load", memory: received, offset: 16, slot: fd });
      p.sys.write(fd, "through\n", 8);
      p.add({ op: "exit", code: 0 });
    });
    expect({ code, stdout }).toEqual({ code: 0, stdout: "through\n" });
  });

  test("what no plan can hold is refused", () => {
    const refuse = (write: (p: Recorder) => void) => {
      const p = new Recorder();
      write(p);
      expect(() => encodePlan(p)).toThrow();
    };
    refuse((p) => p.sys.chdir("a\0b"));
    refuse((p) => p.field("x\0y").sys.getpid());
    refuse((p) => p.sys.chdir("x".repeat(1 << 20)));
    refuse((p) => p.sys.execve("/x", ["y".repeat(131072)], []));
    refuse((p) => p.jump(p.newLabel("nowhere")));
    refuse((p) => p.add({ op: "load", memory: p.memory("m", 4), offset: 1, slot: p.slot("s") }));
  });

  test("--explain", () => {
    const p = new Recorder();
    contain(p, () => exec(p, "/bin/true"));
    expect(explain(p.steps)).toMatchSnapshot();
  });
});

describe("containers", () => {
  asRoot(`a process in new namespaces${why}`, async () => {
    const ran = await run((p) => contain(p, () => exec(p, "/bin/sh", "-c", "echo $$; exit 9")));
    expect(ran).toEqual({ code: 9, stdout: "1\n", stderr: "" });
    const missing = await run((p) => contain(p, () => exec(p, "/nope")));
    expect(missing).toEqual({
      code: 127,
      stdout: "",
      stderr: 'ocibox: cannot run "/nope": no such file or directory\n',
    });
  });

  asRoot(`every step that can fail, failing${why}`, async () => {
    const p = new Recorder();
    contain(p, () => exec(p, "/bin/true"));
    let failed = 0;
    for (let step = 0; step < p.steps.length; step++) {
      const kind = p.steps[step]?.op;
      const { code, stderr } = await run((q) => contain(q, () => exec(q, "/bin/true")), { step, errno: 12 });
      if (kind !== "call" && kind !== "await" && kind !== "supervise") continue;
      failed++;
      expect(stderr).toContain("cannot allocate memory");
      expect(stderr.split("\n")).toHaveLength(2);
      expect([125, 126]).toContain(code);
    }
    expect(failed).toBe(6);
  });

  asRoot(`SIGTERM ends a PID 1 without a handler at once; one with a handler decides${why}`, async () => {
    const start = (...argv: string[]) => {
      const p = new Recorder();
      contain(p, () => exec(p, ...argv));
      return spawnInit(encodePlan(p));
    };
    const sleeping = start("/bin/sleep", "100");
    await Bun.sleep(200);
    const before = performance.now();
    sleeping.kill("SIGTERM");
    expect(await sleeping.exited).toBe(143);
    expect(performance.now() - before).toBeLessThan(2000);
    const trapping = start("/bin/sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done");
    await (trapping.stdout as ReadableStream).getReader().read();
    trapping.kill("SIGTERM");
    expect(await trapping.exited).toBe(5);
  });

  asRoot(
    `PID 1 reaps 10,000 orphans${why}`,
    async () => {
      const directory = mkdtempSync(join(tmpdir(), "ocibox-orphans-"));
      using cleanup = new DisposableStack();
      cleanup.defer(() => rmSync(directory, { recursive: true }));
      const orphans = join(directory, "orphans");
      await Bun.$`gcc -static -O1 -w -o ${orphans} tests/fixtures/orphans.c`.quiet();
      const { code, stderr } = await run((p) =>
        contain(p, () => {
          const main = p.newLabel("main");
          const exitCode = p.slot("code");
          const pid = p.sys.clone3(struct<Slot>("clone_args", { exit_signal: 17 }), 88);
          p.branch(pid, "==", 0, main);
          p.sys.close_range(3, 0xffffffff, 0);
          p.add({ op: "supervise", pid, pidfd: null, terminal: null, interactive: false, code: exitCode });
          p.add({ op: "exit", code: exitCode });
          p.place(main);
          exec(p, orphans);
        }),
      );
      expect({ code, stderr }).toEqual({ code: 3, stderr: "" });
    },
    60_000,
  );
});

describe("remove", () => {
  const remove = (dir: string, name: string) =>
    run((p) => {
      const fd = p.sys.openat(-100, dir, O.O_DIRECTORY, 0);
      p.add({ op: "remove", dirfd: fd, name });
      p.add({ op: "exit", code: 0 });
    });

  test("a deep tree, links out of it, unreadable and missing ones", async () => {
    const dir = mkdtempSync(join(tmpdir(), "ocibox-remove-"));
    try {
      mkdirSync(join(dir, "canary/inner"), { recursive: true });
      writeFileSync(join(dir, "canary/file"), "alive");
      mkdirSync(join(dir, "tree/a/b/c"), { recursive: true });
      symlinkSync(join(dir, "canary"), join(dir, "tree/a/out"));
      symlinkSync("../../../canary", join(dir, "tree/a/b/up"));
      symlinkSync(join(dir, "canary"), join(dir, "tree-link"));
      mkdirSync(join(dir, "tree/a/shut/inside"), { recursive: true });
      chmodSync(join(dir, "tree/a/shut"), 0);
      for (let i = 0; i < 3000; i++) writeFileSync(join(dir, `tree/a/b/f${i}`), "");
      for (let i = 0; i < 300; i++) mkdirSync(join(dir, `tree/d${i}/x/.ocibox-${i}/z`), { recursive: true });
      const deep = Bun.spawnSync([
        "python3",
        "-c",
        "import os,sys\nos.chdir(sys.argv[1])\nfor i in range(5000):\n  os.mkdir('d'); open('f','w').close(); os.chdir('d')",
        join(dir, "tree"),
      ]);
      expect(deep.exitCode).toBe(0);
      expect(await remove(dir, "tree")).toEqual({ code: 0, stdout: "", stderr: "" });
      expect(existsSync(join(dir, "tree"))).toBe(false);
      expect(await remove(dir, "tree-link")).toEqual({ code: 0, stdout: "", stderr: "" });
      expect(await remove(dir, "missing")).toEqual({ code: 0, stdout: "", stderr: "" });
      expect(existsSync(join(dir, "canary/file")) && existsSync(join(dir, "canary/inner"))).toBe(true);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  asRoot(`crosses no mount${why}`, async () => {
    const dir = mkdtempSync(join(tmpdir(), "ocibox-remove-"));
    try {
      mkdirSync(join(dir, "tree/a/mnt"), { recursive: true });
      mkdirSync(join(dir, "source"));
      writeFileSync(join(dir, "source/file"), "alive");
      expect(Bun.spawnSync(["mount", "--bind", join(dir, "source"), join(dir, "tree/a/mnt")]).exitCode).toBe(0);
      const { code, stderr } = await remove(dir, "tree");
      expect(code).toBe(0);
      expect(stderr).toContain("ocibox: warning: cannot remove");
      expect(existsSync(join(dir, "source/file"))).toBe(true);
    } finally {
      Bun.spawnSync(["sh", "-c", `for m in $(grep -o '${dir}/tree[^ ]*' /proc/self/mountinfo); do umount "$m"; done`]);
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
