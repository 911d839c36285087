/** Messages of D-Bus: https://dbus.freedesktop.org/doc/dbus-specification.html, "Type System" and "Message Protocol". */

/** A value that tells its own type. */
export interface Variant {
  readonly signature: string;
  readonly value: Value;
}

/** Arrays are also structures and dictionary entries. 64-bit integers are bigints. */
export type Value = string | number | bigint | boolean | Variant | readonly Value[];

const alignments: Readonly<Record<string, number>> = {
  ...{ y: 1, g: 1, v: 1, n: 2, q: 2, b: 4, i: 4, u: 4, s: 4, o: 4, a: 4, x: 8, t: 8, d: 8, "(": 8, "{": 8 },
};

/** The end of the one complete type that begins at `at`. */
function endOfType(signature: string, at: number): number {
  const code = signature[at];
  if (code === "a") return endOfType(signature, at + 1);
  if (code !== "(" && code !== "{") return at + 1;
  let end = at + 1;
  while (signature[end] !== ")" && signature[end] !== "}") {
    if (end >= signature.length) throw new TypeError(`the signature ${signature} does not end`);
    end = endOfType(signature, end);
  }
  return end + 1;
}

function typesOf(signature: string): string[] {
  const found: string[] = [];
  for (let at = 0; at < signature.length; ) {
    const end = endOfType(signature, at);
    found.push(signature.slice(at, end));
    at = end;
  }
  return found;
}

function alignmentOf(type: string): number {
  const found = alignments[type[0] ?? ""];
  if (found === undefined) throw new TypeError(`no such type: ${type}`);
  return found;
}

class Writer {
  bytes = new Uint8Array(1024);
  view = new DataView(this.bytes.buffer);
  used = 0;

  align(to: number): void {
    this.reserve(8);
    this.used = Math.ceil(this.used / to) * to;
  }

  reserve(size: number): void {
    if (this.used + size + 16 <= this.bytes.length) return;
    const wider = new Uint8Array((this.bytes.length + size) * 2);
    wider.set(this.bytes);
    this.bytes = wider;
    this.view = new DataView(wider.buffer);
  }

  text(text: string, lengthBytes: 1 | 4): void {
    const encoded = new TextEncoder().encode(text);
    this.reserve(encoded.byteLength + 5);
    if (lengthBytes === 4) this.view.setUint32(this.used, encoded.byteLength, true);
    else this.view.setUint8(this.used, encoded.byteLength);
    this.bytes.set(encoded, this.used + lengthBytes);
    this.used += lengthBytes + encoded.byteLength + 1;
  }

  number(code: string, value: Value): void {
    this.reserve(8);
    const big = typeof value === "bigint" ? value : BigInt(typeof value === "boolean" ? Number(value) : Number(value));
    const size = alignmentOf(code);
    if (size === 1) this.view.setUint8(this.used, Number(big));
    else if (size === 2) this.view.setUint16(this.used, Number(BigInt.asUintN(16, big)), true);
    else if (size === 4) this.view.setUint32(this.used, Number(BigInt.asUintN(32, big)), true);
    else this.view.setBigUint64(this.used, BigInt.asUintN(64, big), true);
    this.used += size;
  }

  put(type: string, value: Value): void {
    this.align(alignmentOf(type));
    switch (type[0]) {
      case "s":
      case "o":
        this.text(String(value), 4);
        return;
      case "g":
        this.text(String(value), 1);
        return;
      case "v": {
        const { signature, value: inner } = value as Variant;
        this.text(signature, 1);
        this.put(signature, inner);
        return;
      }
      case "a": {
        const length = this.used;
        this.used += 4;
        this.align(alignmentOf(type.slice(1)));
        const start = this.used;
        for (const item of value as readonly Value[]) this.put(type.slice(1), item);
        this.view.setUint32(length, this.used - start, true);
        return;
      }
      case "(":
      case "{":
        typesOf(type.slice(1, -1)).forEach((each, index) => {
          this.put(each, (value as readonly Value[])[index] ?? 0);
        });
        return;
      default:
        this.number(type[0] ?? "", value);
    }
  }
}

class Reader {
  readonly view: DataView;

