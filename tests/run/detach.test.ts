/** `ocibox run -d`, `logs` and `wait`: a container that is left to itself, and what is known of it. */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { binary, type Ended, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  await box.push("polite", { StopSignal: "SIGUSR1" });
  for (const each of ["alpine", "polite"]) expect((await box.ocibox(["pull", "-q", each])).code).toBe(0);
});

const id = /^[0-9a-f]{64}\n$/;

/** A container that is left to itself while `body` is at work, under a name. */
async function left(words: readonly string[], body: () => Promise<void>): Promise<void> {
  try {
    const started = await box.ocibox(["run", "-d", "--name", "one", ...words]);
    expect([started.err, started.code]).toEqual(["", 0]);
    expect(started.out).toMatch(id);
    await body();
  } finally {
    await box.ocibox(["rm", "-f", "one"]);
  }
}

function call(...words: string[]): Promise<Ended> {
  return box.ocibox(words);
}

async function out(...words: string[]): Promise<string> {
  const ended = await call(...words);
  expect([ended.err, ended.code]).toEqual(["", 0]);
  return ended.out;
}

/** The process that looks after a container: the one that has its log open. */
function supervisor(): number {
  const [container = ""] = readdirSync(join(box.root, "containers"));
  const log = join(box.root, "containers", container, "log");
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const fds = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
      if (fds.includes(log)) return Number(pid);
    } catch {
      // It has ended meanwhile.
    }
  }
  throw new Error("nobody has the log open");
}

