/** The tables of ffi/ against the C compiler's own headers. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as constants from "../../ffi/constants.ts";
import { nr } from "../../ffi/machine.ts";
import * as netfilter from "../../ffi/netfilter-constants.ts";
import { type LayoutName, layoutOf, layouts } from "../../ffi/structs.ts";

const headers = `#define _GNU_SOURCE
#include <stdio.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <time.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <net/if.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#define sched_param linux_sched_param
#include <linux/sched/types.h>
#include <linux/filter.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <linux/memfd.h>
#include <linux/close_range.h>
#include <linux/magic.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/rtnetlink.h>
#include <linux/if_link.h>
#include <linux/if_addr.h>
`;

async function printed(body: string): Promise<Map<string, bigint>> {
  const dir = mkdtempSync(join(tmpdir(), "ocibox-c-"));
  try {
    await Bun.write(join(dir, "a.c"), `${headers}int main(void) {\n${body}\nreturn 0; }\n`);
    const gcc = Bun.spawnSync(["gcc", "-w", "-o", join(dir, "a"), join(dir, "a.c")]);
    if (gcc.exitCode !== 0) throw new Error(gcc.stderr.toString());
    const text = Bun.spawnSync([join(dir, "a")]).stdout.toString();
    const found = new Map<string, bigint>();
    for (const line of text.trim().split("\n")) {
      const [name = "", value = ""] = line.split(" ");
      found.set(name, BigInt(value));
    }
    return found;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

const ifDefined = (name: string, value: string) =>
  `#ifdef ${name}\nprintf("${name} %lld\\n", (long long)(${value}));\n#endif`;

test("numbers of system calls", async () => {
  const names = Object.keys(nr) as (keyof typeof nr)[];
  const found = await printed(names.map((name) => ifDefined(`__NR_${name}`, `__NR_${name}`)).join("\n"));
  expect(found.size).toBeGreaterThan(names.length - 10);
  for (const name of names) {
    const number = found.get(`__NR_${name}`);
    if (number !== undefined) expect(`${name} ${nr[name]}`).toBe(`${name} ${number}`);
  }
});

test("constants", async () => {
  const known = new Map<string, number>();
  for (const table of Object.values(constants)) {
    if (typeof table === "object") for (const [name, value] of Object.entries(table)) known.set(name, value);
  }
  const found = await printed([...known.keys()].map((name) => ifDefined(name, name)).join("\n"));
  expect(found.size).toBeGreaterThan(150);
  for (const [name, value] of known) {
    const real = found.get(name);
    if (real !== undefined)
      expect(`${name} ${BigInt.asUintN(32, BigInt(value))}`).toBe(`${name} ${BigInt.asUintN(32, real)}`);
  }
});

test("constants of netfilter, which are no macros: every one", async () => {
  const known = new Map(Object.values(netfilter).flatMap((table): [string, number][] => Object.entries(table)));
  const found = await printed(
    [...known.keys()].map((name) => `printf("${name} %lld\\n", (long long)(${name}));`).join("\n"),
  );
  expect(Object.fromEntries(found)).toEqual(
    Object.fromEntries([...known].map(([name, value]) => [name, BigInt(value)])),
  );
});

/** What C calls a structure, and its members where ours have other names. */
interface InC {
  readonly type: string;
  readonly members?: Readonly<Record<string, string | null>>;
  /** Where ours ends: the first member of a union's arm that it has no need of. */
  readonly until?: string;
}

const inC: Partial<Record<LayoutName, InC>> = {
  // SCHED_ATTR_SIZE_VER0: the kernel is told how much there is.
  sched_attr: { type: "struct sched_attr", until: "sched_util_min" },
  bpf_prog_load: { type: "union bpf_attr", until: "prog_name" },
  bpf_prog_attach: { type: "union bpf_attr", until: "replace_bpf_fd" },
  rlimit64: { type: "struct rlimit64" },
  __user_cap_data_struct_v3: {
    type: "struct { struct __user_cap_data_struct a[2]; }",
    members: {
      effective0: "a[0].effective",
      permitted0: "a[0].permitted",
      inheritable0: "a[0].inheritable",
      effective1: "a[1].effective",
      permitted1: "a[1].permitted",
      inheritable1: "a[1].inheritable",
    },
  },
  ifreq: { type: "struct ifreq", members: { pad: null } },
  statx: {
    type: "struct statx",
    members: Object.fromEntries([
      ...["atime", "btime", "ctime", "mtime"].flatMap((time) =>
        ["sec", "nsec"].map((part) => [`stx_${time}_${part}`, `stx_${time}.tv_${part}`]),
      ),
      ["stx_mtime_pad", null],
      ["stx_mnt_id", null],
      ["stx_spare", null],
    ]),
  },
  statfs: { type: "struct statfs" },
};

test("sizes and offsets of structures", async () => {
  const lines: string[] = [];
  for (const name of Object.keys(layouts) as LayoutName[]) {
    const type = inC[name]?.type ?? `struct ${name}`;
    const until = inC[name]?.until;
    const size = until === undefined ? "sizeof(T)" : `offsetof(T, ${until})`;
    lines.push(`{ typedef ${type} T; printf("${name} %zu\\n", ${size});`);
    for (const field of layoutOf(name).fields) {
      const member = inC[name]?.members?.[field.name];
      if (member === null) continue;
      lines.push(`printf("${name}.${field.name} %zu\\n", offsetof(T, ${member ?? field.name}));`);
    }
    lines.push("}");
  }
  const found = await printed(lines.join("\n"));
  for (const name of Object.keys(layouts) as LayoutName[]) {
    expect(`${name} ${layoutOf(name).size}`).toBe(`${name} ${found.get(name)}`);
    for (const field of layoutOf(name).fields) {
      const offset = found.get(`${name}.${field.name}`);
      if (offset !== undefined) expect(`${name}.${field.name} ${field.offset}`).toBe(`${name}.${field.name} ${offset}`);
    }
  }
});