  constructor(
    readonly bytes: Uint8Array,
    public at: number,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  align(to: number): void {
    this.at = Math.ceil(this.at / to) * to;
  }

  text(length: number): string {
    const text = new TextDecoder().decode(this.bytes.subarray(this.at, this.at + length));
    this.at += length + 1;
    return text;
  }

  uint32(): number {
    this.at += 4;
    return this.view.getUint32(this.at - 4, true);
  }

  get(type: string): Value {
    const alignment = alignmentOf(type);
    this.align(alignment);
    switch (type[0]) {
      case "s":
      case "o":
        return this.text(this.uint32());
      case "g":
        return this.text(this.view.getUint8(this.at++));
      case "v": {
        const signature = this.text(this.view.getUint8(this.at++));
        return { signature, value: this.get(signature) };
      }
      case "a": {
        const length = this.uint32();
        this.align(alignmentOf(type.slice(1)));
        const end = this.at + length;
        if (end > this.bytes.byteLength) throw new RangeError("an array ends behind its message");
        const items: Value[] = [];
        while (this.at < end) items.push(this.get(type.slice(1)));
        return items;
      }
      case "(":
      case "{":
        return typesOf(type.slice(1, -1)).map((each) => this.get(each));
      case "b":
        return this.uint32() !== 0;
      default:
        this.at += alignment;
        if (alignment === 1) return this.view.getUint8(this.at - 1);
        if (alignment === 2) return this.view.getUint16(this.at - 2, true);
        if (alignment === 8) return this.view.getBigUint64(this.at - 8, true);
        return type === "i" ? this.view.getInt32(this.at - 4, true) : this.view.getUint32(this.at - 4, true);
    }
  }
}

type MessageKind = "call" | "return" | "error" | "signal";

export interface Message {
  readonly kind: MessageKind;
  readonly serial: number;
  readonly path?: string;
  readonly interface?: string;
  readonly member?: string;
  readonly errorName?: string;
  readonly replySerial?: number;
  readonly destination?: string;
  readonly signature?: string;
  readonly body: readonly Value[];
}

const kinds: readonly (MessageKind | "")[] = ["", "call", "return", "error", "signal"];
const headers = {
  1: ["path", "o"],
  2: ["interface", "s"],
  3: ["member", "s"],
  4: ["errorName", "s"],
  5: ["replySerial", "u"],
  6: ["destination", "s"],
  8: ["signature", "g"],
} as const;

export function encodeMessage(message: Message): Uint8Array<ArrayBuffer> {
  const body = new Writer();
  typesOf(message.signature ?? "").forEach((type, index) => {
    body.put(type, message.body[index] ?? 0);
  });
  const head = new Writer();
  const fields: Value[] = [];
  for (const [code, [name, signature]] of Object.entries(headers)) {
    const value = message[name];
    if (value !== undefined) fields.push([Number(code), { signature, value }]);
  }
  for (const byte of [0x6c, kinds.indexOf(message.kind), 0, 1]) head.put("y", byte);
  head.put("u", body.used);
  head.put("u", message.serial);
  head.put("a(yv)", fields);
  head.align(8);
  const whole = new Uint8Array(head.used + body.used);
  whole.set(head.bytes.subarray(0, head.used));
  whole.set(body.bytes.subarray(0, body.used), head.used);
  return whole;
}

const mostMessage = 1 << 20;

/** @returns the first message and where it ends, or undefined where it is not all there @throws RangeError, TypeError */
export function decodeMessage(bytes: Uint8Array): { readonly message: Message; readonly end: number } | undefined {
  if (bytes.byteLength < 16) return undefined;
  if (bytes[0] !== 0x6c) throw new TypeError("a message of D-Bus in another byte order");
  const reader = new Reader(bytes, 4);
  const bodySize = reader.uint32();
  const serial = reader.uint32();
  const fieldsEnd = 16 + reader.view.getUint32(12, true);
  const start = Math.ceil(fieldsEnd / 8) * 8;
  const end = start + bodySize;
  if (end > mostMessage) throw new RangeError("a message of D-Bus of more than 1 MiB");
  if (bytes.byteLength < end) return undefined;
  const found: Record<string, Value> = {};
  for (const field of reader.get("a(yv)") as readonly (readonly [number, Variant])[]) {
    const [code, { value }] = field;
    const name = Object.hasOwn(headers, code) ? headers[code as keyof typeof headers][0] : undefined;
    if (name !== undefined) found[name] = value;
  }
  const kind = kinds[bytes[1] ?? 0];
  if (kind === undefined || kind === "") throw new TypeError("a message of D-Bus of no known kind");
  // Alignment is counted from the body's own beginning, which is a multiple of 8.
  const body = new Reader(bytes.subarray(start, end), 0);
  const values = typesOf(String(found.signature ?? "")).map((type) => body.get(type));
  return { message: { ...(found as Partial<Message>), kind, serial, body: values }, end };
}
