/** The process of a container that runs, as its plan has noted it. */
import { OciboxError } from "../errors.ts";
import { isThere, type ProcessMark, readMark } from "../runtime/process-mark.ts";
import { type ContainerStatus, containerDirectory } from "./record.ts";

export function notRunning({ name }: ContainerStatus): OciboxError {
  return new OciboxError("INVALID", `the container "${name}" is not running`, { hint: "see: ocibox ps -a" });
}

/** The process of a container that runs. @throws OciboxError INVALID for one that does not */
export function noteOf(root: string, container: ContainerStatus): ProcessMark {
  const mark = container.running ? readMark(containerDirectory(root, container.id)) : undefined;
  if (mark === undefined || !isThere(mark)) throw notRunning(container);
  return mark;
}