describe("run -d", () => {
  test("prints the id and ends; what the container writes is kept, each stream for itself", async () => {
    await left(["alpine", "sh", "-c", "echo out; echo err >&2; cat; exit 3"], async () => {
      expect(await out("wait", "one")).toBe("3\n");
      expect(await call("logs", "one")).toEqual({ out: "out\n", err: "err\n", code: 0 });
      expect(await out("ps", "-a", "--format", "{{.Names}} {{.State}} {{.Status}}")).toMatch(
        /^one exited Exited \(3\) .* ago\n$/,
      );
      // Once it has ended that is known.
      expect(await out("wait", "one")).toBe("3\n");
    });
  });

  test("a script goes on at once, and nothing of it stays open", async () => {
    const script = `ID=$($OCIBOX run -d --name one --cidfile ${box.dir}/id alpine sleep 1000 9< /etc/passwd 2>&1) && echo "$ID"`;
    try {
      const ended = await box.shell(script);
      expect(ended.out).toMatch(id);
      expect(readFileSync(join(box.dir, "id"), "utf8")).toBe(ended.out.trim());
      expect(await out("ps", "--format", "{{.Names}} {{.Status}}")).toMatch(/^one Up /);
      const pid = supervisor();
      const open = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
      expect(open).not.toContain("/etc/passwd");
      for (const fd of [0, 1, 2]) expect(readlinkSync(`/proc/${pid}/fd/${fd}`)).toBe("/dev/null");
      expect(readlinkSync(`/proc/${pid}/cwd`)).toBe("/");
      const pss = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1];
      expect(Number(pss)).toBeLessThan(300);
      const again = await call("run", "-d", "--cidfile", join(box.dir, "id"), "alpine", "true");
      expect([again.code, again.err]).toEqual([125, expect.stringContaining("which is there already")]);
    } finally {
      await call("rm", "-f", "one");
    }
  });

  test("what cannot be started is told, with its exit code; --rm leaves nothing of it", async () => {
    const nope = await call("run", "-d", "--rm", "alpine", "nope");
    expect([nope.out, nope.err, nope.code]).toEqual([
      "",
      'ocibox: cannot exec "nope": executable file not found in $PATH\n',
      127,
    ]);
    expect((await call("run", "-d", "--rm", "alpine", "/etc")).code).toBe(126);
    expect((await call("run", "-d", "--rm", "-w", "/proc/1/x", "alpine", "true")).code).toBe(125);
    expect(await out("ps", "-aq")).toBe("");
  });

  test("--rm: wait has the code, though nothing is left by then", async () => {
    expect(await out("run", "-d", "--rm", "--name", "one", "alpine", "sh", "-c", "sleep 0.3; exit 4")).toMatch(id);
    const waits = await Promise.all([out("wait", "one"), out("wait", "one")]);
    expect(waits).toEqual(["4\n", "4\n"]);
    expect(await out("ps", "-aq")).toBe("");
    expect((await call("wait", "one")).code).toBe(125);
  });

  test("-i: standard input stays open and silent; without it there is none", async () => {
    await left(["-i", "alpine", "sh", "-c", "read line; echo ended"], async () => {
      await Bun.sleep(200);
      expect(await out("ps", "-q")).toMatch(/^[0-9a-f]{12}\n$/);
      expect(await out("logs", "one")).toBe("");
    });
    await left(["alpine", "sh", "-c", "read line; echo ended"], async () => {
      expect(await out("wait", "one")).toBe("0\n");
      expect(await out("logs", "one")).toBe("ended\n");
    });
  });

  test("-t: a terminal, and -it a shell that waits at it", async () => {
    await left(["-t", "alpine", "sh", "-c", "tty; echo two >&2"], async () => {
      expect(await out("wait", "one")).toBe("0\n");
      expect(await out("logs", "one")).toBe("/dev/pts/0\r\ntwo\r\n");
    });
    await left(["-it", "alpine", "sh"], async () => {
      expect(await out("exec", "one", "echo", "in")).toBe("in\n");
      expect(await out("stop", "-t", "0", "one")).toBe("one\n");
      expect(await out("wait", "one")).toBe("137\n");
    });
  });

  test("-u: a log by the name of /dev/stdout", async () => {
    await left(["-u", "1234", "alpine", "sh", "-c", "echo named > /dev/stdout"], async () => {
      expect(await out("wait", "one")).toBe("0\n");
      expect(await out("logs", "one")).toBe("named\n");
    });
  });

  test("signals to whoever looks after it are the container's; killed, it takes the container with it", async () => {
    const traps = ["alpine", "sh", "-c", "trap 'echo hup; exit 5' HUP; echo up; while :; do sleep 0.05; done"];
    const up = async (): Promise<boolean> => (await call("logs", "one")).out === "up\n";
    await left(traps, async () => {
      expect(await until(up)).toBe(true);
      process.kill(supervisor(), "SIGHUP");
      expect(await out("wait", "one")).toBe("5\n");
    });
    await left(traps, async () => {
      expect(await until(up)).toBe(true);
      process.kill(supervisor(), "SIGKILL");
      expect(await out("wait", "one")).toBe("137\n");
      expect(await out("ps", "-a", "--format", "{{.Status}}")).toMatch(/^Exited \(137\) /);
    });
  });

  test("stop asks by the image's signal, or --stop-signal's", async () => {
    const script = "trap 'exit 6' USR1; trap 'exit 7' HUP; trap 'exit 8' TERM; echo up; while :; do sleep 0.05; done";
    for (const [words, code] of [
      [["polite"], "6\n"],
      [["--stop-signal", "HUP", "polite"], "7\n"],
      [["alpine"], "8\n"],
    ] as const)
      await left([...words, "sh", "-c", script], async () => {
        expect(await until(async () => (await call("logs", "one")).out === "up\n")).toBe(true);
        expect(await out("stop", "one")).toBe("one\n");
        expect(await out("wait", "one")).toBe(code);
      });
    expect((await call("run", "--stop-signal", "NO", "alpine", "true")).err).toContain('unknown signal "NO"');
  });

  test("stop of several: all are asked at once, and each has its own time", async () => {
    const all = ["slow-1", "slow-2", "slow-3"];
    try {
      for (const name of all) expect((await call("run", "-d", "--name", name, "alpine", "sleep", "1000")).code).toBe(0);
      const from = performance.now();
      expect(await out("stop", "-t", "1", ...all)).toBe(`${all.join("\n")}\n`);
      const took = performance.now() - from;
      expect([took > 900, took < 2500]).toEqual([true, true]);
      expect(await out("wait", ...all)).toBe("137\n137\n137\n");
    } finally {
      await call("rm", "-f", ...all);
    }
  });

  test("without a name, by a plan that is kept: each its own id, log and exit code", async () => {
    const ids: string[] = [];
    try {
      for (const [at, word] of ["one", "another", "one more"].entries()) {
        ids.push((await out("run", "-d", "alpine", "sh", "-c", `echo ${word}; exit ${at}`)).trim());
        expect(await out("wait", ids[at] ?? "")).toBe(`${at}\n`);
        expect(await out("logs", ids[at] ?? "")).toBe(`${word}\n`);
      }
      const listed = (await out("ps", "-aq", "--no-trunc")).trim().split("\n");
      expect(listed.toSorted()).toEqual(ids.toSorted());
    } finally {
      await call("rm", "-f", ...ids);
    }
  });

  test("twenty at once", async () => {
    const all = Array.from({ length: 20 }, (_, at) => `many-${at}`);
    try {
      const started = await Promise.all(
        all.map((name, at) => call("run", "-d", "--name", name, "alpine", "sh", "-c", `echo ${at}; exit ${at}`)),
      );
      for (const each of started) expect([each.err, each.code]).toEqual(["", 0]);
      expect(await out("wait", ...all)).toBe(all.map((_, at) => `${at}\n`).join(""));
      const logs = await Promise.all(all.map((name) => out("logs", name)));
      expect(logs).toEqual(all.map((_, at) => `${at}\n`));
    } finally {
      await call("rm", "-f", ...all);
    }
  });
});

