/**
 * `ocibox run` in the foreground: an image and options become a folder, a mounted tree, a config.json, a plan; then
 * this process becomes init, which runs the plan. Nothing after that is JavaScript.
 */
import { AT_FDCWD, F, O, S } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { encodePlan } from "../../ffi/encode.ts";
import { errnoOf } from "../../ffi/errno.ts";
import type { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, readText, writeNew } from "../../ffi/files.ts";
import { execInit } from "../../ffi/launch.ts";
import type { Step } from "../../ffi/plan.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { createSpec, type RunOptions } from "../bundle/bundle.ts";
import { compile, type PlanContext } from "../plan/compile.ts";
import type { HostFacts } from "../plan/facts.ts";
import { prepareOverlay } from "../rootfs/overlay.ts";
import { readInRoot } from "../rootfs/read.ts";
import { hostFacts } from "../runtime/host.ts";
import type { Spec } from "../spec/runtime.ts";
import type { Store, StoredImage } from "../store/store.ts";
import { cgroupsPath } from "./cgroups.ts";
import { type ContainerRecord, containerDirectory, containersDirectory, removeContainer, takeName } from "./record.ts";
import { type Claim, claim } from "./state.ts";

export interface RunRequest {
  readonly image: StoredImage;
  /** As the user named it. */
  readonly imageName: string;
  readonly store: Store;
  /** Shared, since before the image was looked up: freed when the container's record keeps its layers. */
  readonly storeLock: OwnedFd;
  readonly root: string;
  readonly state: string;
  /** What the bundle is made by; id, hostname and the like are filled in here. */
  readonly options: RunOptions;
  readonly name: string | undefined;
  readonly autoRemove: boolean;
  readonly interactive: boolean;
  readonly init: boolean;
  /** Given the plan, which is then not run. */
  readonly explain: ((steps: readonly Step[]) => void) | undefined;
  readonly fault: { readonly step: number; readonly errno: number } | undefined;
}

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

/** What --volume and ours bind: a plan needs to know files from directories, to make what they are mounted on. */
function sourceKinds(spec: Spec): Map<string, "directory" | "file"> {
  const kinds = new Map<string, "directory" | "file">();
  for (const mount of spec.mounts ?? []) {
    if (mount.type !== "bind" || mount.source === undefined) continue;
    const stat = alloc(256);
    direct.statx(AT_FDCWD, mount.source, 0, 1, stat);
    kinds.set(mount.source, (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFDIR ? "directory" : "file");
  }
  return kinds;
}

interface Prepared {
  readonly spec: Spec;
  readonly facts: HostFacts;
  readonly rootfs: OwnedFd;
}

/** The folder, the mounted tree and the config.json. What of it is on disk is removed by `undo` if anything fails. */
function prepare(request: RunRequest, claimed: Claim, undo: DisposableStack): Prepared {
  const { root, image, options, store } = request;
  const { id } = claimed;
  const directory = containerDirectory(root, id);
  const name = request.name ?? id.slice(0, 12);
  undo.defer(() => removeContainer(root, id));
  makeFolder(root, directory);
  if (request.name !== undefined) {
    makeDirectories(`${root}/names`);
    takeName(root, id, request.name);
  }
  const record: ContainerRecord = {
    id,
    name,
    image: request.imageName,
    manifestDigest: image.manifestDescriptor.digest,
    layers: image.layers.map((layer) => layer.chainId),
    command: options.command,
    created: new Date().toISOString(),
    autoRemove: request.autoRemove,
  };
  writeNew(`${directory}/container.json`, JSON.stringify(record), 0o600);
  request.storeLock[Symbol.dispose]();
  const hostname = options.hostname ?? id.slice(0, 12);
  writeNetworkFiles(directory, hostname, options.network === "host");
  const rootfs = prepareOverlay(
    {
      lower: image.layers.map((layer) => store.layerPath(layer.chainId)).reverse(),
      upper: `${directory}/upper`,
      work: `${directory}/work`,
      volatile: request.autoRemove,
    },
    `${directory}/work`,
  );
  undo.use(rootfs);
  const facts = hostFacts();
  const spec = createSpec({
    id,
    image: image.config.config,
    options,
    passwd: readInRoot(rootfs.fd, "etc/passwd", mostAccounts),
    group: readInRoot(rootfs.fd, "etc/group", mostAccounts),
    facts,
    cgroupsPath: cgroupsPath(id),
    files: directory,
  });
  writeNew(`${directory}/config.json`, JSON.stringify(spec), 0o600);
  return { spec, facts, rootfs };
}

/** What the plan does in the end: the folder goes, or keeps the exit code; then the state file. */
function contextFor(request: RunRequest, claimed: Claim, prepared: Prepared): PlanContext {
  const { root } = request;
  const directory = containerDirectory(root, claimed.id);
  return {
    rootfs: prepared.rootfs.fd,
    // Ours alone, and empty for everybody: not the folder itself, whose files are bound into the container.
    mountpoint: `${directory}/work`,
    interactive: request.interactive,
    init: request.init,
    sources: sourceKinds(prepared.spec),
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

/**
 * Runs a container in the foreground. Does not return: init takes over this process, and ends with the container's
 * exit code. Returns only where the plan was to be printed.
 * @throws OciboxError; nothing is left then
 */
export function runContainer(request: RunRequest): number {
  using claimed = claim(request.state);
  using undo = new DisposableStack();
  const prepared = prepare(request, claimed, undo);
  const plan = compile(prepared.spec, prepared.facts, contextFor(request, claimed, prepared));
  if (request.explain !== undefined) {
    request.explain(plan.steps);
    return 0;
  }
  const image = encodePlan(plan.steps, { fault: request.fault });
  direct.fcntl(prepared.rootfs.fd, F.F_SETFD, 0);
  claimed.inherit();
  execInit(image);
}
