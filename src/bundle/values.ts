/** Values of flags: sizes, volumes, tmpfs, limits, capabilities. Pure, and strict. */
import { CAP, RLIMIT } from "../../ffi/constants.ts";
import { OciboxError } from "../errors.ts";
import type { Mount, Rlimit } from "../spec/runtime.ts";

function refuse(message: string, hint?: string): never {
  throw new OciboxError("USAGE", message, hint === undefined ? {} : { hint });
}

/** Bytes of "512m", "1.5g", "64KiB", "1000". */
export function parseSize(text: string, flag: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?$/i.exec(text);
  if (match === null) refuse(`${flag} is "${text}", which is not a size like 512m or 1g`);
  const power = ["", "k", "m", "g", "t"].indexOf((match[2] ?? "").toLowerCase().replace("b", ""));
  const bytes = Math.floor(Number(match[1]) * 1024 ** power);
  if (!Number.isSafeInteger(bytes)) refuse(`${flag} is "${text}", which is too large`);
  return bytes;
}

/** -v [SRC:]DST[:OPTIONS]. */
export interface Volume {
  /** A path of the host's; of a named volume its name, until its place is known; "" for one of the container's own. */
  readonly source: string;
  readonly destination: string;
  readonly options: readonly string[];
  /** The name of the volume. */
  readonly volume?: string;
  /** What the image has there is not copied into it. */
  readonly nocopy?: boolean;
}

/** Of a volume, or of a container. */
export function isName(text: string): boolean {
  return text.length < 256 && /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(text);
}

