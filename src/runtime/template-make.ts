/** What is needed of templates where one is made, or where its container has another command. */
import { type EncodedPart, encodePlan, encodeWithPlaces } from "../../ffi/encode.ts";
import { compileCommand } from "../plan/command.ts";
import { readKept, writeKept } from "./kept.ts";
import {
  folder,
  instance,
  nameless,
  type PlanCompiler,
  type PlanInputs,
  type Planned,
  type PlanTemplate,
  packed,
  planned,
  replaced,
  type Sought,
  standIn,
  type Template,
  unpacked,
} from "./templates.ts";

/** A plan for a command that no template was made for: of its kind's, where there is one, or compiled. */
export async function planAnew<I extends PlanInputs, D>(
  root: string,
  inputs: I,
  sought: Sought | undefined,
  load: () => Promise<PlanCompiler<I, D>>,
): Promise<Planned<D>> {
  const { args = [], env = [] } = inputs.spec.process ?? {};
  const kept = sought && readKept(root, folder, sought.names.kind);
  if (sought !== undefined && kept !== undefined && kept.byteLength > 0) {
    const template = unpacked<PlanTemplate>(kept);
    const part = instance(template, sought.all, []) as EncodedPart;
    return planned(template, sought.all, withCommand(part, args, env));
  }
  const compiler = await load();
  const made = { image: compiler.whole(inputs), derived: compiler.derive(inputs) };
  if (sought === undefined) return made;
  const { names, shape, text, atoms, idLength } = sought;
  if (kept === undefined) {
    writeKept(root, folder, names.kind, new Uint8Array(), inputs.id);
    return made;
  }
  const kind = kindTemplate<I, D>(text, atoms, idLength, compiler);
  if (kind === undefined) return made;
  writeKept(root, folder, names.kind, packed(kind.template), inputs.id);
  const command = shape && commandTemplate(kind, shape.key);
  if (command !== undefined)
    writeKept(root, folder, names.command, packed({ ...command, derived: kind.template.derived }), inputs.id);
  return made;
}

/** Letters that are no digits of a hash, as many as the atom has, which the text has not. */
function markerFor(atom: string, text: string): string {
  for (;;) {
    const random = crypto.getRandomValues(new Uint8Array(atom.length));
    const marker = String.fromCharCode(...random.map((each) => 0x67 + (each % 20)));
    if (!text.includes(marker)) return marker;
  }
}

/** Where in a plan each marker stands. */
export function placesOf(plan: Uint8Array<ArrayBuffer>, markers: readonly string[]): number[][] {
  const bytes = Buffer.from(plan.buffer, plan.byteOffset, plan.byteLength);
  return markers.map((marker) => {
    const places: number[] = [];
    for (let at = bytes.indexOf(marker); at >= 0; at = bytes.indexOf(marker, at + marker.length)) places.push(at);
    return places;
  });
}

/** The image of a plan that goes on with a command where its set-up ends. */
export function withCommand(
  setUp: EncodedPart,
  args: readonly string[],
  env: readonly string[],
): Uint8Array<ArrayBuffer> {
  return encodePlan(compileCommand(args, env), { after: setUp });
}

export interface Kind<T extends Template = Template> {
  readonly template: T;
  /** With markers in the place of atoms. */
  readonly part: EncodedPart;
  /** The same with another id, where an id's places are found by what differs. */
  readonly other?: EncodedPart | undefined;
  /** How long that id is. */
  readonly idLength?: number;
  readonly atoms: readonly string[];
  readonly markers: readonly string[];
}

/**
 * All plans of a kind up to where the command is.
 * @param text the inputs as JSON, without what is of the command alone
 * @param atoms what stands for something else in the next container
 * @param idLength of an id that is none of them, and for which `nameless` stands in the text; else 0
 * @returns undefined where such an id's places cannot be told
 */
