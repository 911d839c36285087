/** When a container is started once more by itself: docker's policies, without a daemon. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { isThere, readText, writeNew } from "../../ffi/files.ts";
import type { Restart } from "../plan/restart.ts";
import type { Store } from "../store/store.ts";
import { type ContainerRecord, changedAt, containerDirectory, exitFile } from "./record.ts";
import type { ContainerId } from "./state.ts";

/** By which the program knows that it was called by a supervisor. */
export const restartedVariable = "OCIBOX_RESTARTED";

/** Where a container is in its restarts. */
export interface Turn {
  /** How often it was started by itself since somebody has started it. */
  readonly count: number;
  /** How often without having run for a while in between. */
  readonly hasty: number;
}

export const firstTurn: Turn = { count: 0, hasty: 0 };
/** ms: the first wait, doubled for each hasty end, up to the last. */
const [shortest, longest] = [100, 60_000];
/** Whoever ran for so long was not hasty. ms */
const enough = 10_000;

function turnFile(root: string, id: ContainerId): string {
  return `${containerDirectory(root, id)}/restarts`;
}

function stoppedFile(root: string, id: ContainerId): string {
  return `${containerDirectory(root, id)}/stopped`;
}

export function readTurn(root: string, id: ContainerId): Turn {
  const [count, hasty] = (readText(turnFile(root, id)) ?? "0 0").split(" ").map(Number);
  return { count: count || 0, hasty: hasty || 0 };
}

/** Whoever stops a container means it. */
export function holdBack(root: string, id: ContainerId): void {
  const flags = O.O_WRONLY | O.O_CREAT | O.O_NOFOLLOW | O.O_CLOEXEC;
  const fd = attempt("openat", AT_FDCWD, stoppedFile(root, id), flags, 0o600);
  if (fd >= 0) direct.close(fd);
}

/** Somebody starts it: it is as new. */
function begin(root: string, id: ContainerId): Turn {
  for (const file of [stoppedFile(root, id), turnFile(root, id)]) attempt("unlinkat", AT_FDCWD, file, 0);
  return firstTurn;
}

/** It has started itself: one more turn; undefined where somebody has stopped it meanwhile. */
function goOn(root: string, id: ContainerId): Turn | undefined {
  if (isThere(stoppedFile(root, id))) return undefined;
  const { count, hasty } = readTurn(root, id);
  const began = changedAt(`${containerDirectory(root, id)}/process`);
  const ended = changedAt(exitFile(root, id));
  const ran = began === undefined || ended === undefined ? 0 : ended.getTime() - began.getTime();
  const turn = { count: count + 1, hasty: ran < enough ? hasty + 1 : 0 };
  attempt("unlinkat", AT_FDCWD, turnFile(root, id), 0);
  writeNew(turnFile(root, id), `${turn.count} ${turn.hasty}`, 0o600);
  return turn;
}

/** @param again whether its supervisor starts it; else somebody does */
export function nextTurn(root: string, id: ContainerId, again: boolean): Turn | undefined {
  return again ? goOn(root, id) : begin(root, id);
}

/** What its supervisor is to do at its end; undefined where that is nothing. */
export function restartFor(
  store: Store,
  state: string,
  { id, restart }: Pick<ContainerRecord, "id" | "restart">,
  { count, hasty }: Turn,
): Restart | undefined {
  if (restart === undefined) return undefined;
  const [policy, most] = restart.split(":");
  if (most !== undefined && count >= Number(most)) return undefined;
  const places = [`--root=${store.root}`, `--state=${state}`];
  const additional = store.additional.map((each) => `--additional-store=${each.root}`);
  return {
    onFailure: policy === "on-failure",
    delay: Math.min(longest, shortest * 2 ** Math.min(hasty, 16)),
    unless: stoppedFile(store.root, id),
    program: process.execPath,
    argv: ["ocibox", ...places, ...additional, "start", id],
    env: [`${restartedVariable}=1`, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
  };
}
