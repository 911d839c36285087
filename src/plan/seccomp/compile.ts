/**
 * linux.seccomp as a BPF program: seccomp(2), Documentation/networking/filter.rst. The numbers of the system calls are
 * cut into ranges of one fate each, which a balanced tree of comparisons finds in seven or eight steps.
 */
import { OciboxError } from "../../errors.ts";
import type { LinuxSeccomp, LinuxSyscall, SyscallArg } from "../../spec/runtime.ts";
import { syscallNumbers, x32Bit } from "./numbers.ts";

type Machine = "x64" | "arm64";

/** One instruction: code, jump if true, jump if false, constant. struct sock_filter. */
type Instruction = readonly [code: number, jt: number, jf: number, k: number];

const LD_ABS = 0x20;
const JMP_JA = 0x05;
const JMP_JEQ = 0x15;
const JMP_JGT = 0x25;
const JMP_JGE = 0x35;
const ALU_AND = 0x54;
const RET = 0x06;

const offsetNr = 0;
const offsetArch = 4;
const offsetArgs = 16;

const auditArch = { x64: 0xc000003e, arm64: 0xc00000b7 } as const;
const auditArchI386 = 0x40000003;
const ENOSYS = 38;
const mostInstructions = 4096;

const actions: Readonly<Record<string, number>> = {
  SCMP_ACT_KILL: 0,
  SCMP_ACT_KILL_THREAD: 0,
  SCMP_ACT_KILL_PROCESS: 0x80000000,
  SCMP_ACT_TRAP: 0x00030000,
  SCMP_ACT_ERRNO: 0x00050000,
  SCMP_ACT_NOTIFY: 0x7fc00000,
  SCMP_ACT_TRACE: 0x7ff00000,
  SCMP_ACT_LOG: 0x7ffc0000,
  SCMP_ACT_ALLOW: 0x7fff0000,
};

function refuse(path: string, why: string): never {
  throw new OciboxError("INVALID", `linux.seccomp${path}: ${why}`);
}

function actionOf(name: string, errnoRet: number | undefined, path: string): number {
  const action = Object.hasOwn(actions, name) ? actions[name] : undefined;
  if (action === undefined) refuse(path, `there is no action ${JSON.stringify(name)}`);
  const takesData = name === "SCMP_ACT_ERRNO" || name === "SCMP_ACT_TRACE";
  const data = takesData ? (errnoRet ?? 1) : 0;
  if (!Number.isInteger(data) || data < 0 || data > 0xffff) refuse(path, `errnoRet is ${data}`);
  return action | data;
}

interface Rule {
  readonly action: number;
  readonly args: readonly SyscallArg[];
}

function ret(action: number): Instruction {
  return [RET, 0, 0, action >>> 0];
}

function halves(value: number | bigint, path: string): readonly [high: number, low: number] {
  if (typeof value === "number" && (!Number.isInteger(value) || Math.abs(value) > 2 ** 53))
    refuse(path, `the value ${value} is not exact`);
  const bits = BigInt.asUintN(64, BigInt(value));
  return [Number(bits >> 32n), Number(bits & 0xffffffffn)];
}

/** A comparison of a 64-bit argument that falls through where it holds and jumps `miss` behind its end where not. */
function comparison(arg: SyscallArg, missBy: (rest: number) => number, path: string): Instruction[] {
  if (!Number.isInteger(arg.index) || arg.index < 0 || arg.index > 5) refuse(path, `there is no argument ${arg.index}`);
  const low = offsetArgs + arg.index * 8;
  const high = low + 4;
  const [hi, lo] = halves(arg.value ?? 0, path);
  const miss = missBy;
  switch (arg.op) {
    case "SCMP_CMP_EQ":
      return [
        [LD_ABS, 0, 0, high],
        [JMP_JEQ, 0, miss(2), hi],
        [LD_ABS, 0, 0, low],
        [JMP_JEQ, 0, miss(0), lo],
      ];
    case "SCMP_CMP_NE":
      return [
        [LD_ABS, 0, 0, high],
        [JMP_JEQ, 0, 2, hi],
        [LD_ABS, 0, 0, low],
        [JMP_JEQ, miss(0), 0, lo],
      ];
    case "SCMP_CMP_GT":
    case "SCMP_CMP_GE": {
      const last = arg.op === "SCMP_CMP_GT" ? JMP_JGT : JMP_JGE;
      return [
        [LD_ABS, 0, 0, high],
        [JMP_JGT, 3, 0, hi],
        [JMP_JEQ, 0, miss(2), hi],
        [LD_ABS, 0, 0, low],
        [last, 0, miss(0), lo],
      ];
    }
    case "SCMP_CMP_LT":
    case "SCMP_CMP_LE": {
      // less: the high half is below, or equal with the low half below
      const last = arg.op === "SCMP_CMP_LT" ? JMP_JGE : JMP_JGT;
      return [
        [LD_ABS, 0, 0, high],
        [JMP_JGT, miss(3), 0, hi],
        [JMP_JEQ, 0, 2, hi],
        [LD_ABS, 0, 0, low],
        [last, miss(0), 0, lo],
      ];
    }
    case "SCMP_CMP_MASKED_EQ": {
      const [wantHi, wantLo] = halves(arg.valueTwo ?? 0, path);
      return [
        [LD_ABS, 0, 0, high],
        [ALU_AND, 0, 0, hi],
        [JMP_JEQ, 0, miss(3), wantHi],
        [LD_ABS, 0, 0, low],
        [ALU_AND, 0, 0, lo],
        [JMP_JEQ, 0, miss(0), wantLo],
      ];
    }
    default:
      return refuse(path, `there is no operator ${JSON.stringify(arg.op)}`);
  }
}

