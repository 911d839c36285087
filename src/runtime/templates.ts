/**
 * Plans of OCI containers, kept as templates. The containers of one caller differ in their ids, in names that are made of
 * such ids (a layer's directory, a network's file) and in their commands, and in nothing that changes a step. So a plan is
 * kept by a hash of all that it depends on, with the ids left out; the next container of the kind has its own written over
 * the places where they stand, for they are as long, and its command's steps are added.
 *
 * A template was made of a configuration that was checked field by field: one that is the same but for the ids is as
 * good, so that it is not checked again.
 *
 * A kind is compiled into a template when it is seen for the second time. docs/decisions.md has what that saves.
 */
import { dataOfPart, type EncodedPart, encodePart, encodePlan } from "../../ffi/encode.ts";
import { compileCommand } from "../plan/command.ts";
import { compile, compileSetUp } from "../plan/compile.ts";
import type { PlanContext } from "../plan/context.ts";
import type { HostFacts } from "../plan/facts.ts";
import type { Spec } from "../spec/runtime.ts";
import { checkSpec } from "../spec/runtime-decode.ts";
import { identityOf, readKept, writeKept } from "./kept.ts";

/** All that a plan depends on, as values that JSON has. */
export interface PlanInputs {
  readonly spec: Spec;
  readonly facts: HostFacts;
  readonly id: string;
  /** Whether the command is looked up before it is executed. */
  readonly looksUp: boolean;
  readonly [more: string]: unknown;
}

/** What a caller makes of the inputs; of those of the template, too. */
export type ContextOf<I extends PlanInputs> = (inputs: I) => PlanContext;

const folder = ".plans";
/** Shorter ones may stand in a text by chance. */
const shortestId = 8;
const shortId = 12;
/** Hashes, and the time that a log's lines begin with. */
const changing = /[0-9a-f]{32,}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/g;
const headBytes = 8;
const utf8 = new TextEncoder();

/** What stands for something else in the next container: the longest first, where one is part of another. */
function atomsIn(text: string, id: string): string[] {
  const atoms: string[] = [];
  // One without a digit may be a word of the specification.
  if (id.length >= shortestId && /\d/.test(id)) atoms.push(id);
  const rest = atoms.length === 0 ? text : text.replaceAll(id, "");
  for (const [found] of rest.matchAll(changing)) if (!atoms.includes(found)) atoms.push(found);
  // docker and podman call the host by the first twelve digits.
  if (/^[0-9a-f]{64}$/.test(id)) atoms.push(id.slice(0, shortId));
  return atoms;
}

function replaced(text: string, atoms: readonly string[], by: (index: number) => string): string {
  return atoms.reduce((rest, atom, index) => rest.replaceAll(atom, by(index)), text);
}

/** Without what is added to a template, and what no step depends on. */
function reduced<I extends PlanInputs>(inputs: I): I {
  const { spec } = inputs;
  const { args = [], env = [] } = spec.process ?? {};
  const path = env.filter((each) => each.startsWith("PATH="));
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
  // Only hooks are told of annotations.
  const plain = spec.hooks === undefined;
  return { ...inputs, spec: { ...spec, ...process, ...(plain ? { annotations: undefined } : {}) } };
}

/** Letters that are no digits of a hash, as many as the atom has, which the text has not. */
function markerFor(atom: string, text: string): string {
  for (;;) {
    const random = crypto.getRandomValues(new Uint8Array(atom.length));
    const marker = String.fromCharCode(...random.map((each) => 0x67 + (each % 20)));
    if (!text.includes(marker)) return marker;
  }
}

interface Template {
  /** Where in the part's data each atom stands. */
  readonly places: readonly (readonly number[])[];
  readonly part: EncodedPart;
}

function placesOf(part: EncodedPart, markers: readonly string[]): number[][] {
  const data = dataOfPart(part);
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return markers.map((marker) => {
    const places: number[] = [];
    for (let at = bytes.indexOf(marker); at >= 0; at = bytes.indexOf(marker, at + marker.length)) places.push(at);
    return places;
  });
}

function makeTemplate<I extends PlanInputs>(text: string, atoms: readonly string[], contextOf: ContextOf<I>): Template {
  const markers = atoms.map((atom) => markerFor(atom, text));
  const inputs = JSON.parse(replaced(text, atoms, (index) => markers[index] ?? "")) as I;
  const part = encodePart(compileSetUp(inputs.spec, inputs.facts, contextOf(inputs)).steps);
  return { places: placesOf(part, markers), part };
}

function bytesOf({ places, part }: Template): Uint8Array {
  // The part begins at a multiple of eight, so that its words can be read where they are.
  const json = JSON.stringify(places);
  const text = utf8.encode(json.padEnd((json.length + 7) & ~7));
  const bytes = new Uint8Array(headBytes + text.byteLength + part.byteLength);
  new DataView(bytes.buffer).setUint32(0, text.byteLength, true);
  bytes.set(text, headBytes);
  bytes.set(part, headBytes + text.byteLength);
  return bytes;
}

function instance(bytes: Uint8Array<ArrayBuffer>, atoms: readonly string[]): EncodedPart {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const places = JSON.parse(new TextDecoder().decode(bytes.subarray(headBytes, headBytes + length))) as number[][];
  const part = bytes.subarray(headBytes + length) as EncodedPart;
  const data = dataOfPart(part);
  atoms.forEach((atom, index) => {
    const own = utf8.encode(atom);
    for (const at of places[index] ?? []) data.set(own, at);
  });
  return part;
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

/**
 * The image of a container's plan, from a template where there is one.
 * @param root of the runtime's states: templates are kept in it
 * @param lasts whether there can be another container of the kind: a network device and its addresses are of one alone
 * @throws OciboxError as compiling does
 */
export function imageFor<I extends PlanInputs>(
  root: string,
  inputs: I,
  contextOf: ContextOf<I>,
  lasts = true,
): Uint8Array<ArrayBuffer> {
  const whole = (): Uint8Array<ArrayBuffer> => {
    checkSpec(inputs.spec);
    return encodePlan(compile(inputs.spec, inputs.facts, contextOf(inputs)));
  };
  const program = identityOf("/proc/self/exe");
  const text = lasts ? textOf(inputs) : undefined;
  const { args = [], env = [] } = inputs.spec.process ?? {};
  if (program === undefined || text === undefined || args.length === 0) return whole();
  const atoms = atomsIn(text, inputs.id);
  const kind = replaced(text, atoms, (index) => `\u0001${index}\u0001${atoms[index]?.length}\u0001`);
  const name = new Bun.CryptoHasher("sha256").update(`${program}\n${kind}`).digest("hex");
  const kept = readKept(root, folder, name);
  if (kept !== undefined && kept.byteLength > 0)
    return encodePlan(compileCommand(args, env), { after: instance(kept, atoms) });
  const image = whole();
  const content = kept === undefined ? new Uint8Array() : bytesOf(makeTemplate(text, atoms, contextOf));
  writeKept(root, folder, name, content, inputs.id);
  return image;
}
