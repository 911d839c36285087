/** A container of a kind that is not kept: from the image by config.json to the plan. */
import { AF, AT_FDCWD, NETLINK, O, SOCK } from "../../ffi/constants.ts";
import { encodePart, encodePlan } from "../../ffi/encode.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { writeNew } from "../../ffi/files.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import type { Undo } from "../../ffi/undo.ts";
import { accountOf, type BundleInput, createSpec } from "../bundle/bundle.ts";
import { OciboxError } from "../errors.ts";
import { writtenPort } from "../network/ports.ts";
import { type PublishedPort, withdrawMessage } from "../network/rules.ts";
import { compileCommand } from "../plan/command.ts";
import { compile, compileSetUp } from "../plan/compile.ts";
import type { PlanContext } from "../plan/context.ts";
import type { Report } from "../plan/report.ts";
import type { Restart } from "../plan/restart.ts";
import { readInRoot } from "../runtime/read-in-root.ts";
import type { Spec } from "../spec/runtime.ts";
import { chainsOf, type ImageChoice } from "../store/store.ts";
import { cgroupsPath } from "./cgroup-path.ts";
import { furnish, kindOf, type RunRequest } from "./furnish.ts";
import { lastInherited, namespacePath } from "./network.ts";
import { containerDirectory, containersDirectory, logFile } from "./record.ts";
import { remember, specTemplate } from "./remember.ts";
import { reportFor } from "./report.ts";
import { firstTurn, restartFor } from "./restart.ts";
import { type Claim, inherited } from "./state.ts";

/** passwd and group files larger than this are refused, unread. */
const mostAccounts = 4 << 20;

function sourceKinds(spec: Spec): Map<string, "directory" | "file"> {
  const kinds = new Map<string, "directory" | "file">();
  for (const mount of spec.mounts ?? []) {
    if (mount.type === "bind" && mount.source !== undefined) kinds.set(mount.source, kindOf(mount.source));
  }
  return kinds;
}

type Running = Pick<RunRequest, "root" | "name" | "interactive" | "detach" | "init" | "autoRemove"> & {
  readonly timeout: number | undefined;
  readonly network: string;
  readonly ports: readonly PublishedPort[];
  readonly restart: Restart | undefined;
  readonly report: Report | undefined;
  readonly pidFile: string | undefined;
};

/**
 * What the plan does in the end: the folder goes, or keeps the exit code; then the state file.
 * @param says what is printed of one that is left to itself
 */
