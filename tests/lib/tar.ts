/** Tar archives made field by field, the unsound ones too. */

export interface Member {
  readonly name: string;
  /** The type flag: "0" file, "1" hard link, "2" symlink, "3" char, "4" block, "5" directory, "6" FIFO. */
  readonly type?: string;
  readonly link?: string;
  readonly body?: string | Uint8Array;
  readonly mode?: number;
  readonly uid?: number;
  readonly major?: number;
  readonly minor?: number;
  /** In place of the body's length. */
  readonly size?: string;
  readonly pax?: Readonly<Record<string, string>>;
  /** Leaves the checksum wrong. */
  readonly unsound?: boolean;
}

const bytesOf = (text: string | Uint8Array): Uint8Array =>
  typeof text === "string" ? new Uint8Array(Buffer.from(text, "utf8")) : text;

function header(member: Member, body: Uint8Array): Uint8Array {
  const block = new Uint8Array(512);
  const put = (at: number, text: string): void => {
    block.set(bytesOf(text), at);
  };
  const octal = (value: number, width: number): string => `${value.toString(8).padStart(width - 1, "0")}\0`;
  put(0, member.name.slice(0, 100));
  put(100, octal(member.mode ?? (member.type === "5" ? 0o755 : 0o644), 8));
  put(108, octal(member.uid ?? 0, 8));
  put(116, octal(0, 8));
  put(124, member.size ?? octal(body.byteLength, 12));
  put(136, octal(1_700_000_000, 12));
  put(148, "        ");
  put(156, member.type ?? "0");
  put(157, (member.link ?? "").slice(0, 100));
  put(257, "ustar\x0000");
  put(329, octal(member.major ?? 0, 8));
  put(337, octal(member.minor ?? 0, 8));
  let sum = 0;
  for (const byte of block) sum += byte;
  put(148, `${(member.unsound === true ? sum + 1 : sum).toString(8).padStart(6, "0")}\0 `);
  return block;
}

function padded(body: Uint8Array): Uint8Array {
  const whole = new Uint8Array(Math.ceil(body.byteLength / 512) * 512);
  whole.set(body);
  return whole;
}

function paxRecord(key: string, value: string): string {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest;
  while (String(length).length + rest !== length) length = String(length).length + rest;
  return `${length} ${key}=${value}\n`;
}

/** @param end whether the two empty blocks come at the end */
export function tar(members: readonly Member[], end = true): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  for (const member of members) {
    if (member.pax !== undefined) {
      const records = bytesOf(
        Object.entries(member.pax)
          .map(([key, value]) => paxRecord(key, value))
          .join(""),
      );
      parts.push(header({ name: "pax", type: "x" }, records), padded(records));
    }
    const body = bytesOf(member.body ?? "");
    parts.push(header(member, body), padded(body));
  }
  if (end) parts.push(new Uint8Array(1024));
  return new Uint8Array(Buffer.concat(parts));
}
