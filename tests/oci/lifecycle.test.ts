/** The OCI runtime's life cycle: create, start, state, kill, delete, run, list, pause, resume, ps; hooks; failures. */
import { describe, expect } from "bun:test";
import { chmodSync, existsSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { Bundles } from "../lib/bundle.ts";
import { testWith } from "../lib/needs.ts";
import { binary, inventory, until } from "../lib/sandbox.ts";
import { violations } from "../lib/schema.ts";

const needs = { root: true, programs: ["busybox", "strace"] };
const test = testWith(needs);
let box: Bundles;
let before: ReturnType<typeof inventory>;

around(needs, (owned) => {
  before = unchanged(owned, inventory);
  box = Bundles.ownedBy(owned);
});

/** Directories of a container's in any hierarchy. Others come and go meanwhile. */
function cgroupsOf(id: string): string[] {
  const { stdout } = Bun.spawnSync(["find", "/sys/fs/cgroup", "-maxdepth", "3", "-type", "d", "-name", id]);
  return stdout.toString().split("\n").filter(Boolean);
}

describe("run", () => {
  test("in the foreground: the command's output and exit code, and nothing is left", async () => {
    box.command("sh", "-c", "echo hello from $$ on $(hostname); exit 7");
    const ended = await box.call("run", "front");
    expect(ended).toEqual({ out: "hello from 1 on bundle\n", err: "", code: 7 });
    expect(box.left()).toEqual([]);
    expect(cgroupsOf("front")).toEqual([]);
  });

  test("detached: it runs on, and is deleted when it has ended", async () => {
    box.command("sleep", "1000");
    const pidFile = join(box.dir, "detached.pid");
    expect(await box.call("run", "-d", "--pid-file", pidFile, "back")).toMatchObject({ code: 0, err: "" });
    expect(readFileSync(pidFile, "utf8")).toMatch(/^\d+$/);
    expect(await box.status("back")).toBe("running");
    expect((await box.call("kill", "back", "KILL")).code).toBe(0);
    expect(await until(async () => (await box.status("back")) === "stopped")).toBe(true);
    expect((await box.call("delete", "back")).code).toBe(0);
    expect(cgroupsOf("back")).toEqual([]);
  });

  test("under a name that ends in runc", async () => {
    const link = join(box.dir, "my-runc");
    const made = Bun.spawnSync(["ln", "-sf", binary, link]);
    expect(made.exitCode).toBe(0);
    const shown = Bun.spawnSync([link, "--version"]).stdout.toString();
    expect(shown).toMatch(/^my-runc version \d+\.\d+\.\d+\ncommit: .*\nspec: 1\.3\.0\n$/);
    const help = Bun.spawnSync([link, "create", "--help"]).stdout.toString();
    expect(help).toMatch(/^NAME:\n {3}my-runc create - create a container\n/);
  });
});

describe("create, start, kill, delete", () => {
  test("the steps of a life, each with its status", async () => {
    box.command("sh", "-c", "echo started > /tmp/started; exec sleep 1000");
    const pidFile = join(box.dir, "pid");
    const created = await box.call("create", "--pid-file", pidFile, "life");
    expect(created).toEqual({ out: "", err: "", code: 0 });
    const { out } = await box.call("state", "life");
    const state = JSON.parse(out) as { pid: number; status: string };
    expect(violations("state-schema.json", state)).toEqual([]);
    expect(state).toMatchObject({ id: "life", status: "created", bundle: box.bundle, owner: "root" });
    expect(readFileSync(pidFile, "utf8")).toBe(String(state.pid));
    // Nothing of the command has run, and of ocibox only the process that waits is there.
    expect(existsSync(join(box.bundle, "rootfs/tmp/started"))).toBe(false);
    expect(readFileSync(`/proc/${state.pid}/comm`, "utf8")).toBe("ocibox\n");
    expect((await box.call("create", "life")).err).toContain("container with given ID already exists");
    expect((await box.call("delete", "other")).err).toContain("container does not exist");
    expect((await box.call("start", "life")).code).toBe(0);
    expect(await until(() => existsSync(join(box.bundle, "rootfs/tmp/started")))).toBe(true);
    expect(await box.status("life")).toBe("running");
    expect((await box.call("start", "life")).err).toContain("cannot start a container that is running");
    expect((await box.call("delete", "life")).err).toContain("that is not stopped: running");
    expect((await box.call("list", "-q")).out).toBe("life\n");
    expect((await box.call("list", "-f", "json")).out).toMatch(/^\[\{"ociVersion":"1\.3\.0","id":"life","pid":\d+,/);
    expect((await box.call("list")).out).toMatch(/^ID +PID +STATUS +BUNDLE +CREATED +OWNER\nlife +\d+ +running /);
    expect((await box.call("ps", "-f", "json", "life")).out).toBe(`[${state.pid}]\n`);
    expect((await box.call("ps", "life")).out).toContain("sleep 1000");
    expect((await box.call("kill", "life", "SIGKILL")).code).toBe(0);
    expect(await until(async () => (await box.status("life")) === "stopped")).toBe(true);
    expect((await box.call("kill", "life")).err).toContain("container not running");
    expect((await box.call("start", "life")).err).toContain("cannot start a container that");
    expect((await box.call("delete", "life")).code).toBe(0);
    expect((await box.call("state", "life")).err).toContain("container does not exist");
    expect(cgroupsOf("life")).toEqual([]);
  });

  test("delete -f of one that waits, of one that runs, of one that is not there", async () => {
    box.command("sleep", "1000");
    for (const started of [false, true]) {
      expect((await box.call("create", "forced")).code).toBe(0);
      if (started) expect((await box.call("start", "forced")).code).toBe(0);
      expect(await box.call("delete", "-f", "forced")).toEqual({ out: "", err: "", code: 0 });
    }
    expect((await box.call("delete", "--force", "nobody")).code).toBe(0);
  });

  test("pause and resume", async () => {
    box.command("sleep", "1000");
    expect((await box.call("run", "-d", "frozen")).code).toBe(0);
    expect(await box.call("pause", "frozen")).toMatchObject({ code: 0 });
    expect(await box.status("frozen")).toBe("paused");
    expect(await box.call("resume", "frozen")).toMatchObject({ code: 0 });
    expect(await box.status("frozen")).toBe("running");
    expect((await box.call("resume", "frozen")).err).toContain("container not paused");
    expect((await box.call("pause", "frozen")).code).toBe(0);
    expect((await box.call("delete", "-f", "frozen")).code).toBe(0);
  });

  test("twenty at once", async () => {
    box.command("sleep", "1000");
    const ids = Array.from({ length: 20 }, (_, index) => `many-${index}`);
    const each = await Promise.all(
      ids.map(async (id) => {
        const made = await box.call("create", id);
        const started = await box.call("start", id);
        const gone = await box.call("delete", "-f", id);
        return [made.code, made.err, started.code, started.err, gone.code, gone.err];
      }),
    );
    for (const one of each) expect(one).toEqual([0, "", 0, "", 0, ""]);
  });

  test("a process that has another's number is not taken for it", async () => {
    box.command("sleep", "1000");
    expect((await box.call("run", "-d", "reused")).code).toBe(0);
    const file = join(box.root, "reused/process");
    const stat = readFileSync(file, "utf8");
    const fields = stat.split(" ");
    fields[21] = "1";
    writeFileSync(file, fields.join(" "));
    expect(await box.status("reused")).toBe("stopped");
    expect((await box.call("kill", "reused", "KILL")).err).toContain("container not running");
    writeFileSync(file, stat);
    expect(await box.status("reused")).toBe("running");
    expect((await box.call("delete", "-f", "reused")).code).toBe(0);
  });

  test("descriptors: three, and those that are handed on", async () => {
    box.command("sh", "-c", "ls /proc/self/fd | head -n 9; cat <&3");
    const script = `exec 3<<< "through" 9< /; exec ${binary} oci --root ${box.root} run --preserve-fds 1 fds`;
    const ran = Bun.spawnSync(["bash", "-c", script], { cwd: box.bundle });
    expect(ran.stderr.toString()).toBe("");
    // The fourth is the directory that ls reads.
    expect(ran.stdout.toString()).toBe("0\n1\n2\n3\n4\nthrough\n");
  });
});

describe("ended by SIGKILL", () => {
  test("a runtime that supervises takes the container with it, and delete tidies up", async () => {
    box.command("sh", "-c", "echo up; exec sleep 1000");
    const running = Bun.spawn([binary, "oci", "--root", box.root, "run", "lost"], {
      cwd: box.bundle,
      stdout: "pipe",
    });
    const { value } = await running.stdout.getReader().read();
    expect(new TextDecoder().decode(value)).toBe("up\n");
    running.kill("SIGKILL");
    await running.exited;
    expect(await until(async () => (await box.status("lost")) === "stopped")).toBe(true);
    expect(await box.call("delete", "lost")).toEqual({ out: "", err: "", code: 0 });
    expect(cgroupsOf("lost")).toEqual([]);
  });

  test("delete, at each call that forgets the container: another finishes it", async () => {
    box.command("true");
    let finished = false;
    for (let call = 1; !finished; call++) {
      expect((await box.call("run", "-d", "half")).code).toBe(0);
      expect(await until(async () => (await box.status("half")) === "stopped")).toBe(true);
      const inject = ["-f", "-o", "/dev/null", "-e", `inject=unlinkat:signal=KILL:when=${call}`];
      const deleted = Bun.spawn(["strace", ...inject, binary, "oci", "--root", box.root, "delete", "half"]);
      finished = (await deleted.exited) === 0;
      const state = await box.call("state", "half");
      // What has no state any more has no directory: Slurm, for one, does not call delete then.
      if (state.code !== 0) expect(box.left()).toEqual([]);
      else expect(await box.call("delete", "half")).toEqual({ out: "", err: "", code: 0 });
      expect(box.left()).toEqual([]);
      expect(call).toBeLessThan(60);
    }
    expect(cgroupsOf("half")).toEqual([]);
  });

  test("three that delete the same one at once: none fails", async () => {
    box.command("sleep", "1000");
    for (let round = 0; round < 20; round++) {
      expect((await box.call("run", "-d", "twice")).code).toBe(0);
      const all = await Promise.all(Array.from({ length: 3 }, () => box.call("delete", "-f", "twice")));
      for (const { err, code } of all) expect([err, code]).toEqual(["", 0]);
      expect(box.left()).toEqual([]);
    }
  });
});

describe("hooks", () => {
  test("run in their order, with the state on stdin; poststart and poststop by start and delete", async () => {
    const log = join(box.dir, "hooks.log");
    const script = join(box.dir, "hook");
    writeFileSync(script, `#!/bin/sh\nprintf '%s %s %s\\n' "$1" "$WHERE" "$(cat)" >> ${log}\n`);
    chmodSync(script, 0o755);
    box.write((spec) => {
      if (spec.process !== undefined) spec.process.args = ["sleep", "1000"];
      const hook = (name: string) => [
        { path: script, args: ["hook", name], env: ["WHERE=there", "PATH=/bin:/usr/bin"] },
      ];
      spec.hooks = {
        prestart: hook("prestart"),
        createRuntime: hook("createRuntime"),
        createContainer: hook("createContainer"),
        poststart: hook("poststart"),
        poststop: hook("poststop"),
      };
      spec.annotations = { "org.example.key": "value" };
    });
    const lines = () =>
      readFileSync(log, "utf8")
        .trim()
        .split("\n")
        .map((line) => {
          const [, name = "", where = "", json = ""] = /^(\S+) (\S+) (.*)$/.exec(line) ?? [];
          const state = JSON.parse(json) as { id: string; pid: number; status: string };
          expect(violations("state-schema.json", state)).toEqual([]);
          return [name, where, state.id, state.status];
        });
    expect(await box.call("create", "hooked")).toEqual({ out: "", err: "", code: 0 });
    const early = ["prestart", "createRuntime", "createContainer"].map((name) => [name, "there", "hooked", "creating"]);
    expect(lines()).toEqual(early);
    expect(await box.call("start", "hooked")).toEqual({ out: "", err: "", code: 0 });
    expect(await box.call("delete", "-f", "hooked")).toEqual({ out: "", err: "", code: 0 });
    expect(lines()).toEqual([
      ...early,
      ["poststart", "there", "hooked", "running"],
      ["poststop", "there", "hooked", "stopped"],
    ]);
  });

  test("one that fails, or takes too long, stops the container and is named", async () => {
    for (const [hook, words] of [
      [{ path: "/bin/false" }, /error running createRuntime hook #0: .*false/],
      [{ path: "/nowhere" }, /error running createRuntime hook #0/],
      [{ path: "/bin/sleep", args: ["sleep", "60"], timeout: 1 }, /createRuntime hook #0: .*within 1 s/],
    ] as const) {
      box.write((spec) => {
        spec.hooks = { createRuntime: [{ ...hook, args: [...("args" in hook ? hook.args : ["x"])] }] };
      });
      const ended = await box.call("create", "failing");
      expect(ended.code).toBe(1);
      expect(ended.err).toMatch(words);
      expect(box.left()).toEqual([]);
    }
  });
});

describe("errors", () => {
  test("a root that cannot be masked, and one by a symlink", async () => {
    box.write((spec) => Object.assign(spec.linux ?? {}, { maskedPaths: ["/proc/kcore", "/etc/.."] }));
    const masked = await box.call("run", "masked");
    expect([masked.err, masked.code]).toEqual([expect.stringContaining("linux.maskedPaths[1] is the root itself"), 1]);
    symlinkSync("rootfs", join(box.bundle, "linked"));
    box.write((spec) => Object.assign(spec, { root: { path: "linked" } }));
    expect((await box.call("run", "linked")).code).toBe(0);
    expect(box.left()).toEqual([]);
  });

  test("a command that is not there, or cannot be executed, is told when the container is created", async () => {
    for (const [command, words] of [
      ["nope", "executable file not found in $PATH"],
      ["/nope", "no such file or directory"],
      ["/tmp", "permission denied"],
    ] as const) {
      box.command(command);
      for (const verb of ["create", "run"]) {
        const ended = await box.call(verb, "wrong");
        expect([command, verb, ended.code]).toEqual([command, verb, 1]);
        expect(ended.err).toMatch(/^time="[-0-9TZ:]+" level=error msg=".*"\n$/);
        expect(ended.err).toContain(words);
      }
      expect(box.left()).toEqual([]);
    }
  });

  test("go to the log as well, in its format", async () => {
    box.command("/nope");
    const log = join(box.dir, "log.json");
    const ended = await box.call("--log", log, "--log-format", "json", "create", "logged");
    expect(ended.code).toBe(1);
    const line = JSON.parse(readFileSync(log, "utf8")) as { level: string; msg: string };
    expect(line.level).toBe("error");
    expect(line.msg).toContain("no such file or directory");
    expect((await box.call("--log", log, "state", "nobody")).err).toContain("container does not exist");
  });

  test("a mount that the kernel refuses names the call and the field", async () => {
    box.write((spec) => spec.mounts?.push({ destination: "/x", type: "tmpfs", source: "t", options: ["size=lots"] }));
    const ended = await box.call("create", "mounts");
    expect(ended.err).toMatch(/fsconfig\(.*size.*lots.*\) failed: invalid argument \(asked for by mounts\[3\], \/x/);
  });

  test("ids, commands, flags", async () => {
    for (const id of ["..", "a/b", "a b", "ü"]) expect((await box.call("create", id)).code).toBe(1);
    const unknown = await box.call("fly");
    expect([unknown.code, unknown.err]).toEqual([3, expect.stringContaining("No help topic for 'fly'")]);
    expect((await box.call("create", "--nah", "x")).err).toContain("flag provided but not defined: -nah");
    expect((await box.call("start")).err).toMatch(/start.* requires exactly 1 argument/);
  });

  test("--explain prints the plan and makes nothing", async () => {
    box.command("true");
    const shown = await box.call("create", "--explain", "shown");
    expect(shown.code).toBe(0);
    expect(shown.out).toContain("pivot_root");
    expect(shown.out).toContain("# mounts[0], /proc");
    expect(box.left()).toEqual([]);
  });
});

describe("faults", () => {
  test("each step of a create failing in turn leaves the host as it was", async () => {
    box.command("true");
    const steps = (await box.call("create", "--explain", "faulty")).out.split("\n").length;
    expect(steps).toBeGreaterThan(250);
    const wrong: string[] = [];
    let failed = 0;
    const fail = async (step: number, id: string): Promise<void> => {
      const ended = await box.call("create", "--inject", `${step}=EIO`, id);
      const where = `step ${step}: ${ended.code} ${JSON.stringify(ended.err)}`;
      if (ended.code === 0) {
        // The step is one of what the start lets the process do, or is done by nobody.
        const started = await box.call("start", id);
        // It may have ended while it waited.
        if (started.code !== 0 && !started.err.includes("cannot start a container that has stopped"))
          wrong.push(`${where}: start ${started.code} ${started.err}`);
        if (!(await until(async () => (await box.status(id)) === "stopped"))) wrong.push(`${where}: it does not end`);
        const gone = await box.call("delete", id);
        if (gone.code !== 0) wrong.push(`${where}: delete ${gone.code} ${gone.err}`);
      } else {
        failed++;
        if (!/^time="[^"]+" level=error msg=".+ failed: .+"\n|cannot |error running /.test(ended.err))
          wrong.push(where);
        // What a failing teardown has left, delete takes.
        if (box.left().includes(id)) await box.call("delete", "-f", id);
      }
      if (box.left().includes(id) || cgroupsOf(id).length > 0) wrong.push(`${where}: something is left`);
    };
    const lane = async (first: number, id: string): Promise<void> => {
      for (let step = first; step < steps && wrong.length < 5; step += 2) await fail(step, id);
    };
    await Promise.all([lane(0, "faulty-even"), lane(1, "faulty-odd")]);
    expect(wrong).toEqual([]);
    expect(failed).toBeGreaterThan(120);
    expect(inventory()).toEqual(before);
  }, 120_000);
});
