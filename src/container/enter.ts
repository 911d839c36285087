/** An ordinary user's start: the program goes on in a user namespace of its own, as its root. */
import { AT_FDCWD, O, PR } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { encodePlan } from "../../ffi/encode.ts";
import { readText } from "../../ffi/files.ts";
import { execInit, spawnInit } from "../../ffi/launch.ts";
import { compileEntering, compileTrying, type Entering, type IdRange, type Mapper } from "../plan/enter.ts";
import { callersEnvironment } from "../runtime/handed.ts";

const mostRanges = 1 << 20;
/** Fewer are of no use: nobody of 65534 ("nobody") is among them. */
const leastIds = 65_536;

/** The first range of a user's own that is large enough: subuid(5). @param names the user's name and number */
export function rangeIn(text: string, names: readonly string[]): IdRange | undefined {
  for (const line of text.split("\n")) {
    const [owner = "", first = "", size = ""] = line.split(":");
    if (!names.includes(owner) || !/^\d{1,10}$/.test(first) || !/^\d{1,10}$/.test(size)) continue;
    if (Number(size) >= leastIds && Number(first) > 0) return { first: Number(first), size: Number(size) };
  }
  return undefined;
}

/** The user's name in /etc/passwd; another source of names is not asked. */
function nameOf(uid: number): string[] {
  for (const line of (readText("/etc/passwd", mostRanges) ?? "").split("\n")) {
    const [name = "", , id] = line.split(":");
    if (id === String(uid)) return [name];
  }
  return [];
}

/** @returns undefined where there is no range, or nobody who could map one: what is setuid is not so without new privileges */
function mapper(program: string, file: string, names: readonly string[]): Mapper | undefined {
  if (direct.prctl(PR.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) !== 0) return undefined;
  const range = rangeIn(readText(file, mostRanges) ?? "", names);
  const path = Bun.which(program);
  return range === undefined || path === null ? undefined : { program: path, range };
}

function mappersOf(uid: number): Entering["mappers"] {
  const names = [...nameOf(uid), String(uid)];
  const [ofUser, ofGroup] = [mapper("newuidmap", "/etc/subuid", names), mapper("newgidmap", "/etc/subgid", names)];
  return ofUser === undefined || ofGroup === undefined ? undefined : { uid: ofUser, gid: ofGroup };
}

/** Whether `enterUserNamespace` can do what it is for. */
export async function canEnter(): Promise<boolean> {
  const tried = spawnInit(encodePlan(compileTrying()), { stdio: ["ignore", "ignore", "ignore"] });
  return (await tried.exited) === 0;
}

/**
 * Starts this program anew with the same arguments, as root of a user namespace: with the ids that /etc/subuid and
 * /etc/subgid give the user, where newuidmap(1) is there to map them, else with the user's own alone. The process stays.
 * @param places where things are kept, as variables for the program: root's own would be others
 * @param of a process of the user's, in whose user namespace it is to be
 * @throws SyscallError; init prints what fails then, and ends with 125
 */
export function enterUserNamespace(places: Readonly<Record<string, string>>, of?: number): never {
  const [uid, gid] = [direct.geteuid(), direct.getegid()];
  const plan = compileEntering({
    uid,
    gid,
    pid: process.pid,
    of,
    mappers: of === undefined ? mappersOf(uid) : undefined,
    program: direct.openat(AT_FDCWD, "/proc/self/exe", O.O_PATH, 0),
    argv: [process.argv0, ...process.argv.slice(2)],
  });
  const set = new Set(Object.keys(places));
  const env = callersEnvironment().filter((each) => !set.has(each.slice(0, each.indexOf("="))));
  execInit(encodePlan(plan), { env: [...env, ...Object.entries(places).map((pair) => pair.join("="))] });
}
