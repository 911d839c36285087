/** `create` and `run`: a bundle becomes a state directory and a plan, and this process becomes init. */
import { AT_FDCWD, S } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import type { Fault } from "../../ffi/encode.ts";
import { execInit } from "../../ffi/launch.ts";
import type { Step } from "../../ffi/plan.ts";
import { effectiveUid } from "../../ffi/user.ts";
import { type SystemdUnit, systemdUnit } from "../plan/cgroups/paths.ts";
import { type CgroupPlan, planOciCgroups } from "../plan/cgroups/plan.ts";
import type { ErrorSink, OciContext } from "../plan/context.ts";
import type { HostFacts } from "../plan/facts.ts";
import type { NetDevice } from "../plan/net-devices.ts";
import type { Spec } from "../spec/runtime.ts";
import { parseSpec } from "../spec/runtime-parse.ts";
import { type Bundle, copyUps, hasOwnMounts, loadBundle, sourceKinds, withHome } from "./bundle.ts";
import { cgroupHost } from "./cgroup-host.ts";
import { checkUnused, writeCgroupFile } from "./cgroups.ts";
import type { Inputs } from "./create-plan.ts";
import { callersEnvironment, checkTerminal, connectTo, inherit, keepOpen, listenerSocket } from "./handed.ts";
import { hostFacts } from "./host.ts";
import {
  bootId,
  checkId,
  claimContainer,
  forgetContainer,
  rootPlace,
  type StateRecord,
  stateDirectory,
  updateRecord,
} from "./state.ts";
import { imageFor } from "./templates.ts";

export interface CreateRequest {
  readonly id: string;
  /** Absolute. */
  readonly bundle: string;
  /** The file of its configuration, absolute. */
  readonly config: string;
  readonly root: string;
  readonly mode: OciContext["mode"];
  readonly keep: boolean;
  /** Absolute. */
  readonly pidFile: string | undefined;
  readonly consoleSocket: string | undefined;
  readonly pidfdSocket: string | undefined;
  readonly preserveFds: number;
  readonly newKeyring: boolean;
  readonly cgroupManager: "cgroupfs" | "systemd" | "disabled";
  /** Made when they are needed. */
  sinks(): ErrorSink[];
  readonly explain: ((steps: readonly Step[]) => void) | undefined;
  readonly fault: Fault | undefined;
}

/** LISTEN_FDS passes on sockets that were handed to the caller; sd_listen_fds(3). */
function listenFds(): number {
  const text = Bun.env.LISTEN_FDS ?? "";
  return /^\d{1,4}$/.test(text) ? Number(text) : 0;
}

/** The configuration with all that is left to the runtime filled in. */
function completed(bundle: Bundle): Spec {
  const { spec, rootfs } = bundle;
  const home = withHome(spec, rootfs);
  const fds = listenFds();
  const env = [...(home.process?.env ?? []), ...(fds === 0 ? [] : [`LISTEN_FDS=${fds}`, "LISTEN_PID=1"])];
  const notify = Bun.env.NOTIFY_SOCKET ?? "";
  const mounts = [...(home.mounts ?? [])];
  if (notify.startsWith("/")) {
    env.push("NOTIFY_SOCKET=/run/notify/notify.sock");
    mounts.push({ destination: "/run/notify/notify.sock", type: "bind", source: notify, options: ["bind"] });
  }
  return {
    ...home,
    mounts,
    ...(home.process === undefined ? {} : { process: { ...home.process, env } }),
  };
}

/** Those of linux.netDevices, of which nothing is asked before it has been checked. @throws OciboxError INVALID, HOST */
async function netDevices(spec: Spec): Promise<readonly NetDevice[]> {
  if (spec.linux?.netDevices === undefined) return [];
  const { netDevicesFor } = await import("./net-devices.ts");
  await check(spec);
  return netDevicesFor(spec);
}

async function check(spec: Spec): Promise<void> {
  const { checkSpec } = await import("../spec/runtime-decode.ts");
  checkSpec(spec);
}

