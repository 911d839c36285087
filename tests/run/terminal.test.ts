/** `ocibox run -it` in a real terminal: tmux. */
import { expect } from "bun:test";
import { around, unchanged } from "../lib/around.ts";
import { testWith } from "../lib/needs.ts";
import { run } from "../lib/registry.ts";
import { binary, inventory, Sandbox, until } from "../lib/sandbox.ts";

const needs = { root: true, programs: ["docker-registry", "busybox", "tmux"] };
const test = testWith(needs);
let box: Sandbox;

around(needs, async (owned) => {
  unchanged(owned, inventory);
  box = await Sandbox.ownedBy(owned);
  expect((await box.ocibox(["pull", "-q", "alpine"])).code).toBe(0);
});

/** A terminal of 80 by 24 with a shell in it, and its own server. */
class Terminal implements AsyncDisposable {
  readonly #socket = `ocibox-test-${process.pid}-${crypto.randomUUID().slice(0, 8)}`;

  #tmux(...words: string[]): Promise<string> {
    return run("tmux", "-L", this.#socket, "-f", "/dev/null", ...words);
  }

  static async start(): Promise<Terminal> {
    const terminal = new Terminal();
    try {
      return await terminal.#start();
    } catch (error) {
      await terminal[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(): Promise<this> {
    const variables = Object.entries({ ...box.env, OCIBOX: binary }).flatMap(([name, value]) => [
      "-e",
      `${name}=${value}`,
    ]);
    await this.#tmux("new-session", "-d", "-x", "80", "-y", "24", ...variables, "sh");
    await this.line("PS1='outer> '");
    await this.sees("^outer>");
    return this;
  }

  type(...keys: string[]): Promise<string> {
    return this.#tmux("send-keys", ...keys);
  }

  async line(text: string): Promise<void> {
    await this.#tmux("send-keys", "-l", text);
    await this.type("Enter");
  }

  /** What is on the screen, with what has scrolled away. */
  screen(): Promise<string> {
    return this.#tmux("capture-pane", "-p", "-S", "-200");
  }

  async sees(what: string | RegExp): Promise<void> {
    const shown = async (): Promise<boolean> => new RegExp(what, "m").test(await this.screen());
    if (!(await until(shown, 10_000))) throw new Error(`the terminal never shows ${what}:\n${await this.screen()}`);
  }

  async resize(columns: number, rows: number): Promise<void> {
    await this.#tmux("resize-window", "-x", String(columns), "-y", String(rows));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tmux("kill-server").catch(() => undefined);
  }
}

const enter = "$OCIBOX run --rm -it -e PS1='inner> ' alpine sh";

test("a shell: size, resizing, ctrl-c, ctrl-d, and a terminal that is as before", async () => {
  await using terminal = await Terminal.start();
  await terminal.line(`stty -g > /tmp/before-$$; ${enter}`);
  await terminal.sees("^inner>");
  await terminal.line("tty; stty size; echo HOME=$HOME TERM=$TERM");
  await terminal.sees("^/dev/pts/0\n24 80\nHOME=/root TERM=xterm");
  await terminal.resize(101, 37);
  await terminal.line("sleep 0.2; stty size");
  await terminal.sees("^37 101");
  await terminal.line("sleep 1000");
  await Bun.sleep(100);
  await terminal.type("C-c");
  await terminal.line("echo code $?");
  await terminal.sees("^code 130");
  await terminal.line("cat");
  await terminal.line("typed");
  await terminal.sees("^typed\ntyped");
  await terminal.type("C-d");
  await terminal.line("exit_with() { return 5; }; exit_with");
  await terminal.type("C-d");
  // What is typed while the container is there is the container's, and goes with it.
  await terminal.sees("outer>$");
  await terminal.line("echo ended $?; stty -g | cmp - /tmp/before-$$ && echo same; rm /tmp/before-$$");
  await terminal.sees("^ended 5\nsame");
}, 60_000);

test("vi edits a file", async () => {
  await using terminal = await Terminal.start();
  await terminal.line(enter);
  await terminal.sees("^inner>");
  await terminal.line("vi /tmp/file");
  await terminal.sees("^~\n~");
  await terminal.type("i");
  await terminal.line("first line");
  await terminal.type("-l", "second");
  await terminal.type("Escape");
  await terminal.sees("^- /tmp/file");
  await terminal.line(":wq");
  await terminal.sees("inner>$");
  await terminal.line("clear; cat /tmp/file; exit");
  await terminal.sees("^first line\nsecond\n(?:.*\n)*outer>$");
}, 60_000);

test("the terminal is restored when the container is killed, and when ocibox is told to end", async () => {
  await using terminal = await Terminal.start();
  for (const [who, signal, code] of [
    ["sleep 4444", "SIGKILL", 137],
    ["ocibox-init .*", "SIGTERM", 143],
  ] as const) {
    // What has scrolled away is seen too: each time says another word.
    await terminal.line(`clear; ${enter} -c 'echo up for ${signal}; exec sleep 4444'`);
    await terminal.sees(`^up for ${signal}`);
    const find = (): number =>
      Number(Bun.spawnSync(["pgrep", "-n", "-x", "-f", who]).stdout.toString().split("\n")[0] ?? "");
    // Number 0 would be this process and all of its group.
    expect(await until(() => find() > 0)).toBe(true);
    process.kill(find(), signal);
    await terminal.sees(`^up for ${signal}\nouter>`);
    await terminal.line("echo ended $?; stty -a | grep -o ' echo \\| icanon'");
    await terminal.sees(`^ended ${code}\n[^-]*icanon\n`);
  }
}, 60_000);

test("-t without -i shows, and -t on what is no terminal is refused", async () => {
  const ended = await box.run(["-it", "alpine", "true"], { stdin: "" });
  expect(ended.code).toBe(125);
  expect(ended.err).toContain("not a TTY");
  await using terminal = await Terminal.start();
  await terminal.line("$OCIBOX run --rm -t alpine sh -c 'test -t 1 && echo is a tty'; echo ended $?");
  await terminal.sees("^is a tty\nended 0");
}, 60_000);
