/**
 * Plans of OCI containers, kept as templates. The containers of one caller differ in their ids, in names that are made of
 * such ids (a layer's directory, a network's file) and in their commands, and in nothing that changes a step. So a plan is
 * kept by a hash of all that it depends on, with the ids left out; the next container of the kind has its own written over
 * the places where they stand, for they are as long.
 *
 * An id that is short, or a word, may stand in a text by chance: of such a one only the places are left out that it has as
 * an id, and these are found by what differs between the plans of two ids.
 *
 * Kept are the plan up to where the command is, to which any command's steps are added, and the image as a whole, for
 * commands like the one that was asked for: the same program with arguments and an environment that are as long, which are
 * written over their places, too. Nothing of them is kept but PATH: an environment may hold secrets.
 *
 * A template was made of a configuration that was checked field by field: one that is the same but for the ids is as
 * good, so that it is not checked again.
 *
 * A kind is compiled into a template when it is seen for the second time. docs/decisions.md has what that saves.
 */
import type { EncodedPart } from "../../ffi/encode.ts";
import type { HostFacts } from "../plan/facts.ts";
import { keepGroups } from "../spec/annotations.ts";
import type { Spec } from "../spec/runtime.ts";
import { identityOf, readKept } from "./kept.ts";

/** All that a plan depends on, as values that JSON has: what follows from them is not among them. */
export interface PlanInputs {
  readonly spec: Spec;
  readonly facts: HostFacts;
  readonly id: string;
  /** Whether the command is looked up before it is executed. */
  readonly looksUp: boolean;
  readonly [more: string]: unknown;
}

/** What a template is looked for by. */
export interface PlanRequest<I extends PlanInputs> {
  readonly inputs: I;
  /** The same inputs for a container of another id, which is as long. */
  called(id: string): I;
  /** Whether there can be another container of the kind: a network device and its addresses are of one alone. */
  readonly lasts: boolean;
}

/** What makes plans of a caller's inputs; of those of the template, too. */
export interface PlanCompiler<I extends PlanInputs, D> {
  /** What the caller is to know of the plan, as values that JSON has. @throws OciboxError naming the field of config.json */
  derive(inputs: I): D;
  /** The whole plan's image. @throws OciboxError naming the field of config.json */
  whole(inputs: I): Uint8Array<ArrayBuffer>;
  /** All but the command's steps. */
  setUp(inputs: I): EncodedPart;
}

/** A plan, ready to run. */
export interface Planned<D> {
  readonly image: Uint8Array<ArrayBuffer>;
  readonly derived: D;
}

export const folder = ".plans";
/** Shorter ones may stand in a text by chance. */
const shortestId = 8;
const shortId = 12;
/** Hashes, and the time that a log's lines begin with. */
const changing = /[0-9a-f]{32,}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/g;
const headBytes = 8;
const utf8 = new TextEncoder();

/** Whether an id stands in no text by chance. One without a digit may be a word of the specification. */
function isUnlikely(id: string): boolean {
  return id.length >= shortestId && /\d/.test(id);
}

/** What stands in the key for an id that is no atom: a letter that no JSON text has as it is. */
export const nameless = "\u0002";

/** What stands for something else in the next container: the longest first, where one is part of another. */
function atomsIn(text: string, id: string): string[] {
  const atoms: string[] = [];
  if (isUnlikely(id)) atoms.push(id);
  const rest = atoms.length === 0 ? text : text.replaceAll(id, "");
  for (const found of rest.match(changing) ?? []) if (!atoms.includes(found)) atoms.push(found);
  // docker and podman call the host by the first twelve digits.
  if (/^[0-9a-f]{64}$/.test(id)) atoms.push(id.slice(0, shortId));
  return atoms;
}

/** @param by what an atom, by its index, is replaced with */
export function replaced(text: string, atoms: readonly string[], by: (index: number) => string): string {
  let rest = text;
  for (let index = 0; index < atoms.length; index++) rest = rest.replaceAll(atoms[index] as string, by(index));
  return rest;
}

