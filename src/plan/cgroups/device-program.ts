/**
 * linux.resources.devices on cgroup v2: a BPF program of the type BPF_PROG_TYPE_CGROUP_DEVICE (bpf(2),
 * Documentation/bpf/prog_cgroup_sockopt.rst's neighbours), attached to the container's cgroup. Its context is struct
 * bpf_cgroup_dev_ctx: access_type (access << 16 | type), major, minor; it answers 1 to allow.
 */
import { AT_FDCWD, O } from "../../../ffi/constants.ts";
import { type Slot } from "../../../ffi/plan.ts";
import { struct } from "../../../ffi/sys.ts";
import { OciboxError } from "../../errors.ts";
import type { DeviceRule } from "../../spec/runtime.ts";
import type { Builder } from "../builder.ts";
import { defaultDevices } from "./v1.ts";

const BPF_PROG_LOAD = 5;
const BPF_PROG_ATTACH = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE = 15;
const BPF_CGROUP_DEVICE = 6;
const BPF_F_ALLOW_MULTI = 2;

/** include/uapi/linux/bpf.h: BPF_DEVCG_DEV_BLOCK, _CHAR; BPF_DEVCG_ACC_MKNOD, _READ, _WRITE. */
const types: Readonly<Record<string, number>> = { b: 1, c: 2 };
const accesses: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };
const everyAccess = 7;

/** One instruction: operation, registers (source << 4 | destination), jump offset, constant. struct bpf_insn */
type Instruction = readonly [code: number, registers: number, offset: number, immediate: number];

const loadWord = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const move = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const moveConstant = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const and = 0x54; // BPF_ALU | BPF_AND | BPF_K
const shiftRight = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const jumpUnlessEqual = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const jumpUnlessSame = 0x5d; // BPF_JMP | BPF_JNE | BPF_X
const exit = 0x95;

const answer = 0;
const context = 1;
const type = 2;
const access = 3;
const major = 4;
const minor = 5;
const scratch = 6;

function accessOf(text: string, index: number): number {
  let bits = 0;
  for (const letter of text) {
    const bit = accesses[letter];
    if (bit === undefined)
      throw new OciboxError("INVALID", `linux.resources.devices[${index}].access is ${JSON.stringify(text)}`);
    bits |= bit;
  }
  return bits;
}

/** A rule: where it does not apply, on behind it. */
function ruleCode(rule: DeviceRule, index: number): Instruction[] {
  const checks: Instruction[][] = [];
  if (rule.type !== undefined && rule.type !== "a") {
    const number = types[rule.type];
    if (number === undefined)
      throw new OciboxError("INVALID", `linux.resources.devices[${index}].type is ${JSON.stringify(rule.type)}`);
    checks.push([[jumpUnlessEqual, type, 0, number]]);
    const bits = accessOf(rule.access ?? "rwm", index);
    // All that is asked for must be among what the rule speaks of.
    if (bits !== everyAccess)
      checks.push([
        [move, (access << 4) | scratch, 0, 0],
        [and, scratch, 0, bits],
        [jumpUnlessSame, (access << 4) | scratch, 0, 0],
      ]);
    if (rule.major !== undefined && rule.major >= 0) checks.push([[jumpUnlessEqual, major, 0, rule.major]]);
    if (rule.minor !== undefined && rule.minor >= 0) checks.push([[jumpUnlessEqual, minor, 0, rule.minor]]);
  }
  const code = [...checks.flat(), [moveConstant, answer, 0, rule.allow ? 1 : 0], [exit, 0, 0, 0]] as Instruction[];
  return code.map((each, at) =>
    each[0] === jumpUnlessEqual || each[0] === jumpUnlessSame
      ? ([each[0], each[1], code.length - at - 1, each[3]] as const)
      : each,
  );
}

/** The program: the last rule that applies decides, so that they are asked in reverse; what none speaks of is denied. */
export function deviceProgram(rules: readonly DeviceRule[]): Uint8Array<ArrayBuffer> {
  const code: Instruction[] = [
    [loadWord, (context << 4) | type, 0, 0],
    [and, type, 0, 0xffff],
    [loadWord, (context << 4) | access, 0, 0],
    [shiftRight, access, 0, 16],
    [loadWord, (context << 4) | major, 4, 0],
    [loadWord, (context << 4) | minor, 8, 0],
  ];
  for (let index = rules.length - 1; index >= 0; index--) {
    const rule = rules[index] as DeviceRule;
    code.push(...ruleCode(rule, index));
    if (rule.type === undefined || rule.type === "a") break;
  }
  code.push([moveConstant, answer, 0, 0], [exit, 0, 0, 0]);
  const bytes = new Uint8Array(new ArrayBuffer(code.length * 8));
  const view = new DataView(bytes.buffer);
  code.forEach(([operation, registers, offset, immediate], at) => {
    view.setUint8(at * 8, operation);
    view.setUint8(at * 8 + 1, registers);
    view.setInt16(at * 8 + 2, offset, true);
    view.setInt32(at * 8 + 4, immediate, true);
  });
  return bytes;
}

/**
 * Loads and attaches the program.
 * @param must whether it is an error that it cannot be had: not in a user namespace, whose root may not load one
 */
export function attachDeviceProgram(b: Builder, directory: string, rules: readonly DeviceRule[], must: boolean): void {
  const { p } = b;
  p.field("linux.resources.devices");
  const insns = deviceProgram([...rules, ...defaultDevices]);
  const attr = struct<Slot>("bpf_prog_load", {
    prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
    insn_cnt: insns.byteLength / 8,
    insns,
    license: "Apache-2.0",
  });
  const skip = p.newLabel("no device program");
  const program = must ? p.sys.bpf(BPF_PROG_LOAD, attr, 48) : p.orElse(skip, "EPERM").bpf(BPF_PROG_LOAD, attr, 48);
  const target = p.sys.openat(AT_FDCWD, directory, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  const attach = struct<Slot>("bpf_prog_attach", {
    target_fd: target,
    attach_bpf_fd: program,
    attach_type: BPF_CGROUP_DEVICE,
    attach_flags: BPF_F_ALLOW_MULTI,
  });
  p.sys.bpf(BPF_PROG_ATTACH, attach, 16);
  b.close(target);
  b.close(program);
  p.place(skip);
}
