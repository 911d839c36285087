/** process.apparmorProfile and selinuxLabel: refused where the module is not active, verified where it is. */
import { AT_FDCWD } from "../../ffi/constants.ts";
import type { Slot } from "../../ffi/plan.ts";
import { OciboxError } from "../errors.ts";
import type { Process } from "../spec/runtime.ts";
import type { Builder } from "./builder.ts";
import type { HostFacts } from "./facts.ts";

/**
 * What the process is to run as from execve on, written to the attributes of this thread in a proc that was checked to
 * be one: through a /proc that somebody has put something over, the label would go nowhere (CVE-2019-16884).
 * @throws OciboxError HOST where the module is not active: never unconfined without a word (CVE-2025-65105)
 */
export function labelProcess(b: Builder, process: Process, facts: HostFacts, proc: Slot | undefined): void {
  const { apparmorProfile: profile = "", selinuxLabel: label = "" } = process;
  const write = (path: string, text: string): void => {
    if (proc === undefined) b.write(AT_FDCWD, `/proc/${path}`, text);
    else b.writeOwn(proc, path, text);
  };
  if (profile !== "" && profile !== "unconfined") {
    if (!facts.apparmor)
      throw new OciboxError("HOST", "process.apparmorProfile asks for AppArmor, which is not active on this machine");
    b.p.field("process.apparmorProfile");
    write("thread-self/attr/apparmor/exec", `exec ${profile}`);
  }
  if (label !== "") {
    if (!facts.selinux)
      throw new OciboxError("HOST", "process.selinuxLabel asks for SELinux, which is not active on this machine");
    b.p.field("process.selinuxLabel");
    write("thread-self/attr/exec", label);
  }
}
