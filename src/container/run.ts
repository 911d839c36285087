/**
 * `ocibox run` in the foreground: an image and options become a folder, a mounted tree, a config.json, a plan; then
 * this process becomes init, which runs the plan. Nothing after that is JavaScript.
 */
import { AT_FDCWD, F, O, S } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { encodePart, encodePlan } from "../../ffi/encode.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, readText, writeNew } from "../../ffi/files.ts";
import { execInit } from "../../ffi/launch.ts";
import type { Step } from "../../ffi/plan.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { accountOf, argsOf, type BundleInput, createSpec, environmentOf, type RunOptions } from "../bundle/bundle.ts";
import { OciboxError } from "../errors.ts";
import { compile, compileCommand, compileSetUp, type PlanContext } from "../plan/compile.ts";
import type { HostFacts } from "../plan/facts.ts";
import { prepareOverlay } from "../rootfs/overlay.ts";
import { readInRoot } from "../rootfs/read.ts";
import type { ChainId } from "../spec/digest.ts";
import type { Spec } from "../spec/runtime.ts";
import type { ImageChoice, Store } from "../store/store.ts";
import { cgroupsPath } from "./cgroups.ts";
import { type KeptPlan, keyName, partFor, recall, remember, specFor, specTemplate } from "./plan-cache.ts";
import { type ContainerRecord, containerDirectory, containersDirectory, removeContainer, takeName } from "./record.ts";
import { type Claim, claim } from "./state.ts";

export interface RunRequest {
  readonly image: ImageChoice;
  /** As the user named it. */
  readonly imageName: string;
  readonly store: Store;
  /** Shared, since before the image was looked up: freed when the container's record keeps its layers. */
  readonly storeLock: OwnedFd;
  readonly root: string;
  readonly state: string;
  /** What the bundle is made by; id, hostname and the like are filled in here. */
  readonly options: RunOptions;
  readonly facts: HostFacts;
  readonly name: string | undefined;
  readonly autoRemove: boolean;
  readonly interactive: boolean;
  readonly init: boolean;
  /** Given the plan, which is then not run. */
  readonly explain: ((steps: readonly Step[]) => void) | undefined;
  readonly fault: { readonly step: number; readonly errno: number } | undefined;
}

/** The descriptor that a plan finds the container's tree at. */
const rootfsNumber = 64;

/** passwd and group files larger than this are refused, unread. */
const mostAccounts = 4 << 20;

function hostsFile(hostname: string): string {
  return `127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t${hostname}\n`;
}

/** hosts, hostname and resolv.conf of a container; with the host's network, the host's own words. */
function writeNetworkFiles(directory: string, hostname: string, host: boolean): void {
  writeNew(`${directory}/hostname`, `${hostname}\n`, 0o644);
  writeNew(`${directory}/hosts`, (host ? readText("/etc/hosts") : undefined) ?? hostsFile(hostname), 0o644);
  writeNew(`${directory}/resolv.conf`, (host ? readText("/etc/resolv.conf") : undefined) ?? "", 0o644);
}

function makeFolder(root: string, directory: string): void {
  makeDirectories(containersDirectory(root));
  direct.mkdirat(AT_FDCWD, directory, 0o700);
  direct.mkdirat(AT_FDCWD, `${directory}/upper`, 0o755);
  direct.mkdirat(AT_FDCWD, `${directory}/work`, 0o700);
}