async function inputsOf(
  request: CreateRequest,
  bundle: Bundle,
  spec: Spec,
  facts: HostFacts,
  record: StateRecord,
  cgroups: CgroupPlan,
): Promise<Inputs> {
  const keepFds = request.preserveFds + listenFds();
  keepOpen(keepFds);
  const { ociVersion, id, annotations } = record;
  const tellsAnnotations = annotations !== undefined && spec.hooks !== undefined;
  return {
    id,
    spec,
    facts,
    looksUp: request.mode === "create",
    rootfs: bundle.rootfs,
    sources: [...sourceKinds(spec)],
    copyUp: [...copyUps(spec, bundle.rootfs)],
    cgroups,
    state: { ociVersion, id, bundle: record.bundle, ...(tellsAnnotations ? { annotations } : {}) },
    netDevices: await netDevices(spec),
    oci: {
      id,
      directory: stateDirectory(request.root, id),
      pidFile: request.pidFile,
      mode: request.mode,
      keep: request.keep,
      consoleSocket:
        request.consoleSocket === undefined ? undefined : connectTo(request.consoleSocket, "--console-socket"),
      pidfdSocket: request.pidfdSocket === undefined ? undefined : connectTo(request.pidfdSocket, "--pidfd-socket"),
      keepFds,
      seccompSocket: await listenerSocket(spec),
      newKeyring: request.newKeyring,
      sinks: request.sinks(),
      privileged: effectiveUid() === 0,
    },
  };
}

function owner(): string {
  const uid = effectiveUid();
  return uid === 0 ? "root" : String(uid);
}

function recordOf(request: CreateRequest, bundle: Bundle, unit: SystemdUnit | undefined): StateRecord {
  const { spec } = bundle;
  return {
    ociVersion: spec.ociVersion,
    id: request.id,
    bundle: bundle.directory,
    rootfs: bundle.rootfs,
    created: new Date().toISOString(),
    owner: owner(),
    ...(spec.annotations === undefined ? {} : { annotations: spec.annotations }),
    bootId: bootId(),
    cgroups: { mode: "none", directories: [] },
    ...(unit === undefined ? {} : { unit: unit.name }),
    ownPids: (spec.linux?.namespaces ?? []).some((each) => each.type === "pid"),
    keyring: request.newKeyring,
    hooks: (["poststart", "poststop"] as const).filter((name) => (spec.hooks?.[name] ?? []).length > 0),
  };
}

/** What is only needed where no template is. */
const planning = () => import("./create-plan.ts");

/**
 * Whether there can be another container of the kind: a network device and its addresses are of one alone, and
 * startContainer hooks without an environment bring the process's into the plan's set-up.
 */
function canBeKept({ netDevices, spec }: Inputs): boolean {
  return netDevices.length === 0 && (spec.hooks?.startContainer ?? []).every(({ env }) => env !== undefined);
}

/** The plan's image, or undefined where the plan was to be printed, and has been. */
async function imageOf(request: CreateRequest, inputs: Inputs): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const { explain, fault } = request;
  if (explain === undefined && fault === undefined)
    return imageFor(request.root, inputs, async () => (await planning()).compiler, canBeKept(inputs));
  const { compileInputs, imageOfSteps } = await planning();
  const { steps } = compileInputs(inputs);
  if (explain === undefined) return imageOfSteps(steps, fault);
  explain(steps);
  return undefined;
}

/** What is to be undone where this program itself fails. */
interface Undo {
  defer(callback: () => void): void;
}

async function launch(
  request: CreateRequest,
  bundle: Bundle,
  spec: Spec,
  facts: HostFacts,
  record: StateRecord,
  cgroups: CgroupPlan,
): Promise<number> {
  const inputs = await inputsOf(request, bundle, spec, facts, record, cgroups);
  const image = await imageOf(request, inputs);
  if (image === undefined) return 0;
  // Hooks run in the bundle's directory, as runc's do.
  if (process.cwd() !== bundle.directory) direct.chdir(bundle.directory);
  execInit(image, spec.hooks === undefined ? {} : { env: callersEnvironment() });
}

