import { familiar, parseReference, type Reference } from "../reference/reference.ts";
import { openRepository } from "../registry/client.ts";
import type { FetchedManifest, Repository } from "../registry/repository.ts";
import { type Digest, isDigest } from "../spec/digest.ts";
import type { Descriptor } from "../spec/image.ts";
import { decodeManifestOrIndex, manifestLimit } from "../spec/image-decode.ts";
import { isManifestType, ociManifest } from "../spec/media-types.ts";
import { writeAll } from "../store/disk.ts";
import type { Store } from "../store/store.ts";
import type { Globals } from "./globals.ts";
import { storeWord } from "./image-word.ts";
import { interruptible } from "./interruptible.ts";
import { findImage, openStoreOf } from "./open-store.ts";
import type { Command, Given } from "./options.ts";
import { print } from "./output.ts";
import { pullOptions } from "./pull.ts";

const { authfile, "tls-verify": tlsVerify } = pullOptions;

/** Where manifests are asked for: the image's own, or one that its index lists, which the store may not have. */
interface Source {
  readonly reference: Reference | undefined;
  top(): Promise<FetchedManifest>;
  listed(entry: Descriptor): Promise<FetchedManifest | undefined>;
}

function fromStore(store: Store, word: string): Source {
  const read = (digest: Digest): Promise<FetchedManifest> =>
    Promise.resolve({ bytes: store.readBlob(digest, manifestLimit), mediaType: "", digest });
  return {
    // An id is no name.
    reference: /^[0-9a-f]+$/.test(word) || isDigest(word) ? undefined : parseReference(word),
    async top() {
      const image = store.findAll(await storeWord(store, word))[0] ?? (await findImage(store, word));
      return read(image.indexDigest ?? image.manifestDescriptor.digest);
    },
    listed: async ({ digest, size }) => (store.hasBlob(digest, size) ? await read(digest) : undefined),
  };
}

function fromRegistry(reference: Reference, repository: Repository, signal: AbortSignal): Source {
  return {
    reference,
    top: () => repository.manifest(reference.digest ?? reference.tag ?? "latest", { signal }),
    listed: ({ digest }) => repository.manifest(digest, { signal }),
  };
}

function described(source: Source, descriptor: Descriptor, bytes: Uint8Array | undefined): object {
  const { reference } = source;
  const { mediaType, digest } = descriptor;
  return {
    Ref: reference === undefined ? digest : familiar({ ...reference, digest }),
    Descriptor: descriptor,
    ...(bytes === undefined ? {} : { [mediaType === ociManifest ? "OCIManifest" : "SchemaV2Manifest"]: parsed(bytes) }),
  };
}

/** docker's --verbose: with descriptors, and of an index with each manifest that it lists and that is there. */
async function verbose(source: Source, { bytes, mediaType, digest }: FetchedManifest): Promise<object> {
  const decoded = decodeManifestOrIndex(bytes, mediaType);
  if (decoded.kind === "manifest") {
    const descriptor = { mediaType: decoded.manifest.mediaType, digest, size: bytes.byteLength };
    return described(source, descriptor, bytes);
  }
  const all: object[] = [];
  for (const entry of decoded.index.manifests)
    if (isManifestType(entry.mediaType)) all.push(described(source, entry, (await source.listed(entry))?.bytes));
  return all;
}

function parsed(bytes: Uint8Array): unknown {
  return JSON.parse(new TextDecoder().decode(bytes));
}

async function show(word: string, given: Given, source: Source): Promise<void> {
  const top = await source.top();
  // What is no manifest is refused, however it is shown.
  decodeManifestOrIndex(top.bytes, top.mediaType, { what: `the manifest of "${word}"` });
  if (given.flag("raw")) return writeAll(1, top.bytes);
  print(JSON.stringify(given.flag("verbose") ? await verbose(source, top) : parsed(top.bytes), null, 2));
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: {
        name: "manifest inspect",
        description: "Print an image's manifest or multi-platform index: from the store, or else from its registry",
      },
      args: {
        remote: { type: "boolean", description: "From the registry, though the store has one" },
        raw: { type: "boolean", description: "The very bytes that the digest is of" },
        verbose: { type: "boolean", alias: "v", description: "Of an index, with every manifest that it lists" },
        authfile,
        "tls-verify": tlsVerify,
        IMAGE: { type: "positional", description: "Name, tag or digest" },
      },
    },
    words: [1, 1],
    async run(given) {
      const [word = ""] = given.words;
      const store = openStoreOf(globals);
      if (!given.flag("remote") && store.findAll(await storeWord(store, word)).length > 0) {
        await show(word, given, fromStore(store, word));
        return 0;
      }
      const reference = parseReference(word);
      await interruptible(`asking for "${word}"`, async (signal) => {
        using repository = openRepository(reference, {
          authfile: given.text("authfile"),
          insecure: !given.flag("tls-verify"),
        });
        await show(word, given, fromRegistry(reference, repository, signal));
      });
      return 0;
    },
  };
}
