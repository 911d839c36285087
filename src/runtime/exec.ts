/** `exec`: one more process in a container that runs. This process becomes its parent's init. */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { encodePlan, type Fault } from "../../ffi/encode.ts";
import { readText } from "../../ffi/files.ts";
import { execInit } from "../../ffi/launch.ts";
import type { Step } from "../../ffi/plan.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { effectiveUid } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";
import type { ErrorSink } from "../plan/context.ts";
import { compileExec, namespacesToJoin } from "../plan/exec.ts";
import type { Process, Spec } from "../spec/runtime.ts";
import { decodeProcess, decodeSpec } from "../spec/runtime-decode.ts";
import { hasOwnMounts, withHome } from "./bundle.ts";
import { cgroupsOfProcess } from "./cgroup-host.ts";
import { checkTerminal, connectTo, inherit, keepOpen, listenerSocket } from "./handed.ts";
import { hostFacts } from "./host.ts";
import { openRoot, type ProcessMark, untilRooted } from "./process-mark.ts";
import { type Container, needContainer, stateText } from "./state.ts";

const mostProcess = 16 << 20;
const W_OK = 2;
/** What runc ends with for an error of its own. */
const ociFailure = 255;

/** What is changed of the container's own process. */
export interface ExecChanges {
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly capabilities: readonly string[];
  readonly additionalGids: readonly number[];
  readonly user: { readonly uid: number; readonly gid: number | undefined } | undefined;
  readonly cwd: string | undefined;
  readonly terminal: boolean;
  readonly noNewPrivileges: boolean | undefined;
  readonly apparmorProfile: string | undefined;
  readonly selinuxLabel: string | undefined;
}

export interface ExecRequest {
  readonly id: string;
  readonly root: string;
  /** A file with a process of runtime-spec, in place of the container's own with changes. */
  readonly process: string | ExecChanges;
  readonly detach: boolean;
  readonly ignorePaused: boolean;
  readonly pidFile: string | undefined;
  readonly consoleSocket: string | undefined;
  readonly pidfdSocket: string | undefined;
  readonly preserveFds: number;
  /** Cgroups below the container's: by controller, or "" for all. */
  readonly cgroups: ReadonlyMap<string, string>;
  sinks(): ErrorSink[];
  readonly explain: ((steps: readonly Step[]) => void) | undefined;
  readonly fault: Fault | undefined;
}

function processFrom(path: string, own: Process | undefined): Process {
  const text = readText(path, mostProcess);
  if (text === undefined) throw new OciboxError("NOT_FOUND", `--process: open ${path}: no such file or directory`);
  const process = decodeProcess(text, path);
  // What is left out is the container's own: its rights, and its score, which the kernel would not let one go below.
  const { capabilities = own?.capabilities, oomScoreAdj = own?.oomScoreAdj } = process;
  return {
    ...process,
    ...(capabilities === undefined ? {} : { capabilities }),
    ...(oomScoreAdj === undefined ? {} : { oomScoreAdj }),
  };
}

function changed(own: Process, changes: ExecChanges): Process {
  const { capabilities: added, user } = changes;
  const sets = own.capabilities ?? {};
  return {
    ...own,
    args: [...changes.args],
    env: [...(own.env ?? []), ...changes.env],
    terminal: changes.terminal,
    user: {
      ...own.user,
      ...(user === undefined ? {} : { uid: user.uid, gid: user.gid ?? own.user.gid }),
      additionalGids: [...(own.user.additionalGids ?? []), ...changes.additionalGids],
    },
    ...(changes.cwd === undefined ? {} : { cwd: changes.cwd }),
    ...(changes.noNewPrivileges === undefined ? {} : { noNewPrivileges: changes.noNewPrivileges }),
    ...(changes.apparmorProfile === undefined ? {} : { apparmorProfile: changes.apparmorProfile }),
    ...(changes.selinuxLabel === undefined ? {} : { selinuxLabel: changes.selinuxLabel }),
    ...(added.length === 0
      ? {}
      : {
          capabilities: {
            ...sets,
            bounding: [...(sets.bounding ?? []), ...added],
            effective: [...(sets.effective ?? []), ...added],
            permitted: [...(sets.permitted ?? []), ...added],
            // Those alone that are inheritable can be; a process whose configuration has no such set gets no ambient ones.
            ...(sets.inheritable === undefined ? {} : { ambient: [...(sets.ambient ?? []), ...added] }),
          },
        }),
  };
}

function inode(path: string): number {
  const stat = alloc(256);
  return attempt("statx", AT_FDCWD, path, 0, 0x100, stat) < 0 ? 0 : readField("statx", stat, "stx_ino");
}

/** A path below a cgroup, which may not lead out of it. */
function below(directory: string, path: string | undefined): string {
  if (path === undefined) return directory;
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.includes("..")) throw new OciboxError("INVALID", `--cgroup: ${path} is not a sub cgroup path`);
  return [directory, ...parts].join("/");
}

