import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { effectiveUid } from "../../ffi/user.ts";
import { isolationOf } from "../container/isolation.ts";
import { listContainers } from "../container/record.ts";
import { reason } from "../errors.ts";
import { writtenSubnet } from "../network/addresses.ts";
import { findBridge } from "../network/bridge.ts";
import { bridgeName } from "../network/names.ts";
import type { HostFacts } from "../plan/facts.ts";
import { hostFacts } from "../runtime/host.ts";
import { preferredSnapshotter, whyNot } from "../store/probe.ts";
import { snapshotters } from "../store/snapshotter.ts";
import { openStore, type Store } from "../store/store.ts";
import { asRoot, type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";
import { storeMax } from "./store-max.ts";

const fileSystems: Readonly<Record<number, string>> = {
  61267: "ext4",
  1481003842: "xfs",
  2435016766: "btrfs",
  16914836: "tmpfs",
  2035054128: "overlay",
  26985: "nfs",
  801189825: "zfs",
};

function fileSystemOf(path: string): string {
  const stat = alloc(120);
  for (let at = path; ; at = at.slice(0, at.lastIndexOf("/"))) {
    if (attempt("statfs", at === "" ? "/" : at, stat) >= 0) {
      const magic = readField("statfs", stat, "f_type");
      return fileSystems[magic] ?? `0x${magic.toString(16)}`;
    }
    if (at === "") return "unknown";
  }
}

async function mayBeRoot(): Promise<boolean> {
  if (effectiveUid() === 0) return false;
  const { canEnter } = await import("../container/enter.ts");
  return canEnter();
}

/** Who has called, on the host's side. */
function userOf({ ids }: HostFacts): string {
  if (effectiveUid() !== 0) return String(effectiveUid());
  const host = ids?.uids.find(({ first }) => first === 0)?.host ?? 0;
  return host === 0 ? "root" : String(host);
}

function isolation(facts: HostFacts): string {
  if (effectiveUid() !== 0) return "none: no user namespace can be made, and so no container";
  return isolationOf(facts);
}

/** Which ways of keeping layers work, the one that a pull takes first. */
function backEnds(store: Store): string {
  if (attempt("faccessat2", AT_FDCWD, store.temporary, 0, 0) < 0) return "tried when the store is made";
  const all = snapshotters.map((kind) => ({ kind, why: whyNot(store, kind) }));
  const first = preferredSnapshotter(store);
  const works = all.filter(({ kind, why }) => why === undefined || kind === first).map(({ kind }) => kind);
  const others = all.flatMap(({ kind, why }) => (why === undefined ? [] : [`; not ${kind}: ${why}`]));
  return [...works].sort((a, b) => Number(b === first) - Number(a === first)).join(" ") + others.join("");
}

/** What a container has without --network. */
function networkOf({ userNamespace }: HostFacts): string {
  if (userNamespace || effectiveUid() !== 0) return "loopback, or the host's with --network host";
  let bridge: ReturnType<typeof findBridge>;
  try {
    bridge = findBridge();
  } catch (error) {
    return `loopback, or the host's with --network host (${reason(error)})`;
  }
  if (bridge === undefined) return `bridge ${bridgeName}, made with the first container`;
  return `bridge ${bridgeName} (${writtenSubnet(bridge.subnet)})`;
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "info", description: "Print what this machine offers and where things are kept" },
      args: { format: { type: "enum", options: ["text", "json"], default: "text", description: "text or json" } },
    },
    words: [0, 0],
    async run(given) {
      // What there is for a user is seen where a container of theirs would be; where there can be none that is told, too.
      if (await mayBeRoot()) await asRoot(globals);
      const at = places(globals);
      const { root, state, storeOptions } = at;
      // Read, for a bad one to be told.
      storeMax(at);
      const store = openStore(root, storeOptions);
      const facts = hostFacts();
      const containers = listContainers(root, state);
      const shown: Readonly<Record<string, string | number>> = {
        version: globals.version,
        kernel: facts.kernel,
        architecture: process.arch === "arm64" ? "arm64" : "amd64",
        user: userOf(facts),
        isolation: isolation(facts),
        cgroups: facts.cgroup.mode,
        "cgroup controllers": facts.cgroup.controllers.join(" "),
        "rootfs back ends": backEnds(store),
        network: networkOf(facts),
        "file system": fileSystemOf(root),
        root,
        "image store (OCI layout)": `${root}/image`,
        "images may take": at.storeMax ?? "no limit",
        state,
        images: store.list().length,
        containers: containers.length,
        running: containers.filter((each) => each.running).length,
      };
      if (given.text("format") === "json") print(JSON.stringify(shown, null, 2));
      else for (const key in shown) print(`${key}: ${shown[key]}`);
      return 0;
    },
  };
}
