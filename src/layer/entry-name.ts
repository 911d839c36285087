/** A member's name: what every back end makes of it. image-spec, layer.md. */
import { withoutFtl } from "../../ffi/compile.ts";
import { OciboxError } from "../errors.ts";
import type { TarEntry } from "./tar.ts";

export const whiteoutPrefix = ".wh.";
const opaqueName = ".wh..wh..opq";
export const mostEntries = 5_000_000;
const mostDepth = 2000;

export function refuse(name: string, why: string): never {
  throw new OciboxError("INVALID", `the layer has ${JSON.stringify(name)}, ${why}`);
}

/** The components of a member's name. @throws for "..", NULs and names that no file system takes */
export function components(name: string): string[] {
  if (name.includes("\0")) refuse(name, "a name with a NUL in it");
  const parts: string[] = [];
  for (const part of name.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") refuse(name, 'which leads out of the layer by ".."');
    if (part.length > 255) refuse(name, "a name of more than 255 bytes");
    parts.push(part);
  }
  if (parts.length > mostDepth) refuse(name.slice(0, 200), `more than ${mostDepth} directories deep`);
  return parts;
}

/** The directory and the last name of an entry, as the archive has them: "usr/lib/" is "lib" in "usr". */
export function partsOf(name: string): { readonly above: string; readonly base: string } {
  const end = name.endsWith("/") ? name.length - 1 : name.length;
  const slash = name.lastIndexOf("/", end - 1);
  return { above: slash < 0 ? "" : name.slice(0, slash), base: name.slice(slash + 1, end) };
}

/** Whether a last name needs no closer look. */
export function isPlain(base: string): boolean {
  const first = base.charCodeAt(0);
  return base !== "" && first !== 0x2e && base.length <= 255 && !base.includes("\0");
}

/** What a whiteout hides: a name; true: all that is in its directory; undefined: nothing, it is one of aufs' own. */
export function hiddenBy(entry: TarEntry, base: string): string | true | undefined {
  if (base === opaqueName) return true;
  const hidden = base.slice(whiteoutPrefix.length);
  // What aufs kept for itself.
  if (hidden.startsWith(whiteoutPrefix)) return undefined;
  if (hidden === "" || hidden === "." || hidden === "..") refuse(entry.name, "a whiteout of no file");
  return hidden;
}

/** @throws for numbers that no device has, and for the device that overlay takes for a whiteout */
export function checkDevice(entry: TarEntry): void {
  if (entry.type === "char" && entry.major === 0 && entry.minor === 0)
    refuse(entry.name, "the device 0:0, which is a whiteout to overlay");
  if (entry.major < 0 || entry.major > 0xfff || entry.minor < 0 || entry.minor > 0xfffff)
    refuse(entry.name, "no such device");
}

/**
 * Attributes that are not taken from an archive: overlay's own, which would let a layer speak for the kernel, and those
 * that the kernel lets nothing have but files and directories (xattr(7), "Extended user attributes").
 */
export function isLeftOut(xattr: string, type: TarEntry["type"]): boolean {
  if (xattr.startsWith("trusted.overlay.") || xattr.startsWith("user.overlay.")) return true;
  return xattr.startsWith("user.") && type !== "file" && type !== "directory";
}

withoutFtl(components, partsOf, isPlain);
