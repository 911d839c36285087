import { readText } from "../../../ffi/files.ts";
import { OciboxError, reason } from "../../errors.ts";
import { updateContainer } from "../../runtime/update.ts";
import { decodeResources } from "../../spec/resources-decode.ts";
import type { Resources } from "../../spec/runtime.ts";
import type { OciCommand, OciGiven } from "./options.ts";

const mostResources = 4 << 20;

/** "50M", "1073741824", "-1": units of 1024, as docker has them. @throws OciboxError USAGE */
function bytesOf(text: string, flag: string): number {
  const match = /^(-1|\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?$/i.exec(text.trim());
  const power = ["", "k", "m", "g", "t", "p"].indexOf((match?.[2] ?? "").toLowerCase());
  const bytes = Math.floor(Number(match?.[1]) * 1024 ** power);
  if (match === null || !Number.isSafeInteger(bytes))
    throw new OciboxError("USAGE", `invalid value for --${flag}: ${JSON.stringify(text)} is no size`);
  return bytes;
}

async function fromFile(path: string): Promise<Resources> {
  const text = path === "-" ? await Bun.stdin.text() : readText(path, mostResources);
  if (text === undefined) throw new OciboxError("NOT_FOUND", `open ${path}: no such file or directory`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new OciboxError("INVALID", `--resources: ${path} is no JSON: ${reason(error)}`);
  }
  return decodeResources(value, "resources");
}

function fromFlags(given: OciGiven): Resources {
  const number = (flag: string): number | undefined => {
    const text = given.text(flag);
    if (text === undefined || text === "") return undefined;
    if (!/^-?\d+$/.test(text))
      throw new OciboxError("USAGE", `invalid value for --${flag}: ${JSON.stringify(text)} is no number`);
    return Number(text);
  };
  const bytes = (flag: string): number | undefined => {
    const text = given.text(flag);
    return text === undefined || text === "" ? undefined : bytesOf(text, flag);
  };
  const weight = number("blkio-weight");
  const pids = number("pids-limit");
  const text = (flag: string): string | undefined => given.text(flag) || undefined;
  const resources = {
    memory: { limit: bytes("memory"), reservation: bytes("memory-reservation"), swap: bytes("memory-swap") },
    cpu: {
      period: number("cpu-period"),
      quota: number("cpu-quota"),
      burst: number("cpu-burst"),
      shares: number("cpu-share"),
      realtimePeriod: number("cpu-rt-period"),
      realtimeRuntime: number("cpu-rt-runtime"),
      idle: number("cpu-idle"),
      cpus: text("cpuset-cpus"),
      mems: text("cpuset-mems"),
    },
    // 0 is what nothing was said is for runc.
    blockIO: { weight: weight === 0 ? undefined : weight },
    pids: { limit: pids === 0 ? undefined : pids },
  };
  return decodeResources(JSON.parse(JSON.stringify(resources)), "resources");
}

export const command: OciCommand = {
  usage: "[command options] <container-id>",
  summary: "update container resource constraints",
  description: "Changes limits of a container that runs. What is not named stays as it is.",
  flags: {
    resources: {
      short: "r",
      value: "text",
      help: "path to the file containing linux.resources to update, or '-' to read from the standard input; other options are ignored then",
    },
    "blkio-weight": { value: "text", help: "per cgroup weight of block I/O, from 10 to 1000" },
    "cpu-period": { value: "text", help: "CPU CFS period to be used for hardcapping (in usecs)" },
    "cpu-quota": { value: "text", help: "CPU CFS hardcap limit (in usecs): allowed CPU time in a given period" },
    "cpu-burst": { value: "text", help: "CPU CFS hardcap burst limit (in usecs)" },
    "cpu-share": { value: "text", help: "CPU shares (relative weight vs. other containers)" },
    "cpu-rt-period": { value: "text", help: "CPU realtime period to be used for hardcapping (in usecs)" },
    "cpu-rt-runtime": { value: "text", help: "CPU realtime hardcap limit (in usecs)" },
    "cpu-idle": { value: "text", help: "1 to make the container's processes SCHED_IDLE, 0 for usual ones" },
    "cpuset-cpus": { value: "text", help: "CPU(s) to use" },
    "cpuset-mems": { value: "text", help: "memory node(s) to use" },
    memory: { value: "text", help: "memory limit (50M, or in bytes; -1 for none)" },
    "memory-reservation": { value: "text", help: "memory reservation or soft limit" },
    "memory-swap": { value: "text", help: "total memory usage (memory + swap); -1 for no limit of swap" },
    "kernel-memory": { value: "text", help: "accepted and without effect: the kernel has no such limit any more" },
    "kernel-memory-tcp": { value: "text", help: "accepted and without effect" },
    "pids-limit": { value: "text", help: "maximum number of pids allowed in the container; -1 for no limit" },
    "l3-cache-schema": { value: "text", help: "refused: Intel RDT is not supported" },
    "mem-bw-schema": { value: "text", help: "refused: Intel RDT is not supported" },
  },
  words: [1, 1],
  async run(given, globals) {
    for (const flag of ["l3-cache-schema", "mem-bw-schema"])
      if (given.text(flag))
        throw new OciboxError("UNSUPPORTED", `--${flag}: Intel RDT is not supported`, {
          hint: "no machine was there to try it on",
        });
    const file = given.text("resources");
    await updateContainer(globals.root, given.id, file === undefined ? fromFlags(given) : await fromFile(file));
    return 0;
  },
};
