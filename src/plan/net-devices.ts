/**
 * linux.netDevices: devices of the runtime's network namespace are moved to the container's. config-linux.md#network-devices
 *
 * The parent does all of it, over two sockets of rtnetlink(7): one that speaks with the host's namespace, and one with
 * the container's, made in the middle of two setns(2). It is done when the container's mounts are there, before its
 * sysctls and its hooks, which may name the devices. What fails then, in either process, leads to the parent's teardown,
 * which moves them back, for with its namespace the kernel would destroy a device that is no piece of hardware. The
 * socket keeps the namespace until then, whatever becomes of the container's process.
 *
 * A device that is renamed on its way is moved first and renamed then, by the kernel too: where the name is taken it
 * says so of a device that has been moved. So each is told the number it is to have there, by which it can be found
 * whatever it is called; a name with %d in it is only made up by the kernel.
 */
import {
  AF,
  AT_FDCWD,
  CLONE,
  IFA,
  IFA_F,
  IFF_UP,
  IFLA,
  MSG_DONTWAIT,
  NLM_F,
  O,
  RTM,
  SOCK,
} from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import {
  type Attribute,
  addressBody,
  attribute,
  errorAt,
  indexAt,
  linkBody,
  type NetlinkMessage,
  netlinkMessage,
} from "../../ffi/netlink.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import type { Memory } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import type { Linux } from "../spec/runtime.ts";

export interface NetAddress {
  readonly family: number;
  readonly prefix: number;
  readonly scope: number;
  readonly flags: number;
  readonly attributes: readonly Attribute[];
}

/** What a device of the host's is before it is moved. */
export interface NetDevice {
  /** In linux.netDevices. */
  readonly key: string;
  /** Its own: the key may be another that it has, ip-link(8) altname. */
  readonly name: string;
  readonly index: number;
  readonly up: boolean;
  /** The number of the bridge, bond or VRF that it belongs to, or 0. */
  readonly master: number;
  /** In the order in which they are to be added. */
  readonly addresses: readonly NetAddress[];
  /** Structures of RTM_NEWROUTE with their attributes, in the order in which they are to be added. */
  readonly routes: readonly Uint8Array[];
}

const longestName = 15;

/** dev_valid_name() of net/core/dev.c. @throws OciboxError INVALID */
function checkName(name: string, field: string): void {
  const size = Buffer.byteLength(name);
  const why =
    size > longestName
      ? `has ${size} bytes, and the kernel takes ${longestName}`
      : name === "" || name === "." || name === ".." || /[/:\s\0]/.test(name)
        ? "cannot be the name of a network device"
        : undefined;
  if (why !== undefined) throw new OciboxError("INVALID", `${field}: ${JSON.stringify(name)} ${why}`);
}

/** The name with a number that the kernel makes up: "eth%d". */
function isPattern(name: string): boolean {
  return name.includes("%");
}

/**
 * What is wrong with linux.netDevices by itself. @returns the names that are asked for; "" where it is the device's own
 * @throws OciboxError INVALID
 */
export function netDeviceNames(linux: Linux): ReadonlyMap<string, string> {
  const names = new Map<string, string>();
  const taken = new Map<string, string>();
  for (const [key, { name = "" }] of Object.entries(linux.netDevices ?? {})) {
    const field = `linux.netDevices.${key}`;
    checkName(key, field);
    if (name !== "") checkName(name, `${field}.name`);
    if (isPattern(name) && !/^[^%]*%d[^%]*$/.test(name))
      throw new OciboxError("INVALID", `${field}.name: ${JSON.stringify(name)} may have one %, that of %d`);
    names.set(key, name);
    const other = taken.get(name || key);
    if (other !== undefined)
      throw new OciboxError("INVALID", `${field}: it would be called ${JSON.stringify(name || key)}, as ${other} is`);
    if (!isPattern(name)) taken.set(name || key, field);
  }
  if (names.size > 0 && !(linux.namespaces ?? []).some((each) => each.type === "network"))
    throw new OciboxError(
      "INVALID",
      `linux.netDevices.${[...names.keys()][0]} wants a network namespace in linux.namespaces`,
    );
  return names;
}

