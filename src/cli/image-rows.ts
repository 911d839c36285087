/** Images as `images` lists and filters them, with docker's names of the fields. */
import { OciboxError } from "../errors.ts";
import { familiar, parseReference } from "../reference/reference.ts";
import type { Store, StoredImage } from "../store/store.ts";
import { type Filters, labelTest, type Test } from "./filters.ts";
import { storeWord } from "./image-word.ts";
import { momentOf } from "./moment.ts";
import { ago, goTime, humanSize } from "./output.ts";

export interface ImageRow {
  readonly ID: string;
  readonly Repository: string;
  readonly Tag: string;
  readonly Digest: string;
  readonly CreatedAt: string;
  readonly CreatedSince: string;
  /** Of the compressed layers, in words. */
  readonly Size: string;
  readonly Labels: string;
  readonly Platform: string;
  /** docker's, which tells none of these in a list either. */
  readonly Containers: "N/A";
  readonly SharedSize: "N/A";
  readonly UniqueSize: "N/A";
}

/** Bytes of an image's layers as they are stored. */
function sizeOf(image: StoredImage): number {
  return image.layers.reduce((sum, layer) => sum + layer.descriptor.size, 0);
}

/** A canonical name in docker's two columns; one that is no reference, which other tools may write, as it is. */
function splitName(name: string | undefined): { repository: string; tag: string } {
  if (name === undefined) return { repository: "<none>", tag: "<none>" };
  try {
    const reference = parseReference(name);
    const short = familiar(reference);
    const cut = reference.tag === undefined ? short.indexOf("@") : short.lastIndexOf(`:${reference.tag}`);
    return { repository: cut < 0 ? short : short.slice(0, cut), tag: reference.tag ?? "<none>" };
  } catch {
    return { repository: name, tag: "<none>" };
  }
}

interface Kept {
  readonly image: StoredImage;
  readonly name: string | undefined;
}

function glob(pattern: string): (text: string) => boolean {
  const compiled = new Bun.Glob(pattern);
  return (text) => compiled.match(text);
}

/** Milliseconds since 1970; an image that does not say when it was made is the oldest of all. */
function madeAt({ config: { created } }: StoredImage): number {
  const time = created === undefined ? Number.NaN : Date.parse(created);
  return Number.isNaN(time) ? Number.NEGATIVE_INFINITY : time;
}

async function createdOf(store: Store, word: string, filter: string): Promise<number> {
  const image = store.find(await storeWord(store, word));
  if (image === undefined)
    throw new OciboxError("NOT_FOUND", `the filter "${filter}" names the image "${word}", which is not in the store`);
  return madeAt(image);
}

export const imageFilters = (store: Store): Filters<Kept> => ({
  dangling(value) {
    if (!/^(?:true|false|1|0)$/.test(value))
      throw new OciboxError("USAGE", `the filter "dangling" is "${value}", not true or false`);
    const wanted = value === "true" || value === "1";
    return ({ name }) => (name === undefined) === wanted;
  },
  reference(value) {
    const match = glob(value);
    // In full only where the pattern says so: "*/*/*" would else mean every image.
    const inFull = value.startsWith("docker.io/");
    return ({ name }) => {
      if (name === undefined) return false;
      const { repository, tag } = splitName(name);
      const bare = name.slice(0, name.lastIndexOf(":"));
      return match(repository) || match(`${repository}:${tag}`) || (inFull && (match(name) || match(bare)));
    };
  },
  label(value) {
    const test = labelTest(value);
    return ({ image }) => test(image.config.config.Labels ?? {});
  },
  async before(value) {
    const created = await createdOf(store, value, "before");
    return ({ image }) => madeAt(image) < created;
  },
  since: (value) => since(value, store, "since"),
  /** podman's word for since. */
  after: (value) => since(value, store, "after"),
  until(value) {
    const moment = momentOf(value, 'the filter "until"');
    return ({ image }) => madeAt(image) < moment;
  },
});

async function since(value: string, store: Store, filter: string): Promise<Test<Kept>> {
  const created = await createdOf(store, value, filter);
  return ({ image }) => madeAt(image) > created;
}

export interface RowOptions {
  readonly whole: boolean;
  readonly test: Test<Kept>;
}

function compare<T extends string | number>(a: T, b: T): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A row a name, the newest image first. */
export function imageRows(images: readonly StoredImage[], { whole, test }: RowOptions): ImageRow[] {
  const now = new Date();
  const kept = images.flatMap((image) =>
    (image.names.length === 0 ? [undefined] : image.names).map((name) => ({ image, name })),
  );
  return kept
    .filter(test)
    .sort((a, b) => compare(madeAt(b.image), madeAt(a.image)) || compare(a.name ?? "", b.name ?? ""))
    .map(({ image, name }) => {
      const { repository, tag } = splitName(name);
      const { config, os, architecture, variant } = image.config;
      const made = madeAt(image);
      const time = Number.isFinite(made) ? new Date(made) : undefined;
      return {
        ID: whole ? image.configDigest : image.configDigest.slice(7, 19),
        Repository: repository,
        Tag: tag,
        Digest: (name === undefined ? image.indexDigest : image.indexes.get(name)) ?? image.manifestDescriptor.digest,
        CreatedAt: time === undefined ? "N/A" : goTime(time),
        CreatedSince: time === undefined ? "N/A" : ago(time, now),
        Size: humanSize(sizeOf(image)),
        Labels: Object.entries(config.Labels ?? {})
          .map(([key, value]) => `${key}=${value}`)
          .join(","),
        Platform: [os, architecture, ...(variant === undefined ? [] : [variant])].join("/"),
        Containers: "N/A",
        SharedSize: "N/A",
        UniqueSize: "N/A",
      };
    });
}
