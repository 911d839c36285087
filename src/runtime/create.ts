/** `create` and `run`: a bundle becomes a state directory and a plan, and this process becomes init. */
import { AT, AT_FDCWD, S } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { encodePlan } from "../../ffi/encode.ts";
import { makeDirectories } from "../../ffi/files.ts";
import { execInit } from "../../ffi/launch.ts";
import type { Recorder, Step } from "../../ffi/plan.ts";
import { type SystemdUnit, systemdUnit } from "../plan/cgroups/paths.ts";
import { type CgroupPlan, planOciCgroups } from "../plan/cgroups/plan.ts";
import { compile } from "../plan/compile.ts";
import type { ErrorSink, OciContext, PlanContext } from "../plan/context.ts";
import type { CopyUpEntry } from "../plan/devices.ts";
import type { HostFacts } from "../plan/facts.ts";
import { runHooks, type StateText } from "../plan/hooks.ts";
import type { NetDevice } from "../plan/net-devices.ts";
import { asksListener } from "../plan/seccomp/listener.ts";
import type { Spec } from "../spec/runtime.ts";
import { checkSpec, decodeSpec, parseSpec } from "../spec/runtime-decode.ts";
import { type Bundle, copyUps, loadBundle, sourceKinds, withHome } from "./bundle.ts";
import { cgroupHost } from "./cgroup-host.ts";
import { writeCgroupFile } from "./cgroups.ts";
import { checkTerminal, connectTo, inherit, keepOpen } from "./handed.ts";
import { hostFacts } from "./host.ts";
import { netDevicesFor } from "./net-devices.ts";
import {
  bootId,
  checkId,
  claimContainer,
  forgetContainer,
  type StateRecord,
  stateDirectory,
  stateFiles,
  updateRecord,
} from "./state.ts";
import { imageFor, type PlanInputs } from "./templates.ts";

export interface CreateRequest {
  readonly id: string;
  /** Absolute. */
  readonly bundle: string;
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
  readonly fault: { readonly step: number; readonly errno: number } | undefined;
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

type StateOf = Pick<StateRecord, "ociVersion" | "id" | "bundle" | "annotations">;

/** runtime.md#state, cut where the process id goes. */
export function stateText({ ociVersion, id, bundle, annotations }: StateOf, status: string): StateText {
  const head = JSON.stringify({ ociVersion, id, status });
  const tail = JSON.stringify({ bundle, ...(annotations === undefined ? {} : { annotations }) });
  return [`${head.slice(0, -1)},"pid":`, `,${tail.slice(1)}`];
}

/** The files of a state directory, removed by the plan itself. */
function forgetSteps(p: Recorder, directory: string, note: (result: ReturnType<Recorder["slot"]>) => void): void {
  for (const name of stateFiles) note(p.carryOn("ENOENT").unlinkat(AT_FDCWD, `${directory}/${name}`, 0));
  note(p.carryOn("ENOENT").unlinkat(AT_FDCWD, directory, AT.AT_REMOVEDIR));
}

/** What the plan is made of: values alone, so that they can be a key. */
interface Inputs extends PlanInputs {
  readonly rootfs: string;
  readonly sources: readonly (readonly [path: string, kind: "directory" | "file"])[];
  readonly copyUp: readonly (readonly [path: string, entries: readonly CopyUpEntry[]])[];
  readonly cgroups: CgroupPlan;
  readonly state: StateOf;
  readonly oci: Omit<OciContext, "state" | "copyUp">;
  readonly netDevices: readonly NetDevice[];
}

/** A connection to whoever is asked by the filter. @throws OciboxError INVALID, HOST */
export function listenerSocket({ linux }: Spec): number | undefined {
  const path = linux?.seccomp?.listenerPath;
  return asksListener(linux?.seccomp) && path !== undefined ? connectTo(path, "linux.seccomp.listenerPath") : undefined;
}

/** Those of linux.netDevices, of which nothing is asked before it has been checked. @throws OciboxError INVALID, HOST */
function netDevices(spec: Spec): readonly NetDevice[] {
  if (spec.linux?.netDevices === undefined) return [];
  checkSpec(spec);
  return netDevicesFor(spec);
}

function inputsOf(
  request: CreateRequest,
  bundle: Bundle,
  spec: Spec,
  facts: HostFacts,
  record: StateRecord,
  cgroups: CgroupPlan,
): Inputs {
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
    netDevices: netDevices(spec),
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
      seccompSocket: listenerSocket(spec),
      newKeyring: request.newKeyring,
      sinks: request.sinks(),
      privileged: attempt("geteuid") === 0,
    },
  };
}

