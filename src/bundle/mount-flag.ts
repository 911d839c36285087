/** --mount, docker's long way to say -v and --tmpfs. Pure. */
import { OciboxError } from "../errors.ts";
import { parseVolume, type Volume } from "./values.ts";

function refuse(text: string, why: string): never {
  throw new OciboxError("USAGE", `--mount is "${text}"${why}`);
}

const truths: Readonly<Record<string, boolean>> = { "": true, true: true, "1": true, false: false, "0": false };

class Fields {
  readonly #values = new Map<string, string>();

  constructor(readonly text: string) {
    for (const part of text.split(",")) {
      const equals = part.indexOf("=");
      this.#values.set(equals < 0 ? part : part.slice(0, equals), equals < 0 ? "" : part.slice(equals + 1));
    }
  }

  /** Takes a value by the first of its names that is there. */
  take(...names: string[]): string | undefined {
    let found: string | undefined;
    for (const name of names) {
      found ??= this.#values.get(name);
      this.#values.delete(name);
    }
    return found;
  }

  truth(...names: string[]): boolean {
    const value = this.take(...names);
    if (value === undefined) return false;
    return truths[value] ?? refuse(this.text, `, and "${value}" is not true or false`);
  }

  checkTaken(type: string): void {
    for (const name of this.#values.keys()) refuse(this.text, `, and "${name}" is nothing of a mount of type ${type}`);
  }
}

/** A bind or a volume is what -v takes, a tmpfs what --tmpfs takes. */
export type MountFlag = { readonly volume: Volume } | { readonly tmpfs: string };

/** @param here the caller's directory */
export function parseMountFlag(text: string, here: string): MountFlag {
  const fields = new Fields(text);
  const type = fields.take("type") ?? "volume";
  const destination = fields.take("destination", "dst", "target");
  if (destination === undefined) refuse(text, ", and has no destination");
  if (destination.includes(":")) refuse(text, ", and there is a colon in its destination");
  const readonly = fields.truth("readonly", "ro");
  if (type === "tmpfs") {
    const size = fields.take("tmpfs-size");
    const mode = fields.take("tmpfs-mode");
    fields.checkTaken(type);
    const options = [
      ...(size === undefined ? [] : [`size=${size}`]),
      ...(mode === undefined ? [] : [`mode=${mode}`]),
      ...(readonly ? ["ro"] : []),
    ];
    return { tmpfs: `${destination}${options.length === 0 ? "" : `:${options.join(",")}`}` };
  }
  if (type !== "bind" && type !== "volume")
    throw new OciboxError("UNSUPPORTED", `--mount is "${text}": mounts of type ${type} are not there yet`, {
      hint: "give type=bind with a source, type=volume, or type=tmpfs",
    });
  const source = fields.take("source", "src") ?? "";
  if (type === "volume") {
    const nocopy = fields.truth("volume-nocopy");
    fields.checkTaken(type);
    if (/[:/]/.test(source)) refuse(text, `, and "${source}" is no name of a volume`);
    const words = [readonly ? "ro" : "rw", ...(nocopy ? ["nocopy"] : [])];
    const given = parseVolume(source === "" ? destination : `${source}:${destination}:${words.join(",")}`, here);
    // One without a name says its options nowhere else.
    return { volume: source === "" ? { ...given, options: words.slice(0, 1), ...(nocopy ? { nocopy } : {}) } : given };
  }
  if (source === "") refuse(text, ", and has no source");
  const propagation = fields.take("bind-propagation");
  const only = fields.truth("bind-nonrecursive");
  fields.take("consistency");
  fields.checkTaken(type);
  if (source.includes(":")) refuse(text, ", and there is a colon in a path");
  const options = [
    readonly ? "ro" : "rw",
    ...(propagation === undefined ? [] : [propagation]),
    ...(only ? ["bind"] : []),
  ];
  return { volume: parseVolume(`${source}:${destination}:${options.join(",")}`, here) };
}
