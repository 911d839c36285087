/**
 * The command of a container and its environment: what of a config.json differs from one container to the next of its
 * kind. Apart from the rest of bundle/, which a kept plan does not need.
 */
import { OciboxError } from "../errors.ts";
import type { ContainerDefaults } from "../spec/image.ts";
import type { MoreOptions } from "./more-options.ts";
import type { Volume } from "./values.ts";

/**
 * `none` has loopback alone, `host` the host's network, `bridge` an address at ocibox's own; the others are in a namespace
 * that is there already.
 */
export type NetworkMode = "none" | "host" | "bridge" | `container:${string}` | `ns:${string}`;

/** The flags of `run`, as they were given. */
export interface RunOptions {
  readonly command: readonly string[];
  readonly entrypoint: string | undefined;
  /** KEY=VALUE, later ones winning. */
  readonly env: readonly string[];
  readonly workdir: string | undefined;
  readonly user: string | undefined;
  readonly hostname: string | undefined;
  readonly tty: boolean;
  readonly readOnly: boolean;
  readonly volumes: readonly Volume[];
  readonly tmpfs: readonly string[];
  readonly capAdd: readonly string[];
  readonly capDrop: readonly string[];
  /** seccomp=… holds the profile's text, not its path. */
  readonly securityOpt: readonly string[];
  readonly strict: boolean;
  readonly memory: string | undefined;
  readonly cpus: string | undefined;
  readonly pidsLimit: string | undefined;
  readonly ulimits: readonly string[];
  readonly network: NetworkMode;
  readonly more: MoreOptions;
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export function parseHostname(text: string): string {
  if (!/^[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,62}[a-zA-Z0-9])?$/.test(text))
    throw new OciboxError(
      "USAGE",
      `--hostname is "${text}", which is not a host name of at most 64 letters, digits, dots and dashes`,
    );
  return text;
}

/** What a command's name and environment are made of; a kept plan asks for nothing else. */
export interface CommandInput {
  readonly id: string;
  readonly image: Pick<ContainerDefaults, "Entrypoint" | "Cmd" | "Env">;
  readonly options: RunOptions;
}

/** The environment: ours, under the image's, under what was given. @param home of the account, for HOME */
export function environmentOf(input: CommandInput, home: string): string[] {
  const { image, options } = input;
  const env: string[] = [];
  const places = new Map<string, number>();
  const put = (item: string): void => {
    const name = item.slice(0, item.indexOf("="));
    const at = places.get(name);
    if (at !== undefined) env[at] = item;
    else places.set(name, env.push(item) - 1);
  };
  put(defaultPath);
  put(`HOSTNAME=${hostnameOf(input)}`);
  if (options.tty) put("TERM=xterm");
  for (const item of image.Env ?? []) {
    if (item.indexOf("=") < 1 || item.includes("\0"))
      throw new OciboxError("INVALID", `the image's environment has ${JSON.stringify(item)}, which is not NAME=VALUE`);
    put(item);
  }
  for (const item of options.env) put(item);
  if (!places.has("HOME")) put(`HOME=${home}`);
  return env;
}

export function hostnameOf(input: CommandInput): string {
  return input.options.hostname === undefined ? input.id.slice(0, 12) : parseHostname(input.options.hostname);
}

/** Entrypoint and command, as docker puts them together: --entrypoint does away with the image's command. */
export function argsOf({ image, options }: CommandInput): string[] {
  const entrypoint =
    options.entrypoint === undefined ? (image.Entrypoint ?? []) : options.entrypoint === "" ? [] : [options.entrypoint];
  const command = options.command.length > 0 || options.entrypoint !== undefined ? options.command : (image.Cmd ?? []);
  const args = [...entrypoint, ...command];
  if (args.length === 0 || args[0] === "")
    throw new OciboxError("USAGE", "there is nothing to run: the image names no command and none was given", {
      hint: "add one: ocibox run IMAGE COMMAND",
    });
  for (const arg of args) if (arg.includes("\0")) throw new OciboxError("INVALID", "the command has a NUL in it");
  return args;
}
