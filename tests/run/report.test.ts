/** --report, --pidfile, --label-file: what a script wants to know of a run. */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { type Ended, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

interface Report {
  readonly [field: string]: unknown;
  readonly exitCode: number;
  readonly origin: string;
}

const path = (): string => join(box.dir, "report.json");

function written(): Report {
  return JSON.parse(readFileSync(path(), "utf8")) as Report;
}

async function reported(...words: string[]): Promise<[Ended, Report]> {
  writeFileSync(path(), "of before\n");
  const ended = await box.run(["--report", path(), ...words]);
  return [ended, written()];
}

describe("--report", () => {
  test("tells the command's exit code from ocibox's own", async () => {
    for (const code of [0, 7, 125, 126, 127, 255]) {
      const [ended, report] = await reported("alpine", "sh", "-c", `exit ${code}`);
      expect([ended.code, report.exitCode, report.origin]).toEqual([code, code, "command"]);
    }
    const [killed, report] = await reported("--init", "alpine", "sh", "-c", "kill -9 $$");
    expect([killed.code, report.exitCode, report.origin]).toEqual([137, 137, "command"]);
    for (const [code, ...words] of [
      [127, "alpine", "nope"],
      [126, "alpine", "/etc"],
      [125, "--pull=never", "nowhere"],
      [125, "-m", "lots", "alpine", "true"],
      [125, "-w", "/etc/passwd", "alpine", "true"],
    ] as const) {
      const [ended, own] = await reported(...words);
      expect([words.join(" "), ended.code, own.exitCode, own.origin]).toEqual([words.join(" "), code, code, "ocibox"]);
    }
    const [, failed] = await reported("--pull=never", "nowhere");
    expect(failed.error).toContain('the image "nowhere" is not in the store');
  });

  test("says what ran, and when", async () => {
    const from = Date.now() / 1000;
    const [, report] = await reported("alpine", "true");
    const digest = (await box.ocibox(["inspect", "-f", "{{.Digest}}", "alpine"])).out.trim();
    expect(report).toMatchObject({ image: "alpine", digest, network: "none", isolation: "root" });
    expect(report.container).toMatch(/^[0-9a-f]{64}$/);
    const { began, finished, preparedIn } = report as unknown as Record<string, number>;
    expect(began).toBeGreaterThanOrEqual(from - 0.001);
    expect(finished).toBeGreaterThanOrEqual(Math.floor(began ?? 0));
    expect(finished).toBeLessThanOrEqual(Date.now() / 1000);
    expect(preparedIn).toBeGreaterThan(0);
  });

  test("of one that is left to itself it is written at its end; and of one that is stopped in time", async () => {
    const ended = await box.ocibox([
      "run",
      "-d",
      "--rm",
      "--report",
      path(),
      "alpine",
      "sh",
      "-c",
      "sleep 0.3; exit 4",
    ]);
    expect([ended.code, readFileSync(path(), "utf8")]).toEqual([0, ""]);
    expect(await until(() => readFileSync(path(), "utf8") !== "")).toBe(true);
    expect(written()).toMatchObject({ exitCode: 4, origin: "command" });
    await box.run(["--report", path(), "--timeout", "1", "alpine", "sleep", "100"]);
    expect(written()).toMatchObject({ exitCode: 137, origin: "command" });
    // The caller's directory is meant, wherever the supervisor is.
    mkdirSync(join(box.dir, "here"));
    await box.ocibox(["run", "-d", "--rm", "--report", "r.json", "alpine", "true"], { cwd: join(box.dir, "here") });
    expect(await until(() => readFileSync(join(box.dir, "here/r.json"), "utf8") !== "")).toBe(true);
  });

  test("a file that cannot be written is told before anything else; a link is not followed", async () => {
    const none = await box.run(["--report", join(box.dir, "no/such/file"), "nowhere"]);
    expect([none.code, none.err]).toEqual([125, expect.stringContaining("--report is")]);
    const target = join(box.dir, "target");
    writeFileSync(target, "kept\n");
    symlinkSync(target, join(box.dir, "link"));
    for (const odd of [join(box.dir, "link"), "/dev/null", "/dev/stdout", box.dir]) {
      const ended = await box.run(["--report", odd, "alpine", "true"]);
      expect([odd, ended.code, ended.err]).toEqual([odd, 125, expect.stringContaining("--report is")]);
    }
    expect([readFileSync(target, "utf8"), statSync("/dev/null").isCharacterDevice()]).toEqual(["kept\n", true]);
    expect((await box.run(["--report", path(), "--explain", "alpine", "true"])).code).toBe(0);
  });
});

test("--pidfile has the number of the container's first process", async () => {
  const file = join(box.dir, "pid");
  const started = await box.ocibox([
    "run",
    "-d",
    "--rm",
    "--name",
    "noted",
    "--pidfile",
    file,
    "alpine",
    "sleep",
    "100",
  ]);
  try {
    expect(started.code).toBe(0);
    expect(readFileSync(`/proc/${readFileSync(file, "utf8")}/cmdline`, "utf8")).toBe(["sleep", "100", ""].join("\0"));
  } finally {
    await box.ocibox(["rm", "-f", "noted"]);
  }
  const none = await box.run(["--pidfile", join(box.dir, "no/such"), "alpine", "true"]);
  expect([none.code, none.err]).toEqual([125, expect.stringContaining("asked for by --pidfile")]);
  expect(existsSync(join(box.dir, "no"))).toBe(false);
});

test("--label-file: a label a line, under those of --label", async () => {
  const file = join(box.dir, "labels");
  writeFileSync(file, "# labels\n\none=1\ntwo=2 \nalone\n");
  expect((await box.ocibox(["create", "--name", "said", "--label-file", file, "-l", "two=3", "alpine"])).code).toBe(0);
  try {
    expect((await box.ocibox(["inspect", "-f", "{{json .Labels}}", "said"])).out).toBe(
      '{"one":"1","two":"3","alone":""}\n',
    );
  } finally {
    await box.ocibox(["rm", "said"]);
  }
  const none = await box.run(["--label-file", join(box.dir, "none"), "alpine", "true"]);
  expect([none.code, none.err]).toEqual([125, expect.stringContaining("cannot read the label file")]);
});
