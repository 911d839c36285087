/**
 * An ordinary user's way to be root: a program goes on in a user namespace and a mount namespace of its own, where it is
 * root of whatever ids it is given. user_namespaces(7), "Defining user and group ID mappings".
 *
 *     this process                      a helper for each kind of ids (only where there are ranges)
 *       │ clone3 ──────────────────────────▶ waits
 *       │ unshare(user, mount)               │
 *       │ "g" ─────────────────────────────▶ newuidmap, newgidmap
 *       │ waits ◀────────────────────────────│ its exit status
 *       │ execveat: the same program, the same process
 */
import { AT, AT_FDCWD, CLONE, F, O, P_PIDFD, SIG, WEXITED } from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { Recorder, type Slot } from "../../ffi/plan.ts";
import { ownEnvironment, struct } from "../../ffi/sys.ts";
import { cloneArgsSize } from "./builder.ts";
import { socketPair } from "./sync.ts";

const FD_CLOEXEC = 1;
/** siginfo_t of a child: where its status is. waitid(2) */
const siginfoSize = 128;
const statusAt = 24;

/** Ids that somebody may use besides their own: subuid(5). */
export interface IdRange {
  readonly first: number;
  readonly size: number;
}

/** Who gives a process ids that are not its user's, being setuid root: newuidmap(1), newgidmap(1). */
export interface Mapper {
  /** Its path. */
  readonly program: string;
  readonly range: IdRange;
}

export interface Entering {
  readonly uid: number;
  readonly gid: number;
  /** This process's, and that of the process that the plan is run by, which is the same. */
  readonly pid: number;
  /** Without them the user's own ids are all that there are, and root's. */
  readonly mappers: { readonly uid: Mapper; readonly gid: Mapper } | undefined;
  /** In place of a new user namespace that of a process, by its number: one that this user has made. */
  readonly of: number | undefined;
  /** A descriptor of the program that goes on, which init inherits. */
  readonly program: number;
  readonly argv: readonly string[];
}

interface Helper {
  readonly socket: Slot;
  readonly pidfd: Slot;
  readonly name: string;
  readonly program: string;
}

const forbidden =
  "cannot make a user namespace, which an ordinary user needs to be root of a container (user.max_user_namespaces, " +
  "kernel.unprivileged_userns_clone or AppArmor may forbid it)";

/** A process that stays outside, and writes the map once there is a namespace. */
function helper(p: Recorder, { pid }: Entering, own: number, { program, range }: Mapper): Helper {
  const name = program.slice(program.lastIndexOf("/") + 1);
  const pair = socketPair(p, name);
  const memory = p.memory(`${name}.pidfd`, 8);
  const child = p.sys.clone3(
    struct<Slot>("clone_args", { flags: BigInt(CLONE.CLONE_PIDFD), pidfd: memory, exit_signal: SIG.SIGCHLD }),
    cloneArgsSize,
  );
  const outside = p.newLabel(`beside ${name}`);
  p.branch(child, "!=", 0, outside);
  p.sys.close(pair[0]);
  const go = p.newLabel("go");
  const got = p.sys.read(pair[1], p.memory(`${name}.go`, 8), 1);
  p.branch(got, "==", 1, go);
  p.add({ op: "exit", code: 1 });
  p.place(go);
  const words = [name, pid, 0, own, 1, 1, range.first, range.size].map(String);
  p.add({ op: "giveSignals" });
  p.sys.execve(program, words, []);
  p.place(outside);
  p.sys.close(pair[1]);
  const pidfd = p.slot(`${name}.pidfd`);
  p.add({ op: "load", memory, offset: 0, slot: pidfd });
  return { socket: pair[0], pidfd, name, program };
}

function map(p: Recorder, { socket, pidfd, name, program }: Helper): void {
  p.sys.write(socket, "g", 1);
  p.sys.close(socket);
  const info = p.memory(`${name}.status`, siginfoSize);
  p.sys.waitid(P_PIDFD, pidfd, info, WEXITED, null);
  p.sys.close(pidfd);
  const status = p.slot(`${name}.status`);
  p.add({ op: "load", memory: info, offset: statusAt, slot: status });
  const mapped = p.newLabel(`${name} is done`);
  p.branch(status, "==", 0, mapped);
  const says = `${program} has not given the ids of ${name === "newuidmap" ? "/etc/subuid" : "/etc/subgid"}`;
  p.add({ op: "fail", errno: errnoOf("EPERM"), says: `${says}: operation not permitted`, blame: "ocibox" });
  p.place(mapped);
}

/** The map of a user's own id alone, which nobody has to be asked for. */
function mapOwn(p: Recorder, file: string, text: string): void {
  const fd = p.sys.openat(AT_FDCWD, `/proc/self/${file}`, O.O_WRONLY | O.O_CLOEXEC, 0);
  p.sys.write(fd, text, text.length);
  p.sys.close(fd);
}

/** The user namespace of a process; what is mounted here is nobody's business there, nor the other way round. */
function join(p: Recorder, pid: number): void {
  const fd = p.sys.openat(AT_FDCWD, `/proc/${pid}/ns/user`, O.O_RDONLY | O.O_CLOEXEC, 0);
  p.sys.setns(fd, CLONE.CLONE_NEWUSER);
  p.sys.close(fd);
  p.sys.unshare(CLONE.CLONE_NEWNS);
}

/** Whether there can be a user namespace: exit code 0 where there can. */
export function compileTrying(): Recorder {
  const p = new Recorder();
  const code = p.slot("code");
  const failed = p.newLabel("failed");
  p.add({ op: "onFailure", to: failed, code });
  p.sys.unshare(CLONE.CLONE_NEWUSER | CLONE.CLONE_NEWNS);
  p.add({ op: "exit", code: 0 });
  p.place(failed);
  p.add({ op: "exit", code: 1 });
  return p;
}

/** @param entering who, and what goes on then */
export function compileEntering(entering: Entering): Recorder {
  const p = new Recorder();
  const { uid, gid, mappers } = entering;
  const code = p.slot("code");
  const failed = p.newLabel("failed");
  p.add({ op: "set", slot: code, value: 125 });
  p.add({ op: "onFailure", to: failed, code });
  p.add({ op: "takeSignals" });
  const helpers =
    mappers === undefined ? [] : [helper(p, entering, uid, mappers.uid), helper(p, entering, gid, mappers.gid)];
  if (entering.of === undefined) {
    p.with({ says: forbidden }).sys.unshare(CLONE.CLONE_NEWUSER | CLONE.CLONE_NEWNS);
    for (const each of helpers) map(p, each);
    if (mappers === undefined) {
      mapOwn(p, "uid_map", `0 ${uid} 1\n`);
      mapOwn(p, "setgroups", "deny");
      mapOwn(p, "gid_map", `0 ${gid} 1\n`);
    }
  } else join(p, entering.of);
  p.sys.setresgid(0, 0, 0);
  p.sys.setresuid(0, 0, 0);
  p.sys.fcntl(entering.program, F.F_SETFD, FD_CLOEXEC);
  p.add({ op: "giveSignals" });
  p.sys.execveat(entering.program, "", [...entering.argv], ownEnvironment, AT.AT_EMPTY_PATH);
  p.place(failed);
  p.add({ op: "exit", code });
  return p;
}
