/** Where a container's cgroups are: linux.cgroupsPath, config-linux.md#cgroups-path. */
import { OciboxError } from "../../errors.ts";
import type { CgroupMode } from "../facts.ts";

/** A mounted hierarchy. */
export interface Hierarchy {
  /** As in /proc/self/cgroup: "cpu,cpuacct", "name=systemd"; "" is v2's. */
  readonly name: string;
  readonly mount: string;
  /** ocibox's own cgroup in it, as seen below the mount: "/user.slice". */
  readonly own: string;
}

/** What a container's cgroups depend on besides its configuration. Gathered by runtime/cgroup-host.ts. */
export interface CgroupHost {
  readonly mode: CgroupMode;
  readonly hierarchies: readonly Hierarchy[];
  /** v2: cgroup.controllers of the root. */
  readonly controllers: readonly string[];
  /** v2: files of a cgroup that go to whom it is given; undefined where the kernel has no list. */
  readonly delegate?: readonly string[] | undefined;
  /** Whether cgroups can be made beside or below ocibox's own. */
  readonly writable: boolean;
}

/** A cgroup that the container's processes are in. */
export interface JoinedCgroup {
  /** The hierarchy's name. */
  readonly hierarchy: string;
  readonly mount: string;
  /** Below the mount, with a slash first. */
  readonly path: string;
}

/** A unit of systemd that holds the container. */
export interface SystemdUnit {
  readonly slice: string;
  readonly name: string;
}

export type CgroupManager = "cgroupfs" | "systemd" | "disabled";

/** "/a//b/../c/" → "/a/c": no way leads above the root. */
function cleanPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") parts.pop();
    else parts.push(part);
  }
  return `/${parts.join("/")}`;
}

/** The cgroup in one hierarchy. A relative path is below ocibox's own cgroup; v2 has no processes in inner cgroups. */
export function cgroupIn(hierarchy: Hierarchy, cgroupsPath: string | undefined, id: string): JoinedCgroup {
  const { name, mount, own } = hierarchy;
  const asked = cgroupsPath === undefined || cgroupsPath === "" ? id : cgroupsPath;
  const base = name === "" ? cleanPath(`${own}/..`) : own;
  const path = asked.startsWith("/") ? cleanPath(asked) : cleanPath(`${base}/${cleanPath(asked)}`);
  if (path === "/") throw new OciboxError("INVALID", `linux.cgroupsPath is ${JSON.stringify(asked)}, the root itself`);
  return { hierarchy: name, mount, path };
}

/**
 * "slice:prefix:name" of the systemd driver: the unit is prefix-name.scope, or name itself where that is a slice.
 * @throws OciboxError INVALID where it is anything else
 */
export function systemdUnit(cgroupsPath: string | undefined, id: string, user: boolean): SystemdUnit {
  const text = cgroupsPath === undefined || cgroupsPath === "" ? `:ocibox:${id}` : cgroupsPath;
  const [slice = "", prefix = "", name, more] = text.split(":");
  if (name === undefined || name === "" || more !== undefined || !/^[A-Za-z0-9:_.\\@-]+$/.test(prefix + name))
    throw new OciboxError(
      "INVALID",
      `linux.cgroupsPath: expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got ${JSON.stringify(text)} instead`,
    );
  if (
    slice !== "" &&
    (!/^[A-Za-z0-9_.\\@-]+\.slice$/.test(slice) ||
      /--|^-(?!\.slice$)|-\.slice$/.test(slice.replace(/^-\.slice$/, "a.slice")))
  )
    throw new OciboxError("INVALID", `linux.cgroupsPath: ${JSON.stringify(slice)} is no name of a slice`);
  const unit = name.endsWith(".slice") ? name : `${prefix === "" ? "" : `${prefix}-`}${name}.scope`;
  return { slice: slice === "" ? (user ? "user.slice" : "system.slice") : slice, name: unit };
}

/** systemd.slice(5): "a-b.slice" is in "a.slice". */
export function slicePath(slice: string): string {
  if (slice === "-.slice") return "";
  const words = slice.slice(0, -".slice".length).split("-");
  return words.map((_, index) => `/${words.slice(0, index + 1).join("-")}.slice`).join("");
}

/** Every directory on the way to a cgroup, the topmost first, the cgroup itself last. */
export function waysTo(cgroup: JoinedCgroup): string[] {
  const parts = cgroup.path.split("/").slice(1);
  return parts.map((_, index) => `${cgroup.mount}/${parts.slice(0, index + 1).join("/")}`);
}

export function directoryOf(cgroup: JoinedCgroup): string {
  return cgroup.mount + cgroup.path;
}

/** The cgroup that a controller's files are in. */
export function cgroupOf(joined: readonly JoinedCgroup[], controller: string): JoinedCgroup | undefined {
  return joined.find(({ hierarchy }) => hierarchy.split(",").includes(controller));
}

/** A hierarchy of v1 as a directory of /sys/fs/cgroup: its name, its other names, what it is mounted with. */
export function shownAs({ hierarchy, mount }: JoinedCgroup): {
  readonly name: string;
  readonly links: readonly string[];
  readonly data: readonly (readonly [key: string, value: string | null])[];
} {
  const name = mount.slice(mount.lastIndexOf("/") + 1);
  const named = /^name=(.*)$/.exec(hierarchy)?.[1];
  if (named !== undefined) return { name, links: [], data: [["name", named]] };
  const controllers = hierarchy.split(",");
  return {
    name,
    links: controllers.length > 1 ? controllers.filter((each) => each !== name) : [],
    data: controllers.map((each) => [each, null]),
  };
}
