/** Help in the form that runc gives it; loaded only when it is asked for. */
import { print } from "../output.ts";
import type { OciCommand, OciFlags } from "./options.ts";

function flagLines(flags: OciFlags): string {
  const rows = Object.entries(flags).map(([name, flag]) => {
    const value = flag.value === undefined ? "" : " value";
    return [`--${name}${value}${flag.short === undefined ? "" : `, -${flag.short}${value}`}`, flag.help] as const;
  });
  const width = Math.max(0, ...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `   ${left.padEnd(width)}  ${right}\n`).join("");
}

export function commandHelp(called: string, name: string, command: OciCommand): string {
  const parts = [
    `NAME:\n   ${called} ${name} - ${command.summary}\n`,
    `USAGE:\n   ${called} ${name} ${command.usage}\n`,
    ...(command.description === undefined ? [] : [`DESCRIPTION:\n   ${command.description}\n`]),
    ...(Object.keys(command.flags).length === 0 ? [] : [`OPTIONS:\n${flagLines(command.flags)}`]),
  ];
  return `${parts.join("\n")}\n`;
}

export function overview(
  called: string,
  version: string,
  commands: readonly (readonly [string, string])[],
  flags: OciFlags,
): string {
  const width = Math.max(...commands.map(([name]) => name.length));
  return [
    `NAME:\n   ${called} - Open Container Initiative runtime, with the command line of runc`,
    `USAGE:\n   ${called} [global options] command [command options] [arguments...]`,
    `VERSION:\n   ${version}`,
    `COMMANDS:\n${commands.map(([name, summary]) => `   ${name.padEnd(width)}  ${summary}`).join("\n")}`,
    `GLOBAL OPTIONS:\n${flagLines(flags)}`,
  ].join("\n\n");
}

export function showText(text: string): void {
  print(text.replace(/\n$/, ""));
}
