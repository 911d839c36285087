/** Content digests: image-spec, descriptor.md#digests. Only sha256 is computed here; sha512 is recognised and refused. */
import { OciboxError } from "../errors.ts";

/** "sha256:" and 64 lower-case hexadecimal digits. */
export type Digest = string & { readonly digest: unique symbol };
/** The digest of a layer's plain tar: image-spec, config.md#layer-diffid. */
export type DiffId = Digest & { readonly diffId: unique symbol };
/** The digest of a stack of layers: image-spec, config.md#layer-chainid. */
export type ChainId = Digest & { readonly chainId: unique symbol };

const pattern = /^sha256:[0-9a-f]{64}$/;

export function isDigest(text: unknown): text is Digest {
  return typeof text === "string" && pattern.test(text);
}

/** @throws OciboxError INVALID for anything but "sha256:" with 64 lower-case hexadecimal digits */
export function parseDigest(text: unknown, what: string): Digest {
  if (isDigest(text)) return text;
  throw new OciboxError(
    "INVALID",
    `${what} has the digest ${JSON.stringify(text)}, which is not sha256 with 64 digits`,
  );
}

/** The 64 hexadecimal digits, for a path. */
export function hexOf(digest: Digest): string {
  return digest.slice(7);
}

export function sha256(bytes: Uint8Array | string): Digest {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}` as Digest;
}

/** ChainIDs of a stack, lowest layer first. */
export function chainIds(diffIds: readonly DiffId[]): ChainId[] {
  const chain: ChainId[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    chain.push((below === undefined ? diffId : sha256(`${below} ${diffId}`)) as ChainId);
  }
  return chain;
}
