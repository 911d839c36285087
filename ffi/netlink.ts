/**
 * Messages of netlink(7) as bytes: a head, the structure of the message's kind, attributes. All of it little-endian, as the
 * machines are that ocibox runs on, but for what netfilter has inside. A plan sends them out of its memory, the direct back
 * end out of arrays.
 */
import { NLM_F, RTM } from "./constants.ts";

export interface Attribute {
  readonly type: number;
  readonly bytes: Uint8Array;
}

export interface NetlinkMessage {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Where in it the contents of an attribute begin, by the attribute's type. */
  readonly places: ReadonlyMap<number, number>;
}

/** struct nlmsghdr */
const headSize = 16;
const attributeHead = 4;
/** Of the index of a device in a message about links or addresses: both structures have it there. */
export const indexAt = headSize + 4;
/** Of the errno, negative or 0, in the answer: struct nlmsgerr. */
export const errorAt = headSize;
export const linkSize = 16;
export const addressSize = 8;
export const routeSize = 12;
const utf8 = new TextEncoder();

function aligned(size: number): number {
  return (size + 3) & ~3;
}

/** NLA_F_NESTED: the contents are attributes themselves. */
const nestedFlag = 0x8000;

/** An attribute of 32 bits, of text with its NUL, of bytes, or of other attributes. */
export function attribute(type: number, value: number | string | Uint8Array | readonly Attribute[]): Attribute {
  if (typeof value === "string") return { type, bytes: utf8.encode(`${value}\0`) };
  if (value instanceof Uint8Array) return { type, bytes: value };
  if (typeof value !== "number") return { type: type | nestedFlag, bytes: packed(value) };
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value, true);
  return { type, bytes };
}

/** Netfilter's numbers have their highest byte first. @param size 1, 2, 4 bytes */
export function bigEndian(value: number, size = 4): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at++) bytes[at] = value >>> (8 * (size - 1 - at));
  return bytes;
}

/** A number that has its highest byte first. */
export function numberIn(bytes: Uint8Array): number {
  return bytes.reduce((value, byte) => value * 256 + byte, 0);
}

/** Attributes one behind the other. */
export function packed(attributes: readonly Attribute[]): Uint8Array {
  let size = 0;
  for (const each of attributes) size += attributeHead + aligned(each.bytes.byteLength);
  const bytes = new Uint8Array(size);
  put(bytes, 0, attributes);
  return bytes;
}

/** @returns where the contents of each begin, by its type */
function put(into: Uint8Array, from: number, attributes: readonly Attribute[]): Map<number, number> {
  const places = new Map<number, number>();
  const view = new DataView(into.buffer, into.byteOffset, into.byteLength);
  let at = from;
  for (const each of attributes) {
    view.setUint16(at, attributeHead + each.bytes.byteLength, true);
    view.setUint16(at + 2, each.type, true);
    into.set(each.bytes, at + attributeHead);
    places.set(each.type, at + attributeHead);
    at += attributeHead + aligned(each.bytes.byteLength);
  }
  return places;
}

/** @param body the structure of the message's kind */
export function netlinkMessage(
  type: number,
  flags: number,
  body: Uint8Array,
  attributes: readonly Attribute[] = [],
): NetlinkMessage {
  const from = headSize + aligned(body.byteLength);
  let size = from;
  for (const each of attributes) size += attributeHead + aligned(each.bytes.byteLength);
  const bytes = new Uint8Array(new ArrayBuffer(size));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, size, true);
  view.setUint16(4, type, true);
  view.setUint16(6, flags | NLM_F.NLM_F_REQUEST, true);
  bytes.set(body, headSize);
  return { bytes, places: put(bytes, from, attributes) };
}

/** struct ifinfomsg. @param change the bits of `flags` that are meant */
export function linkBody(index: number, flags = 0, change = 0, family = 0): Uint8Array {
  const bytes = new Uint8Array(linkSize);
  bytes[0] = family;
  const view = new DataView(bytes.buffer);
  view.setInt32(4, index, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, change, true);
  return bytes;
}

/** struct rtmsg of a route of the main table. @param prefix bits of the destination's address */
export function routeBody(family: number, prefix: number, protocol: number): Uint8Array {
  const RT_TABLE_MAIN = 254;
  const RTN_UNICAST = 1;
  const bytes = new Uint8Array(routeSize);
  bytes.set([family, prefix, 0, 0, RT_TABLE_MAIN, protocol, 0, RTN_UNICAST]);
  return bytes;
}

/** Of a message about a device. */
export function linkIndex({ body }: Received): number {
  return new DataView(body.buffer, body.byteOffset).getInt32(4, true);
}

/** struct ifaddrmsg; its flags are told by IFA_FLAGS, which has room for all of them. */
export function addressBody(family: number, prefix: number, scope: number, index: number): Uint8Array {
  const bytes = new Uint8Array(addressSize);
  bytes.set([family, prefix, 0, scope]);
  new DataView(bytes.buffer).setInt32(4, index, true);
  return bytes;
}

export interface Received {
  readonly type: number;
  readonly flags: number;
  /** What is behind the head. */
  readonly body: Uint8Array;
}

/** The messages of one datagram. What is cut short ends it. */
export function receivedIn(bytes: Uint8Array): Received[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found: Received[] = [];
  for (let at = 0; at + headSize <= bytes.byteLength; ) {
    const size = view.getUint32(at, true);
    if (size < headSize || at + size > bytes.byteLength) break;
    const body = bytes.slice(at + headSize, at + size);
    found.push({ type: view.getUint16(at + 4, true), flags: view.getUint16(at + 6, true), body });
    at += aligned(size);
  }
  return found;
}

/** The errno (positive, or 0) of a message that tells one; undefined for any other. */
export function errnoIn({ type, body }: Received): number | undefined {
  if (type !== RTM.NLMSG_ERROR || body.byteLength < 4) return undefined;
  return 0 - new DataView(body.buffer, body.byteOffset).getInt32(0, true);
}

/** The attributes behind a structure of `from` bytes. */
export function attributesIn(body: Uint8Array, from: number): ReadonlyMap<number, Uint8Array> {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const found = new Map<number, Uint8Array>();
  for (let at = aligned(from); at + attributeHead <= body.byteLength; ) {
    const size = view.getUint16(at, true);
    if (size < attributeHead || at + size > body.byteLength) break;
    // Two bits of the type say how the contents are to be read; NLA_TYPE_MASK.
    found.set(view.getUint16(at + 2, true) & 0x3fff, body.subarray(at + attributeHead, at + size));
    at += aligned(size);
  }
  return found;
}

/** An attribute of 32 bits; 0 where it is not there. */
export function wordOf(attributes: ReadonlyMap<number, Uint8Array>, type: number): number {
  const bytes = attributes.get(type);
  if (bytes === undefined || bytes.byteLength < 4) return 0;
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
}

/** An attribute of text. */
export function textOf(attributes: ReadonlyMap<number, Uint8Array>, type: number): string {
  return new TextDecoder().decode(attributes.get(type)).replace(/\0.*$/s, "");
}