/** All comparisons of a rule, then its action; where one does not hold, on behind it. */
function ruleCode(rule: Rule, path: string): Instruction[] {
  let code: Instruction[] = [ret(rule.action)];
  for (const arg of rule.args.toReversed()) {
    const behind = code.length;
    code = [...comparison(arg, (rest) => rest + behind, path), ...code];
  }
  return code;
}

/** What is done for one system call: the first rule that holds, or the profile's default. */
function fate(rules: readonly Rule[], fallback: number, path: string): Instruction[] {
  const code: Instruction[] = [];
  for (const rule of rules) {
    code.push(...ruleCode(rule, path));
    if (rule.args.length === 0) return code;
  }
  code.push(ret(fallback));
  return code;
}

interface Range {
  readonly from: number;
  readonly code: readonly Instruction[];
  readonly key: string;
}

function tree(ranges: readonly Range[]): readonly Instruction[] {
  const [only] = ranges;
  if (only !== undefined && ranges.length === 1) return only.code;
  const middle = ranges.length >> 1;
  const below = tree(ranges.slice(0, middle));
  const above = tree(ranges.slice(middle));
  const from = (ranges[middle] as Range).from;
  if (below.length <= 255) return [[JMP_JGE, below.length, 0, from], ...below, ...above];
  return [[JMP_JGE, 0, 1, from], [JMP_JA, 0, 0, below.length], ...below, ...above];
}

/** Conditions that hold together; but two of one argument are each a rule, as runc and crun read them. */
function conditionsOf(args: readonly SyscallArg[]): readonly (readonly SyscallArg[])[] {
  const distinct = new Set(args.map(({ index }) => index));
  return distinct.size === args.length ? [args] : args.map((each) => [each]);
}

/**
 * Whether what a profile does not name is to go on. If not, a system call that is newer than all that it names fails with
 * ENOSYS: programs then do without it, as on an older kernel, where EPERM would end them. runc's filters do the same.
 */
function letsThrough(action: string): boolean {
  return action === "SCMP_ACT_ALLOW" || action === "SCMP_ACT_LOG" || action === "SCMP_ACT_TRACE";
}

function rulesByNumber(seccomp: LinuxSeccomp, abi: Parameters<typeof syscallNumbers>[0]): Map<number, Rule[]> {
  const numbers = syscallNumbers(abi);
  const found = new Map<number, Rule[]>();
  (seccomp.syscalls ?? []).forEach((entry: LinuxSyscall, index) => {
    const path = `.syscalls[${index}]`;
    const action = actionOf(entry.action, entry.errnoRet, path);
    for (const name of entry.names) {
      const number = numbers.get(name);
      if (number === undefined) continue; // of another machine, or newer than this table
      let rules = found.get(number);
      if (rules === undefined) {
        rules = [];
        found.set(number, rules);
      }
      for (const args of conditionsOf(entry.args ?? [])) rules.push({ action, args });
    }
  });
  // A rule without conditions holds always, and so comes last whatever its place in the file (as libseccomp has it).
  for (const rules of found.values()) rules.sort((a, b) => Number(a.args.length === 0) - Number(b.args.length === 0));
  return found;
}

