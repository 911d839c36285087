/**
 * Compiled plans, kept. What a container is set up by depends on the image, the options, this machine and this program;
 * its arguments, its environment and its id do not change a single step of it. So the encoded set-up of a container is
 * kept under ROOT/plans by a hash of all that it depends on, and the next container of the same kind takes it: its id
 * is written over the old one, and the command's own steps are added. The whole is kept beside it for commands of the
 * shape of the first one (runtime/templates.ts). docs/decisions.md has what that saves.
 *
 * What is kept runs as root. It is taken only from files and directories that nobody else can write.
 */
import type { EncodedPart } from "../../ffi/encode.ts";
import type { RunOptions } from "../bundle/command.ts";
import type { HostFacts } from "../plan/facts.ts";
import { identityOf, readKept } from "../runtime/kept.ts";
import { instance, shapeOf, type Template, unpacked } from "../runtime/templates.ts";
import type { ChainId, Digest } from "../spec/digest.ts";
import type { ContainerDefaults } from "../spec/image.ts";
import { readFile } from "../store/disk.ts";
import type { Snapshotter } from "../store/snapshotter.ts";
import type { ContainerId } from "./state.ts";

/** All that a container's set-up depends on. */
export interface PlanKey {
  /** With the store's index, which is in the name by its contents, this says which image. */
  readonly imageName: string;
  readonly platform: string | undefined;
  readonly options: RunOptions;
  readonly facts: HostFacts;
  readonly interactive: boolean;
  readonly detach: boolean;
  readonly init: boolean;
  readonly autoRemove: boolean;
  readonly root: string;
  readonly state: string;
  /** The one that was asked for. */
  readonly snapshotter: Snapshotter | undefined;
  /** What each volume's source is. */
  readonly kinds: readonly string[];
}

/** A set-up that was compiled before: the part of a plan where its command is to follow, and what belongs to it. */
export interface KeptPlan extends Template {
  /** The container that it was compiled for: its id stands in the texts. */
  readonly id: ContainerId;
  readonly digest: Digest;
  readonly layers: readonly ChainId[];
  /** How they lie there. */
  readonly kind: Snapshotter;
  readonly image: Pick<ContainerDefaults, "Entrypoint" | "Cmd" | "Env" | "StopSignal">;
  readonly home: string;
  /** config.json without arguments and environment. */
  readonly spec: string;
  readonly bytes: EncodedPart;
}

export const folder = "plans";
const mostIndex = 64 << 20;
const shortId = 12;

/** The name that a plan is kept by, or undefined where this program cannot tell which it is. */
export function keyName(key: PlanKey): string | undefined {
  const program = identityOf("/proc/self/exe");
  // By its contents: of two that were written within a tick of the clock, inode, size and time may be the same.
  const bytes = readFile(`${key.root}/image/index.json`, mostIndex);
  const index = bytes === undefined ? undefined : String(Bun.hash(bytes));
  if (program === undefined || index === undefined) return undefined;
  // Everything but what is added to a kept plan: a new option is part of the key without being named here.
  const { command, entrypoint, env, ...options } = key.options;
  const text = JSON.stringify({ ...key, options, program, index });
  return new Bun.CryptoHasher("sha256").update(text).digest("hex");
}

/** A kept plan, or undefined where there is none. */
export function recall(root: string, name: string): KeptPlan | undefined {
  const bytes = readKept(root, folder, name);
  return bytes && unpacked<KeptPlan>(bytes);
}

export const noCommand = '"args":["\\u0001"],"env":["\\u0001"]';

/** What stands for something else in the next container: the id, and the short form that is the host name. */
export function atomsOf(id: ContainerId): readonly string[] {
  return [id, id.slice(0, shortId)];
}

/** The name that the whole of a kind's plans is kept by, for commands of one shape. */
export function commandName(name: string, key: string): string {
  return new Bun.CryptoHasher("sha256").update(`${name}\n${key}`).digest("hex");
}

/** The image of a kind's plan for a container of its own id and command. @param name of the kind */
export async function imageFor(
  root: string,
  name: string | undefined,
  kept: KeptPlan,
  id: ContainerId,
  args: readonly string[],
  env: readonly string[],
): Promise<Uint8Array<ArrayBuffer>> {
  const shape = shapeOf(args, env);
  const ready = shape && name && readKept(root, folder, commandName(name, shape.key));
  if (ready) return instance(unpacked(ready), atomsOf(id), shape.texts);
  const { imageOfPart } = await import("./remember.ts");
  return imageOfPart(kept, id, args, env);
}

/** The container's own config.json. */
export function specFor(plan: KeptPlan, id: ContainerId, args: readonly string[], env: readonly string[]): string {
  const text = plan.spec.replaceAll(plan.id, id).replaceAll(plan.id.slice(0, shortId), id.slice(0, shortId));
  return text.replace(noCommand, () => `"args":${JSON.stringify(args)},"env":${JSON.stringify(env)}`);
}
