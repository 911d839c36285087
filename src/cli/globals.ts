/** What stands before the command, and where things are kept because of it. */
import { effectiveUid } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";
import { parseSnapshotter } from "../store/snapshotter.ts";
import type { StoreOptions } from "../store/store.ts";

export interface Globals {
  readonly root?: string;
  readonly state?: string;
  readonly snapshotter?: string;
  readonly "additional-store"?: readonly string[];
  readonly "store-max"?: string;
  readonly debug: boolean;
  readonly version: string;
}

export interface Places {
  /** Images, layers and containers: survives a reboot. */
  readonly root: string;
  /** What runs now: gone after a reboot. */
  readonly state: string;
  readonly storeOptions: StoreOptions;
  /** What images may take on the disk after a pull, as it was written. */
  readonly storeMax: string | undefined;
}

/** A path from the root on, without dots. */
export function absolute(path: string, what: string): string {
  if (path.includes("\0")) throw new OciboxError("USAGE", `${what} has a NUL in it`);
  const full = path.startsWith("/") ? path : `${process.cwd()}/${path}`;
  const parts: string[] = [];
  for (const part of full.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}

/** --snapshotter and --additional-store over OCIBOX_SNAPSHOTTER and OCIBOX_ADDITIONAL_STORES (with colons between). */
function storeOptions(globals: Globals): StoreOptions {
  const { OCIBOX_SNAPSHOTTER: fromEnv, OCIBOX_ADDITIONAL_STORES: stores } = Bun.env;
  const word = globals.snapshotter ?? (fromEnv || undefined);
  const what = globals.snapshotter === undefined ? "OCIBOX_SNAPSHOTTER" : "--snapshotter";
  const additional = globals["additional-store"] ?? (stores || undefined)?.split(":").filter((each) => each !== "");
  return {
    ...(word === undefined ? {} : { snapshotter: parseSnapshotter(word, what) }),
    ...(additional === undefined
      ? {}
      : { additional: additional.map((each) => absolute(each, "the additional store")) }),
  };
}

/**
 * Where root keeps things, and everybody else: XDG Base Directory Specification. What runs is kept with the images: not
 * every session has a directory that is gone after a reboot, and in another nobody would be found.
 * @throws OciboxError USAGE where a user has no home
 */
function usualPlaces(): Pick<Places, "root" | "state"> {
  if (effectiveUid() === 0) return { root: "/var/lib/ocibox", state: "/run/ocibox" };
  const { HOME, XDG_DATA_HOME } = Bun.env;
  const data = XDG_DATA_HOME?.startsWith("/") === true ? XDG_DATA_HOME : HOME && `${HOME}/.local/share`;
  if (!data)
    throw new OciboxError("USAGE", "there is no place for images: neither HOME nor XDG_DATA_HOME is set", {
      hint: "set one of them, or OCIBOX_ROOT",
    });
  const root = `${data}/ocibox`;
  return { root, state: `${root}/state` };
}

/**
 * --root and --state over OCIBOX_ROOT and OCIBOX_STATE over the usual places.
 * @throws OciboxError USAGE
 */
export function places(globals: Globals): Places {
  const env = Bun.env;
  const [root, state] = [globals.root ?? env.OCIBOX_ROOT, globals.state ?? env.OCIBOX_STATE];
  const usual = root && state ? { root, state } : usualPlaces();
  return {
    root: absolute(root || usual.root, "the root directory"),
    state: absolute(state || usual.state, "the state directory"),
    storeOptions: storeOptions(globals),
    storeMax: globals["store-max"] ?? (env.OCIBOX_STORE_MAX || undefined),
  };
}

/**
 * Goes on as root: an ordinary user in a user namespace, where the program begins anew, so that this does not return.
 * @param of the process in whose namespace that is to be; a new one where there is none
 * @throws SyscallError where there can be none
 */
export async function asRoot(globals: Globals, of?: (places: Places) => number | undefined): Promise<void> {
  if (effectiveUid() === 0) return;
  const at = places(globals);
  const { enterUserNamespace } = await import("../container/enter.ts");
  enterUserNamespace({ OCIBOX_ROOT: at.root, OCIBOX_STATE: at.state }, of?.(at));
}
