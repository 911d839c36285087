/**
 * linux.resources.devices: as rules of v1's devices controller, and as the program that v2 has in its place
 * (BPF_PROG_TYPE_CGROUP_DEVICE; Documentation/admin-guide/cgroup-v2.rst, "Device controller").
 */
import { OciboxError } from "../../errors.ts";
import type { DeviceRule } from "../../spec/runtime.ts";

/** Devices every container may use, beside making nodes that it then cannot open: runc's and crun's list. */
export const defaultDevices: readonly DeviceRule[] = [
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
  ...[[1, 3], [1, 5], [1, 7], [1, 8], [1, 9], [5, 0], [5, 2], [136]].map(([major, minor]) => ({
    allow: true,
    type: "c",
    access: "rwm",
    ...(major === undefined ? {} : { major }),
    ...(minor === undefined ? {} : { minor }),
  })),
];

function given(value: number | undefined): value is number {
  return value !== undefined && value >= 0;
}

function accessOf(rule: DeviceRule): string {
  return rule.access === undefined || rule.access === "" ? "rwm" : rule.access;
}

function isAll(rule: DeviceRule): boolean {
  return rule.type === undefined || rule.type === "" || rule.type === "a";
}

/** Whether a rule is about every use of every device: what stands before it does not matter. */
function isSweeping(rule: DeviceRule): boolean {
  return isAll(rule) && !given(rule.major) && !given(rule.minor) && [..."rwm"].every((c) => accessOf(rule).includes(c));
}

/** @throws OciboxError INVALID naming the rule */
function check(rule: DeviceRule, index: number): void {
  const field = `linux.resources.devices[${index}]`;
  if (!isAll(rule) && rule.type !== "b" && rule.type !== "c")
    throw new OciboxError("INVALID", `${field}.type is ${JSON.stringify(rule.type)}, not "a", "b" or "c"`);
  // One that denies is then about all of it; what is to be allowed has to be said.
  if (rule.allow && (rule.access ?? "") === "")
    throw new OciboxError("INVALID", `${field}.access is empty, which allows nothing: it takes r, w and m`);
  if (!/^[rwm]*$/.test(rule.access ?? ""))
    throw new OciboxError("INVALID", `${field}.access is ${JSON.stringify(rule.access)}, not made of r, w and m`);
}

/**
 * A rule in the words of v1: "c 1:3 rwm". To the kernel "a" means all uses of all devices, whatever stands after it, so
 * a narrower rule for both kinds is two.
 */
export function ruleTexts(rule: DeviceRule, index = 0): string[] {
  check(rule, index);
  if (isSweeping(rule)) return ["a"];
  const number = (value: number | undefined): string => (given(value) ? String(value) : "*");
  const rest = `${number(rule.major)}:${number(rule.minor)} ${accessOf(rule)}`;
  return (isAll(rule) ? ["b", "c"] : [rule.type ?? ""]).map((type) => `${type} ${rest}`);
}

/** The rules that count, and what holds where none of them applies. Nothing is allowed to begin with. */
function effectiveRules(rules: readonly DeviceRule[]): { rules: readonly DeviceRule[]; otherwise: boolean } {
  rules.forEach(check);
  const last = rules.findLastIndex(isSweeping);
  return { rules: rules.slice(last + 1), otherwise: rules[last]?.allow ?? false };
}

/** struct bpf_insn: code, registers, offset, immediate; Documentation/bpf/standardization/instruction-set.rst. */
type Instruction = readonly [code: number, dst: number, src: number, off: number, imm: number];

const load32 = (dst: number, off: number): Instruction => [0x61, dst, 1, off, 0];
const moveRegister = (dst: number, src: number): Instruction => [0xbf, dst, src, 0, 0];
const move = (dst: number, imm: number): Instruction => [0xb7, dst, 0, 0, imm];
const and = (dst: number, imm: number): Instruction => [0x57, dst, 0, 0, imm];
const shiftRight = (dst: number, imm: number): Instruction => [0x77, dst, 0, 0, imm];
const jumpIfNot = (dst: number, imm: number, off: number): Instruction => [0x55, dst, 0, off, imm];
const jumpIfAny = (dst: number, imm: number, off: number): Instruction => [0x45, dst, 0, off, imm];
const jump = (off: number): Instruction => [0x05, 0, 0, off, 0];
const exit: Instruction = [0x95, 0, 0, 0, 0];
const answer = (allow: boolean): Instruction[] => [move(0, allow ? 1 : 0), exit];

/** enum of include/uapi/linux/bpf.h: BPF_DEVCG_DEV_*, BPF_DEVCG_ACC_* */
const deviceTypes: Readonly<Record<string, number>> = { b: 1, c: 2 };
const accesses: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };
const everyAccess = 7;

const type = 2;
const wanted = 3;
const major = 4;
const minor = 5;

/** One rule; `wanted` loses the kinds of access that it allows, and any that it denies ends the matter. */
function compileRule(rule: DeviceRule): Instruction[] {
  let access = 0;
  for (const letter of accessOf(rule)) access |= accesses[letter] ?? 0;
  let effect: Instruction[];
  if (access === everyAccess) effect = answer(rule.allow);
  else if (rule.allow) effect = [and(wanted, everyAccess & ~access), jumpIfNot(wanted, 0, 2), ...answer(true)];
  else effect = [jumpIfAny(wanted, access, 1), jump(2), ...answer(false)];
  const tests: (readonly [register: number, value: number])[] = [];
  if (!isAll(rule)) tests.push([type, deviceTypes[rule.type ?? ""] ?? 0]);
  if (given(rule.major)) tests.push([major, rule.major]);
  if (given(rule.minor)) tests.push([minor, rule.minor]);
  return [
    ...tests.map(([register, value], at) => jumpIfNot(register, value, tests.length - 1 - at + effect.length)),
    ...effect,
  ];
}

/**
 * The program: for each kind of access that is wanted the last rule about the device decides. Its argument is struct
 * bpf_cgroup_dev_ctx {access << 16 | type, major, minor}; it returns 1 to allow.
 * @throws OciboxError INVALID naming the rule
 */
export function compileDeviceFilter(list: readonly DeviceRule[]): Uint8Array<ArrayBuffer> {
  const { rules, otherwise } = effectiveRules(list);
  const program: Instruction[] = [
    load32(type, 0),
    moveRegister(wanted, type),
    and(type, 0xffff),
    shiftRight(wanted, 16),
    load32(major, 4),
    load32(minor, 8),
    ...rules.toReversed().flatMap(compileRule),
    ...answer(otherwise),
  ];
  const bytes = new Uint8Array(new ArrayBuffer(program.length * 8));
  const view = new DataView(bytes.buffer);
  program.forEach(([code, dst, src, off, imm], index) => {
    view.setUint8(index * 8, code);
    view.setUint8(index * 8 + 1, dst | (src << 4));
    view.setInt16(index * 8 + 2, off, true);
    view.setInt32(index * 8 + 4, imm, true);
  });
  return bytes;
}
