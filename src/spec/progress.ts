/** What a pull tells whoever shows it. Calls must be cheap: layerBytes comes with every chunk. */
import type { Digest } from "./digest.ts";

export type LayerState = "waiting" | "downloading" | "applying" | "done" | "exists";

export interface PullSummary {
  /** The image's name as people write it. */
  readonly name: string;
  readonly digest: Digest;
  /** Bytes that came over the network. */
  readonly downloaded: number;
  /** Milliseconds. */
  readonly elapsed: number;
}

export interface PullEvents {
  /** The image's layers are known, lowest first; sizes are compressed bytes. */
  resolved(name: string, digest: Digest, layers: readonly { readonly digest: Digest; readonly size: number }[]): void;
  /** @param done bytes of the layer so far, not the bytes since the last call */
  layerBytes(digest: Digest, done: number): void;
  layerState(digest: Digest, state: LayerState): void;
  done(summary: PullSummary): void;
}