function kindTemplate<I extends PlanInputs, D>(
  text: string,
  atoms: readonly string[],
  idLength: number,
  compiler: PlanCompiler<I, D>,
): Kind<PlanTemplate> | undefined {
  const markers = atoms.map((atom) => markerFor(atom, text));
  const marked = replaced(text, atoms, (index) => markers[index] ?? "");
  const stands = JSON.stringify(nameless.repeat(idLength)).slice(1, -1);
  const withId = (id: string): I => JSON.parse(idLength === 0 ? marked : marked.replaceAll(stands, id)) as I;
  const part = compiler.setUp(withId(firstLetter.repeat(idLength)));
  const other = idLength === 0 ? undefined : compiler.setUp(withId(otherLetter.repeat(idLength)));
  const idPlaces = other === undefined ? [] : differences(part, other, idLength);
  if (idPlaces === undefined) return undefined;
  const long = markerFor("x".repeat(longMarker), text);
  const derivedText = JSON.stringify(compiler.derive(withId(long)));
  const derived = replaced(derivedText, other === undefined ? markers : [...markers, long], standIn);
  const places = [...placesOf(part, markers), ...(other === undefined ? [] : [idPlaces])];
  return { template: { atoms: places, texts: [], bytes: part, derived }, part, other, idLength, atoms, markers };
}

/** Ids that have no letter in common, so that all of one's bytes differ from the other's. */
const firstLetter = "y";
const otherLetter = "z";
const longMarker = 32;

/** Where the plans of two such ids differ, each place as long as the ids are; undefined where something else differs. */
function differences(one: Uint8Array, other: Uint8Array, length: number): number[] | undefined {
  if (one.byteLength !== other.byteLength) return undefined;
  const places: number[] = [];
  for (let at = 0; at < one.byteLength; at++) {
    if (one[at] === other[at]) continue;
    for (let end = at + length, each = at; each < end; each++)
      if (one[each] !== firstLetter.charCodeAt(0) || other[each] !== otherLetter.charCodeAt(0)) return undefined;
    places.push(at);
    at += length - 1;
  }
  return places;
}

/** Letters that no path has: a stand-in is not taken for another text of the plan. */
const letters = Array.from({ length: 30 }, (_, index) => String.fromCharCode(index + 1));

/** Texts of so many bytes, no two the same. @returns undefined where there are not enough of a length */
function standInsFor(lengths: readonly number[]): string[] | undefined {
  const made = new Map<number, number>();
  const texts: string[] = [];
  for (const length of lengths) {
    let number = made.get(length) ?? 0;
    made.set(length, number + 1);
    if (length > 0 && number >= letters.length ** length) return undefined;
    let text = "";
    for (; number > 0; number = Math.floor(number / letters.length)) text += letters[number % letters.length];
    texts.push(text.padEnd(length, letters[0]));
  }
  return texts;
}

/** The whole of the plans of a kind whose commands are of one shape. @param key of templates.ts's CommandShape */
export function commandTemplate(kind: Omit<Kind, "template">, key: string): Template | undefined {
  const { part, other, idLength = 0, atoms, markers } = kind;
  const [name, argLengths, envLengths] = JSON.parse(replaced(key, atoms, (index) => markers[index] ?? "")) as [
    string,
    number[],
    (number | string)[],
  ];
  const texts = standInsFor([...argLengths, ...envLengths.filter((each) => typeof each === "number")]);
  if (texts === undefined || texts.includes(name)) return undefined;
  const args = [name, ...texts.slice(0, argLengths.length)];
  const ofEnv = texts.slice(argLengths.length).values();
  const env = envLengths.map((each) => (typeof each === "string" ? each : (ofEnv.next().value as string)));
  const { image, places } = encodeWithPlaces(compileCommand(args, env), texts, { after: part });
  const found = { atoms: placesOf(image, markers), texts: places, bytes: image };
  if (other === undefined) return found;
  const second = encodeWithPlaces(compileCommand(args, env), texts, { after: other });
  const ids = differences(image, second.image, idLength);
  return ids === undefined ? undefined : { ...found, atoms: [...found.atoms, ids] };
}
