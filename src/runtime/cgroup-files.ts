/** Files of a container's cgroups, by their controllers. */
import { namesIn, readText } from "../../ffi/files.ts";
import type { Cgroups } from "./cgroups.ts";

/** The directory that a controller's files are in; of v1 it is "/sys/fs/cgroup/cpu,cpuacct/…". */
export function directoryFor({ mode, directories }: Cgroups, controller: string): string | undefined {
  if (mode === "v2") return directories[0];
  return directories.find((each) => (each.split("/")[4] ?? "").split(",").includes(controller));
}

export interface CgroupFiles {
  text(file: string): string | undefined;
  number(file: string): bigint;
  /** Lines of "name value". */
  table(file: string): Record<string, bigint>;
  names(): string[];
}

const mostOf64 = 2n ** 64n - 1n;

/** No limit is the largest number of 64 bits, as runc gives it; such numbers are why none is a JavaScript number. */
export function numberOf(text: string): bigint {
  const plain = text.trim();
  if (plain === "max") return mostOf64;
  return /^\d+$/.test(plain) ? BigInt(plain) : 0n;
}

function read(path: string): string | undefined {
  try {
    return readText(path);
  } catch {
    // EOPNOTSUPP, ENODEV: a file that this kernel shows and does not keep
    return undefined;
  }
}

export function filesIn(directory: string): CgroupFiles {
  const text = (file: string): string | undefined => read(`${directory}/${file}`);
  return {
    text,
    number: (file) => numberOf(text(file) ?? "0"),
    table: (file) => {
      const found: Record<string, bigint> = {};
      for (const line of (text(file) ?? "").split("\n")) {
        const [name, value] = line.split(" ");
        if (name !== undefined && value !== undefined) found[name] = numberOf(value);
      }
      return found;
    },
    names: () => namesIn(directory),
  };
}
