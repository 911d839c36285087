/** --filter of `ps`. */
import { isPaused } from "../container/pause.ts";
import { type ContainerStatus, findContainer } from "../container/record.ts";
import { OciboxError } from "../errors.ts";
import { canonical, parseReference } from "../reference/reference.ts";
import { isDigest } from "../spec/digest.ts";
import { type Filters, labelTest } from "./filters.ts";
import type { Places } from "./globals.ts";
import { namesFor } from "./image-word.ts";

export type ContainerState = "running" | "paused" | "exited" | "created";

export function stateOf({ id, running, finished }: ContainerStatus): ContainerState {
  if (running) return isPaused(id) ? "paused" : "running";
  return finished === undefined ? "created" : "exited";
}

/** docker's, of which a container of ocibox is never in the last three. */
const states = ["created", "running", "paused", "exited", "restarting", "removing", "dead"];

function nameOf(image: string): string | undefined {
  try {
    return canonical(parseReference(image));
  } catch {
    // A directory or an archive.
    return undefined;
  }
}

/** By the image's name, or by its digest or the first digits of it. */
async function ofImage(value: string): Promise<(each: ContainerStatus) => boolean> {
  const digest = isDigest(value) ? value : /^[0-9a-f]{6,64}$/.test(value) ? `sha256:${value}` : undefined;
  if (digest !== undefined) return ({ manifestDigest }) => manifestDigest.startsWith(digest);
  const names = (await namesFor(value, () => false)).map(canonical);
  return ({ image }) => names.includes(nameOf(image) ?? "");
}

/** A regular expression, as docker's, or where it is none, a part of the name. */
function named(value: string): (each: ContainerStatus) => boolean {
  const plain = value.replace(/^\//, "");
  try {
    const pattern = new RegExp(plain);
    return ({ name }) => pattern.test(name);
  } catch {
    return ({ name }) => name.includes(plain);
  }
}

export function containerFilters({ root, state }: Pick<Places, "root" | "state">): Filters<ContainerStatus> {
  return {
    id: (value) => (each) => each.id.startsWith(value),
    name: named,
    label(value) {
      const test = labelTest(value);
      return ({ labels = {} }) => test(labels);
    },
    status(value) {
      if (!states.includes(value))
        throw new OciboxError("USAGE", `the filter "status" is "${value}", not one of ${states.join(", ")}`);
      return (each) => stateOf(each) === value;
    },
    exited(value) {
      if (!/^\d{1,3}$/.test(value))
        throw new OciboxError("USAGE", `the filter "exited" is "${value}", which is no exit code`);
      return (each) => stateOf(each) === "exited" && each.exitCode === Number(value);
    },
    ancestor: ofImage,
    volume:
      (value) =>
      ({ mounts = [] }) =>
        mounts.some((each) => each.volume === value || each.destination === value),
    before(value) {
      const { created } = findContainer(root, state, value);
      return (each) => each.created < created;
    },
    since(value) {
      const { created } = findContainer(root, state, value);
      return (each) => each.created > created;
    },
  };
}
