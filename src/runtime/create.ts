/** `create` and `run`: a bundle becomes a state directory and a plan, and this process becomes init. */
import { AT_FDCWD, S } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import type { Fault } from "../../ffi/encode.ts";
import { execInit } from "../../ffi/launch.ts";
import type { Step } from "../../ffi/plan.ts";
import { effectiveUid } from "../../ffi/user.ts";
import { type CgroupHost, type SystemdUnit, systemdUnit } from "../plan/cgroups/paths.ts";
import type { CgroupChoice } from "../plan/cgroups/plan.ts";
import type { ErrorSink, OciContext } from "../plan/context.ts";
import type { HostFacts } from "../plan/facts.ts";
import type { Spec } from "../spec/runtime.ts";
import { parsePlain } from "../spec/runtime-parse.ts";
import {
  type Bundle,
  bundleOf,
  copyUps,
  hasNamespace,
  hasOwnMounts,
  readConfig,
  sourceKinds,
  withHome,
} from "./bundle.ts";
import { cgroupHost } from "./cgroup-host.ts";
import { checkUnused, writeCgroupFile } from "./cgroups.ts";
import type { Derived, Inputs } from "./create-plan.ts";
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
import { type Planned, type PlanRequest, planFor } from "./templates.ts";

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
  readonly explain: ((steps: readonly Step[]) => Promise<void>) | undefined;
  readonly fault: Fault | undefined;
}

/** LISTEN_FDS passes on sockets that were handed to the caller; sd_listen_fds(3). */
function listenFds(): number {
  const text = Bun.env.LISTEN_FDS;
  return text === undefined ? 0 : countOf(text);
}