function contextOf({ spec, rootfs, sources, copyUp, cgroups, state, oci, netDevices }: Inputs): PlanContext {
  return {
    rootfs,
    netDevices,
    mountpoint: rootfs,
    interactive: true,
    init: false,
    sources: new Map(sources),
    oci: { ...oci, state: (status) => stateText(state, status), copyUp: new Map(copyUp) },
    cgroups,
    cleanup(p, _code, note) {
      forgetSteps(p, oci.directory, note);
    },
    forget(p) {
      const hooks = spec.hooks?.poststop ?? [];
      if (hooks.length === 0) return;
      const gone = p.slot("no process");
      p.add({ op: "set", slot: gone, value: 0 });
      runHooks(p, "poststop", hooks, stateText(state, "stopped"), gone, true);
    },
  };
}

function owner(): string {
  return attempt("geteuid") === 0 ? "root" : String(attempt("geteuid"));
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

/** What is to be undone where this program itself fails. */
interface Undo {
  defer(callback: () => void): void;
}

function launch(
  request: CreateRequest,
  bundle: Bundle,
  spec: Spec,
  facts: HostFacts,
  record: StateRecord,
  cgroups: CgroupPlan,
): number {
  const inputs = inputsOf(request, bundle, spec, facts, record, cgroups);
  if (request.explain !== undefined) {
    request.explain(compile(spec, facts, contextOf(inputs)).steps);
    return 0;
  }
  const image =
    request.fault === undefined
      ? imageFor(request.root, inputs, contextOf, inputs.netDevices.length === 0)
      : encodePlan(compile(spec, facts, contextOf(inputs)), { fault: request.fault });
  // Hooks run in the bundle's directory, as runc's do.
  direct.chdir(bundle.directory);
  execInit(image);
}

/** The container's directory, its lock, which init inherits, and its record. */
function claim(request: CreateRequest, record: StateRecord, text: string, undo: Undo): void {
  const directory = stateDirectory(request.root, request.id);
  makeDirectories(request.root);
  inherit(claimContainer(request.root, record, text).release());
  undo.defer(() => forgetContainer(directory));
  if (request.mode === "create") direct.mknodat(AT_FDCWD, `${directory}/exec.fifo`, S.S_IFIFO | 0o600, 0);
}

/** With a unit of systemd's, which is asked for it before there is a process of the container's. */
async function createInUnit(request: CreateRequest, bundle: Bundle, spec: Spec, facts: HostFacts): Promise<number> {
  const { enterScope, ownedByUser, stopUnit } = await import("./systemd.ts");
  const host = cgroupHost(facts.cgroup.mode);
  const unit = systemdUnit(spec.linux?.cgroupsPath, request.id, ownedByUser());
  const choice = { id: request.id, manager: "systemd", privileged: !ownedByUser(), unit } as const;
  const claimed = recordOf(request, bundle, unit);
  if (request.explain !== undefined)
    return launch(request, bundle, spec, facts, claimed, planOciCgroups(spec, host, choice));
  using undo = new DisposableStack();
  claim(request, claimed, bundle.text, undo);
  const scope = await enterScope(unit, request.id, spec.linux?.resources ?? {}, host);
  try {
    const cgroups = planOciCgroups(spec, host, { ...choice, scope });
    const record = { ...claimed, cgroups: { mode: cgroups.mode, directories: cgroups.directories } };
    updateRecord(request.root, record);
    return launch(request, bundle, spec, facts, record, cgroups);
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
export function createContainer(request: CreateRequest): number | Promise<number> {
  checkId(request.id);
  // A configuration whose like was seen before need not be looked at again.
  const knows = request.explain === undefined && request.fault === undefined && request.cgroupManager !== "systemd";
  const bundle = loadBundle(request.bundle, knows ? parseSpec : decodeSpec);
  try {
    return createFrom(request, bundle);
  } catch (error) {
    // Of what was not looked at anything can be wrong.
    if (knows && error instanceof TypeError) checkSpec(bundle.spec);
    throw error;
  }
}

function createFrom(request: CreateRequest, bundle: Bundle): number | Promise<number> {
  checkTerminal(bundle.spec.process?.terminal === true, request.mode !== "foreground", request.consoleSocket);
  const spec = completed(bundle);
  const facts = hostFacts();
  if (request.cgroupManager === "systemd") return createInUnit(request, bundle, spec, facts);
  const cgroups = planOciCgroups(spec, cgroupHost(facts.cgroup.mode), {
    id: request.id,
    manager: request.cgroupManager,
    privileged: attempt("geteuid") === 0 && !facts.userNamespace,
  });
  const record = {
    ...recordOf(request, bundle, undefined),
    cgroups: { mode: cgroups.mode, directories: cgroups.directories },
  };
  using undo = new DisposableStack();
  if (request.explain === undefined) claim(request, record, bundle.text, undo);
  return launch(request, bundle, spec, facts, record, cgroups);
}
