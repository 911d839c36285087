/**
 * The systemd driver: a container's cgroup is that of a transient scope, which systemd makes when it is asked over D-Bus.
 * https://systemd.io/CONTROL_GROUP_INTERFACE/ and org.freedesktop.systemd1(5)
 */
import { attempt } from "../../ffi/direct.ts";
import { inUserNamespace } from "../../ffi/user.ts";
import { OciboxError, reason } from "../errors.ts";
import type { CgroupHost, SystemdUnit } from "../plan/cgroups/paths.ts";
import type { Resources } from "../spec/runtime.ts";
import { cgroupsOfProcess } from "./cgroup-host.ts";
import { DbusConnection, DbusError } from "./dbus.ts";
import type { Value } from "./dbus-wire.ts";
import { limitProperties, type Property } from "./systemd-properties.ts";

const destination = "org.freedesktop.systemd1";
const path = "/org/freedesktop/systemd1";
const manager = "org.freedesktop.systemd1.Manager";

/** Whether the user's own systemd is the one to ask: not root, or only in a user namespace. */
export function ownedByUser(): boolean {
  if (attempt("geteuid") !== 0) return true;
  return inUserNamespace();
}

/** systemd's own socket comes first: it is there without a bus. @returns whether it is a bus, with the path */
function addresses(user: boolean): (readonly [path: string, isBus: boolean])[] {
  const runtime = Bun.env.XDG_RUNTIME_DIR ?? "";
  const given = (user ? Bun.env.DBUS_SESSION_BUS_ADDRESS : Bun.env.DBUS_SYSTEM_BUS_ADDRESS) ?? "";
  const named = /(?:^|;)unix:path=([^,;]+)/.exec(given)?.[1];
  const bus = named ?? (user ? `${runtime}/bus` : "/run/dbus/system_bus_socket");
  return user
    ? [
        [`${runtime}/systemd/private`, false],
        [bus, true],
      ]
    : [
        ["/run/systemd/private", false],
        [bus, true],
      ];
}

/** A way to systemd. */
class Systemd implements Disposable {
  private constructor(
    readonly connection: DbusConnection,
    readonly isBus: boolean,
  ) {}

  static async open(user: boolean): Promise<Systemd> {
    let first: unknown;
    for (const [address, isBus] of addresses(user)) {
      try {
        const systemd = new Systemd(await DbusConnection.open(address), isBus);
        if (isBus) await systemd.#greet();
        return systemd;
      } catch (error) {
        first ??= error;
      }
    }
    throw new OciboxError("HOST", `--systemd-cgroup: ${reason(first)}`, {
      hint: user
        ? "is there a session of systemd for this user (XDG_RUNTIME_DIR)? else use --cgroup-manager cgroupfs"
        : "does systemd run this machine? else use --cgroup-manager cgroupfs",
    });
  }

  async #greet(): Promise<void> {
    const bus = {
      destination: "org.freedesktop.DBus",
      path: "/org/freedesktop/DBus",
      interface: "org.freedesktop.DBus",
    };
    await this.connection.call({ ...bus, member: "Hello", body: [] });
    const rule = `type='signal',interface='${manager}',member='JobRemoved'`;
    await this.connection.call({ ...bus, member: "AddMatch", signature: "s", body: [rule] });
    // Nobody is told of jobs who has not asked for it.
    await this.call("Subscribe", "", []);
  }

  call(member: string, signature: string, body: readonly Value[]): Promise<readonly Value[]> {
    return this.connection.call({
      ...(this.isBus ? { destination } : {}),
      path,
      interface: manager,
      member,
      ...(signature === "" ? {} : { signature }),
      body,
    });
  }

  /** Calls what makes a job, and waits for its end. @returns its result: "done", "failed", … */
  async job(member: string, signature: string, body: readonly Value[]): Promise<string> {
    await using removed = this.connection.listen("JobRemoved");
    const [job] = await this.call(member, signature, body);
    let result = "";
    await removed.until(([, of, , outcome]) => {
      if (of !== job) return false;
      result = String(outcome);
      return true;
    });
    return result;
  }

  async forgetFailure(unit: string): Promise<void> {
    try {
      await this.call("ResetFailedUnit", "s", [unit]);
    } catch (error) {
      if (!(error instanceof DbusError)) throw error;
    }
  }

  [Symbol.dispose](): void {
    this.connection[Symbol.dispose]();
  }
}