/** What stands for an atom in a text that is kept. */
export function standIn(index: number): string {
  return `<\u0001${index}>`;
}

/** Without what is added to a template, and what no step depends on. */
function reduced<I extends PlanInputs>(inputs: I): I {
  const { spec } = inputs;
  const { args = [], env = [] } = spec.process ?? {};
  const path: string[] = [];
  for (const each of env) if (each.startsWith("PATH=")) path.push(each);
  const process =
    spec.process === undefined
      ? {}
      : {
          process: {
            ...spec.process,
            args: inputs.looksUp ? args.slice(0, 1) : ["\u0001"],
            env: inputs.looksUp ? path : [],
          },
        };
  // Only hooks are told of annotations, and one says something to us.
  const plain = spec.hooks === undefined;
  const keep = spec.annotations?.[keepGroups];
  const annotations = keep === undefined ? undefined : { [keepGroups]: keep };
  return { ...inputs, spec: { ...spec, ...process, ...(plain ? { annotations } : {}) } };
}

/** Bytes, and what in them is to be written over. */
export interface Template {
  /** Where each atom stands. */
  readonly atoms: readonly (readonly number[])[];
  /** Where the command's own texts go: what is kept has none of them. */
  readonly texts: readonly number[];
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** A template of a plan, and what is derived of its inputs: as JSON, with a stand-in for each atom. */
export interface PlanTemplate extends Template {
  readonly derived: string;
}

/** A template, and what else of JSON's values is to be known of it, as `unpacked` reads it. */
export function packed<T extends Template>({ bytes, ...head }: T): Uint8Array {
  // The rest begins at a multiple of eight, so that its words can be read where they are.
  const json = JSON.stringify(head);
  const text = utf8.encode(json.padEnd((json.length + 7) & ~7));
  const all = new Uint8Array(headBytes + text.byteLength + bytes.byteLength);
  new DataView(all.buffer).setUint32(0, text.byteLength, true);
  all.set(text, headBytes);
  all.set(bytes, headBytes + text.byteLength);
  return all;
}

/** The other way round; the bytes are where they were. */
export function unpacked<T extends Template = Template>(kept: Uint8Array<ArrayBuffer>): T {
  const length = new DataView(kept.buffer, kept.byteOffset).getUint32(0, true);
  const json = new TextDecoder().decode(kept.subarray(headBytes, headBytes + length));
  return Object.assign(JSON.parse(json) as Omit<T, "bytes">, { bytes: kept.subarray(headBytes + length) }) as T;
}

/** Writes this container's own texts into a template. @returns its bytes */
export function instance(
  template: Template,
  atoms: readonly string[],
  texts: readonly Uint8Array[],
): Uint8Array<ArrayBuffer> {
  const { bytes } = template;
  for (let index = 0; index < atoms.length; index++) {
    const own = utf8.encode(atoms[index]);
    for (const at of template.atoms[index] ?? []) bytes.set(own, at);
  }
  for (let index = 0; index < texts.length; index++) bytes.set(texts[index] as Uint8Array, template.texts[index]);
  return bytes;
}

export function planned<D>(
  template: PlanTemplate,
  atoms: readonly string[],
  image: Uint8Array<ArrayBuffer>,
): Planned<D> {
  let { derived } = template;
  for (let index = 0; index < atoms.length; index++)
    derived = derived.replaceAll(standIn(index), atoms[index] as string);
  return { image, derived: JSON.parse(derived) as D };
}

/** A command by what its steps depend on. The rest of its texts is anything of the same length, and may be a secret. */
interface CommandShape {
  /** As JSON: its name and PATH, and how many bytes everything else has. */
  readonly key: string;
  readonly texts: readonly Uint8Array[];
}

/** @returns undefined for one that no plan can hold: the encoder says why */
export function shapeOf(args: readonly string[], env: readonly string[]): CommandShape | undefined {
  const texts: Uint8Array[] = [];
  const argLengths: number[] = [];
  const envLengths: (number | string)[] = [];
  if (args[0]?.includes("\0")) return undefined;
  for (let index = 1; index < args.length + env.length; index++) {
    const inEnv = index - args.length;
    const text = inEnv < 0 ? args[index] : env[inEnv];
    if (text === undefined || text.includes("\0")) return undefined;
    if (inEnv >= 0 && text.startsWith("PATH=")) {
      envLengths.push(text);
      continue;
    }
    const bytes = utf8.encode(text);
    texts.push(bytes);
    (inEnv < 0 ? argLengths : envLengths).push(bytes.byteLength);
  }
  return { key: JSON.stringify([args[0], argLengths, envLengths]), texts };
}

/** The key's text, or undefined where the inputs hold what JSON has not: 64-bit numbers of seccomp's. */
function textOf(inputs: PlanInputs): string | undefined {
  try {
    return JSON.stringify(reduced(inputs));
  } catch (error) {
    if (error instanceof TypeError) return undefined;
    throw error;
  }
}

/** What a plan is kept by. */
interface Names {
  /** For any command. */
  readonly kind: string;
  /** For this one. */
  readonly command: string;
}

function namesOf(program: string, text: string, command: string, atoms: readonly string[]): Names {
  const marked = (each: string): string =>
    replaced(each, atoms, (index) => `\u0001${index}\u0001${atoms[index]?.length}\u0001`);
  const hash = new Bun.CryptoHasher("sha256").update(`${program}\n${marked(text)}`);
  return { kind: hash.copy().digest("hex"), command: hash.update(`\n${marked(command)}`).digest("hex") };
}

/** The key's text without the id, or undefined where there is none, or where it has in it what is to stand for the id. */
function namelessText<I extends PlanInputs>({ inputs, called }: PlanRequest<I>): string | undefined {
  const { length } = inputs.id;
  const text = textOf(called(nameless.repeat(length)));
  return textOf(inputs)?.includes(asJson(nameless)) === true ? undefined : text;
}

function asJson(text: string): string {
  return JSON.stringify(text).slice(1, -1);
}

/** What a template of a container is known by. */
export interface Sought {
  readonly names: Names;
  readonly text: string;
  readonly atoms: readonly string[];
  /** These, and behind them an id that is found in another way. */
  readonly all: readonly string[];
  /** How long that is. */
  readonly idLength: number;
  readonly shape: CommandShape | undefined;
}

/** @returns undefined where nothing is kept of its like */
function soughtOf<I extends PlanInputs>(request: PlanRequest<I>): Sought | undefined {
  const { inputs, lasts } = request;
  const { id, spec } = inputs;
  const program = identityOf("/proc/self/exe");
  const isAtom = isUnlikely(id);
  const text = lasts ? (isAtom ? textOf(inputs) : namelessText(request)) : undefined;
  const { args = [], env = [] } = spec.process ?? {};
  if (program === undefined || text === undefined || args.length === 0) return undefined;
  const atoms = atomsIn(text, id);
  const shape = shapeOf(args, env);
  const names = namesOf(program, text, shape?.key ?? "", atoms);
  return { names, text, atoms, all: isAtom ? atoms : [...atoms, id], idLength: isAtom ? 0 : id.length, shape };
}

/**
 * A container's plan, from a template where there is one.
 * @param root of the runtime's states: templates are kept in it
 * @param load what plans are made by: it is loaded only where one is made
 * @throws OciboxError as compiling does
 */
export async function planFor<I extends PlanInputs, D>(
  root: string,
  request: PlanRequest<I>,
  load: () => Promise<PlanCompiler<I, D>>,
): Promise<Planned<D>> {
  const sought = soughtOf(request);
  const ready = sought?.shape && readKept(root, folder, sought.names.command);
  if (sought === undefined || ready === undefined)
    return (await import("./template-make.ts")).planAnew(root, request.inputs, sought, load);
  const template = unpacked<PlanTemplate>(ready);
  return planned(template, sought.all, instance(template, sought.all, sought.shape?.texts ?? []));
}