/** What a bind's source is: a plan needs to know files from directories, to make what they are mounted on. */
function kindOf(source: string): "directory" | "file" {
  const stat = alloc(256);
  direct.statx(AT_FDCWD, source, 0, 1, stat);
  return (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFDIR ? "directory" : "file";
}

function sourceKinds(spec: Spec): Map<string, "directory" | "file"> {
  const kinds = new Map<string, "directory" | "file">();
  for (const mount of spec.mounts ?? []) {
    if (mount.type === "bind" && mount.source !== undefined) kinds.set(mount.source, kindOf(mount.source));
  }
  return kinds;
}

/**
 * The folder and the mounted tree. What of it is on disk is removed by `undo` if anything fails.
 * @returns the tree: a detached mount, owned by `undo`
 */
function furnish(request: RunRequest, claimed: Claim, layers: readonly ChainId[], undo: DisposableStack): number {
  const { root, options, store } = request;
  const { id } = claimed;
  const directory = containerDirectory(root, id);
  undo.defer(() => removeContainer(root, id));
  makeFolder(root, directory);
  if (request.name !== undefined) {
    makeDirectories(`${root}/names`);
    takeName(root, id, request.name);
  }
  const record: ContainerRecord = {
    id,
    name: request.name ?? id.slice(0, 12),
    image: request.imageName,
    manifestDigest: request.image.digest,
    layers,
    command: options.command,
    created: new Date().toISOString(),
    autoRemove: request.autoRemove,
  };
  writeNew(`${directory}/container.json`, JSON.stringify(record), 0o600);
  request.storeLock[Symbol.dispose]();
  writeNetworkFiles(directory, options.hostname ?? id.slice(0, 12), options.network === "host");
  using mounted = prepareOverlay(
    {
      lower: layers.map((chainId) => store.layerPath(chainId)).reverse(),
      upper: `${directory}/upper`,
      work: `${directory}/work`,
      volatile: request.autoRemove,
    },
    `${directory}/work`,
  );
  // Always the same number, and inherited by init: a plan that is kept names it.
  const rootfs = direct.fcntl(mounted.fd, F.F_DUPFD, rootfsNumber);
  undo.use(new OwnedFd(rootfs));
  if (rootfs !== rootfsNumber) throw new OciboxError("HOST", `the descriptor ${rootfsNumber} is in use already`);
  return rootfs;
}

/** What the plan does in the end: the folder goes, or keeps the exit code; then the state file. */
function contextFor(request: RunRequest, claimed: Claim, spec: Spec, rootfs: number): PlanContext {
  const { root } = request;
  const directory = containerDirectory(root, claimed.id);
  return {
    rootfs,
    // Ours alone, and empty for everybody: not the folder itself, whose files are bound into the container.
    mountpoint: `${directory}/work`,
    interactive: request.interactive,
    init: request.init,
    sources: sourceKinds(spec),
    cleanup(p, code, note, trouble) {
      if (!request.autoRemove) {
        const file = p
          .carryOn()
          .openat(
            AT_FDCWD,
            `${directory}/exit`,
            O.O_WRONLY | O.O_CREAT | O.O_TRUNC | O.O_NOFOLLOW | O.O_CLOEXEC,
            0o600,
          );
        note(file);
        // 255 and a newline is the longest; what is left of the text is blank.
        note(p.carryOn().write(file, p.text`${code}   `, 4));
        return;
      }
      if (request.name !== undefined) note(p.carryOn("ENOENT").unlinkat(AT_FDCWD, `${root}/names/${request.name}`, 0));
      const containers = p
        .carryOn()
        .openat(AT_FDCWD, containersDirectory(root), O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
      note(containers);
      const gone = p.newLabel("folder gone");
      p.branch(containers, "<", 0, gone);
      p.add({ op: "remove", dirfd: containers, name: claimed.id });
      // Gone, or something of it could not be removed.
      const flags = O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC;
      const left = p.carryOn("ENOENT").openat(containers, claimed.id, flags, 0);
      p.branch(left, "==", -errnoOf("ENOENT"), gone);
      p.add({ op: "set", slot: trouble, value: 1 });
      p.place(gone);
    },
    forget(p, note) {
      note(p.carryOn("ENOENT").unlinkat(AT_FDCWD, claimed.path, 0));
    },
  };
}

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
  const { options, facts, interactive, init, autoRemove, root, state } = request;
  const kinds = options.volumes.map((volume) => kindOf(volume.source));
  const name = keyName({
    image: request.image.digest,
    options,
    facts,
    interactive,
    init,
    autoRemove,
    root,
    state,
    kinds,
  });
  const kept = name === undefined ? undefined : recall(root, name);
  const whole = kept?.layers.every((chainId) => request.store.hasLayer(chainId)) === true;
  return { name, kept: whole ? kept : undefined };
}

/** A container of a kind that there was before: nothing of its image is read, nothing compiled. */
function fromKept(request: RunRequest, claimed: Claim, kept: KeptPlan, undo: DisposableStack): Uint8Array<ArrayBuffer> {
  const { id } = claimed;
  const input = { id, image: kept.image, options: request.options };
  const args = argsOf(input);
  const env = environmentOf(input, kept.home);
  furnish(request, claimed, kept.layers, undo);
  writeNew(`${containerDirectory(request.root, id)}/config.json`, specFor(kept, id, args, env), 0o600);
  return encodePlan(compileCommand(args, env).steps, { after: partFor(kept, id) });
}

/** A container from its image; undefined where its plan was to be printed, which has been done. */
function fromImage(
  request: RunRequest,
  claimed: Claim,
  name: string | undefined,
  undo: DisposableStack,
): Uint8Array<ArrayBuffer> | undefined {
  const { root, options, facts, fault } = request;
  const { id } = claimed;
  const image = request.image.load();
  const layers = image.layers.map((layer) => layer.chainId);
  const rootfs = furnish(request, claimed, layers, undo);
  const input: BundleInput = {
    id,
    image: image.config.config,
    options,
    passwd: readInRoot(rootfs, "etc/passwd", mostAccounts),
    group: readInRoot(rootfs, "etc/group", mostAccounts),
    facts,
    cgroupsPath: cgroupsPath(id),
    files: containerDirectory(root, id),
  };
  const account = accountOf(input);
  const spec = createSpec(input, account);
  writeNew(`${containerDirectory(root, id)}/config.json`, JSON.stringify(spec), 0o600);
  const context = contextFor(request, claimed, spec, rootfs);
  const { args = [], env = [] } = spec.process ?? {};
  if (request.explain !== undefined) {
    request.explain(compile(spec, facts, context).steps);
    return undefined;
  }
  if (fault !== undefined) return encodePlan(compile(spec, facts, context).steps, { fault });
  const part = encodePart(compileSetUp(spec, facts, context).steps);
  if (name !== undefined) {
    const { Entrypoint, Cmd, Env } = image.config.config;
    const own = { ...(Entrypoint && { Entrypoint }), ...(Cmd && { Cmd }), ...(Env && { Env }) };
    remember(root, name, { id, layers, image: own, home: account.home, spec: specTemplate(spec), part });
  }
  return encodePlan(compileCommand(args, env).steps, { after: part });
}

/**
 * Runs a container in the foreground. Does not return: init takes over this process, and ends with the container's
 * exit code. Returns only where the plan was to be printed.
 * @throws OciboxError; nothing is left then
 */
export function runContainer(request: RunRequest, { name, kept }: Kind): number {
  using claimed = claim(request.state);
  using undo = new DisposableStack();
  const image = kept === undefined ? fromImage(request, claimed, name, undo) : fromKept(request, claimed, kept, undo);
  if (image === undefined) return 0;
  claimed.inherit();
  execInit(image);
}
