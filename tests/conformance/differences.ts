/** Where the runtimes differ, and why. One that is not seen any more fails the test. */

export type Runtime = "runc" | "crun";

export interface Difference {
  readonly runtime: readonly Runtime[];
  /** What the script prints under this heading; "end" is the exit code. */
  readonly section: string;
  readonly cases: RegExp | "all";
  readonly why: string;
}

export const differences: readonly Difference[] = [
  {
    runtime: ["crun"],
    section: "cgroups",
    cases: "all",
    why: "crun takes a relative path, or none, from the root of each hierarchy; config-linux.md leaves it to the runtime, and ocibox and runc start at their own cgroup",
  },
  {
    runtime: ["runc"],
    section: "devices",
    cases: "all",
    why: "runc makes /dev/core only where the host has a /proc/kcore, which a link in the container's proc has nothing to do with",
  },
  {
    runtime: ["crun"],
    section: "devices",
    cases: /user|all five sets/,
    why: "crun gives /dev/null to the container's user: in a user namespace that is the host's own, which the test gives back",
  },
  {
    runtime: ["runc"],
    section: "end",
    cases: /^rootfsPropagation runbindable$/,
    why: "Debian's runc cannot mount upon what is unbindable, and sets it first",
  },
  {
    runtime: ["crun"],
    section: "mounts",
    cases: /^a user namespace/,
    why: "crun binds the devices of a user namespace nosuid and noexec; a device can be neither",
  },
  {
    runtime: ["runc", "crun"],
    section: "mounts",
    cases: /^resources|^mount cgroup$/,
    why: "the tmpfs that holds v1's hierarchies: where the mount is to be read-only, ocibox makes it so, and runc and crun only what is in it",
  },
  {
    runtime: ["runc", "crun"],
    section: "extra",
    cases: /^mount cgroup$/,
    why: "the same: files could be made there; crun shows hierarchies that the container was not put in",
  },
  {
    runtime: ["runc", "crun"],
    section: "mounts",
    cases: /^readonlyPaths \/$/,
    why: "runc binds the root upon itself, with all that is in it, and that read-only; crun leaves it writable",
  },
  {
    runtime: ["crun"],
    section: "extra",
    cases: /^readonlyPaths \/$/,
    why: "the same: what is to be read-only can be written to",
  },
  {
    runtime: ["crun"],
    section: "mounts",
    cases: /^without a mount namespace$/,
    why: "crun mounts into the bundle's root itself, and leaves it so; runc and ocibox mount the root, and ocibox takes it away again",
  },
  {
    runtime: ["runc"],
    section: "end",
    cases: /^ociVersion (invalid|2\.0\.0)$/,
    why: "config.md: a version in SemVer's format, and an error for what is not supported; runc reads it and does not look at it",
  },
  {
    runtime: ["runc"],
    section: "end",
    cases: /^user 4000000000/,
    why: "runc takes ids of 31 bits; config.md has 32",
  },
  {
    runtime: ["runc", "crun"],
    section: "end",
    cases: /^rlimit RLIMIT_NOFILE 3$/,
    why: "runc and crun open files of their own after the limit is set; ocibox has none to open any more",
  },
  {
    runtime: ["crun"],
    section: "end",
    cases: /^a namespace given twice$/,
    why: "config-linux.md: runtimes MUST generate an error for two of the same type; crun does not",
  },
  {
    runtime: ["runc", "crun"],
    section: "end",
    cases: /^mappings without a user namespace$/,
    why: "they ignore the mappings; ocibox ignores nothing",
  },
  {
    runtime: ["runc"],
    section: "extra",
    cases: /^mount tmpfs with options$/,
    why: "Debian's runc gives a tmpfs the mode of the directory that it covers even where another is asked for",
  },
  {
    runtime: ["crun"],
    section: "extra",
    cases: /^mount tmpfs$/,
    why: "crun 1.8 leaves a tmpfs the kernel's mode, 1777, and does not give it that of the directory that it covers",
  },
  {
    runtime: ["crun"],
    section: "extra",
    cases: /^mount tmpfs at a place that is made$|^cwd that is made$/,
    why: "crun makes missing directories with the sticky bit",
  },
  {
    runtime: ["crun"],
    section: "mounts",
    cases: /^mount bind (rbind,rshared|bind,unbindable)$/,
    why: "crun 1.8 loses the propagation of a mount in the container's own when the root becomes private",
  },
  {
    runtime: ["runc"],
    section: "mounts",
    cases: /^mount sysfs$/,
    why: "runc makes the file system itself read-only too, which changes nothing for the container",
  },
  {
    runtime: ["runc"],
    section: "mounts",
    cases: /^rootfsPropagation (r?shared|unbindable)$/,
    why: "Debian's runc sets it on the root before it is pivoted to, where it is lost",
  },
  {
    runtime: ["crun"],
    section: "end",
    cases:
      /^rootfsPropagation that is none$|^cwd that is relative$|^a device of a kind that is none$|^resources of the wrong kind$/,
    why: "crun 1.8 runs it all the same, and leaves out what it did not understand",
  },
  {
    runtime: ["runc", "crun"],
    section: "end",
    cases: /^a device where there is a file$/,
    why: "config-linux.md: a file that does not match the requested device MUST be an error; they leave the file as it is",
  },
  {
    runtime: ["runc"],
    section: "extra",
    cases: /^resources memory\.kernelTCP$/,
    why: "runc ignores the limit",
  },
  {
    runtime: ["runc", "crun"],
    section: "mounts",
    cases: /^maskedPaths$/,
    why: "ocibox masks with a device of its own and a tmpfs that is nosuid, nodev and noexec; the others with the host's",
  },
  {
    runtime: ["runc"],
    section: "end",
    cases: /^seccomp flags$/,
    why: "Debian's runc knows no flags",
  },
  {
    runtime: ["crun"],
    section: "end",
    cases: /^mount tmpfs nosymfollow$/,
    why: "crun 1.8 hands it to the file system, which refuses it",
  },
  {
    runtime: ["crun"],
    section: "end",
    cases: /^resources (cpu\.quota -1|pids\.limit -1|blockIO\.weight)$/,
    why: "crun 1.8 writes the number that it was given, or to a file that this kernel has not",
  },
];

/** A line of mountinfo without what numbers are given to it by chance: its place, its options, its kind. */
function mountLine(line: string): string {
  const [head = "", tail = ""] = line.split(" - ");
  const fields = head.split(" ");
  const [type = "", , options = ""] = tail.split(" ");
  const optional = fields
    .slice(6)
    .map((each) => each.replace(/:\d+$/, ""))
    .join(",");
  return [fields[4], fields[5], optional, type, options].join(" ");
}

/** What a section says that is the same from one run to the next. */
export function normal(section: string, text: string, _runtime: Runtime | "ocibox"): string {
  const lines = text.trimEnd().split("\n");
  if (section === "mounts") return lines.map(mountLine).sort().join("\n");
  return lines.join("\n");
}