const answerSize = 64;
/** How far the number that a device is to have lies from the last one that was tried. */
const farther = 0x100000;
const tries = 3;
const settableFlags =
  IFA_F.IFA_F_NODAD |
  IFA_F.IFA_F_OPTIMISTIC |
  IFA_F.IFA_F_HOMEADDRESS |
  IFA_F.IFA_F_MANAGETEMPADDR |
  IFA_F.IFA_F_NOPREFIXROUTE |
  IFA_F.IFA_F_MCAUTOJOIN;
const make = NLM_F.NLM_F_ACK | NLM_F.NLM_F_CREATE | NLM_F.NLM_F_EXCL;

/** Permanent, and of global scope: what belongs to the device wherever it is. */
function goesAlong({ flags, scope }: NetAddress): boolean {
  return (flags & IFA_F.IFA_F_PERMANENT) !== 0 && scope === 0;
}

/** What the kernel has made up by itself it makes up again: RFC 4941's addresses. */
function comesBack({ family, flags }: NetAddress): boolean {
  return family !== AF.AF_INET6 || (flags & IFA_F.IFA_F_TEMPORARY) === 0;
}

/**
 * An address's label is the device's name, with or without a number behind it (ip-address(8)), and goes with the name.
 * One whose name the kernel makes up gets the kernel's label.
 */
function relabelled(attributes: readonly Attribute[], from: string, to: string): readonly Attribute[] {
  return attributes.flatMap((each) => {
    if (each.type !== IFA.IFA_LABEL) return [each];
    const label = new TextDecoder().decode(each.bytes).replace(/\0.*$/s, "");
    if (label !== from && !label.startsWith(`${from}:`)) return [each];
    const other = `${to}${label.slice(from.length)}`;
    return isPattern(to) || other.length > longestName ? [] : [attribute(IFA.IFA_LABEL, other)];
  });
}

function addressMessage(address: NetAddress, index: number, attributes: readonly Attribute[]): NetlinkMessage {
  const { family, prefix, scope, flags } = address;
  return netlinkMessage(RTM.RTM_NEWADDR, make, addressBody(family, prefix, scope, index), [
    ...attributes,
    attribute(IFA.IFA_FLAGS, flags & settableFlags),
  ]);
}

/** An address as people write it. */
function written({ family, prefix, attributes }: NetAddress): string {
  const bytes = (attributes.find((each) => each.type === IFA.IFA_LOCAL) ?? attributes[0])?.bytes ?? new Uint8Array();
  if (family === AF.AF_INET) return `${bytes.join(".")}/${prefix}`;
  const groups = [...(bytes.toHex().match(/.{4}/g) ?? [])].map((group) => group.replace(/^0{1,3}/, ""));
  const longest = groups.join(":").match(/(?:^|:)0(?::0)+(?::|$)/g) ?? [];
  const zeros = longest.toSorted((a, b) => b.length - a.length)[0];
  const text = groups.join(":");
  return `${zeros === undefined ? text : text.replace(zeros, "::")}/${prefix}`;
}

/** A device on its way. */
interface Moving {
  readonly device: NetDevice;
  /** What it is to be called in the container. */
  readonly name: string;
  readonly field: string;
  /** Its number there. */
  readonly index: Slot;
  /** Whether it was told to go. */
  readonly gone: Slot;
}

export class NetDeviceMoves {
  readonly #p: Recorder;
  readonly #moving: readonly Moving[];
  readonly #answer: Memory;
  readonly #own: Slot;
  readonly #theirs: Slot;
  readonly #host: Slot;
  readonly #inside: Slot;
  /** Whether the parent is in the container's namespace itself. */
  readonly #away: Slot;
  /** Whether any device was told to go. */
  readonly #any: Slot;

