/**
 * Hooks that are run by a later call than the one that made the container: poststart, poststop. One of the first kind
 * that fails ends the container, one of the second is a warning. runtime.md#lifecycle, 9 and 13
 */
import { SIG } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { encodePlan } from "../../ffi/encode.ts";
import { execInit } from "../../ffi/launch.ts";
import { Recorder } from "../../ffi/plan.ts";
import type { ErrorSink } from "../plan/context.ts";
import { runHooks } from "../plan/hooks.ts";
import { decodeSpec } from "../spec/runtime-decode.ts";
import { callersEnvironment, inherit } from "./handed.ts";
import { type Container, stateText } from "./state.ts";

/**
 * Becomes init, which runs them and ends.
 * @param config what was kept of config.json, where the container is forgotten already
 */
export function runLateHooks(
  container: Container,
  name: "poststart" | "poststop",
  sinks: readonly ErrorSink[],
  config = container.readConfig(),
): never {
  const hooks = decodeSpec(config).hooks?.[name];
  const p = new Recorder();
  for (const sink of sinks) p.add({ op: "logTo", ...sink });
  const failed = p.newLabel("failed");
  const code = p.slot("code");
  p.add({ op: "onFailure", to: failed, code });
  p.add({ op: "takeSignals" });
  const pid = p.slot("pid");
  p.add({ op: "set", slot: pid, value: name === "poststop" ? 0 : (container.mark?.pid ?? 0) });
  const late = name === "poststop";
  using process = late ? undefined : container.openProcess();
  runHooks(p, name, hooks, stateText(container.record, late ? "stopped" : "running"), pid, { lenient: late });
  p.add({ op: "exit", code: 0 });
  p.place(failed);
  if (process !== undefined) p.tolerate("ESRCH").pidfd_send_signal(inherit(process.fd), SIG.SIGKILL, null, 0);
  p.add({ op: "exit", code: 1 });
  attempt("chdir", container.record.bundle);
  execInit(encodePlan(p), { env: callersEnvironment() });
}
