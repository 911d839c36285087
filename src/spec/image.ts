/** OCI image-spec 1.1 and Docker schema 2 types. The raw bytes are kept beside them: digests are over bytes. */
import type { DiffId, Digest } from "./digest.ts";

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
  readonly "os.version"?: string;
}

/** image-spec, descriptor.md. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: Platform;
  readonly urls?: readonly string[];
  readonly artifactType?: string;
}

/** image-spec, image-index.md; Docker's manifest list is the same in what is read here. */
export interface Index {
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
}

/** image-spec, manifest.md; Docker's image manifest, schema 2. */
export interface Manifest {
  readonly mediaType: string;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
  readonly annotations?: Readonly<Record<string, string>>;
}

/** image-spec, config.md: what a container is told. */
export interface ContainerDefaults {
  readonly User?: string;
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly WorkingDir?: string;
  readonly Volumes?: Readonly<Record<string, unknown>>;
  readonly ExposedPorts?: Readonly<Record<string, unknown>>;
  readonly Labels?: Readonly<Record<string, string>>;
  readonly StopSignal?: string;
}

/** image-spec, config.md. */
export interface ImageConfig extends Platform {
  readonly created?: string;
  readonly author?: string;
  readonly config: ContainerDefaults;
  readonly rootfs: { readonly diff_ids: readonly DiffId[] };
}
