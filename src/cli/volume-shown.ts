/** Volumes, as docker shows them. */
import { volumeData } from "../container/record.ts";
import type { VolumeRecord } from "../container/volumes.ts";
import { goTime } from "./output.ts";

/** What `volume inspect` has of one. */
export function volumeShown(root: string, { name, created, labels }: VolumeRecord): object {
  return {
    Name: name,
    Driver: "local",
    Mountpoint: volumeData(root, name),
    CreatedAt: created,
    Labels: labels,
    Scope: "local",
    Options: {},
  };
}

export interface VolumeRow {
  readonly Name: string;
  readonly Driver: string;
  readonly Mountpoint: string;
  readonly CreatedAt: string;
  readonly Labels: string;
  readonly Scope: string;
}

/** A row of `volume ls`. */
export function volumeRow(root: string, { name, created, labels }: VolumeRecord): VolumeRow {
  return {
    Name: name,
    Driver: "local",
    Mountpoint: volumeData(root, name),
    CreatedAt: created === "" ? "" : goTime(new Date(created)),
    Labels: Object.entries(labels)
      .map(([key, value]) => `${key}=${value}`)
      .join(","),
    Scope: "local",
  };
}
