/** What is needed of templates where one is made, or where its container has another command. */
import { dataOfPart, type EncodedPart, encodePlan } from "../../ffi/encode.ts";
import { compileCommand } from "../plan/command.ts";
import { replaced, type Template } from "./templates.ts";

/** Letters that are no digits of a hash, as many as the atom has, which the text has not. */
function markerFor(atom: string, text: string): string {
  for (;;) {
    const random = crypto.getRandomValues(new Uint8Array(atom.length));
    const marker = String.fromCharCode(...random.map((each) => 0x67 + (each % 20)));
    if (!text.includes(marker)) return marker;
  }
}

function placesOf(data: Uint8Array, markers: readonly string[]): number[][] {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
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

/**
 * @param text the inputs as JSON, without what is of the command alone
 * @param command its arguments and its environment, as JSON
 * @param atoms what stands for something else in the next container
 * @param compile the inputs up to where the command is
 */
export function templatesOf<I>(
  text: string,
  command: string,
  atoms: readonly string[],
  compile: (inputs: I) => EncodedPart,
): { readonly kind: Template; readonly command: Template } {
  const markers = atoms.map((atom) => markerFor(atom, text + command));
  const marked = (json: string): unknown => JSON.parse(replaced(json, atoms, (index) => markers[index] ?? ""));
  const part = compile(marked(text) as I);
  const [args, env] = marked(command) as [string[], string[]];
  const image = withCommand(part, args, env);
  const data = dataOfPart(part);
  const before = data.byteOffset - part.byteOffset;
  const inPart = placesOf(data, markers).map((places) => places.map((at) => at + before));
  return { kind: { places: inPart, bytes: part }, command: { places: placesOf(image, markers), bytes: image } };
}