describe("cp", () => {
  test("out of a container, while it runs and when it has ended; not into one", async () => {
    const target = join(box.dir, "copied");
    mkdirSync(target);
    await left(
      ["alpine", "sh", "-c", "mkdir /d; echo new > /d/file; rm /bin/cat; echo up; exec sleep 1000"],
      async () => {
        expect(await until(async () => (await call("logs", "one")).out === "up\n")).toBe(true);
        expect(await out("cp", "one:/d/file", target)).toBe("");
        expect(readFileSync(join(target, "file"), "utf8")).toBe("new\n");
        const gone = await call("cp", "one:/bin/cat", target);
        expect([gone.code, gone.err]).toEqual([
          125,
          expect.stringContaining('there is no "/bin/cat" in the container'),
        ]);
        const [container = ""] = (await out("ps", "-q")).split("\n");
        expect(await out("stop", "-t", "0", "one")).toBe("one\n");
        expect(await out("cp", `${container}:/d`, target)).toBe("");
        expect(readFileSync(join(target, "d/file"), "utf8")).toBe("new\n");
      },
    );
  });
});

describe("logs", () => {
  test("byte for byte: long lines, no line's end, bytes that are no text", async () => {
    const script =
      "cat /bin/busybox /bin/busybox; head -c 100000 /dev/zero | tr '\\000' x; printf '\\n\\n\\r\\000last'";
    const env = { SCRIPT: script };
    const expected = await box.shell('$OCIBOX run --rm alpine sh -c "$SCRIPT" | cksum', { env });
    expect(Number(expected.out.split(" ")[1])).toBeGreaterThan(1_000_000);
    await left(["alpine", "sh", "-c", script], async () => {
      expect(await out("wait", "one")).toBe("0\n");
      expect(await box.shell("$OCIBOX logs one | cksum")).toEqual(expected);
    });
  });

  test("-f until the end, as it is written; -t, --tail, --since, --until", async () => {
    const script = "for each in 1 2 3 4 5; do echo line $each; sleep 0.1; done; printf last";
    await left(["alpine", "sh", "-c", script], async () => {
      const lines = "line 1\nline 2\nline 3\nline 4\nline 5\nlast";
      expect(await out("logs", "-f", "one")).toBe(lines);
      expect(await out("logs", "-n", "2", "one")).toBe("line 5\nlast");
      expect(await out("logs", "--tail", "0", "one")).toBe("");
      expect(await out("logs", "--tail", "all", "one")).toBe(lines);
      const stamped = (await out("logs", "-t", "one")).split("\n");
      const times = stamped.map((line) => line.slice(0, 30));
      for (const time of times) expect(Math.abs(new Date(time).getTime() - Date.now())).toBeLessThan(60_000);
      expect(times.toSorted()).toEqual(times);
      expect(stamped.map((line) => line.slice(31)).join("\n")).toBe(lines);
      expect(await out("logs", "--since", times[3] ?? "", "one")).toBe("line 4\nline 5\nlast");
      expect(await out("logs", "--until", times[1] ?? "", "one")).toBe("line 1\n");
      expect(await out("logs", "--since", "1h", "one")).toBe(lines);
      expect(await out("logs", "--until", "1h", "one")).toBe("");
      expect((await call("logs", "--tail", "x", "one")).code).toBe(125);
    });
  });

  test("of a container that somebody waits for there are none; a reader that goes away is no error", async () => {
    const foreground = box.run(["--name", "one", "alpine", "sleep", "1000"]);
    try {
      expect(await until(async () => (await call("logs", "one")).err.includes("was not started with -d"))).toBe(true);
    } finally {
      await call("rm", "-f", "one");
      await foreground;
    }
    await left(["alpine", "seq", "200000"], async () => {
      expect(await out("wait", "one")).toBe("0\n");
      expect(await box.shell("{ $OCIBOX logs one; echo $? >&2; } | head -n 1")).toEqual({
        out: "1\n",
        err: "0\n",
        code: 0,
      });
    });
  });

  test("a disk that is full does not hold the container up", async () => {
    const small = join(box.dir, "small");
    mkdirSync(small);
    const script = `
      mount -t tmpfs -o size=8m small ${small} && export OCIBOX_ROOT=${small}/root OCIBOX_STATE=${box.dir}/small-state
      $OCIBOX pull -q alpine > /dev/null && $OCIBOX run -d --name full alpine sh -c 'seq 2000000; exit 9' > /dev/null
      $OCIBOX wait full; $OCIBOX ps -a --format '{{.Status}}'; $OCIBOX logs full | head -n 2; $OCIBOX rm full`;
    const ended = await box.shell(`exec unshare -m sh -c "$SCRIPT"`, { env: { SCRIPT: script, OCIBOX: binary } });
    expect([ended.err, ended.code]).toEqual(["", 0]);
    expect(ended.out).toMatch(/^9\nExited( \(9\))? .*\n1\n2\nfull\n$/);
    expect(existsSync(join(small, "root"))).toBe(false);
  });
});

