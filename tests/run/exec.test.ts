/** `ocibox exec`, `stop` and `kill`: what is done to a container while it runs. */
import { describe, expect } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { type Ended, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "script"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

/** A container under a name while `body` is at work, and how it ends. */
async function running(words: readonly string[], body: () => Promise<void>): Promise<Ended> {
  const ended = box.run(["--name", "one", ...words]);
  try {
    const runs = async (): Promise<boolean> => (await box.ocibox(["exec", "one", "true"])).code === 0;
    expect(await until(runs)).toBe(true);
    await body();
  } finally {
    await box.ocibox(["rm", "-f", "one"]);
  }
  return ended;
}

const sleeper = ["alpine", "sleep", "1000"];

function exec(...words: string[]): Promise<Ended> {
  return box.ocibox(["exec", ...words]);
}

describe("exec", () => {
  test("in the container's namespaces and cgroup, with its environment, rights and filter", async () => {
    await running(["-e", "OF=container", "-m", "64m", ...sleeper], async () => {
      const script =
        "hostname; echo $OF $HOME; cat /proc/self/cgroup; grep -E 'CapEff|CapBnd|Seccomp:|NoNewPrivs' /proc/self/status";
      const inside = await exec("one", "sh", "-c", script);
      // The first process prints the same of itself.
      const first = script.replaceAll("self", "1").replace("echo $OF $HOME", "echo container /root");
      expect(inside).toEqual({ out: (await exec("one", "sh", "-c", first)).out, err: "", code: 0 });
      expect(inside.out).toContain("CapEff:\t00000000800405fb");
      expect(inside.out).toContain("Seccomp:\t2");
      for (const kind of ["pid", "net", "ipc", "uts", "mnt", "cgroup"])
        expect((await exec("one", "readlink", `/proc/self/ns/${kind}`)).out).toBe(
          (await exec("one", "readlink", `/proc/1/ns/${kind}`)).out,
        );
      expect((await exec("one", "sh", "-c", "ls /proc/self/fd")).out).toBe("0\n1\n2\n3\n");
      expect((await exec("one", "readlink", "/proc/self/fd/0")).out).toBe("/dev/null\n");
    });
  });

  test("as somebody else, somewhere else, with other variables; standard input; exit codes", async () => {
    await running(sleeper, async () => {
      expect(
        (
          await exec(
            "-u",
            "5:6",
            "-w",
            "/tmp",
            "-e",
            "A=1",
            "-e",
            "B",
            "one",
            "sh",
            "-c",
            "id -u; id -g; pwd; echo $A$B",
          )
        ).out,
      ).toBe("5\n6\n/tmp\n1\n");
      expect((await exec("-u", "5", "one", "grep", "CapEff", "/proc/self/status")).out).toBe(
        "CapEff:\t0000000000000000\n",
      );
      const echoed = await box.ocibox(["exec", "-i", "one", "cat"], { stdin: "from outside\n" });
      expect(echoed).toEqual({ out: "from outside\n", err: "", code: 0 });
      // Without -i nobody reads what the caller has.
      expect((await box.ocibox(["exec", "one", "cat"], { stdin: "from outside\n" })).out).toBe("");
      expect((await exec("one", "sh", "-c", "exit 6")).code).toBe(6);
      expect((await exec("one", "sh", "-c", "kill -9 $$")).code).toBe(137);
      expect(await exec("one", "nope")).toEqual({
        out: "",
        err: 'ocibox: cannot exec "nope": executable file not found in $PATH\n',
        code: 127,
      });
      expect((await exec("one", "/etc/passwd")).code).toBe(126);
      expect((await exec("-u", "nobody-there", "one", "true")).code).toBe(125);
      expect((await exec("-w", "/not/there", "one", "true")).code).not.toBe(0);
    });
  });

  test("a terminal; detached; under an init; with the host's network", async () => {
    await running(["--init", "--network", "host", ...sleeper], async () => {
      const shell = (line: string): string =>
        Bun.spawnSync(["script", "-qec", line, "/dev/null"], {
          stdin: "ignore",
          env: { ...process.env, ...box.env },
        }).stdout.toString();
      expect(
        shell(`${process.env.OCIBOX_TEST_BINARY ?? "dist/ocibox"} exec -it one sh -c 'tty; echo $TERM'`),
      ).toContain("/dev/pts/0\r\nxterm\r\n");
      expect(await exec("-d", "one", "sh", "-c", "echo lost; touch /made; sleep 1000")).toEqual({
        out: "",
        err: "",
        code: 0,
      });
      expect(await until(async () => (await exec("one", "test", "-e", "/made")).code === 0)).toBe(true);
      expect((await exec("one", "readlink", "/proc/self/ns/net")).out).toBe(
        Bun.spawnSync(["readlink", "/proc/self/ns/net"]).stdout.toString(),
      );
    });
    const refused = await exec("-d", "-i", "one", "true");
    expect([refused.code, refused.err]).toEqual([125, expect.stringContaining("-i and -t have nobody to talk to")]);
  });

  test("only where the container runs", async () => {
    const none = await exec("nobody", "true");
    expect(none).toEqual({ out: "", err: 'ocibox: there is no container "nobody"; see: ocibox ps -a\n', code: 125 });
    expect((await box.ocibox(["run", "--name", "over", "alpine", "true"])).code).toBe(0);
    try {
      for (const words of [
        ["exec", "over", "true"],
        ["kill", "over"],
      ])
        expect(await box.ocibox(words)).toEqual({
          out: "",
          err: 'ocibox: the container "over" is not running; see: ocibox ps -a\n',
          code: 125,
        });
      // As docker's, which asks for nothing that is not so already.
      expect(await box.ocibox(["stop", "over"])).toEqual({ out: "over\n", err: "", code: 0 });
    } finally {
      await box.ocibox(["rm", "over"]);
    }
  });

  test("a step that fails, whichever it is, is told, and the container goes on", async () => {
    await running(sleeper, async () => {
      const { out } = await exec("--explain", "one", "true");
      const steps = out.split("\n").length;
      expect(steps).toBeGreaterThan(60);
      const wrong: string[] = [];
      for (let step = 0; step < steps; step++) {
        const ended = await exec("--inject", `${step}=EIO`, "one", "true");
        if (![0, 125, 126].includes(ended.code)) wrong.push(`step ${step}: ${ended.code} ${ended.err}`);
        if (ended.code !== 0 && !ended.err.startsWith("ocibox: ")) wrong.push(`step ${step}: ${ended.err}`);
      }
      expect(wrong).toEqual([]);
      expect((await exec("one", "sh", "-c", "ls -d /proc/[0-9]* | wc -l")).out.trim()).toMatch(/^[345]$/);
    });
  }, 60_000);
});

describe("stop and kill", () => {
  test("stop asks, and after a while does not ask any more", async () => {
    const polite = [
      "alpine",
      "sh",
      "-c",
      "trap 'echo bye; exit 3' TERM; trap 'exit 4' USR1; while true; do sleep 0.05; done",
    ];
    const asked = await running(polite, async () => {
      expect(await box.ocibox(["stop", "one"])).toEqual({ out: "one\n", err: "", code: 0 });
      expect((await box.ocibox(["ps", "-a", "-q"])).out).toBe("");
    });
    expect([asked.out, asked.code]).toEqual(["bye\n", 3]);
    expect((await running(polite, async () => void (await box.ocibox(["stop", "-s", "USR1", "one"])))).code).toBe(4);
    const start = performance.now();
    expect((await running(sleeper, async () => void (await box.ocibox(["stop", "-t", "1", "one"])))).code).toBe(137);
    expect(performance.now() - start).toBeGreaterThan(1000);
  });

  test("kill sends what it is told", async () => {
    const counts = ["alpine", "sh", "-c", "trap 'echo one' USR1; trap 'exit 9' USR2; while true; do sleep 0.05; done"];
    const ended = await running(counts, async () => {
      expect(await box.ocibox(["kill", "-s", "SIGUSR1", "one"])).toEqual({ out: "one\n", err: "", code: 0 });
      await Bun.sleep(300);
      expect((await box.ocibox(["kill", "-s", "NONE", "one"])).err).toContain('unknown signal "NONE"');
      expect((await box.ocibox(["kill", "-s", "12", "one"])).code).toBe(0);
      await Bun.sleep(300);
    });
    expect([ended.out, ended.code]).toEqual(["one\n", 9]);
  });

  test("rm -f ends it at once, and what it has noted of its process goes with it", async () => {
    const ended = await running(sleeper, async () => {
      const [id = ""] = (await box.ocibox(["ps", "-q", "--no-trunc"])).out.trim().split("\n");
      expect(readFileSync(join(box.root, "containers", id, "process"), "utf8")).toMatch(/^\d+ \(/);
      const start = performance.now();
      expect((await box.ocibox(["rm", "-f", "one"])).code).toBe(0);
      expect(performance.now() - start).toBeLessThan(1500);
      expect(existsSync(join(box.root, "containers", id))).toBe(false);
    });
    expect(ended.code).toBe(137);
  });
});
