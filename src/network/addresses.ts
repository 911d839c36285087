/** IPv4 addresses and networks as numbers of 32 bits. Pure. */

export interface Subnet {
  /** Its lowest address. */
  readonly network: number;
  /** Bits. */
  readonly prefix: number;
}

const bits = 32;

/** @returns undefined where it is no address of four decimal numbers */
export function parseAddress(text: string): number | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    if (!/^(?:0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
    value = value * 256 + Number(part);
  }
  return value;
}

export function dotted(address: number): string {
  return `${address >>> 24}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`;
}

function maskOf(prefix: number): number {
  return prefix === 0 ? 0 : (-1 << (bits - prefix)) >>> 0;
}

/** "10.1.0.0/16"; undefined where it is none that a bridge and its containers have room in. */
export function parseSubnet(text: string): Subnet | undefined {
  const [start = "", bits = "", ...rest] = text.split("/");
  const address = parseAddress(start);
  const prefix = /^\d{1,2}$/.test(bits) ? Number(bits) : 0;
  if (address === undefined || rest.length > 0 || prefix < 8 || prefix > 29) return undefined;
  return subnetOf(address, prefix);
}

export function writtenSubnet({ network, prefix }: Subnet): string {
  return `${dotted(network)}/${prefix}`;
}

/** The network that an address is in. */
export function subnetOf(address: number, prefix: number): Subnet {
  return { network: (address & maskOf(prefix)) >>> 0, prefix };
}

export function isIn(subnet: Subnet, address: number): boolean {
  return subnetOf(address, subnet.prefix).network === subnet.network;
}

export function overlap(a: Subnet, b: Subnet): boolean {
  return a.prefix < b.prefix ? isIn(a, b.network) : isIn(b, a.network);
}

/** How many addresses there are between the network's own and its last, which is for all. */
export function hostsIn({ prefix }: Subnet): number {
  return 2 ** (bits - prefix) - 2;
}

/** The lowest bytes of an address first, as procfs has them. */
function reversed(text: string): number {
  const bytes = Uint8Array.fromHex(text);
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}

export interface Route extends Subnet {
  readonly device: string;
}

/** /proc/net/route, proc(5): where this host's packets go. */
export function routesIn(text: string): Route[] {
  return text
    .split("\n")
    .slice(1)
    .map((line) => line.split(/\s+/))
    .filter((fields) => fields.length > 7)
    .map(([device = "", destination = "", , , , , , mask = ""]) => ({
      device,
      network: reversed(destination),
      prefix: reversed(mask).toString(2).replaceAll("0", "").length,
    }));
}
