/** linux.seccomp as a program: every action and operator, against what the profile says, instruction by instruction. */
import { describe, expect, test } from "bun:test";
import { compileSeccomp } from "../../src/plan/seccomp/compile.ts";
import { syscallNumbers } from "../../src/plan/seccomp/numbers.ts";
import type { LinuxSeccomp } from "../../src/spec/runtime.ts";

const arches = { x64: 0xc000003e, i386: 0x40000003, arm64: 0xc00000b7 } as const;

/** struct seccomp_data through a program of classic BPF: Documentation/networking/filter.rst. */
function run(program: Uint8Array, arch: number, nr: number, args: readonly bigint[] = []): number {
  const data = new DataView(new ArrayBuffer(64));
  data.setUint32(0, nr, true);
  data.setUint32(4, arch, true);
  args.forEach((arg, index) => {
    data.setBigUint64(16 + index * 8, arg, true);
  });
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  let a = 0;
  for (let at = 0; at < program.byteLength / 8; at++) {
    const [code, jt, jf, k] = [
      view.getUint16(at * 8, true),
      view.getUint8(at * 8 + 2),
      view.getUint8(at * 8 + 3),
      view.getUint32(at * 8 + 4, true),
    ];
    if (code === 0x20) a = data.getUint32(k, true);
    else if (code === 0x54) a = (a & k) >>> 0;
    else if (code === 0x05) at += k;
    else if (code === 0x15) at += a === k ? jt : jf;
    else if (code === 0x25) at += a > k ? jt : jf;
    else if (code === 0x35) at += a >= k ? jt : jf;
    else if (code === 0x06) return k;
    else throw new Error(`instruction ${code.toString(16)}`);
  }
  throw new Error("the program has no end");
}

const allow = 0x7fff0000;
const errno = (number: number): number => 0x00050000 | number;
const ENOSYS = errno(38);

function profile(more: Partial<LinuxSeccomp>): LinuxSeccomp {
  return { defaultAction: "SCMP_ACT_ERRNO", ...more };
}

describe("actions", () => {
  const cases: readonly (readonly [action: string, errnoRet: number | undefined, value: number])[] = [
    ["SCMP_ACT_KILL", undefined, 0],
    ["SCMP_ACT_KILL_THREAD", undefined, 0],
    ["SCMP_ACT_KILL_PROCESS", undefined, 0x80000000],
    ["SCMP_ACT_TRAP", undefined, 0x00030000],
    ["SCMP_ACT_ERRNO", undefined, errno(1)],
    ["SCMP_ACT_ERRNO", 95, errno(95)],
    ["SCMP_ACT_ERRNO", 0, errno(0)],
    ["SCMP_ACT_TRACE", 7, 0x7ff00007],
    ["SCMP_ACT_LOG", undefined, 0x7ffc0000],
    ["SCMP_ACT_ALLOW", undefined, allow],
  ];
  for (const [action, errnoRet, value] of cases)
    test(`${action} ${errnoRet ?? ""}`, () => {
      const given = errnoRet === undefined ? {} : { errnoRet };
      const known = { names: ["close"], action: "SCMP_ACT_ALLOW" };
      const program = compileSeccomp(profile({ syscalls: [{ names: ["read"], action, ...given }, known] }), "x64");
      expect(run(program, arches.x64, 0)).toBe(value);
      expect(run(program, arches.x64, 1)).toBe(errno(1));
    });

  test("the default, with its errno", () => {
    const program = compileSeccomp({ defaultAction: "SCMP_ACT_ERRNO", defaultErrnoRet: 99 }, "arm64");
    expect(run(program, arches.arm64, 5)).toBe(errno(99));
  });

  test("a system call newer than all that are named is one that is not there, where what is not named is refused", () => {
    const syscalls = [{ names: ["read", "mseal"], action: "SCMP_ACT_ALLOW" }];
    const of = (defaultAction: string, nr: number): number =>
      run(compileSeccomp({ defaultAction, syscalls }, "x64"), arches.x64, nr);
    for (const [action, value] of [
      ["SCMP_ACT_ERRNO", errno(1)],
      ["SCMP_ACT_KILL_PROCESS", 0x80000000],
      ["SCMP_ACT_TRAP", 0x00030000],
    ] as const)
      expect([461, 462, 463, 5000].map((nr) => of(action, nr))).toEqual([value, allow, ENOSYS, ENOSYS]);
    for (const [action, value] of [
      ["SCMP_ACT_LOG", 0x7ffc0000],
      ["SCMP_ACT_TRACE", 0x7ff00001],
      ["SCMP_ACT_ALLOW", allow],
    ] as const)
      expect([461, 463, 5000].map((nr) => of(action, nr))).toEqual([value, value, value]);
    const none = compileSeccomp({ defaultAction: "SCMP_ACT_ERRNO" }, "x64");
    expect(run(none, arches.x64, 5000)).toBe(errno(1));
  });

  test("two conditions of one argument are two rules", () => {
    const args = [100, 9001].map((value) => ({ index: 0, value, op: "SCMP_CMP_EQ" }));
    const program = compileSeccomp(
      profile({ syscalls: [{ names: ["getpgid"], action: "SCMP_ACT_ALLOW", args }] }),
      "x64",
    );
    const answers = [100n, 9001n, 0n].map((value) => run(program, arches.x64, 121, [value]));
    expect(answers).toEqual([allow, allow, errno(1)]);
  });

  test("what is no action, and an errno that is none", () => {
    expect(() => compileSeccomp(profile({ defaultAction: "ALLOW" }), "x64")).toThrow("linux.seccomp.defaultAction");
    const bad = profile({ syscalls: [{ names: ["read"], action: "SCMP_ACT_ERRNO", errnoRet: 70_000 }] });
    expect(() => compileSeccomp(bad, "x64")).toThrow("linux.seccomp.syscalls[0]: errnoRet is 70000");
    expect(() => compileSeccomp(profile({ architectures: ["SCMP_ARCH_X87"] }), "x64")).toThrow("architectures[0]");
  });
});