function countOf(text: string): number {
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

async function check(spec: Spec): Promise<void> {
  const { checkSpec } = await import("../spec/runtime-decode.ts");
  checkSpec(spec);
}

/** What is not worth a call where there is none of it. @throws OciboxError INVALID, HOST */
async function netDevicesOf(spec: Spec): Promise<Inputs["netDevices"]> {
  const { netDevicesFor } = await import("./net-devices.ts");
  // Nothing is asked of them before they have been checked.
  await check(spec);
  return netDevicesFor(spec);
}

async function inputsOf(
  request: CreateRequest,
  bundle: Bundle,
  spec: Spec,
  facts: HostFacts,
  cgroups: Inputs["cgroups"],
): Promise<Inputs> {
  const { id, consoleSocket, pidfdSocket } = request;
  const { linux, hooks, annotations, ociVersion } = spec;
  const keepFds = request.preserveFds + listenFds();
  keepOpen(keepFds);
  const tellsAnnotations = annotations !== undefined && hooks !== undefined;
  return {
    id,
    spec,
    facts,
    looksUp: request.mode === "create",
    rootfs: bundle.rootfs,
    sources: sourceKinds(spec),
    copyUp: copyUps(spec, bundle.rootfs),
    cgroups,
    state: { ociVersion, id, bundle: bundle.directory, ...(tellsAnnotations ? { annotations } : {}) },
    netDevices: linux?.netDevices === undefined ? [] : await netDevicesOf(spec),
    oci: {
      id,
      directory: stateDirectory(request.root, id),
      pidFile: request.pidFile,
      mode: request.mode,
      keep: request.keep,
      consoleSocket: consoleSocket === undefined ? undefined : connectTo(consoleSocket, "--console-socket"),
      pidfdSocket: pidfdSocket === undefined ? undefined : connectTo(pidfdSocket, "--pidfd-socket"),
      keepFds,
      seccompSocket: linux?.seccomp?.listenerPath === undefined ? undefined : await listenerSocket(spec),
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

function recordOf(
  request: CreateRequest,
  bundle: Bundle,
  cgroups: Derived,
  unit: SystemdUnit | undefined,
): StateRecord {
  const { spec } = bundle;
  const hooks: string[] = [];
  if ((spec.hooks?.poststart ?? []).length > 0) hooks.push("poststart");
  if ((spec.hooks?.poststop ?? []).length > 0) hooks.push("poststop");
  return {
    ociVersion: spec.ociVersion,
    id: request.id,
    bundle: bundle.directory,
    rootfs: bundle.rootfs,
    created: new Date().toISOString(),
    owner: owner(),
    ...(spec.annotations === undefined ? {} : { annotations: spec.annotations }),
    bootId: bootId(),
    cgroups,
    ...(unit === undefined ? {} : { unit: unit.name }),
    ownPids: hasNamespace(spec, "pid"),
    keyring: request.newKeyring,
    hooks,
  };
}

/** What is only needed where no template is. */
const planning = () => import("./create-plan.ts");

/**
 * Whether there can be another container of the kind: a network device and its addresses are of one alone, and
 * startContainer hooks without an environment bring the process's into the plan's set-up.
 */
function canBeKept({ netDevices, spec }: Inputs): boolean {
  for (const { env } of spec.hooks?.startContainer ?? []) if (env === undefined) return false;
  return netDevices.length === 0;
}

function requestOf({ root }: CreateRequest, inputs: Inputs): PlanRequest<Inputs> {
  const { cgroups, state, oci } = inputs;
  return {
    inputs,
    lasts: canBeKept(inputs),
    called: (id) => ({
      ...inputs,
      id,
      cgroups: { host: cgroups.host, choice: { ...cgroups.choice, id } },
      state: { ...state, id },
      oci: { ...oci, id, directory: stateDirectory(root, id), pidFile: oci.pidFile?.replaceAll(inputs.id, id) },
    }),
  };
}

/** The plan, or undefined where it was to be printed, and has been. */
async function planOf(request: CreateRequest, inputs: Inputs): Promise<Planned<Derived> | undefined> {
  const { explain, fault } = request;
  if (explain === undefined && fault === undefined)
    return planFor(request.root, requestOf(request, inputs), async () => (await planning()).compiler);
  const { compileInputs, compiler, imageOfSteps } = await planning();
  const { steps } = compileInputs(inputs);
  if (explain === undefined) return { image: imageOfSteps(steps, fault), derived: compiler.derive(inputs) };
  await explain(steps);
  return undefined;
}

function becomeInit(bundle: Bundle, spec: Spec, image: Uint8Array<ArrayBuffer>): never {
  // Hooks run in the bundle's directory, as runc's do.
  if (process.cwd() !== bundle.directory) direct.chdir(bundle.directory);
  execInit(image, spec.hooks === undefined ? {} : { env: callersEnvironment() });
}

/** The container's directory, its lock, which init inherits, and its record. @throws what is to be told; nothing is left */
function claim(request: CreateRequest, record: StateRecord, bundle: Bundle): void {
  const directory = stateDirectory(request.root, request.id);
  const lock = claimContainer(request.root, record, bundle.text);
  try {
    inherit(lock.release());
    if (!hasOwnMounts(bundle.spec)) direct.mkdirat(AT_FDCWD, rootPlace(directory), 0o700);
    if (request.mode === "create") direct.mknodat(AT_FDCWD, `${directory}/exec.fifo`, S.S_IFIFO | 0o600, 0);
  } catch (error) {
    forgetContainer(directory);
    throw error;
  }
}

/** With a unit of systemd's, which is asked for it before there is a process of the container's. */
async function createInUnit(
  request: CreateRequest,
  bundle: Bundle,
  spec: Spec,
  facts: HostFacts,
  host: CgroupHost,
): Promise<number> {
  const { enterScope, ownedByUser, stopUnit } = await import("./systemd.ts");
  const unit = systemdUnit(spec.linux?.cgroupsPath, request.id, ownedByUser());
  const choice: CgroupChoice = { id: request.id, manager: "systemd", privileged: !ownedByUser(), unit };
  if (request.explain !== undefined) {
    await planOf(request, await inputsOf(request, bundle, spec, facts, { host, choice }));
    return 0;
  }
  const claimed = recordOf(request, bundle, { mode: "none", directories: [] }, unit);
  claim(request, claimed, bundle);
  try {
    const scope = await enterScope(unit, request.id, spec.linux?.resources ?? {}, host);
    try {
      const cgroups = { host, choice: { ...choice, scope } };
      const plan = await planOf(request, await inputsOf(request, bundle, spec, facts, cgroups));
      if (plan === undefined) return 0;
      updateRecord(request.root, { ...claimed, cgroups: plan.derived });
      becomeInit(bundle, spec, plan.image);
    } catch (error) {
      leaveScope(scope.leave);
      await stopUnit(unit.name);
      throw error;
    }
  } catch (error) {
    forgetContainer(stateDirectory(request.root, request.id));
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
  const text = readConfig(request.config);
  const plain = knows ? parsePlain(text) : undefined;
  const bundle = bundleOf(request.bundle, text, plain ?? (await decode(text)));
  try {
    return await createFrom(request, bundle);
  } catch (error) {
    // Of what was not looked at anything can be wrong.
    if (plain !== undefined && error instanceof TypeError) await check(plain);
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
  const host = cgroupHost(facts.cgroup);
  if (request.cgroupManager === "systemd") return createInUnit(request, bundle, spec, facts, host);
  const { id, cgroupManager } = request;
  const choice = { id, manager: cgroupManager, privileged: effectiveUid() === 0 && !facts.userNamespace };
  const plan = await planOf(request, await inputsOf(request, bundle, spec, facts, { host, choice }));
  if (plan === undefined) return 0;
  claim(request, recordOf(request, bundle, plan.derived, undefined), bundle);
  try {
    checkUnused(plan.derived);
    becomeInit(bundle, spec, plan.image);
  } catch (error) {
    forgetContainer(stateDirectory(request.root, id));
    throw error;
  }
}
