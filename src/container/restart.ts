/** When a container is started once more by itself: docker's policies, without a daemon. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { isThere, readText, writeNew } from "../../ffi/files.ts";
import { type Restart, shortestDelay } from "../plan/restart.ts";
import type { Store } from "../store/store.ts";
import { type ContainerRecord, changedAt, containerDirectory, exitFile } from "./record.ts";
import type { ContainerId } from "./state.ts";

/** By which the program knows that it was called by a supervisor, and by which of them. */
export const restartedVariable = "OCIBOX_RESTARTED";

/** Where a container is in its restarts. */
export interface Turn {
  /** How often it was started by itself since somebody has started it. */
  readonly count: number;
  /** How often without having run for a while in between. */
  readonly hasty: number;
  /** Another one each time that somebody starts it: what still waits from before is too late. */
  readonly begun: string;
}

export const firstTurn: Turn = { count: 0, hasty: 0, begun: "made" };
/** ms: the first wait is doubled for each hasty end, up to this. */
const longest = 60_000;
/** Whoever ran for so long was not hasty. Seconds. */
const enough = 10;

function turnFile(root: string, id: ContainerId): string {
  return `${containerDirectory(root, id)}/restarts`;
}

function stoppedFile(root: string, id: ContainerId): string {
  return `${containerDirectory(root, id)}/stopped`;
}

export function readTurn(root: string, id: ContainerId): Turn {
  const [count = "", hasty = "", begun] = (readText(turnFile(root, id)) ?? "").split(" ");
  return begun === undefined ? firstTurn : { count: Number(count), hasty: Number(hasty), begun };
}

function writeTurn(root: string, id: ContainerId, turn: Turn): Turn {
  attempt("unlinkat", AT_FDCWD, turnFile(root, id), 0);
  writeNew(turnFile(root, id), `${turn.count} ${turn.hasty} ${turn.begun}`, 0o600);
  return turn;
}

/** Whoever stops a container means it. @throws SyscallError where it would be started again all the same */
export function holdBack(root: string, { id, restart }: Pick<ContainerRecord, "id" | "restart">): void {
  if (restart === undefined) return;
  const flags = O.O_WRONLY | O.O_CREAT | O.O_NOFOLLOW | O.O_CLOEXEC;
  const path = stoppedFile(root, id);
  const fd = attempt("openat", AT_FDCWD, path, flags, 0o600);
  if (fd < 0) throw new SyscallError("openat", [AT_FDCWD, path, flags, 0o600], -fd);
  direct.close(fd);
}

/** Somebody starts it: it is as new. */
function begin(root: string, id: ContainerId): Turn {
  attempt("unlinkat", AT_FDCWD, stoppedFile(root, id), 0);
  return writeTurn(root, id, { count: 0, hasty: 0, begun: crypto.getRandomValues(new Uint8Array(8)).toHex() });
}

/** What the next supervisor is told. */
function wordOf({ begun, count }: Turn): string {
  return `${begun}:${count}`;
}

/** Its supervisor starts it: one more turn; undefined where somebody has stopped or started it meanwhile. */
function goOn(root: string, id: ContainerId, word: string): Turn | undefined {
  const last = readTurn(root, id);
  if (isThere(stoppedFile(root, id)) || wordOf(last) !== word) return undefined;
  const began = changedAt(`${containerDirectory(root, id)}/process`);
  const ended = changedAt(exitFile(root, id));
  const ran = began === undefined || ended === undefined ? 0 : (ended.getTime() - began.getTime()) / 1000;
  return writeTurn(root, id, { ...last, count: last.count + 1, hasty: ran < enough ? last.hasty + 1 : 0 });
}

/** @param again what its supervisor was told, where that starts it; else somebody does */
export function nextTurn(root: string, record: ContainerRecord, again: string | undefined): Turn | undefined {
  if (record.restart === undefined) return firstTurn;
  return again === undefined ? begin(root, record.id) : goOn(root, record.id, again);
}

/** Seconds since boot, proc_uptime(5). */
function uptime(): number {
  return Math.floor(Number((readText("/proc/uptime") ?? "0").split(" ")[0]));
}

/** The bridge may have to be made once more. */
function subnet(): string[] {
  const { OCIBOX_SUBNET } = Bun.env;
  return OCIBOX_SUBNET ? [`OCIBOX_SUBNET=${OCIBOX_SUBNET}`] : [];
}

/** What its supervisor is to do at its end; undefined where that is nothing. */
export function restartFor(
  store: Store,
  state: string,
  { id, restart }: Pick<ContainerRecord, "id" | "restart">,
  turn: Turn,
): Restart | undefined {
  if (restart === undefined) return undefined;
  const [policy, most] = restart.split(":");
  if (most !== undefined && turn.count >= Number(most)) return undefined;
  const places = [`--root=${store.root}`, `--state=${state}`];
  const additional = store.additional.map((each) => `--additional-store=${each.root}`);
  return {
    onFailure: policy === "on-failure",
    delay: Math.min(longest, shortestDelay * 2 ** Math.min(turn.hasty, 16)),
    enough: turn.hasty === 0 ? undefined : uptime() + enough,
    unless: stoppedFile(store.root, id),
    program: process.execPath,
    argv: ["ocibox", ...places, ...additional, "start", id],
    env: [
      ...subnet(),
      `${restartedVariable}=${wordOf(turn)}`,
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ],
  };
}