/** Where the process goes: into the container's cgroups, or into those below that it was told. */
function cgroupsFor(
  container: Container,
  given: ReadonlyMap<string, string>,
  pid: number,
): { tasks: string[]; cgroup: string | undefined } {
  const { mode, directories } = container.record.cgroups;
  const known = new Set<string>();
  const pathFor = (controllers: readonly string[]): string | undefined => {
    for (const each of controllers) {
      known.add(each);
      const path = given.get(each);
      if (path !== undefined) return path;
    }
    return given.get("");
  };
  const tasks: string[] = [];
  let cgroup: string | undefined;
  for (const directory of directories) {
    const hierarchy = mode === "v2" ? "" : (directory.split("/")[4] ?? "");
    if (mode === "v2" || hierarchy === "unified") {
      const path = pathFor([]);
      cgroup = below(directory, path);
      // Where it has handed controllers down, its processes are further below: then it goes to where the first is.
      if (path === undefined && (readText(`${directory}/cgroup.subtree_control`) ?? "").trim() !== "") {
        const mount = mode === "v2" ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified";
        cgroup = `${mount}${cgroupsOfProcess(pid).get("") ?? ""}`;
      }
    } else tasks.push(`${below(directory, pathFor(hierarchy.split(",")))}/tasks`);
  }
  for (const controller of given.keys())
    if (controller !== "" && !known.has(controller))
      throw new OciboxError("INVALID", `--cgroup: unknown controller ${controller}`);
  return { tasks, cgroup };
}

function checkStatus(container: Container, ignorePaused: boolean): void {
  const status = container.status();
  if (status === "stopped" || status === "creating")
    throw new OciboxError("INVALID", `cannot exec in a ${status} container: container not running`);
  if (status === "paused" && !ignorePaused) throw new OciboxError("INVALID", "cannot exec in a paused container");
}

/**
 * v2: whether this process may make one in that cgroup, for which it must be allowed to write to the cgroup that both
 * are below. cgroups(7), "Cgroups delegation containment"
 */
function mayMove(directory: string): boolean {
  const own = `/sys/fs/cgroup${cgroupsOfProcess("self").get("") ?? ""}`.split("/");
  const target = directory.split("/");
  let shared = 0;
  while (shared < own.length && own[shared] === target[shared]) shared++;
  const above = target.slice(0, shared).join("/");
  return [above, directory].every((each) => attempt("faccessat2", AT_FDCWD, `${each}/cgroup.procs`, W_OK, 0) >= 0);
}

/** The root of a container whose mounts are the host's. @throws OciboxError where its process has just ended */
function rootOf(mark: ProcessMark): number {
  const root = openRoot(mark);
  if (root === undefined) throw new OciboxError("INVALID", "container not running");
  return inherit(root.release());
}

/** Does not return, but where the plan was only to be printed. @throws OciboxError */
export async function execInContainer(request: ExecRequest): Promise<number> {
  const container = needContainer(request.root, request.id);
  checkStatus(container, request.ignorePaused);
  const { cgroups, unit } = container.record;
  const [directory] = cgroups.directories;
  if (cgroups.mode !== "v2" || directory === undefined || unit === undefined || mayMove(directory))
    return launch(request, container);
  // Then systemd moves this process, and what it makes is there too.
  const { joinUnit } = await import("./systemd.ts");
  await joinUnit(unit);
  return launch(request, container);
}

async function launch(request: ExecRequest, container: Container): Promise<number> {
  using target = container.openProcess();
  const { mark } = container;
  if (target === undefined || mark === undefined) throw new OciboxError("INVALID", "container not running");
  if (!untilRooted(mark, container.record.rootfs))
    throw new OciboxError("INVALID", "cannot exec in a container that is still being made");
  const spec: Spec = decodeSpec(container.readConfig());
  if (typeof request.process !== "string" && spec.process === undefined)
    throw new OciboxError("INVALID", "the container has no process in its config.json", {
      hint: "give one: --process",
    });
  const asked =
    typeof request.process === "string"
      ? processFrom(request.process, spec.process)
      : changed(spec.process as Process, request.process);
  const process = withHome({ ...spec, process: asked }, `/proc/${mark.pid}/root`).process as Process;
  checkTerminal(process.terminal === true, request.detach, request.consoleSocket);
  keepOpen(request.preserveFds);
  const users = (spec.linux?.namespaces ?? []).some((each) => each.type === "user");
  const sameUser = users && inode("/proc/self/ns/user") === inode(`/proc/${mark.pid}/ns/user`);
  const plan = compileExec(spec, process, hostFacts(), {
    id: request.id,
    target: inherit(target.fd),
    root: hasOwnMounts(spec) ? undefined : rootOf(mark),
    joined: namespacesToJoin(spec, sameUser),
    privileged: effectiveUid() === 0,
    ...cgroupsFor(container, request.cgroups, mark.pid),
    detach: request.detach,
    failure: ociFailure,
    interactive: true,
    asRunc: true,
    pidFile: request.pidFile,
    consoleSocket:
      request.consoleSocket === undefined ? undefined : connectTo(request.consoleSocket, "--console-socket"),
    pidfdSocket: request.pidfdSocket === undefined ? undefined : connectTo(request.pidfdSocket, "--pidfd-socket"),
    keepFds: request.preserveFds,
    keyring: container.record.keyring === true,
    seccompSocket: await listenerSocket(spec),
    state: stateText(container.record, "running"),
    sinks: request.sinks(),
  });
  if (request.explain !== undefined) {
    request.explain(plan.steps);
    return 0;
  }
  execInit(encodePlan(plan, { fault: request.fault }));
}