/** The container's directory, its lock, which init inherits, and its record. */
function claim(request: CreateRequest, record: StateRecord, bundle: Bundle, undo: Undo): void {
  const directory = stateDirectory(request.root, request.id);
  inherit(claimContainer(request.root, record, bundle.text).release());
  undo.defer(() => forgetContainer(directory));
  if (!hasOwnMounts(bundle.spec)) direct.mkdirat(AT_FDCWD, rootPlace(directory), 0o700);
  if (request.mode === "create") direct.mknodat(AT_FDCWD, `${directory}/exec.fifo`, S.S_IFIFO | 0o600, 0);
}

/** With a unit of systemd's, which is asked for it before there is a process of the container's. */
async function createInUnit(request: CreateRequest, bundle: Bundle, spec: Spec, facts: HostFacts): Promise<number> {
  const { enterScope, ownedByUser, stopUnit } = await import("./systemd.ts");
  const host = cgroupHost(facts.cgroup);
  const unit = systemdUnit(spec.linux?.cgroupsPath, request.id, ownedByUser());
  const choice = { id: request.id, manager: "systemd", privileged: !ownedByUser(), unit } as const;
  const claimed = recordOf(request, bundle, unit);
  if (request.explain !== undefined)
    return await launch(request, bundle, spec, facts, claimed, planOciCgroups(spec, host, choice));
  using undo = new DisposableStack();
  claim(request, claimed, bundle, undo);
  const scope = await enterScope(unit, request.id, spec.linux?.resources ?? {}, host);
  try {
    const cgroups = planOciCgroups(spec, host, { ...choice, scope });
    const record = { ...claimed, cgroups: { mode: cgroups.mode, directories: cgroups.directories } };
    updateRecord(request.root, record);
    return await launch(request, bundle, spec, facts, record, cgroups);
  } catch (error) {
    leaveScope(scope.leave);
    await stopUnit(unit.name);
    throw error;
  }
}

/** Back to where this process was, so that it is not ended with the unit. */
function leaveScope(files: readonly string[]): void {
  for (const file of files) writeCgroupFile(file, "0");
}

/**
 * Makes a container of a bundle. Does not return: init takes over this process. Returns only where the plan was to be
 * printed. @throws OciboxError; nothing is left then
 */
export async function createContainer(request: CreateRequest): Promise<number> {
  checkId(request.id);
  // A configuration whose like was seen before need not be looked at again.
  const knows = request.explain === undefined && request.fault === undefined && request.cgroupManager !== "systemd";
  const bundle = await loadBundle(request.bundle, request.config, knows ? parseSpec : decode);
  try {
    return await createFrom(request, bundle);
  } catch (error) {
    // Of what was not looked at anything can be wrong.
    if (knows && error instanceof TypeError) await check(bundle.spec);
    throw error;
  }
}

async function decode(text: string): Promise<Spec> {
  const { decodeSpec } = await import("../spec/runtime-decode.ts");
  return decodeSpec(text);
}

async function createFrom(request: CreateRequest, bundle: Bundle): Promise<number> {
  checkTerminal(bundle.spec.process?.terminal === true, request.mode !== "foreground", request.consoleSocket);
  const spec = completed(bundle);
  const { apparmorProfile = "", selinuxLabel = "" } = spec.process ?? {};
  const facts = hostFacts(apparmorProfile !== "" || selinuxLabel !== "");
  if (request.cgroupManager === "systemd") return createInUnit(request, bundle, spec, facts);
  const cgroups = planOciCgroups(spec, cgroupHost(facts.cgroup), {
    id: request.id,
    manager: request.cgroupManager,
    privileged: effectiveUid() === 0 && !facts.userNamespace,
  });
  const record = {
    ...recordOf(request, bundle, undefined),
    cgroups: { mode: cgroups.mode, directories: cgroups.directories },
  };
  using undo = new DisposableStack();
  if (request.explain === undefined) {
    claim(request, record, bundle, undo);
    checkUnused(cgroups);
  }
  return await launch(request, bundle, spec, facts, record, cgroups);
}