  /** @param names of netDeviceNames() @param devices all that are named */
  constructor(p: Recorder, names: ReadonlyMap<string, string>, devices: readonly NetDevice[]) {
    this.#p = p;
    this.#moving = [...names].map(([key, name]) => {
      const device = devices.find((each) => each.key === key);
      if (device === undefined)
        throw new OciboxError("UNSUPPORTED", "linux.netDevices is for the OCI runtime's containers alone");
      return {
        device,
        name: name || device.name,
        field: `linux.netDevices.${key}`,
        index: p.slot(`${key}.index`),
        gone: p.slot(`${key}.gone`),
      };
    });
    this.#answer = p.memory("netlink.answer", answerSize);
    this.#own = p.slot("own network");
    this.#theirs = p.slot("container's network");
    this.#host = p.slot("rtnetlink");
    this.#inside = p.slot("container's rtnetlink");
    this.#away = p.slot("away");
    this.#any = p.slot("devices.gone");
  }

  /** In the parent, when the child is in its namespaces. @param pid of the child */
  take(pid: Slot): void {
    this.#p.field("linux.netDevices");
    this.#openSockets(pid);
    for (const each of this.#moving) this.#take(each);
  }

  #openSockets(pid: Slot): void {
    const p = this.#p;
    const flags = O.O_RDONLY | O.O_CLOEXEC;
    p.with({ into: this.#own }).sys.openat(AT_FDCWD, "/proc/self/ns/net", flags, 0);
    p.with({ into: this.#theirs }).sys.openat(AT_FDCWD, p.text`/proc/${pid}/ns/net`, flags, 0);
    const open = (into: Slot): void => {
      p.with({ into }).sys.socket(AF.AF_NETLINK, SOCK.SOCK_RAW | SOCK.SOCK_CLOEXEC, 0);
    };
    open(this.#host);
    p.sys.setns(this.#theirs, CLONE.CLONE_NEWNET);
    p.add({ op: "set", slot: this.#away, value: 1 });
    open(this.#inside);
    p.sys.setns(this.#own, CLONE.CLONE_NEWNET);
    p.add({ op: "set", slot: this.#away, value: 0 });
  }

  #memory(name: string, { bytes }: NetlinkMessage): Memory {
    return this.#p.memory(name, bytes.byteLength, bytes);
  }

  /** @returns the slot of the answer's errno, negative or 0; the kernel has answered when it has taken the message. */
  #ask(socket: Slot, message: Memory): Slot {
    const p = this.#p;
    p.sys.sendto(socket, message, message.size, 0, null, 0);
    p.sys.recvfrom(socket, this.#answer, answerSize, MSG_DONTWAIT, null, null);
    const error = p.slot("error");
    p.add({ op: "load", memory: this.#answer, offset: errorAt, slot: error });
    return error;
  }

  /** Fails by the answer, but for 0. @param hints what to say of an errno beside its words */
  #mustHold(error: Slot, { field }: Moving, call: string, hints: readonly [number, string][] = []): void {
    const p = this.#p;
    const well = p.newLabel("well");
    const says = `cannot start the container: ${field} in config.json: ${call} failed`;
    p.branch(error, "==", 0, well);
    for (const [errno, words] of hints) {
      const other = p.newLabel("other");
      p.branch(error, "!=", -errno, other);
      p.add({ op: "fail", errno, says: `${says}: ${words}`, blame: "ocibox" });
      p.place(other);
    }
    p.add({ op: "fail", errno: error, says, blame: "ocibox" });
    p.place(well);
  }

  /** Whether there is a device of the number in the container's namespace: then not ENODEV, whatever else it is. */
  #lookFor(moving: Moving): Slot {
    const message = netlinkMessage(RTM.RTM_GETLINK, 0, linkBody(0));
    const memory = this.#memory(`RTM_GETLINK(${moving.index.name})`, message);
    this.#p.add({ op: "store", memory, offset: indexAt, slot: moving.index });
    return this.#ask(this.#inside, memory);
  }

  /** A number that is free there: its own, where it can be. A new one far from those that the kernel gives. */
  #chooseIndex(moving: Moving): void {
    const p = this.#p;
    const free = p.newLabel(`a number for ${moving.name}`);
    for (let turn = 0; turn < tries; turn++) {
      p.add({ op: "set", slot: moving.index, value: (moving.device.index + turn * farther) & 0x7fffffff });
      p.branch(this.#lookFor(moving), "==", -errnoOf("ENODEV"), free);
    }
    const says = `cannot start the container: ${moving.field} in config.json: no number is free for it in the container`;
    p.add({ op: "fail", errno: errnoOf("EBUSY"), says, blame: "ocibox" });
    p.place(free);
  }

  #take(moving: Moving): void {
    const p = this.#p;
    const { device, name, field, index, gone } = moving;
    p.field(field);
    this.#chooseIndex(moving);
    const quoted = JSON.stringify(name);
    const message = netlinkMessage(RTM.RTM_NEWLINK, NLM_F.NLM_F_ACK, linkBody(device.index), [
      attribute(IFLA.IFLA_IFNAME, name),
      attribute(IFLA.IFLA_NET_NS_FD, 0),
      attribute(IFLA.IFLA_NEW_IFINDEX, 0),
    ]);
    const call = `RTM_NEWLINK(${device.index}, IFLA_NET_NS_FD, IFLA_IFNAME=${quoted})`;
    const memory = this.#memory(call, message);
    this.#place(memory, message, IFLA.IFLA_NET_NS_FD, this.#theirs);
    this.#place(memory, message, IFLA.IFLA_NEW_IFINDEX, index);
    p.add({ op: "set", slot: this.#any, value: 1 });
    p.add({ op: "set", slot: gone, value: 1 });
    this.#mustHold(this.#ask(this.#host, memory), moving, call, [
      [errnoOf("EEXIST"), `file exists: the container's network namespace has a device ${quoted}`],
      [errnoOf("EINVAL"), "invalid argument: this device cannot leave its network namespace"],
    ]);
    this.#mustBeThere(moving);
    for (const address of device.addresses) if (goesAlong(address)) this.#addInside(moving, address);
    const raise = `RTM_NEWLINK(${quoted}, IFF_UP)`;
    const up = this.#memory(raise, netlinkMessage(RTM.RTM_NEWLINK, NLM_F.NLM_F_ACK, linkBody(0, IFF_UP, IFF_UP)));
    p.add({ op: "store", memory: up, offset: indexAt, slot: index });
    this.#mustHold(this.#ask(this.#inside, up), moving, raise);
  }

  /** Linux before 5.13 gives a number of its own where the device's is taken, whatever it was told. */
  #mustBeThere(moving: Moving): void {
    const p = this.#p;
    const there = p.newLabel(`${moving.name} is there`);
    p.branch(this.#lookFor(moving), "!=", -errnoOf("ENODEV"), there);
    const says = `cannot start the container: ${moving.field} in config.json: the device was moved, and not found again`;
    p.add({ op: "fail", errno: errnoOf("ENODEV"), says, blame: "ocibox" });
    p.place(there);
  }

  #addInside(moving: Moving, address: NetAddress): void {
    const { device, name, index } = moving;
    const message = addressMessage(address, 0, relabelled(address.attributes, device.name, name));
    const call = `RTM_NEWADDR(${JSON.stringify(name)}, ${written(address)})`;
    const memory = this.#memory(call, message);
    this.#p.add({ op: "store", memory, offset: indexAt, slot: index });
    this.#mustHold(this.#ask(this.#inside, memory), moving, call);
  }

  #place(memory: Memory, message: NetlinkMessage, type: number, slot: Slot): void {
    this.#p.add({ op: "store", memory, offset: message.places.get(type) ?? 0, slot });
  }

  /** When nothing is moved back any more: the namespace ends with the container, and hardware comes back by that. */
  leave(): void {
    const p = this.#p;
    p.field("linux.netDevices");
    p.sys.close(this.#inside);
    p.sys.close(this.#theirs);
  }

  /** A part of the parent's teardown: what is not where it was goes back, with all that the kernel took from it. */
  giveBack(): void {
    const p = this.#p;
    const home = p.newLabel("in the host's network");
    const done = p.newLabel("devices back");
    p.field("linux.netDevices");
    p.branch(this.#away, "==", 0, home);
    p.carryOn().setns(this.#own, CLONE.CLONE_NEWNET);
    p.place(home);
    p.branch(this.#any, "==", 0, done);
    // An answer that nobody has waited for.
    for (const socket of [this.#host, this.#inside])
      p.carryOn("EAGAIN").recvfrom(socket, this.#answer, answerSize, MSG_DONTWAIT, null, null);
    for (const each of this.#moving.toReversed()) this.#giveBack(each);
    p.place(done);
  }

  /** As #ask, where nothing may fail any more. */
  #try(socket: Slot, message: Memory): Slot {
    const p = this.#p;
    const failed = p.newLabel("no answer");
    const error = p.slot("error");
    p.add({ op: "set", slot: error, value: -errnoOf("EIO") });
    p.branch(p.carryOn().sendto(socket, message, message.size, 0, null, 0), "<", 0, failed);
    const got = p.carryOn().recvfrom(socket, this.#answer, answerSize, MSG_DONTWAIT, null, null);
    p.branch(got, "<", 0, failed);
    p.add({ op: "load", memory: this.#answer, offset: errorAt, slot: error });
    p.place(failed);
    return error;
  }

  #warn(error: Slot, says: string): void {
    this.#p.add({ op: "fail", errno: error, says: `warning: ${says}`, blame: "ocibox", warning: true });
  }

  /** @returns the answer to a message that tells the device to come back */
  #callBack(moving: Moving, name: string, ...more: Attribute[]): Slot {
    const message = netlinkMessage(RTM.RTM_NEWLINK, NLM_F.NLM_F_ACK, linkBody(0), [
      attribute(IFLA.IFLA_IFNAME, name),
      attribute(IFLA.IFLA_NET_NS_FD, 0),
      ...more,
    ]);
    const memory = this.#memory(
      `RTM_NEWLINK(${moving.index.name}, IFLA_NET_NS_FD, IFLA_IFNAME=${JSON.stringify(name)})`,
      message,
    );
    this.#p.add({ op: "store", memory, offset: indexAt, slot: moving.index });
    this.#place(memory, message, IFLA.IFLA_NET_NS_FD, this.#own);
    return this.#try(this.#inside, memory);
  }

  #giveBack(moving: Moving): void {
    const p = this.#p;
    const { device, field, gone } = moving;
    const next = p.newLabel(`${device.name}: done with`);
    const here = p.newLabel(`${device.name}: here again`);
    p.field(field);
    p.branch(gone, "==", 0, next);
    const error = this.#callBack(moving, device.name, attribute(IFLA.IFLA_NEW_IFINDEX, device.index));
    p.branch(error, "==", 0, here);
    // It has never left.
    p.branch(error, "==", -errnoOf("ENODEV"), next);
    this.#warn(error, `${field}: the network device cannot come back as what it was`);
    // Under any name, rather than be destroyed: the one that the kernel gives hardware that comes back so.
    const other = this.#callBack(moving, `dev${device.index}`);
    p.branch(other, "==", 0, next);
    // It was moved, and not renamed.
    p.branch(other, "==", -errnoOf("ENODEV"), here);
    this.#warn(other, `${field}: the network device stays in the container's network namespace`);
    p.jump(next);
    p.place(here);
    this.#restore(moving);
    p.place(next);
  }

  #restore({ device, field }: Moving): void {
    const { index, addresses, routes, up, master } = device;
    const tell = (name: string, message: NetlinkMessage): void => {
      const p = this.#p;
      const well = p.newLabel("restored");
      const error = this.#try(this.#host, this.#memory(name, message));
      p.branch(error, "==", 0, well);
      p.branch(error, "==", -errnoOf("EEXIST"), well);
      this.#warn(error, `${field}: cannot restore what the network device had: ${name}`);
      p.place(well);
    };
    for (const address of addresses)
      if (comesBack(address))
        tell(`RTM_NEWADDR(${index}, ${written(address)})`, addressMessage(address, index, address.attributes));
    if (master !== 0) {
      const belongs = [attribute(IFLA.IFLA_MASTER, master)];
      tell(
        `RTM_NEWLINK(${index}, IFLA_MASTER=${master})`,
        netlinkMessage(RTM.RTM_NEWLINK, NLM_F.NLM_F_ACK, linkBody(index), belongs),
      );
    }
    if (up)
      tell(
        `RTM_NEWLINK(${index}, IFF_UP)`,
        netlinkMessage(RTM.RTM_NEWLINK, NLM_F.NLM_F_ACK, linkBody(index, IFF_UP, IFF_UP)),
      );
    for (const route of routes) tell(`RTM_NEWROUTE(${index})`, netlinkMessage(RTM.RTM_NEWROUTE, make, route));
  }
}