/** From the number in the accumulator to what is done. */
function abiCode(
  seccomp: LinuxSeccomp,
  abi: Parameters<typeof syscallNumbers>[0],
  fallback: number,
): readonly Instruction[] {
  const rules = rulesByNumber(seccomp, abi);
  const numbers = [...rules.keys()].sort((a, b) => a - b);
  const ranges: Range[] = [];
  const add = (from: number, code: readonly Instruction[]): void => {
    const key = JSON.stringify(code);
    if (ranges.at(-1)?.key !== key) ranges.push({ from, code, key });
  };
  add(0, [ret(fallback)]);
  for (const number of numbers) {
    if (ranges.at(-1)?.from === number) ranges.pop();
    add(number, fate(rules.get(number) ?? [], fallback, ""));
    // Where the next number has no rule it starts a range of its own; the loop takes it back if it has.
    ranges.push({ from: number + 1, code: [ret(fallback)], key: JSON.stringify([ret(fallback)]) });
  }
  const last = numbers.at(-1);
  if (last !== undefined && !letsThrough(seccomp.defaultAction)) {
    ranges.pop();
    add(last + 1, [ret((actions.SCMP_ACT_ERRNO ?? 0) | ENOSYS)]);
  }
  const merged: Range[] = [];
  for (const range of ranges) if (merged.at(-1)?.key !== range.key) merged.push(range);
  return tree(merged);
}

const x64Architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
/** Every architecture that runtime-spec has a name for: on another machine they mean nothing. */
const knownArchitectures =
  /^SCMP_ARCH_(NATIVE|X86|X86_64|X32|ARM|AARCH64|LOONGARCH64|M68K|MIPS(64|64N32|EL|EL64|EL64N32)?|PPC(64|64LE)?|S390X?|SH(EB)?|PARISC(64)?|RISCV64)$/;

/** For `features`. */
export function seccompFeatures(machine: Machine): Readonly<Record<string, readonly string[]>> {
  return {
    actions: [...Object.keys(actions)].sort(),
    operators: ["EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE"].map((name) => `SCMP_CMP_${name}`),
    archs: machine === "x64" ? x64Architectures : ["SCMP_ARCH_AARCH64"],
    knownFlags: knownFlags(),
    supportedFlags: knownFlags(),
  };
}

function knownFlags(): readonly string[] {
  return ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"].map((name) => `SECCOMP_FILTER_FLAG_${name}`);
}

/** A comparison with the accumulator; what is done where it does not hold, and behind that where it does. */
function unless(code: number, k: number, not: readonly Instruction[], yes: readonly Instruction[]): Instruction[] {
  if (not.length <= 255) return [[code, not.length, 0, k], ...not, ...yes];
  return [[code, 0, 1, k], [JMP_JA, 0, 0, not.length], ...not, ...yes];
}

/** x32's numbers are told by their bit. */
function belowX32(x32: readonly Instruction[], own: readonly Instruction[]): Instruction[] {
  if (x32.length <= 255) return [[JMP_JGE, 0, x32.length, x32Bit], ...x32, ...own];
  return [[JMP_JGE, 1, 0, x32Bit], [JMP_JA, 0, 0, x32.length], ...x32, ...own];
}

/**
 * The filter for this machine's own system calls, and for those of other ABIs where the profile names their
 * architecture; those of ABIs that it does not name (i386, x32) fail with ENOSYS.
 * @returns an array of struct sock_filter, 8 bytes each
 * @throws OciboxError INVALID for what is no profile
 */
export function compileSeccomp(seccomp: LinuxSeccomp, machine: Machine): Uint8Array<ArrayBuffer> {
  const fallback = actionOf(seccomp.defaultAction, seccomp.defaultErrnoRet, ".defaultAction");
  (seccomp.architectures ?? []).forEach((name, index) => {
    if (!knownArchitectures.test(name)) refuse(`.architectures[${index}]`, `there is no ${JSON.stringify(name)}`);
  });
  const asked = (name: string): boolean => machine === "x64" && seccomp.architectures?.includes(name) === true;
  const foreign = [ret((actions.SCMP_ACT_ERRNO ?? 0) | ENOSYS)];
  const number: Instruction = [LD_ABS, 0, 0, offsetNr];
  const own = abiCode(seccomp, machine, fallback);
  const x32 = asked("SCMP_ARCH_X32") ? abiCode(seccomp, "x32", fallback) : foreign;
  const i386 = asked("SCMP_ARCH_X86")
    ? unless(JMP_JEQ, auditArchI386, foreign, [number, ...abiCode(seccomp, "i386", fallback)])
    : foreign;
  const code: Instruction[] = [
    [LD_ABS, 0, 0, offsetArch],
    ...unless(JMP_JEQ, auditArch[machine], i386, [
      number,
      // The shorter of the two is jumped over.
      ...(machine === "x64" ? belowX32(x32, own) : own),
    ]),
  ];
  if (code.length > mostInstructions) refuse("", `it needs ${code.length} instructions, and the kernel takes 4096`);
  const bytes = new Uint8Array(new ArrayBuffer(code.length * 8));
  const view = new DataView(bytes.buffer);
  code.forEach(([op, jt, jf, k], index) => {
    view.setUint16(index * 8, op, true);
    view.setUint8(index * 8 + 2, jt);
    view.setUint8(index * 8 + 3, jf);
    view.setUint32(index * 8 + 4, k, true);
  });
  return bytes;
}
