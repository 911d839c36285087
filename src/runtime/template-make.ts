/** What is needed of templates where one is made, or where its container has another command. */
import { type EncodedPart, encodePlan, encodeWithPlaces } from "../../ffi/encode.ts";
import { compileCommand } from "../plan/command.ts";
import {
  type PlanCompiler,
  type PlanInputs,
  type PlanTemplate,
  replaced,
  standIn,
  type Template,
} from "./templates.ts";

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
  readonly atoms: readonly string[];
  readonly markers: readonly string[];
}

/**
 * All plans of a kind up to where the command is.
 * @param text the inputs as JSON, without what is of the command alone
 * @param atoms what stands for something else in the next container
 */
export function kindTemplate<I extends PlanInputs, D>(
  text: string,
  atoms: readonly string[],
  compiler: PlanCompiler<I, D>,
): Kind<PlanTemplate> {
  const markers = atoms.map((atom) => markerFor(atom, text));
  const inputs = JSON.parse(replaced(text, atoms, (index) => markers[index] ?? "")) as I;
  const part = compiler.setUp(inputs);
  const derived = replaced(JSON.stringify(compiler.derive(inputs)), markers, standIn);
  return { template: { atoms: placesOf(part, markers), texts: [], bytes: part, derived }, part, atoms, markers };
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
export function commandTemplate({ part, atoms, markers }: Omit<Kind, "template">, key: string): Template | undefined {
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
  return { atoms: placesOf(image, markers), texts: places, bytes: image };
}