export function contextFor(
  request: Running,
  claimed: Claim,
  spec: Spec,
  rootfs: number,
  says: string = claimed.id,
): PlanContext {
  const { root, network, ports } = request;
  const directory = containerDirectory(root, claimed.id);
  return {
    rootfs,
    // Ours alone, and empty for everybody: not the folder itself, whose files are bound into the container.
    mountpoint: `${directory}/work`,
    noted: directory,
    interactive: request.interactive,
    timeout: request.timeout,
    restart: request.restart,
    report: request.report,
    pidFile: request.pidFile,
    detached: request.detach
      ? { says, log: logFile(root, claimed.id), keeps: [inherited.rootfs, lastInherited(network, ports.length)] }
      : undefined,
    init: request.init,
    sources: sourceKinds(spec),
    cleanup(p, code, note, trouble) {
      if (ports.length > 0) withdrawPorts(p, ports, note);
      // Whoever waits has the file open.
      note(p.carryOn().pwrite64(inherited.lock, p.text`${code}   `, 4, 0));
      if (!request.autoRemove) {
        const file = p
          .carryOn()
          .openat(
            AT_FDCWD,
            `${directory}/exit`,
            O.O_WRONLY | O.O_CREAT | O.O_TRUNC | O.O_NOFOLLOW | O.O_CLOEXEC,
            0o600,
          );
        note(file);
        // 255 and a newline is the longest; what is left of the text is blank.
        note(p.carryOn().write(file, p.text`${code}   `, 4));
        return;
      }
      if (request.name !== undefined) note(p.carryOn("ENOENT").unlinkat(AT_FDCWD, `${root}/names/${request.name}`, 0));
      const containers = p
        .carryOn()
        .openat(AT_FDCWD, containersDirectory(root), O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
      note(containers);
      const gone = p.newLabel("folder gone");
      p.branch(containers, "<", 0, gone);
      p.add({ op: "remove", dirfd: containers, name: claimed.id });
      // Gone, or something of it could not be removed.
      const flags = O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC;
      const left = p.carryOn("ENOENT").openat(containers, claimed.id, flags, 0);
      p.branch(left, "==", -errnoOf("ENOENT"), gone);
      p.add({ op: "set", slot: trouble, value: 1 });
      p.place(gone);
    },
    forget(p, note) {
      note(p.carryOn("ENOENT").unlinkat(AT_FDCWD, claimed.path, 0));
    },
  };
}

/** Nobody listens to the answers: what is not published any more is none of the teardown's failures. */
function withdrawPorts(p: Recorder, ports: readonly PublishedPort[], note: (result: Slot) => void): void {
  p.field("--publish");
  const { NETLINK_NETFILTER } = NETLINK;
  const socket = p.carryOn().socket(AF.AF_NETLINK, SOCK.SOCK_RAW | SOCK.SOCK_CLOEXEC, NETLINK_NETFILTER);
  note(socket);
  const withdrawn = p.newLabel("ports withdrawn");
  p.branch(socket, "<", 0, withdrawn);
  for (const port of ports) {
    const bytes = withdrawMessage(port);
    const memory = p.memory(`NFT_MSG_DELSETELEM(${writtenPort(port)})`, bytes.byteLength, bytes);
    note(p.carryOn().sendto(socket, memory, bytes.byteLength, 0, null, 0));
  }
  note(p.carryOn().close(socket));
  p.place(withdrawn);
  p.field("");
}

/** A container from its image; undefined where its plan was to be printed, which has been done. */
export function fromImage(
  request: RunRequest,
  choice: ImageChoice,
  claimed: Claim,
  name: string | undefined,
  undo: Undo,
): Uint8Array<ArrayBuffer> | undefined {
  const { root, options, facts, fault } = request;
  const { id } = claimed;
  const image = choice.load();
  const layers = chainsOf(image);
  const kind = request.store.unpackedAs(layers);
  if (kind === undefined)
    throw new OciboxError("STORE", `the layers of the image "${request.imageName}" are gone`, {
      hint: "somebody has just removed it; pull it again",
    });
  const made = { digest: choice.digest, layers, kind, image: image.config.config };
  const { rootfs, ports } = furnish(request, claimed, made, undo);
  const input: BundleInput = {
    id,
    image: image.config.config,
    options,
    passwd: readInRoot(rootfs, "etc/passwd", mostAccounts),
    group: readInRoot(rootfs, "etc/group", mostAccounts),
    facts,
    cgroupsPath: cgroupsPath(id),
    files: containerDirectory(root, id),
    networkPath: namespacePath,
  };
  const account = accountOf(input);
  const spec = createSpec(input, account);
  writeNew(`${containerDirectory(root, id)}/config.json`, JSON.stringify(spec), 0o600);
  const { network, more } = options;
  const restart = restartFor(
    request.store,
    request.state,
    { id, ...(more.restart === undefined ? {} : { restart: more.restart }) },
    firstTurn,
  );
  const known = { container: id, image: request.imageName, digest: choice.digest, network, facts };
  const report = more.report && reportFor(more.report, known);
  const { timeout, pidFile } = more;
  const running = { ...request, timeout, network, ports, restart, report, pidFile };
  const context = contextFor(running, claimed, spec, rootfs);
  const { args = [], env = [] } = spec.process ?? {};
  if (request.explain !== undefined) {
    request.explain(compile(spec, facts, context).steps);
    return undefined;
  }
  if (fault !== undefined) return encodePlan(compile(spec, facts, context).steps, { fault });
  const part = encodePart(compileSetUp(spec, facts, context).steps);
  if (name !== undefined) {
    const { Entrypoint, Cmd, Env, StopSignal } = image.config.config;
    const own = {
      ...(Entrypoint && { Entrypoint }),
      ...(Cmd && { Cmd }),
      ...(Env && { Env }),
      ...(StopSignal && { StopSignal }),
    };
    const plan = {
      id,
      digest: choice.digest,
      layers,
      kind,
      image: own,
      home: account.home,
      spec: specTemplate(spec),
      bytes: part,
    };
    remember(root, name, plan, args, env);
  }
  return encodePlan(compileCommand(args, env).steps, { after: part });
}
