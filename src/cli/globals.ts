/** What stands before the command, and where things are kept because of it. */
import { attempt } from "../../ffi/direct.ts";
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

/** --root and --state over OCIBOX_ROOT and OCIBOX_STATE over /var/lib/ocibox and /run/ocibox. */
export function places(globals: Globals): Places {
  const env = Bun.env;
  return {
    root: absolute(globals.root ?? (env.OCIBOX_ROOT || "/var/lib/ocibox"), "the root directory"),
    state: absolute(globals.state ?? (env.OCIBOX_STATE || "/run/ocibox"), "the state directory"),
    storeOptions: storeOptions(globals),
    storeMax: globals["store-max"] ?? (env.OCIBOX_STORE_MAX || undefined),
  };
}

/** @throws OciboxError PERMISSION for anybody but root, until rootless is there */
export function needRoot(what: string): void {
  if (attempt("geteuid") === 0) return;
  throw new OciboxError("PERMISSION", `${what} needs root for now: running as an ordinary user is not there yet`, {
    hint: "call it with sudo",
  });
}