describe("operators, on both halves of 64 bits", () => {
  const numbers = [0n, 1n, 0x7fffffffn, 0xffffffffn, 0x100000000n, 0x100000001n, 0x1fffffffffn, 0xffffffffffffffffn];
  const holds: Readonly<Record<string, (a: bigint, value: bigint, two: bigint) => boolean>> = {
    SCMP_CMP_EQ: (a, value) => a === value,
    SCMP_CMP_NE: (a, value) => a !== value,
    SCMP_CMP_GT: (a, value) => a > value,
    SCMP_CMP_GE: (a, value) => a >= value,
    SCMP_CMP_LT: (a, value) => a < value,
    SCMP_CMP_LE: (a, value) => a <= value,
    SCMP_CMP_MASKED_EQ: (a, value, two) => (a & value) === two,
  };
  for (const [op, expected] of Object.entries(holds))
    test(op, () => {
      for (const value of numbers)
        for (const two of op === "SCMP_CMP_MASKED_EQ" ? numbers : [0n]) {
          const rule = {
            names: ["prctl"],
            action: "SCMP_ACT_ALLOW",
            args: [
              { index: 1, value, valueTwo: two, op },
              { index: 3, value: 5, op: "SCMP_CMP_EQ" },
            ],
          };
          const program = compileSeccomp(profile({ syscalls: [rule] }), "x64");
          for (const a of numbers) {
            const wanted = expected(a, value, two) ? allow : errno(1);
            expect([a, value, two, run(program, arches.x64, 157, [0n, a, 0n, 5n])]).toEqual([a, value, two, wanted]);
            expect(run(program, arches.x64, 157, [0n, a, 0n, 6n])).toBe(errno(1));
          }
        }
    });
});

describe("architectures", () => {
  const names = ["read", "write", "openat", "execve", "socketcall", "ioctl", "futex", "clone3", "mseal"];
  const allowed = profile({ syscalls: [{ names, action: "SCMP_ACT_ALLOW" }] });

  test("only the machine's own where nothing else is said: the others have no system calls", () => {
    const program = compileSeccomp(allowed, "x64");
    for (let nr = 0; nr < 500; nr++) {
      expect(run(program, arches.i386, nr)).toBe(ENOSYS);
      expect(run(program, arches.x64, 0x40000000 + nr)).toBe(ENOSYS);
    }
  });

  test("those that are named, by the numbers that each has", () => {
    const all = { ...allowed, architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"] };
    const program = compileSeccomp(all, "x64");
    for (const [abi, arch] of [
      ["x64", arches.x64],
      ["i386", arches.i386],
      ["x32", arches.x64],
    ] as const) {
      const known = syscallNumbers(abi);
      const ours = new Set(names.map((name) => known.get(name)));
      const last = Math.max(...[...ours].map((number) => number ?? 0));
      for (let nr = 0; nr < 600; nr++) {
        const number = abi === "x32" ? nr + 0x40000000 : nr;
        const missed = number > last ? ENOSYS : errno(1);
        expect([abi, nr, run(program, arch, number)]).toEqual([abi, nr, ours.has(number) ? allow : missed]);
      }
    }
    expect(run(program, arches.arm64, 63)).toBe(ENOSYS);
  });

  test("a long profile of three architectures, where jumps are far", () => {
    const every = [...syscallNumbers("x64").keys()].filter((_, index) => index % 2 === 0);
    const big = profile({
      architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
      syscalls: [{ names: every, action: "SCMP_ACT_ALLOW" }],
    });
    const program = compileSeccomp(big, "x64");
    for (const [name, number] of syscallNumbers("x64"))
      expect(run(program, arches.x64, number)).toBe(every.includes(name) ? allow : errno(1));
    for (const [name, number] of syscallNumbers("i386"))
      expect(run(program, arches.i386, number)).toBe(every.includes(name) ? allow : errno(1));
    for (const [name, number] of syscallNumbers("x32"))
      expect(run(program, arches.x64, number)).toBe(every.includes(name) ? allow : errno(1));
  });
});