describe("start", () => {
  const script = "echo again >> /made; cat /made; [ $(wc -l < /made) -lt 3 ]";

  for (const kind of ["overlay", "erofs", "copy"])
    test(`a container that has ended, its layers kept as ${kind}: what it has changed is there`, async () => {
      const ocibox = (...words: string[]): Promise<Ended> => call("--snapshotter", kind, ...words);
      expect((await ocibox("run", "-d", "--name", "one", "alpine", "sh", "-c", script)).code).toBe(0);
      try {
        expect(await out("wait", "one")).toBe("0\n");
        expect(await ocibox("start", "one")).toEqual({ out: "one\n", err: "", code: 0 });
        expect(await out("wait", "one")).toBe("0\n");
        expect(await out("logs", "one")).toBe("again\nagain\nagain\n");
        // Attached, its output and its exit code are the caller's.
        expect(await ocibox("start", "-a", "one")).toEqual({ out: "again\nagain\nagain\n", err: "", code: 1 });
        expect(await out("logs", "-n", "1", "one")).toBe("again\n");
        expect(await out("ps", "-a", "--format", "{{.Status}}")).toMatch(/^Exited \(1\) /);
      } finally {
        await call("rm", "-f", "one");
      }
    });

  test("one that create has made, with --rm as well", async () => {
    for (const flags of [[], ["--rm"]]) {
      expect(await out("create", "--name", "one", ...flags, "alpine", "sh", "-c", "echo made; exit 2")).toMatch(id);
      try {
        expect(await out("ps", "-a", "--format", "{{.Names}} {{.State}} {{.Status}}")).toBe("one created Created\n");
        expect(await out("ps", "-q")).toBe("");
        expect(await call("start", "-a", "one")).toEqual({ out: "made\n", err: "", code: 2 });
        expect(await out("ps", "-aq")).toMatch(flags.length === 0 ? /^[0-9a-f]{12}\n$/ : /^$/);
      } finally {
        await call("rm", "-f", "one");
      }
    }
    expect((await call("create", "-d", "alpine")).err).toContain('create has no flag "-d"');
  });

  test("one of run in the foreground, with its init, its terminal and its user", async () => {
    const flags = ["--name", "one", "--init", "-t", "-u", "1234", "-w", "/tmp", "-e", "A=b"];
    const first = await box.ocibox(["run", ...flags, "alpine", "sh", "-c", "id -u; pwd; echo $A $$; tty"]);
    try {
      expect([first.out, first.code]).toEqual(["1234\r\n/tmp\r\nb 2\r\n/dev/pts/0\r\n", 0]);
      expect((await call("start", "one")).out).toBe("one\n");
      expect(await out("wait", "one")).toBe("0\n");
      expect(await out("logs", "one")).toBe(first.out);
    } finally {
      await call("rm", "-f", "one");
    }
  });

  test("several, and restart: each has what it has changed, and the same id", async () => {
    const names = ["one", "two"];
    for (const name of names)
      expect((await call("create", "--name", name, "alpine", "sh", "-c", "echo x >> /made; sleep 1000")).code).toBe(0);
    const ids = await out("ps", "-aq");
    try {
      expect(await call("start", ...names)).toEqual({ out: "one\ntwo\n", err: "", code: 0 });
      expect((await out("ps", "-q")).length).toBe(ids.length);
      // What runs goes on; what is not there is told, and the others are started all the same.
      expect(await out("stop", "-t", "0", "two")).toBe("two\n");
      expect(await call("start", "one", "three", "two")).toEqual({
        out: "one\ntwo\n",
        err: 'ocibox: there is no container "three"; see: ocibox ps -a\n',
        code: 125,
      });
      const made = (name: string): Promise<string> => out("exec", name, "wc", "-l", "/made");
      expect(await until(async () => (await made("two")) === "2 /made\n")).toBe(true);
      expect(await call("restart", "-t", "0", ...names)).toEqual({ out: "one\ntwo\n", err: "", code: 0 });
      expect(await until(async () => (await made("one")) === "2 /made\n")).toBe(true);
      expect(await until(async () => (await made("two")) === "3 /made\n")).toBe(true);
      expect(await out("stop", "-t", "0", "one")).toBe("one\n");
      expect(await out("restart", "one")).toBe("one\n");
      expect(await until(async () => (await made("one")) === "3 /made\n")).toBe(true);
      expect(await out("ps", "-aq")).toBe(ids);
      expect((await call("start", "-a", ...names)).err).toContain("--attach is for one container");
      const missing = await call("restart", "one", "three");
      expect([missing.code, missing.out, missing.err]).toEqual([
        125,
        "",
        'ocibox: there is no container "three"; see: ocibox ps -a\n',
      ]);
      expect(await made("one")).toBe("3 /made\n");
      expect(await out("run", "-d", "--rm", "--name", "gone", "alpine", "sleep", "1000")).toMatch(id);
      const brief = await call("restart", "one", "gone");
      expect([brief.code, brief.out, brief.err]).toEqual([125, "", expect.stringContaining("was run with --rm")]);
      expect(await out("ps", "-q", "--filter", "name=gone")).not.toBe("");
      expect(await made("one")).toBe("3 /made\n");
      names.push("gone");
    } finally {
      await call("rm", "-f", ...names);
    }
  });

  test("refused: what runs, what is not there; a step that fails leaves the container as it was", async () => {
    await left(["alpine", "sleep", "1000"], async () => {
      expect(await out("start", "one")).toBe("one\n");
      const running = await call("start", "-a", "one");
      expect([running.code, running.err]).toEqual([125, 'ocibox: the container "one" is running already\n']);
      expect((await call("start", "two")).err).toContain('there is no container "two"');
      expect(await out("stop", "-t", "0", "one")).toBe("one\n");
      const steps = (await out("start", "--explain", "one")).split("\n").length;
      expect(steps).toBeGreaterThan(300);
      const before = inventory();
      let failed = 0;
      for (let step = 0; step < steps; step += 5) {
        const ended = await call("start", "--inject", `${step}=EIO`, "one");
        if (ended.code !== 0) failed++;
        else expect((await call("stop", "-t", "0", "one")).code).toBe(0);
      }
      expect(failed).toBeGreaterThan(30);
      expect(await until(() => JSON.stringify(inventory()) === JSON.stringify(before))).toBe(true);
      expect(await out("start", "one")).toBe("one\n");
      expect(await out("exec", "one", "echo", "here")).toBe("here\n");
    });
  });
});
