/** The ways to connect a container with more than its own loopback. Loaded where one is asked for. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { errnoWords } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import type { Undo } from "../../ffi/undo.ts";
import { OciboxError } from "../errors.ts";
import { dotted, parseAddress, parseSubnet, type Subnet } from "../network/addresses.ts";
import { type Bridge, hardwareAddress, openBridge } from "../network/bridge.ts";
import { type Connection, connect } from "../network/connect.ts";
import { holdPort, publish, withdraw } from "../network/ports.ts";
import type { PublishedPort } from "../network/rules.ts";
import { openNetwork } from "../runtime/process-mark.ts";
import { rewrite } from "./names.ts";
import { type Connect, type Connected, connectedFile } from "./network.ts";
import { containerDirectory, findContainer } from "./record.ts";
import { noteOf, notRunning } from "./running.ts";
import { type ContainerId, inheritAs, inherited } from "./state.ts";

/** @throws OciboxError USAGE */
function wantedAddress(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const address = parseAddress(text);
  if (address === undefined) throw new OciboxError("USAGE", `--ip is "${text}", which is no IPv4 address`);
  return address;
}

function keepConnected(root: string, id: ContainerId, connected: Connected): void {
  rewrite(connectedFile(root, id), JSON.stringify(connected), 0o600);
}

/** A place at the bridge, which somebody may have taken away since it was looked at: then it is made once more. */
function placeAt(
  open: () => Bridge,
  found: Bridge,
  address: number | undefined,
): { bridge: Bridge; place: Connection } {
  try {
    return { bridge: found, place: connect(found, address) };
  } catch (error) {
    if (!(error instanceof OciboxError) || error.code !== "HOST") throw error;
    const bridge = open();
    return { bridge, place: connect(bridge, address) };
  }
}

/** At the bridge, with what it publishes. @param root where the container's folder is */
function toBridge(open: () => Bridge, root: string): Connect {
  const found = open();
  return (id, { publish: wanted = [], address }, undo) => {
    const { bridge, place: held } = placeAt(open, found, wantedAddress(address));
    const place = undo.use(held);
    undo.use(inheritAs(place.namespace.fd, inherited.network));
    const ports: PublishedPort[] = [];
    for (const each of wanted) {
      const { socket, port } = holdPort(each);
      using held = socket;
      ports.push(port);
      undo.use(inheritAs(held.fd, inherited.network + ports.length));
    }
    const own = dotted(place.address);
    const connected = {
      place: {
        address: own,
        prefix: bridge.subnet.prefix,
        gateway: dotted(bridge.address),
        hardwareAddress: (hardwareAddress(place.address).toHex().match(/../g) ?? []).join(":"),
      },
      ports,
    };
    // First written down: whoever finds this container killed takes it back.
    keepConnected(root, id, connected);
    undo.defer(() => withdraw(ports, own));
    publish(ports, own);
    return connected;
  };
}

/** In a network namespace that is there already, which this descriptor holds. */
function join(namespace: OwnedFd, root: string, id: ContainerId, undo: Undo, like?: string): Connected {
  using held = namespace;
  undo.use(inheritAs(held.fd, inherited.network));
  const connected = { ports: [], ...(like === undefined ? {} : { like }) };
  keepConnected(root, id, connected);
  return connected;
}

function toNamespace(root: string, path: string): Connect {
  return (id, _, undo) => {
    const fd = attempt("openat", AT_FDCWD, path, O.O_RDONLY | O.O_CLOEXEC, 0);
    if (fd < 0) throw new OciboxError("HOST", `cannot open the network namespace "${path}": ${errnoWords(-fd)}`);
    return join(new OwnedFd(fd), root, id, undo);
  };
}

/** In the network of a container that runs. */
function toContainer(root: string, state: string, word: string): Connect {
  return (id, _, undo) => {
    const other = findContainer(root, state, word);
    const namespace = openNetwork(noteOf(root, other));
    if (namespace === undefined) throw notRunning(other);
    return join(namespace, root, id, undo, containerDirectory(root, other.id));
  };
}

/** What OCIBOX_SUBNET has. @throws OciboxError USAGE */
function wantedSubnet(text: string | undefined): Subnet | undefined {
  if (text === undefined) return undefined;
  const subnet = parseSubnet(text);
  if (subnet !== undefined) return subnet;
  throw new OciboxError("USAGE", `OCIBOX_SUBNET is "${text}", which is not ADDRESS/BITS with 8 to 29 bits`);
}

/** Where containers are kept, and the network that the bridge is to have. */
export interface NetworkPlaces {
  readonly root: string;
  readonly state: string;
  readonly subnet: string | undefined;
}

/**
 * How containers of a network are connected.
 * @param network bridge, container:NAME or ns:PATH
 * @throws OciboxError HOST where the bridge cannot be had
 */
export function connectBy(network: string, { root, state, subnet }: NetworkPlaces): Connect {
  if (network === "bridge") {
    const wanted = wantedSubnet(subnet);
    return toBridge(() => openBridge(wanted), root);
  }
  const [kind = ""] = network.split(":", 1);
  const rest = network.slice(kind.length + 1);
  return kind === "container" ? toContainer(root, state, rest) : toNamespace(root, rest);
}
