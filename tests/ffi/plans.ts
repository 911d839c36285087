/** Small plans, and init run on them. */
import { encodePlan, type Fault } from "../../ffi/encode.ts";
import { spawnInit } from "../../ffi/launch.ts";
import { Recorder, type Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export async function run(write: (p: Recorder) => void, fault?: Fault): Promise<Outcome> {
  const p = new Recorder();
  write(p);
  const child = spawnInit(encodePlan(p, fault === undefined ? {} : { fault }));
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout as ReadableStream).text(),
    new Response(child.stderr as ReadableStream).text(),
    child.exited,
  ]);
  return { code, stdout, stderr };
}

const namespaces = 0x20000 | 0x20000000;

/** clone3 into new PID and mount namespaces, the handshake, supervision, exit: what every container has. */
export function contain(p: Recorder, body: (p: Recorder) => void, terminal?: { master: Slot; interactive: boolean }) {
  const code = p.slot("code");
  const pair = p.slot("pair");
  const pidfd = p.slot("pidfd");
  const end = p.newLabel("end");
  const child = p.newLabel("child");
  p.add({ op: "takeSignals" });
  p.add({ op: "onFailure", to: end, code });
  p.sys.socketpair(1, 5 | 0o2000000, 0, pair);
  const pid = p.sys.clone3(struct<Slot>("clone_args", { flags: 0x1000 | namespaces, pidfd, exit_signal: 17 }), 88);
  p.branch(pid, "==", 0, child);
  p.sys.close(p.half(pair, 1));
  p.add({ op: "await", socket: p.half(pair, 0), byte: false });
  const master = terminal?.master ?? null;
  p.add({ op: "supervise", pid, pidfd, terminal: master, interactive: terminal?.interactive ?? false, code });
  p.place(end);
  p.add({ op: "exit", code });
  p.place(child);
  p.add({ op: "reportTo", socket: p.half(pair, 1) });
  body(p);
}

/** The last steps of a container's process. */
export function exec(p: Recorder, ...argv: string[]): void {
  p.add({ op: "giveSignals" });
  p.with({ says: `cannot run "${argv[0]}"`, blame: "command" }).sys.execve(argv[0] ?? "", argv, [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  ]);
}
