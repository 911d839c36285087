/** A container's folder, the files in it, and its tree, mounted for nobody yet: what every way to a plan begins with. */

import { AT_FDCWD, S } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import type { Fault } from "../../ffi/encode.ts";
import type { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, writeNew } from "../../ffi/files.ts";
import type { Step } from "../../ffi/plan.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import type { Undo } from "../../ffi/undo.ts";
import type { RunOptions } from "../bundle/command.ts";
import type { MoreOptions } from "../bundle/more-options.ts";
import type { PublishFlag } from "../bundle/publish.ts";
import { ownVolume, type Volume } from "../bundle/values.ts";
import type { PublishedPort } from "../network/rules.ts";
import type { HostFacts } from "../plan/facts.ts";
import { prepareTree } from "../rootfs/prepare.ts";
import type { ChainId, Digest } from "../spec/digest.ts";
import type { ContainerDefaults } from "../spec/image.ts";
import type { Snapshotter } from "../store/snapshotter.ts";
import type { Store } from "../store/store.ts";
import { type Connect, loopbackNames } from "./network.ts";
import {
  type ContainerRecord,
  containerDirectory,
  containersDirectory,
  type MountRecord,
  removeContainer,
  takeName,
  volumesDirectory,
} from "./record.ts";
import { type Claim, type ContainerId, inheritAs, inherited } from "./state.ts";
import type * as Volumes from "./volumes.ts";

export interface RunRequest {
  /** The image as the user named it. */
  readonly imageName: string;
  /** --platform */
  readonly platform: string | undefined;
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
  /** --cidfile */
  readonly idFile: string | undefined;
  /** --stop-signal, in place of the image's. */
  readonly stopSignal: string | undefined;
  /** --stop-timeout, seconds. */
  readonly stopTimeout: number | undefined;
  /** --label */
  readonly labels: Readonly<Record<string, string>>;
  readonly interactive: boolean;
  readonly detach: boolean;
  /** Given the id of a container that is only made, and not run. */
  readonly made: ((id: string) => void) | undefined;
  readonly init: boolean;
  /** Given the plan, which is then not run. */
  readonly explain: ((steps: readonly Step[]) => void) | undefined;
  readonly fault: Fault | undefined;
  /** Connects it with a network that the plan does not make itself. */
  readonly connect: Connect | undefined;
}

/** What is to be mounted of the host's is there: a named volume, made where it is not; one of the container's own. */
function makeVolume(store: Store, id: ContainerId, given: Volume, index: number, undo: Undo): MountRecord {
  const { source, destination, options, volume } = given;
  if (volume !== undefined) {
    const { createVolume, dropVolume } = require("./volumes.ts") as typeof Volumes;
    if (createVolume(store.root, volume)) undo.defer(() => dropVolume(store, volume, id));
    return { volume, source, destination, options };
  }
  if (source !== "") return { source, destination, options };
  const own = ownVolume(containerDirectory(store.root, id), index);
  makeDirectories(own);
  direct.fchmodat(AT_FDCWD, own, 0o755);
  return { source: own, destination, options };
}

/** What the image has at their places goes into empty volumes. @param rootfs the container's tree */
function fillVolumes(root: string, id: ContainerId, rootfs: number, volumes: readonly Volume[]): void {
  for (let index = 0; index < volumes.length; index++) {
    const { volume, source, destination, nocopy } = volumes[index] as Volume;
    if (nocopy === true || (volume === undefined && source !== "")) continue;
    const { fill } = require("./volumes.ts") as typeof Volumes;
    const folder = containerDirectory(root, id);
    if (volume === undefined) fill(folder, ownVolume(folder, index), rootfs, destination);
    else fill(`${volumesDirectory(root)}/${volume}`, source, rootfs, destination);
  }
}

/** What a container whose network is its loopback knows of names. */
function writeNames(directory: string, hostname: string): void {
  writeNew(`${directory}/hostname`, `${hostname}\n`, 0o644);
  writeNew(`${directory}/hosts`, `${loopbackNames}127.0.0.1\t${hostname}\n`, 0o644);
  writeNew(`${directory}/resolv.conf`, "", 0o644);
}

function makeFolder(root: string, directory: string): void {
  makeDirectories(containersDirectory(root));
  direct.mkdirat(AT_FDCWD, directory, 0o700);
  direct.mkdirat(AT_FDCWD, `${directory}/upper`, 0o755);
  direct.mkdirat(AT_FDCWD, `${directory}/work`, 0o700);
}