/** What a scope is made with, beside its limits. Its processes and cgroups below are the container's own business. */
function scopeProperties(unit: SystemdUnit, id: string, pid: number): Property[] {
  const on = (name: string): Property => [name, { signature: "b", value: true }];
  return [
    ["Description", { signature: "s", value: `ocibox container ${id}` }],
    ["Slice", { signature: "s", value: unit.slice }],
    ["PIDs", { signature: "au", value: [pid] }],
    on("Delegate"),
    ...["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"].map(on),
    ["DefaultDependencies", { signature: "b", value: false }],
    // One whose processes were killed is not kept to be looked at.
    ["CollectMode", { signature: "s", value: "inactive-or-failed" }],
  ];
}

export interface Scope {
  /** The scope's cgroup, in every hierarchy. */
  readonly path: string;
  /** Files to write "0" to, to be back where ocibox was: see CgroupPlan. */
  readonly leave: readonly string[];
}

/**
 * Has systemd make the container's scope, with this process in it: a scope is never without a process, and the container
 * has none yet. Its own is made in there, and then this one goes back.
 * @throws OciboxError HOST
 */
export async function enterScope(
  unit: SystemdUnit,
  id: string,
  resources: Resources,
  host: CgroupHost,
): Promise<Scope> {
  if (!unit.name.endsWith(".scope"))
    throw new OciboxError(
      "UNSUPPORTED",
      `linux.cgroupsPath: a container in the slice "${unit.name}" itself is not supported`,
    );
  const before = cgroupsOfProcess("self");
  using systemd = await Systemd.open(ownedByUser());
  const properties = [...scopeProperties(unit, id, process.pid), ...limitProperties(resources, host.mode)];
  const start = () =>
    systemd.job("StartTransientUnit", "ssa(sv)a(sa(sv))", [unit.name, "replace", properties as unknown as Value, []]);
  let result: string;
  try {
    result = await start();
  } catch (error) {
    if (!(error instanceof DbusError) || error.errorName !== "org.freedesktop.systemd1.UnitExists")
      throw refused(unit, error);
    await systemd.forgetFailure(unit.name);
    result = await start().catch((again: unknown) => Promise.reject(refused(unit, again)));
  }
  if (result !== "done") throw refused(unit, `the job has ended as ${JSON.stringify(result)}`);
  const after = cgroupsOfProcess("self");
  const name = host.mode === "v2" ? "" : "name=systemd";
  const scope = after.get(name);
  if (scope === undefined || !scope.endsWith(`/${unit.name}`))
    throw refused(unit, `this process is in ${JSON.stringify(scope ?? "nothing")} then`);
  const leave = host.hierarchies
    .filter((each) => before.get(each.name) !== after.get(each.name))
    .map((each) => `${each.mount}${before.get(each.name)}/${each.name === "" ? "cgroup.procs" : "tasks"}`);
  return { path: scope, leave };
}

function refused(unit: SystemdUnit, error: unknown): OciboxError {
  return new OciboxError("HOST", `systemd does not make the unit "${unit.name}": ${reason(error)}`);
}

/** `update`: systemd must know of limits, for it writes those that it knows again when it likes. */
export async function updateUnit(name: string, resources: Resources, mode: CgroupHost["mode"]): Promise<void> {
  const properties = limitProperties(resources, mode);
  if (properties.length === 0) return;
  using systemd = await Systemd.open(ownedByUser());
  await systemd
    .call("SetUnitProperties", "sba(sv)", [name, true, properties as unknown as Value])
    .catch((error: unknown) => {
      throw new OciboxError("HOST", `systemd does not change the unit "${name}": ${reason(error)}`);
    });
}

/** Moves this process into a container's unit: a user may not do it himself, but may ask. @throws OciboxError HOST */
export async function joinUnit(name: string): Promise<void> {
  using systemd = await Systemd.open(ownedByUser());
  await systemd.call("AttachProcessesToUnit", "ssau", [name, "/", [process.pid]]).catch((error: unknown) => {
    throw new OciboxError("HOST", `systemd does not move this process into the unit "${name}": ${reason(error)}`);
  });
}

/** Ends a container's unit with all that is in it. One that is gone already is none the worse. */
export async function stopUnit(name: string): Promise<void> {
  using systemd = await Systemd.open(ownedByUser());
  try {
    await systemd.job("StopUnit", "ss", [name, "replace"]);
  } catch (error) {
    if (!(error instanceof DbusError)) throw error;
  }
  await systemd.forgetFailure(name);
}
