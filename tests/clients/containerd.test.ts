/** containerd, its own daemon on a socket of the test's, with ocibox as the runtime behind its shim. */
import { describe, expect } from "bun:test";
import { join } from "node:path";
import { pushImage } from "../../scripts/busybox-image.ts";
import { around, unchanged } from "../lib/around.ts";
import { Client } from "../lib/client.ts";
import { testWith } from "../lib/needs.ts";
import { startRegistry, type TestRegistry } from "../lib/registry.ts";
import { type Ended, inventory, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["containerd", "ctr", "busybox", "docker-registry"] };
const test = testWith(needs);
let client: Client;
let registry: TestRegistry;
let image: string;
let socket: string;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  registry = owned.use(await startRegistry());
  client = owned.use(new Client());
  await client.tree();
  await pushImage(`http://${registry.host}/v2/box`, join(client.dir, "tree"));
  socket = await client.containerd();
  owned.defer(async () => {
    for (const id of (await ctr("task", "ls", "-q")).out.split("\n").filter((each) => each !== ""))
      await ctr("task", "rm", "-f", id);
  });
  image = `${registry.host}/box:latest`;
  const pulled = await ctr("image", "pull", "--plain-http", image);
  expect([pulled.code, pulled.err]).toEqual([0, ""]);
});

function ctr(...words: string[]): Promise<Ended> {
  // The namespace is the parent of the cgroups.
  return client.call(["ctr", "-a", socket, "-n", client.cgroup, ...words]);
}

function run(...words: string[]): Promise<Ended> {
  return ctr("run", "--runc-binary", client.runtime, "--runc-root", join(client.dir, "runc"), ...words);
}

describe("ctr", () => {
  test("run: output, exit codes, errors, a terminal", async () => {
    expect(await run("--rm", image, "one", "echo", "hello")).toMatchObject({ out: "hello\n", code: 0 });
    expect((await run("--rm", image, "one", "sh", "-c", "exit 4")).code).toBe(4);
    const nope = await run("--rm", image, "one", "nope");
    expect([nope.code, nope.err]).toEqual([1, expect.stringContaining("executable file not found in $PATH")]);
    const terminal = Bun.spawnSync(
      [
        "script",
        "-qec",
        `ctr -a ${socket} -n ${client.cgroup} run --rm -t --runc-binary ${client.runtime} --runc-root ${client.dir}/runc ${image} term tty`,
        "/dev/null",
      ],
      { stdin: "ignore" },
    );
    expect(terminal.stdout.toString()).toContain("/dev/pts/0");
  });

  test("a task: exec, pause, resume, metrics, ps, kill, rm", async () => {
    expect((await run("-d", "--memory-limit", "67108864", image, "two", "sleep", "1000")).code).toBe(0);
    const status = async (): Promise<string> => (await ctr("task", "ls")).out.trim().split(/\s+/).at(-1) ?? "";
    expect(await status()).toBe("RUNNING");
    const inside = await ctr("task", "exec", "--exec-id", "e1", "two", "sh", "-c", "echo inside; exit 5");
    expect([inside.out, inside.code]).toEqual(["inside\n", 5]);
    expect(
      (await ctr("task", "exec", "--exec-id", "e2", "--user", "5:6", "--cwd", "/tmp", "two", "sh", "-c", "id -u; pwd"))
        .out,
    ).toBe("5\n/tmp\n");
    expect((await ctr("task", "exec", "--exec-id", "e3", "two", "nope")).code).not.toBe(0);
    expect((await ctr("task", "pause", "two")).code).toBe(0);
    expect(await status()).toBe("PAUSED");
    expect((await ctr("task", "resume", "two")).code).toBe(0);
    expect(await status()).toBe("RUNNING");
    expect((await ctr("task", "metrics", "two")).out).toMatch(/memory/);
    expect((await ctr("task", "ps", "two")).out.trim().split("\n").length).toBe(2);
    expect((await ctr("task", "kill", "-s", "KILL", "two")).code).toBe(0);
    expect(await until(async () => (await status()) === "STOPPED")).toBe(true);
    await ctr("task", "rm", "two");
    expect((await ctr("container", "rm", "two")).code).toBe(0);
  });

  test("five at once", async () => {
    const ids = Array.from({ length: 5 }, (_, index) => `many${index}`);
    const all = await Promise.all(ids.map((id) => run("--rm", image, id, "echo", id)));
    expect(all.map(({ out, code }) => [out, code])).toEqual(ids.map((id) => [`${id}\n`, 0]));
  });
});
