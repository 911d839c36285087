import { AT_FDCWD, O } from "../../../ffi/constants.ts";
import { attempt, direct } from "../../../ffi/direct.ts";
import { writeFully } from "../../../ffi/files.ts";
import { exampleSpec } from "../../bundle/oci-spec.ts";
import { OciboxError } from "../../errors.ts";
import type { OciCommand } from "./options.ts";

const EEXIST = 17;

export const command: OciCommand = {
  usage: "[command options] [arguments...]",
  summary: "create a new specification file",
  description: 'Writes a config.json to start from, for a bundle whose root is in the directory "rootfs".',
  flags: {
    bundle: { short: "b", value: "text", help: "path to the root of the bundle directory" },
    rootless: { help: "generate a configuration for a rootless container" },
  },
  words: [0, 0],
  run(given) {
    const directory = given.text("bundle");
    const path = directory === undefined ? "config.json" : `${directory}/config.json`;
    const user = given.flag("rootless") ? { uid: attempt("geteuid"), gid: attempt("getegid") } : undefined;
    const fd = attempt("openat", AT_FDCWD, path, O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_CLOEXEC, 0o666);
    if (fd === -EEXIST) throw new OciboxError("IN_USE", `File ${path} exists. Remove it first`);
    const file = fd < 0 ? direct.openat(AT_FDCWD, path, O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_CLOEXEC, 0o666) : fd;
    const cgroupV2 = attempt("faccessat2", AT_FDCWD, "/sys/fs/cgroup/cgroup.controllers", 0, 0) >= 0;
    writeFully(file, `${JSON.stringify(exampleSpec({ user, cgroupV2 }), null, "\t")}\n`);
    return 0;
  },
};
