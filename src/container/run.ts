/**
 * `ocibox run`: an image and options become a folder, a mounted tree, a config.json, a plan; then
 * this process becomes init, which runs the plan. Nothing after that is JavaScript.
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, tolerate } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { writeFully, writeNew } from "../../ffi/files.ts";
import { execInit } from "../../ffi/launch.ts";
import { Undo } from "../../ffi/undo.ts";
import { argsOf, environmentOf } from "../bundle/command.ts";
import { OciboxError } from "../errors.ts";
import { isTransport } from "../reference/reference.ts";
import type { ImageChoice } from "../store/store.ts";
import { furnish, kindOf, type RunRequest } from "./furnish.ts";
import { imageFor, type KeptPlan, keyName, recall, specFor } from "./plan-cache.ts";
import { containerDirectory } from "./record.ts";
import { type Claim, type ContainerId, claim } from "./state.ts";

/** What is known of a container's kind. */
export interface Kind {
  /** The name that its set-up is kept by; undefined where it is one of its kind. */
  readonly name: string | undefined;
  readonly kept: KeptPlan | undefined;
}

/** Looks whether there was a container of this kind before, whose layers are still there. */
export function kindOfContainer(request: RunRequest): Kind {
  if (request.name !== undefined || request.explain !== undefined || request.fault !== undefined)
    return { name: undefined, kept: undefined };
  const { imageName, platform, options, facts, interactive, detach, init, autoRemove, root, state, store } = request;
  // What a file or a directory holds may have changed since: it is looked at each time.
  if (isTransport(imageName)) return { name: undefined, kept: undefined };
  // When it began, where this program is, and the numbers of ports that are found when it starts stand in its plan.
  const { publish = [], publishAll, report, restart } = options.more;
  if (
    report !== undefined ||
    restart !== undefined ||
    publishAll === true ||
    (publish.length > 0 && publish.some(({ hostPort, upTo }) => hostPort !== upTo || hostPort === 0))
  )
    return { name: undefined, kept: undefined };
  const kinds: string[] = [];
  for (const { source, volume } of options.volumes)
    kinds.push(volume !== undefined || source === "" ? "directory" : kindOf(source));
  const name = keyName({
    imageName,
    platform,
    options,
    facts,
    interactive,
    detach,
    init,
    autoRemove,
    root,
    state,
    snapshotter: store.snapshotter,
    kinds,
  });
  const kept = name === undefined ? undefined : recall(root, name);
  const whole = kept !== undefined && store.isUnpacked(kept.kind, kept.layers);
  return { name, kept: whole ? kept : undefined };
}

/** A container of a kind that there was before: nothing of its image is read, nothing compiled. */
async function fromKept(
  request: RunRequest,
  claimed: Claim,
  kept: KeptPlan,
  name: string | undefined,
  undo: Undo,
): Promise<Uint8Array<ArrayBuffer>> {
  const { id } = claimed;
  const input = { id, image: kept.image, options: request.options };
  const args = argsOf(input);
  const env = environmentOf(input, kept.home);
  furnish(request, claimed, kept, undo);
  writeNew(`${containerDirectory(request.root, id)}/config.json`, specFor(kept, id, args, env), 0o600);
  return await imageFor(request.root, name, kept, id, args, env);
}

/** @throws OciboxError IN_USE where the file is there: somebody else's id may be in it */
function writeIdFile(path: string, id: ContainerId, undo: Undo): void {
  const flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
  const fd = tolerate(["EEXIST"], "openat", AT_FDCWD, path, flags, 0o644);
  if (fd < 0)
    throw new OciboxError("IN_USE", `--cidfile is "${path}", which is there already`, {
      hint: "it may be of another container that runs; remove the file, or name another",
    });
  using file = new OwnedFd(fd);
  undo.defer(() => attempt("unlinkat", AT_FDCWD, path, 0));
  writeFully(file.fd, id);
}

/**
 * Runs a container. Does not return: init takes over this process, and ends with the container's exit code, or once it
 * runs. Returns only where the plan was to be printed, or the container only made.
 * @throws OciboxError; nothing is left then
 */
export async function runContainer(
  request: RunRequest,
  image: ImageChoice | KeptPlan,
  name: string | undefined,
): Promise<number> {
  using claimed = claim(request.state);
  using undo = new Undo();
  let plan: Uint8Array<ArrayBuffer> | undefined;
  if ("bytes" in image) plan = await fromKept(request, claimed, image, name, undo);
  else {
    const { fromImage } = await import("./from-image.ts");
    plan = fromImage(request, image, claimed, name, undo);
  }
  if (plan === undefined) return 0;
  if (request.idFile !== undefined) writeIdFile(request.idFile, claimed.id, undo);
  if (request.made !== undefined) {
    request.made(claimed.id);
    // What is mounted goes with this process.
    undo.keep();
    return 0;
  }
  claimed.inherit();
  execInit(plan);
}
