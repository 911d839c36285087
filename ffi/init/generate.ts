/** Writes the tables by which init names things: `generate.ts tables x64|arm64`, and `generate.ts blob X64 ARM64`. */
import * as arm64 from "../arch/arm64.ts";
import * as x64 from "../arch/x64.ts";
import * as constants from "../constants.ts";
import { flagTables, showOf } from "../encode.ts";
import { errnoTable } from "../errno.ts";
import { fieldKinds, single } from "../show.ts";
import { type LayoutName, layoutOf, layouts } from "../structs.ts";

const singles: ReadonlySet<string> = new Set([...single, "SIG"]);

function tables(machine: "x64" | "arm64"): string {
  const own: Readonly<Record<string, number>> = machine === "arm64" ? arm64.arch : x64.arch;
  const out = ["/* Written by generate.ts. */", "#pragma once", `#define SIGNAL_TABLE ${flagTables.indexOf("SIG")}`];
  for (const name of ["O_DIRECTORY", "O_NOFOLLOW"]) out.push(`#define ${name} ${own[name]}`);
  const numbers: Readonly<Record<string, number>> = machine === "arm64" ? arm64.nr : x64.nr;
  for (const name in numbers) out.push(`#define __NR_${name} ${numbers[name]}`);
  out.push("struct flag { u64 value; const char *name; };");
  out.push("struct flag_table { const struct flag *flags; u16 count; u8 single, open_mode; };");
  for (const name of flagTables) {
    const entries = Object.entries(constants[name] as Readonly<Record<string, number>>);
    const rows = entries.map(([flag, value]) => `{0x${BigInt(own[flag] ?? value).toString(16)}ul, "${flag}"}`);
    out.push(`static const struct flag flags_${name}[] = {${rows.join(", ")}};`);
  }
  const heads = flagTables.map(
    (name) =>
      `{flags_${name}, sizeof flags_${name} / sizeof *flags_${name}, ${singles.has(name) ? 1 : 0}, ${name === "O" ? 1 : 0}}`,
  );
  out.push(`static const struct flag_table flag_tables[] = {${heads.join(", ")}};`);
  out.push("struct member { const char *name; u16 offset; u8 size, show, is_signed; };");
  out.push("struct layout { const struct member *members; u16 size, count; };");
  for (const name in layouts) {
    const rows = layoutOf(name as LayoutName).fields.map((field) => {
      const kind = field.name === "resolve" ? "RESOLVE" : (fieldKinds[`${name}.${field.name}`] ?? "int");
      const opaque = field.type === "ptr" || field.type.startsWith("bytes");
      const show = opaque ? "SHOW_BYTES" : showOf(kind);
      return `{"${field.name}", ${field.offset}, ${Math.min(field.size, 8)}, ${show}, ${field.type.startsWith("i") ? 1 : 0}}`;
    });
    out.push(`static const struct member members_${name}[] = {${rows.join(", ")}};`);
  }
  const rows = Object.keys(layouts).map(
    (name) => `{members_${name}, ${layoutOf(name as LayoutName).size}, ${layoutOf(name as LayoutName).fields.length}}`,
  );
  out.push(`static const struct layout layouts[] = {${rows.join(", ")}};`);
  const errors = Object.values(errnoTable()).map(([number, words]) => `{${number}, "${words}"}`);
  out.push(`static const struct { u16 number; const char *words; } errors[] = {${errors.join(", ")}};`);
  return `${out.join("\n")}\n`;
}

async function blob(path: string | undefined): Promise<string> {
  if (path === undefined || path === "") return "null";
  return `"${Buffer.from(await Bun.file(path).arrayBuffer()).toString("base64")}"`;
}

const [what, first, second] = Bun.argv.slice(2);
if (what === "tables" && (first === "x64" || first === "arm64")) {
  console.log(tables(first));
} else if (what === "blob") {
  console.log(`/** Written by scripts/build-init: init's binaries in base64. */
export const initBinary: Readonly<Record<"x64" | "arm64", string | null>> = {
  x64: ${await blob(first)},
  arm64: ${await blob(second)},
};`);
} else {
  console.error("usage: generate.ts tables x64|arm64 | blob X64 ARM64");
  process.exitCode = 2;
}
