import { readText } from "../../ffi/files.ts";
import { readConnected } from "../container/network.ts";
import { type ContainerStatus, containerDirectory, findContainer, isOwnVolume } from "../container/record.ts";
import { readTurn } from "../container/restart.ts";
import { OciboxError } from "../errors.ts";
import { familiar, familiarName, isTransport, parseReference, type Reference } from "../reference/reference.ts";
import { chainsOf, openStore, type Store, type StoredImage } from "../store/store.ts";
import { stateOf } from "./container-filters.ts";
import { printObjects } from "./format.ts";
import type { Globals } from "./globals.ts";
import { storeWord } from "./image-word.ts";
import { anyImage } from "./load-image.ts";
import type { Command } from "./options.ts";
import { portsShown } from "./ports.ts";
import { tidied } from "./tidied.ts";

/** A name in pieces; other tools may have written one that is no reference. */
function referenceOf(name: string): Reference[] {
  try {
    return [parseReference(name)];
  } catch {
    return [];
  }
}

function imageShown(store: Store, image: StoredImage): object {
  const digest = image.indexDigest ?? image.manifestDescriptor.digest;
  const references = image.names.flatMap(referenceOf);
  return {
    Id: image.configDigest,
    RepoTags: references.filter((each) => each.digest === undefined).map(familiar),
    RepoDigests: [...new Set(references.map((each) => `${familiarName(each)}@${digest}`))],
    Digest: image.manifestDescriptor.digest,
    Created: image.config.created ?? "",
    Author: image.config.author ?? "",
    Config: image.config.config,
    Architecture: image.config.architecture,
    Variant: image.config.variant ?? "",
    Os: image.config.os,
    Size: image.layers.reduce((sum, layer) => sum + layer.descriptor.size, 0),
    RootFS: { Type: "layers", Layers: image.layers.map((layer) => layer.diffId) },
    GraphDriver: graphDriver(image, store),
    Manifest: JSON.parse(new TextDecoder().decode(store.readBlob(image.manifestDescriptor.digest, 4 << 20))) as unknown,
  };
}

/** How the layers are kept, and where: the uppermost first. */
function graphDriver(image: StoredImage, store: Store): object {
  const chains = chainsOf(image);
  const kind = store.unpackedAs(chains);
  return kind === undefined
    ? { Name: "none", Data: {} }
    : { Name: kind, Data: { Lower: store.layerPaths(kind, chains).reverse() } };
}

/** What is mounted of the host's, and volumes, as docker shows them. */
function mountsShown(container: ContainerStatus): object[] {
  return (container.mounts ?? []).map(({ volume, source, destination, options }) => ({
    Type: volume !== undefined || isOwnVolume(container, source) ? "volume" : "bind",
    ...(volume === undefined ? {} : { Name: volume, Driver: "local" }),
    Source: source,
    Destination: destination,
    Mode: options.join(","),
    RW: !options.includes("ro"),
  }));
}

/** As docker's; addresses are there while it runs. */
function networkShown(root: string, { id, running, network }: ContainerStatus): object {
  const connected = running ? readConnected(root, id) : undefined;
  const { address = "", prefix = 0, gateway = "", hardwareAddress = "" } = connected?.place ?? {};
  const at = { IPAddress: address, IPPrefixLen: prefix, Gateway: gateway, MacAddress: hardwareAddress };
  const ports = portsShown(connected?.ports ?? []);
  // Of one that was made before there were bridges it is its config.json that says.
  return network === undefined ? {} : { ...at, Ports: ports, Networks: { [network]: at } };
}

function containerShown(root: string, state: string, word: string): object | undefined {
  try {
    const found = findContainer(root, state, word);
    const config = readText(`${containerDirectory(root, found.id)}/config.json`);
    return {
      Id: found.id,
      Name: found.name,
      Image: found.image,
      ImageManifestDigest: found.manifestDigest,
      Created: found.created,
      State: {
        Status: stateOf(found),
        Running: found.running,
        Paused: stateOf(found) === "paused",
        ExitCode: found.exitCode ?? null,
      },
      RestartPolicy: found.restart ?? "no",
      RestartCount: readTurn(root, found.id).count,
      Mounts: mountsShown(found),
      NetworkSettings: networkShown(root, found),
      Labels: found.labels ?? {},
      AutoRemove: found.autoRemove,
      Spec: config === undefined ? null : (JSON.parse(config) as unknown),
    };
  } catch (error) {
    if (error instanceof OciboxError && error.code === "NOT_FOUND") return undefined;
    throw error;
  }
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "inspect", description: "Print all that is known of containers or images, as a JSON array" },
      args: {
        type: { type: "enum", options: ["container", "image"], description: "Look only among these" },
        format: { type: "string", alias: "f", valueHint: "FORMAT", description: 'json, or a Go template: "{{.Id}}"' },
        NAME: { type: "positional", description: "Name, id or digest; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      const { root, state } = tidied(globals);
      const type = given.text("type");
      const store = openStore(root);
      const shown: object[] = [];
      const look = async (word: string): Promise<object> => {
        if (isTransport(word)) return imageShown(store, await anyImage(word, store));
        const container = type === "image" ? undefined : containerShown(root, state, word);
        if (container !== undefined) return container;
        const image = type === "container" ? undefined : store.find(await storeWord(store, word));
        if (image !== undefined) return imageShown(store, image);
        const what = type ?? "container or image";
        throw new OciboxError("NOT_FOUND", `there is no ${what} "${word}"`, {
          hint: "see: ocibox images, ocibox ps -a",
        });
      };
      for (const word of given.words) shown.push(await look(word));
      printObjects(shown, given.text("format"));
      return 0;
    },
  };
}
