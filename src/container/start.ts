/** A container that was made, or has ended, is started: its tree as it is, by its own config.json. */
import { encodePlan, type Fault } from "../../ffi/encode.ts";
import type { OwnedFd } from "../../ffi/fd.ts";
import { isThere } from "../../ffi/files.ts";
import { execInit } from "../../ffi/launch.ts";
import { lockFile } from "../../ffi/lock.ts";
import type { Step } from "../../ffi/plan.ts";
import { Undo } from "../../ffi/undo.ts";
import { OciboxError } from "../errors.ts";
import { compile } from "../plan/compile.ts";
import { prepareTree } from "../rootfs/prepare.ts";
import { hostFacts } from "../runtime/host.ts";
import type { Store } from "../store/store.ts";
import { contextFor } from "./from-image.ts";
import { writeStartFiles } from "./names.ts";
import type { Connect } from "./network.ts";
import { type ContainerStatus, containerDirectory, copyLock, forgetExit } from "./record.ts";
import { firstTurn, nextTurn, restartFor } from "./restart.ts";
import { readSpec } from "./spec.ts";
import { claimId, inheritAs, inherited } from "./state.ts";

/** How long a copy is waited for, ms. */
const patience = 10_000;

export interface StartOptions {
  /** In the foreground, with the caller's streams. */
  readonly attach: boolean;
  /** What is printed where it is left to itself. */
  readonly says: string;
  readonly explain: ((steps: readonly Step[]) => void) | undefined;
  readonly fault: Fault | undefined;
  /** Its supervisor starts it, as --restart says. */
  readonly again: string | undefined;
  /** As for a new one. */
  readonly connect: Connect | undefined;
}

function alreadyRuns({ name }: ContainerStatus): OciboxError {
  return new OciboxError("IN_USE", `the container "${name}" is running already`);
}

/** The tree, mounted for nobody yet. @throws OciboxError STORE where the layers are gone */
export function mountTree(store: Store, container: ContainerStatus): OwnedFd {
  const { snapshotter: kind, layers, name } = container;
  using lock = store.lockShared();
  void lock;
  if (kind !== "copy" && !store.isUnpacked(kind, layers))
    throw new OciboxError("STORE", `the layers of the container "${name}" are not there any more`, {
      hint: `pull its image again: ocibox pull ${container.image}`,
    });
  const directory = containerDirectory(store.root, container.id);
  return prepareTree(
    {
      kind,
      // Of a copy it is all in the container's own directory.
      layers: kind === "copy" ? [] : store.layerPaths(kind, layers),
      upper: `${directory}/upper`,
      work: `${directory}/work`,
      volatile: false,
    },
    `${directory}/work`,
  );
}

/** By the number that a plan knows it by. */
function inheritedTree(store: Store, container: ContainerStatus, undo: Undo): number {
  using mounted = mountTree(store, container);
  return undo.use(inheritAs(mounted.fd, inherited.rootfs)).fd;
}

/** Waits for who copies into it. @throws OciboxError IN_USE where that takes long */
function untilCopied(root: string, { id, name }: ContainerStatus): void {
  const path = copyLock(root, id);
  const end = performance.now() + patience;
  while (isThere(path)) {
    using lock = lockFile(path, "exclusive");
    if (lock !== undefined) return;
    if (performance.now() > end)
      throw new OciboxError("IN_USE", `the container "${name}" is being copied to`, { hint: "try again" });
    Bun.sleepSync(10);
  }
}

/**
 * Starts a container. Does not return: init takes over this process. Returns only where the plan was to be printed.
 * @throws OciboxError; the container is as it was then
 */
export function startContainer(store: Store, state: string, container: ContainerStatus, options: StartOptions): number {
  const { id, name } = container;
  const { root } = store;
  using claimed = container.running ? undefined : claimId(state, id);
  if (claimed === undefined) throw alreadyRuns(container);
  untilCopied(root, container);
  const spec = readSpec(root, container);
  using undo = new Undo();
  const { attach, says, connect } = options;
  const turn = options.explain === undefined ? nextTurn(root, container, options.again) : firstTurn;
  if (turn === undefined) return 0;
  const { network = "none", publish = [] } = container;
  const connected = connect?.(id, container, undo);
  if (connected !== undefined) writeStartFiles(containerDirectory(root, id), spec.hostname ?? "", container, connected);
  const request = {
    root,
    name,
    interactive: container.interactive === true,
    detach: !attach,
    init: container.init === true,
    autoRemove: container.autoRemove,
    timeout: container.timeout,
    network,
    ports: connected?.ports ?? publish,
    report: undefined,
    pidFile: container.pidFile,
    restart: attach ? undefined : restartFor(store, state, container, turn),
  };
  const context = contextFor(request, claimed, spec, inheritedTree(store, container, undo), says);
  const plan = compile(spec, hostFacts(), context);
  if (options.explain !== undefined) {
    options.explain(plan.steps);
    return 0;
  }
  const image = encodePlan(plan.steps, { fault: options.fault });
  claimed.inherit();
  forgetExit(root, id);
  execInit(image);
}
