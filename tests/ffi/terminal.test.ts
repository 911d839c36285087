/** The terminal, through a real pty that python3 holds the other end of. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IOCTL, O } from "../../ffi/constants.ts";
import { encodePlan } from "../../ffi/encode.ts";
import { createInit, spawnInit } from "../../ffi/launch.ts";
import { Recorder } from "../../ffi/plan.ts";
import { contain, exec } from "./plans.ts";

const root = process.geteuid?.() === 0;
const asRoot = test.skipIf(!root);
const why = root ? "" : " (skipped: new namespaces need root)";

function plan(...argv: string[]): Uint8Array<ArrayBuffer> {
  const p = new Recorder();
  const master = p.sys.openat(-100, "/dev/ptmx", O.O_RDWR | O.O_NOCTTY | O.O_CLOEXEC, 0);
  p.sys.ioctl(master, IOCTL.TIOCSPTLCK, new Uint8Array(4));
  const slave = p.sys.ioctl(master, IOCTL.TIOCGPTPEER, O.O_RDWR | O.O_NOCTTY);
  contain(
    p,
    () => {
      p.sys.setsid();
      p.sys.ioctl(slave, IOCTL.TIOCSCTTY, 0);
      for (const fd of [0, 1, 2]) p.sys.dup3(slave, fd, 0);
      p.sys.close_range(3, 0xffffffff, 4);
      exec(p, ...argv);
    },
    { master, interactive: true },
  );
  // The parent's copy of the slave would keep the terminal from ending.
  const wait = p.steps.findIndex((step) => step.op === "await");
  p.sys.close(slave);
  p.steps.splice(wait, 0, ...p.steps.splice(-1));
  return encodePlan(p);
}

const driver = `
import fcntl, os, pty, select, signal, struct, sys, termios, time
init, plan = sys.argv[1], sys.argv[2]
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
before = termios.tcgetattr(slave)
pid = os.fork()
if pid == 0:
  os.setsid(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
  for fd in 0, 1, 2: os.dup2(slave, fd)
  fd = os.open(plan, os.O_RDONLY); os.set_inheritable(fd, True)
  os.execve(init, ["ocibox-init", str(fd)], {})
text = b""
def until(word):
  global text
  end = time.time() + 10
  while word not in text and time.time() < end:
    if select.select([master], [], [], 0.1)[0]: text += os.read(master, 4096)
until(b"ready")
raw = termios.tcgetattr(slave)[3] & termios.ICANON == 0
os.write(master, b"stty size\\n"); until(b"33 77")
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 88, 0, 0)); time.sleep(0.2)
os.write(master, b"stty size\\n"); until(b"44 88")
os.write(master, b"trap 'echo in''terrupted' INT; echo armed''!\\n"); until(b"armed!")
os.write(master, b"\\x03"); time.sleep(0.2); os.write(master, b"\\n"); until(b"interrupted")
os.write(master, b"exit 6\\n")
status = os.waitpid(pid, 0)[1]
print(raw, b"33 77" in text, b"44 88" in text, b"interrupted" in text, os.WEXITSTATUS(status), termios.tcgetattr(slave) == before)
`;

asRoot(
  `raw mode, both directions, window size, ctrl-C, the terminal as it was${why}`,
  async () => {
    const dir = mkdtempSync(join(tmpdir(), "ocibox-pty-"));
    try {
      using init = createInit();
      await Bun.write(join(dir, "plan"), plan("/bin/sh", "-c", "echo ready; exec sh"));
      const child = Bun.spawn(["python3", "-c", driver, `/proc/${process.pid}/fd/${init.fd}`, join(dir, "plan")], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      expect(await new Response(child.stdout).text()).toBe("True True True True 6 True\n");
    } finally {
      rmSync(dir, { recursive: true });
    }
  },
  60_000,
);

asRoot(
  `stdin from a pipe: its end is the terminal's, and all output arrives${why}`,
  async () => {
    const child = spawnInit(plan("/bin/sh", "-c", "stty -echo -onlcr; echo; cat | wc -c; seq 1 20000; exit 4"), {
      stdio: ["pipe", "pipe", "pipe"],
    });
    const input = child.stdin as Bun.FileSink;
    await Bun.sleep(200);
    input.write("one\ntwo");
    await input.end();
    const text = await new Response(child.stdout as ReadableStream).text();
    expect(await child.exited).toBe(4);
    expect(text).toEndWith(`${Array.from({ length: 20000 }, (_, i) => i + 1).join("\n")}\n`);
    expect(text.replaceAll("\r", "").trimStart()).toStartWith("7\n1\n");
  },
  30_000,
);