/** What a bind's source is: a plan needs to know files from directories, to make what they are mounted on. */
export function kindOf(source: string): "directory" | "file" {
  const stat = alloc(256);
  direct.statx(AT_FDCWD, source, 0, 1, stat);
  return (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFDIR ? "directory" : "file";
}

/** What a container is made of. */
export interface Made {
  readonly digest: Digest;
  readonly layers: readonly ChainId[];
  readonly kind: Snapshotter;
  readonly image: Pick<ContainerDefaults, "StopSignal" | "ExposedPorts">;
}

/** What a container's folder, and what init inherits of it, come to. */
export interface Furnished {
  /** Its tree: a detached mount. */
  readonly rootfs: number;
  /** What is published; where nothing is run, what would be. */
  readonly ports: readonly PublishedPort[];
}

function wantedPorts({ publish = [], publishAll, expose = [] }: MoreOptions, made: Made): readonly PublishFlag[] {
  if (publishAll !== true) return publish;
  const { allPublished } = require("../bundle/publish.ts") as typeof import("../bundle/publish.ts");
  return allPublished(publish, expose, made.image.ExposedPorts ?? {});
}

/**
 * The folder, the network and the mounted tree. What of it is on disk is removed by `undo` if anything fails.
 * @returns what is owned by `undo`
 */
export function furnish(request: RunRequest, claimed: Claim, made: Made, undo: Undo): Furnished {
  const { root, options, store } = request;
  const { id } = claimed;
  const directory = containerDirectory(root, id);
  undo.defer(() => removeContainer(root, id));
  makeFolder(root, directory);
  if (request.name !== undefined) {
    makeDirectories(`${root}/names`);
    takeName(root, id, request.name);
  }
  const { network, more } = options;
  const publish = wantedPorts(more, made);
  const mounts: MountRecord[] = [];
  for (const each of options.volumes) mounts.push(makeVolume(store, id, each, mounts.length, undo));
  const stopSignal = request.stopSignal ?? made.image.StopSignal;
  const record: ContainerRecord = {
    id,
    name: request.name ?? id.slice(0, 12),
    image: request.imageName,
    manifestDigest: made.digest,
    layers: made.layers,
    snapshotter: made.kind,
    command: options.command,
    created: new Date().toISOString(),
    autoRemove: request.autoRemove,
    ...(request.init ? { init: true } : {}),
    ...(request.interactive ? { interactive: true } : {}),
    ...(more.timeout === undefined ? {} : { timeout: more.timeout }),
    network,
    ...(publish.length === 0 ? {} : { publish }),
    ...(more.address === undefined ? {} : { address: more.address }),
    ...(more.pidFile === undefined ? {} : { pidFile: more.pidFile }),
    ...(more.restart === undefined ? {} : { restart: more.restart }),
    ...(more.hosts === undefined ? {} : { hosts: more.hosts }),
    ...(more.resolver === undefined ? {} : { resolver: more.resolver }),
    ...(mounts.length === 0 ? {} : { mounts }),
    ...(stopSignal === undefined ? {} : { stopSignal }),
    ...(request.stopTimeout === undefined ? {} : { stopTimeout: request.stopTimeout }),
    ...(Object.keys(request.labels).length === 0 ? {} : { labels: request.labels }),
  };
  writeNew(`${directory}/container.json`, JSON.stringify(record), 0o600);
  store.touch(made.digest);
  request.storeLock[Symbol.dispose]();
  // One that is only made is connected when it is started.
  const connected = request.made === undefined ? request.connect?.(id, record, undo) : undefined;
  const hostname = options.hostname ?? id.slice(0, 12);
  if (network === "none" && more.hosts === undefined && more.resolver === undefined) writeNames(directory, hostname);
  else
    (require("./names.ts") as typeof import("./names.ts")).writeNetworkFiles(directory, hostname, options, connected);
  using mounted = prepareTree(
    {
      kind: made.kind,
      layers: store.layerPaths(made.kind, made.layers),
      upper: `${directory}/upper`,
      work: `${directory}/work`,
      // What was mounted so once cannot be mounted again: overlayfs.rst, "Volatile mount".
      volatile: request.autoRemove && request.made === undefined,
    },
    `${directory}/work`,
  );
  if (request.explain === undefined) fillVolumes(root, id, mounted.fd, options.volumes);
  // Always the same number, and inherited by init: a plan that is kept names it.
  return { rootfs: undo.use(inheritAs(mounted.fd, inherited.rootfs)).fd, ports: connected?.ports ?? publish };
}
