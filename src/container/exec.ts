/** One more process in a container of `ocibox run`. This process becomes init, which supervises it or leaves. */
import { encodePlan, type Fault } from "../../ffi/encode.ts";
import { execInit } from "../../ffi/launch.ts";
import type { Step } from "../../ffi/plan.ts";
import { checkIds } from "../bundle/bundle.ts";
import { type Account, lookUpUser } from "../bundle/user.ts";
import { cleanPath } from "../bundle/values.ts";
import { OciboxError } from "../errors.ts";
import { planCgroups } from "../plan/cgroups/plan.ts";
import { compileExec, namespacesToJoin } from "../plan/exec.ts";
import type { HostFacts } from "../plan/facts.ts";
import { inherit } from "../runtime/handed.ts";
import { hostFacts } from "../runtime/host.ts";
import { openMarked, openRoot, untilRooted } from "../runtime/process-mark.ts";
import { readInRoot } from "../runtime/read-in-root.ts";
import type { Process } from "../spec/runtime.ts";
import type { ContainerStatus } from "./record.ts";
import { noteOf, notRunning } from "./running.ts";
import { readSpec } from "./spec.ts";

/** As for `run`: larger passwd and group files are refused, unread. */
const mostAccounts = 4 << 20;

export interface ExecOptions {
  readonly command: readonly string[];
  /** KEY=VALUE, later ones winning. */
  readonly env: readonly string[];
  readonly workdir: string | undefined;
  readonly user: string | undefined;
  readonly tty: boolean;
  readonly interactive: boolean;
  readonly detach: boolean;
  readonly explain: ((steps: readonly Step[]) => void) | undefined;
  readonly fault: Fault | undefined;
}

/** The container's environment with what is given; HOME is the account's, where there is another. */
function environmentOf(own: Process, options: ExecOptions, account: Account | undefined): string[] {
  const found = new Map<string, string>();
  const put = (item: string): void => {
    found.set(item.slice(0, item.indexOf("=")), item);
  };
  for (const item of own.env ?? []) put(item);
  if (account !== undefined) put(`HOME=${account.home}`);
  if (options.tty && !found.has("TERM")) put("TERM=xterm");
  for (const item of options.env) put(item);
  return [...found.values()];
}

/** The container's own process, with what is changed. @param root of the container, by a descriptor */
function processOf(own: Process, options: ExecOptions, root: number, facts: HostFacts): Process {
  for (const arg of options.command)
    if (arg.includes("\0")) throw new OciboxError("INVALID", "the command has a NUL in it");
  const account =
    options.user === undefined
      ? undefined
      : lookUpUser(
          options.user,
          readInRoot(root, "etc/passwd", mostAccounts),
          readInRoot(root, "etc/group", mostAccounts),
        );
  if (account !== undefined) checkIds(account, facts);
  const uid = account?.uid ?? own.user.uid;
  const bounding = own.capabilities?.bounding ?? [];
  const held = uid === 0 ? bounding : [];
  const groups = facts.ids?.setgroups === false ? [] : (account?.additionalGids ?? []);
  return {
    ...own,
    args: [...options.command],
    env: environmentOf(own, options, account),
    terminal: options.tty,
    user: account === undefined ? own.user : { uid: account.uid, gid: account.gid, additionalGids: groups },
    capabilities: { bounding, effective: held, permitted: held, inheritable: [], ambient: [] },
    ...(options.workdir === undefined ? {} : { cwd: cleanPath(options.workdir, "the working directory") }),
  };
}

/**
 * Runs a command in a container. Does not return: init takes over this process, and ends with the command's exit code.
 * Returns only where the plan was to be printed.
 * @throws OciboxError
 */
export function execInRunning(root: string, container: ContainerStatus, options: ExecOptions): number {
  const mark = noteOf(root, container);
  using target = openMarked(mark);
  if (target === undefined || !untilRooted(mark)) throw notRunning(container);
  const spec = readSpec(root, container);
  if (spec.process === undefined) throw new OciboxError("STORE", `the container "${container.name}" has no process`);
  using tree = openRoot(mark);
  if (tree === undefined) throw notRunning(container);
  const facts = hostFacts();
  const process = processOf(spec.process, options, tree.fd, facts);
  const { mode, directories } = planCgroups(spec, facts);
  const plan = compileExec(spec, process, facts, {
    id: container.id,
    target: inherit(target.fd),
    root: undefined,
    joined: namespacesToJoin(spec, false),
    privileged: true,
    tasks: mode === "v2" ? [] : directories.map((each) => `${each}/tasks`),
    cgroup: mode === "v2" ? directories[0] : undefined,
    detach: options.detach,
    failure: undefined,
    interactive: options.interactive,
    asRunc: false,
    pidFile: undefined,
    consoleSocket: undefined,
    pidfdSocket: undefined,
    keepFds: 0,
    keyring: false,
    seccompSocket: undefined,
    state: ["", ""],
    sinks: [],
  });
  if (options.explain !== undefined) {
    options.explain(plan.steps);
    return 0;
  }
  execInit(encodePlan(plan, { fault: options.fault }));
}
