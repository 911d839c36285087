/**
 * What this machine may not be: cgroup v2 alone, with systemd, or for an ordinary user; other kernels. A virtual machine
 * of each is booted, runs its part of `suite`, and is thrown away.
 */
import { afterAll, beforeAll, expect } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { makeTree } from "../../scripts/busybox-image.ts";
import { cannotRun, testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { binary } from "../lib/sandbox.ts";

const home = process.env.VM_HOME ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "ocibox-vm");
const needs = {
  root: true,
  programs: ["qemu-system-x86_64", "busybox", "mke2fs", "skopeo", "umoci"],
  missing: existsSync(join(home, "root.ext4")) ? undefined : "needs the machine that tests/vm/build makes",
};
const test = testWith(needs);
let share: string;

beforeAll(async () => {
  if (cannotRun(needs)) return;
  share = mkdtempSync(join(tmpdir(), "ocibox-vm-"));
  copyFileSync(binary, join(share, "ocibox"));
  symlinkSync("ocibox", join(share, "ocibox-runc"));
  copyFileSync(resolve("tests/vm/suite"), join(share, "suite"));
  mkdirSync(join(share, "rootfs"));
  await makeTree(join(share, "rootfs"));
  for (const name of ["proc", "dev", "sys"]) mkdirSync(join(share, "rootfs", name));
  await run("tar", "-C", join(share, "rootfs"), "-cf", join(share, "rootfs.tar"), ".");
  const layout = join(share, "layout");
  await run("umoci", "init", "--layout", layout);
  await run("umoci", "new", "--image", `${layout}:box`);
  await run("umoci", "insert", "--image", `${layout}:box`, join(share, "rootfs"), "/");
  await run("umoci", "config", "--image", `${layout}:box`, "--config.env", "PATH=/bin");
  await run("skopeo", "copy", "-q", `oci:${layout}:box`, `oci-archive:${share}/image.tar:box`);
  rmSync(layout, { recursive: true });
}, 60_000);

afterAll(() => {
  if (!cannotRun(needs)) rmSync(share, { recursive: true, force: true });
});

const machines: readonly (readonly [title: string, part: string, flags: readonly string[]])[] = [
  ["cgroup v2, Linux 6.12", "root", ["--kernel", "6.12"]],
  ["cgroup v2, Linux 6.1", "root", ["--kernel", "6.1"]],
  ["cgroup v2 with systemd", "systemd", ["--init", "systemd"]],
  ["an ordinary user with podman and systemd", "user", ["--init", "systemd", "--user", "tester"]],
];

interface Ran {
  readonly out: string;
  readonly err: string;
  readonly code: number | null;
}

async function boot(part: string, flags: readonly string[]): Promise<Ran> {
  const command = [resolve("tests/vm/run"), ...flags, "--share", share, "--timeout", "400", "--", "/share/suite", part];
  const child = Bun.spawn(command, { stdio: ["ignore", "pipe", "pipe"] });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  await child.exited;
  return { out, err, code: child.exitCode };
}

/** Two emulated processors sometimes trip over the kernel's changing its own text: such a machine is booted once more. */
const brokeDown = ({ code, err }: Ran): boolean => code !== 0 && err.includes("Kernel panic");

for (const [title, part, flags] of machines)
  test(title, async () => {
    const first = await boot(part, flags);
    const { out, err, code } = brokeDown(first) ? await boot(part, flags) : first;
    const lines = out.trim().split("\n");
    const wrong = lines.filter((line) => !line.startsWith("ok ")).join("\n");
    expect([wrong, code, wrong === "all done" ? "" : err]).toEqual(["all done", 0, ""]);
    expect(lines.length).toBeGreaterThan(12);
  }, 840_000);
