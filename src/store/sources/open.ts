/** Opening what people name: a file or directory of images, or containers-transports(5) in front of a path. */
import { AT, AT_FDCWD, F, O, S } from "../../../ffi/constants.ts";
import { attempt, direct } from "../../../ffi/direct.ts";
import { OwnedFd } from "../../../ffi/fd.ts";
import { alloc, readField } from "../../../ffi/structs.ts";
import { OciboxError } from "../../errors.ts";
import { canonical, parseReference } from "../../reference/reference.ts";
import type { Store } from "../store.ts";
import { archiveFiles, directoryFiles, type SourceFiles } from "./files.ts";
import { type Form, openForm } from "./formats.ts";
import type { LocalImage, LocalSource } from "./local.ts";
import { packingOf, readPieces, spool } from "./spool.ts";

export interface Transport {
  readonly kind: "oci" | "oci-archive" | "docker-archive" | "dir";
  readonly path: string;
  /** What follows the path: which image of several. */
  readonly image: string | undefined;
}

/** "oci:PATH[:REF]" and its like; undefined for a word that begins otherwise. */
export function parseTransport(word: string): Transport | undefined {
  const match = /^(oci|oci-archive|docker-archive|dir):(.*)$/s.exec(word);
  if (match === null) return undefined;
  const [, kind, rest = ""] = match as unknown as [string, Transport["kind"], string];
  const colon = kind === "dir" ? -1 : rest.indexOf(":");
  const path = colon < 0 ? rest : rest.slice(0, colon);
  const image = colon < 0 ? undefined : rest.slice(colon + 1);
  if (path === "" || path.includes("\0") || image === "")
    throw new OciboxError(
      "NAME_INVALID",
      `cannot use ${JSON.stringify(word)} as an image: it names no ${path === "" ? "path" : "image"}`,
      {
        hint: `write ${kind}:PATH${kind === "dir" ? "" : "[:NAME]"}`,
      },
    );
  return { kind, path, image };
}

function kindOf(fd: number): number {
  const stat = alloc(256);
  direct.statx(fd, "", AT.AT_EMPTY_PATH, 1, stat);
  return readField("statx", stat, "stx_mode") & S.S_IFMT;
}

/** A descriptor's archive: as it is where it can be read anywhere, else by way of a temporary file. */
async function archiveOf(store: Store, file: OwnedFd, path: string): Promise<SourceFiles> {
  const what = `"${path}"`;
  if (kindOf(file.fd) === S.S_IFREG) {
    const head = alloc(8);
    direct.pread64(file.fd, head, 8, 0);
    if (packingOf(head, what) === "none") return archiveFiles(path, file);
  }
  using packed = file;
  return archiveFiles(path, await spool(store, readPieces(packed.fd), what));
}

/**
 * The images in a file or a directory.
 * @param path undefined for stdin
 * @throws OciboxError NOT_FOUND, INVALID, UNSUPPORTED
 */
export async function openSource(
  store: Store,
  path: string | undefined,
  name: string,
  form?: Form,
): Promise<LocalSource> {
  const fd =
    path === undefined
      ? direct.fcntl(0, F.F_DUPFD_CLOEXEC, 3)
      : attempt("openat", AT_FDCWD, path, O.O_RDONLY | O.O_CLOEXEC, 0);
  if (fd < 0) throw new OciboxError("NOT_FOUND", `cannot read images from "${path}": ${whyNot(path ?? "")}`);
  const file = new OwnedFd(fd);
  const shown = path ?? "stdin";
  const files = kindOf(fd) === S.S_IFDIR ? directoryFiles(shown, file) : await archiveOf(store, file, shown);
  return openForm(files, name, form);
}

function whyNot(path: string): string {
  try {
    new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_CLOEXEC, 0))[Symbol.dispose]();
    return "it was not there a moment ago";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** The one image that is meant. @throws OciboxError NOT_FOUND naming those that are there */
export function chooseImage(source: LocalSource, wanted: string | undefined): LocalImage {
  const { images } = source;
  const labels = images.map((each) => each.label ?? each.descriptor.digest);
  const hint = labels.length === 0 ? "it holds none" : `there are ${labels.slice(0, 20).join(", ")}`;
  if (wanted === undefined) {
    const [only] = images;
    if (only !== undefined && new Set(images.map((each) => each.descriptor.digest)).size === 1) return only;
    throw new OciboxError("NOT_FOUND", `"${source.name}" holds ${images.length} images: say which`, { hint });
  }
  const at = /^@([0-9]+)$/.exec(wanted)?.[1];
  const full = fullName(wanted);
  const found =
    at === undefined
      ? (images.find((each) => each.label === wanted || each.descriptor.digest === wanted) ??
        images.find((each) => full !== undefined && each.names.includes(full)))
      : images[Number(at)];
  if (found !== undefined) return found;
  throw new OciboxError("NOT_FOUND", `"${source.name}" holds no image "${wanted}"`, { hint });
}

function fullName(text: string): string | undefined {
  try {
    return canonical(parseReference(text));
  } catch {
    return undefined;
  }
}

/** @throws OciboxError */
export function openTransport(store: Store, transport: Transport): Promise<LocalSource> {
  const form = transport.kind === "oci-archive" ? "oci" : transport.kind;
  return openSource(store, transport.path, `${transport.kind}:${transport.path}`, form);
}