const propagation = new Set(["shared", "rshared", "slave", "rslave", "private", "rprivate"]);
const plainOptions = new Set(["ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "bind", "rbind"]);
/** SELinux relabelling, and what is for other systems: of no effect, as in docker. */
const idleOptions = new Set(["z", "Z", "cached", "delegated", "consistent"]);

/** Masks, devices and the process itself rest on what ocibox mounts here. */
const reserved = new Set(["/", "/proc", "/dev", "/dev/pts", "/sys"]);

/** A path with `.`, `..` and double slashes resolved as text. @throws OciboxError USAGE for a relative one */
export function cleanPath(path: string, what: string): string {
  if (!path.startsWith("/")) refuse(`${what} is "${path}", which is not an absolute path`);
  if (path.includes("\0")) refuse(`${what} has a NUL in it`);
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}

/** @param here the caller's directory, for a source that begins with "." */
export function parseVolume(text: string, here: string): Volume {
  const parts = text.split(":");
  // Of one path alone it is the place of a volume without a name.
  const [source = "", destination = "", optionText, ...more] = parts.length === 1 ? ["", ...parts] : parts;
  if (destination === "" || (source === "" && parts.length > 1) || more.length > 0)
    refuse(`--volume is "${text}", which is not [SOURCE:]DESTINATION[:OPTIONS]`);
  const isPath = /^[./]/.test(source);
  if (!isPath && source !== "" && !isName(source))
    refuse(
      `--volume is "${text}", and "${source}" is no name of a volume: letters, digits, "_", "." and "-"`,
      "a directory begins with / or .",
    );
  const target = cleanPath(destination, "the destination of --volume");
  if (reserved.has(target)) refuse(`--volume is "${text}": ${target} is the container's own`);
  const options: string[] = [];
  let nocopy = false;
  for (const option of (optionText ?? "").split(",").filter((each) => each !== "")) {
    if (option === "U" || option === "O")
      throw new OciboxError("UNSUPPORTED", `--volume is "${text}": the option ${option} is not there yet`);
    if (option === "nocopy") nocopy = true;
    else if (propagation.has(option) || plainOptions.has(option)) options.push(option);
    else if (!idleOptions.has(option)) refuse(`--volume is "${text}", and "${option}" is no option of a volume`);
  }
  const place = source.startsWith("/") ? cleanPath(source, "") : cleanPath(`${here}/${source}`, "");
  return {
    source: isPath ? place : source,
    destination: target,
    options,
    ...(isPath || source === "" ? {} : { volume: source }),
    ...(nocopy ? { nocopy } : {}),
  };
}

/** Where a volume without a name is, below the container's folder. @param index among the container's mounts */
export function ownVolume(folder: string, index: number): string {
  return `${folder}/volumes/${index}`;
}

/** @param folder the container's @param index among its mounts */
export function volumeMount(volume: Volume, folder: string, index: number): Mount {
  const options = ["rbind", "nodev", ...volume.options];
  if (!volume.options.some((each) => propagation.has(each))) options.push("rprivate");
  const source = volume.source === "" ? ownVolume(folder, index) : volume.source;
  return { destination: volume.destination, type: "bind", source, options };
}

/** --tmpfs DST[:OPTIONS], with docker's defaults noexec, nosuid, nodev. */
export function tmpfsMount(text: string): Mount {
  const colon = text.indexOf(":");
  const destination = cleanPath(colon < 0 ? text : text.slice(0, colon), "the destination of --tmpfs");
  if (reserved.has(destination)) refuse(`--tmpfs is "${text}": ${destination} is the container's own`);
  const given =
    colon < 0
      ? []
      : text
          .slice(colon + 1)
          .split(",")
          .filter((each) => each !== "");
  const options = ["noexec", "nosuid", "nodev"].filter((each) => !given.includes(each.slice(2)));
  for (const option of given) {
    if (/^(?:size|nr_blocks|nr_inodes|mode|uid|gid|mpol|huge)=/.test(option) || plainOptions.has(option))
      options.push(option);
    else refuse(`--tmpfs is "${text}", and "${option}" is no option of a tmpfs`);
  }
  return { destination, type: "tmpfs", source: "tmpfs", options };
}

/** --ulimit NAME=SOFT[:HARD]. */
export function parseUlimit(text: string): Rlimit {
  const match = /^([a-z]+)=(-1|unlimited|\d+)(?::(-1|unlimited|\d+))?$/.exec(text);
  if (match === null) refuse(`--ulimit is "${text}", which is not NAME=SOFT or NAME=SOFT:HARD`);
  const type = `RLIMIT_${(match[1] ?? "").toUpperCase()}`;
  if (!Object.hasOwn(RLIMIT, type)) refuse(`--ulimit is "${text}": there is no limit "${match[1]}"`);
  const value = (word: string): number =>
    word === "-1" || word === "unlimited" ? Number.MAX_SAFE_INTEGER : Number(word);
  const soft = value(match[2] ?? "");
  const hard = match[3] === undefined ? soft : value(match[3]);
  if (soft > hard) refuse(`--ulimit is "${text}": the soft limit is above the hard one`);
  return { type, soft, hard };
}

/** Podman's eleven, with which common images run unchanged; docs/security.md. */
export const usualCapabilities: readonly string[] = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_NET_BIND_SERVICE",
  "CAP_SETFCAP",
  "CAP_SETGID",
  "CAP_SETPCAP",
  "CAP_SETUID",
  "CAP_SYS_CHROOT",
];

function capability(text: string, flag: string): string {
  const upper = text.toUpperCase();
  const name = upper === "ALL" || upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
  if (name !== "ALL" && !Object.hasOwn(CAP, name))
    refuse(`${flag} is "${text}", which is no capability`, "see: man 7 capabilities");
  return name;
}

/**
 * What is left of the usual capabilities and what comes to them. ALL stands for every one that ocibox itself has.
 * @param permitted what ocibox has, as the sum of bits
 * @throws OciboxError for a name that is none, and for one asked for that cannot be given
 */
export function capabilities(
  add: readonly string[],
  drop: readonly string[],
  strict: boolean,
  permitted: number,
): string[] {
  const has = (name: string): boolean => Math.floor(permitted / 2 ** CAP[name as keyof typeof CAP]) % 2 === 1;
  const added = add.map((each) => capability(each, "--cap-add"));
  const dropped = drop.map((each) => capability(each, "--cap-drop"));
  const start = added.includes("ALL") ? Object.keys(CAP) : strict || dropped.includes("ALL") ? [] : usualCapabilities;
  const held = new Set(start.filter(has));
  for (const each of added) {
    if (each === "ALL") continue;
    if (!has(each))
      throw new OciboxError("HOST", `--cap-add ${each} cannot be given: ocibox does not have it itself`, {
        hint: "an outer container or the service manager may have taken it away",
      });
    held.add(each);
  }
  for (const each of dropped) held.delete(each);
  return [...held].sort();
}

/** A whole number within bounds. */
export function numberOf(text: string, flag: string, least: number, most: number): number {
  const value = Number(text);
  if (!/^-?\d+$/.test(text) || value < least || value > most)
    refuse(`${flag} is "${text}", which is not a number from ${least} to ${most}`);
  return value;
}

/** --cpus as a quota in each 100 ms; microseconds. */
export function cpuQuota(text: string): { quota: number; period: number } {
  const cpus = Number(text);
  if (!/^\d*\.?\d+$/.test(text) || !(cpus >= 0.01))
    refuse(`--cpus is "${text}", which is not a number of at least 0.01`);
  return { quota: Math.round(cpus * 100_000), period: 100_000 };
}
