import type { Globals } from "./globals.ts";
import { asRoot, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { planOptions } from "./plan-options.ts";
import { lockOptions, pullOptions } from "./pull.ts";
import type { runCommand } from "./run-container.ts";
import { moreOptions, notYet } from "./run-more-options.ts";

/** @param start what runs a container, where it is loaded already */
export function command(globals: Globals, start?: typeof runCommand): Command {
  return {
    def: {
      meta: {
        name: "run",
        description: "Run a command in a new container",
      },
      args: {
        detach: {
          type: "boolean",
          alias: "d",
          description:
            "Print the container's id once its command runs, and leave it to itself; its output is kept for logs",
        },
        interactive: { type: "boolean", alias: "i", description: "Keep stdin open for the container" },
        tty: { type: "boolean", alias: "t", description: "Give the container a terminal" },
        rm: { type: "boolean", description: "Remove the container when it ends" },
        name: { type: "string", valueHint: "NAME", description: "Name of the container" },
        cidfile: { type: "string", valueHint: "FILE", description: "Write the container's id into a new file" },
        "stop-signal": {
          type: "string",
          valueHint: "SIGNAL",
          description: "What stop asks it by; else the image's, or TERM",
        },
        env: {
          type: "string",
          alias: "e",
          repeat: true,
          valueHint: "KEY[=VALUE]",
          description: "Environment variable; KEY alone inherits it",
        },
        "env-file": {
          type: "string",
          repeat: true,
          valueHint: "FILE",
          description: "Environment variables, one a line",
        },
        volume: {
          type: "string",
          alias: "v",
          repeat: true,
          valueHint: "[SRC:]DST[:OPTIONS]",
          description:
            "Bind a file or directory of the host; a name is a volume's, which is made where it is not there",
        },
        tmpfs: { type: "string", repeat: true, valueHint: "DST[:OPTIONS]", description: "Mount a tmpfs" },
        workdir: { type: "string", alias: "w", valueHint: "DIR", description: "Working directory" },
        user: {
          type: "string",
          alias: "u",
          valueHint: "USER[:GROUP]",
          description: "User and group, by name or number",
        },
        entrypoint: { type: "string", valueHint: "COMMAND", description: "In place of the image's entrypoint" },
        hostname: { type: "string", alias: "h", valueHint: "NAME", description: "Host name in the container" },
        "read-only": { type: "boolean", description: "The container's root file system is read-only" },
        init: { type: "boolean", description: "A small init is process 1: it forwards signals and reaps" },
        "cap-add": { type: "string", repeat: true, valueHint: "CAP", description: "Add a capability, or ALL" },
        "cap-drop": { type: "string", repeat: true, valueHint: "CAP", description: "Drop a capability, or ALL" },
        "security-opt": {
          type: "string",
          repeat: true,
          valueHint: "OPTION",
          description: "no-new-privileges, seccomp=FILE|unconfined, label=disable, apparmor=unconfined",
        },
        security: {
          type: "enum",
          options: ["default", "strict"],
          default: "default",
          description: "strict: no capabilities, no new privileges, read-only",
        },
        memory: { type: "string", alias: "m", valueHint: "SIZE", description: "Memory limit: 512m, 1g, bytes" },
        cpus: { type: "string", valueHint: "N", description: "CPU limit: 1.5" },
        "pids-limit": { type: "string", valueHint: "N", description: "Most processes (2048; -1 for no limit)" },
        ulimit: {
          type: "string",
          repeat: true,
          valueHint: "NAME=SOFT[:HARD]",
          description: "Resource limit: nofile=1024:2048",
        },
        network: {
          type: "string",
          also: "net",
          valueHint: "MODE",
          description:
            "bridge: an address of its own, and a way out; none: loopback only; host: the host's network; container:NAME; ns:PATH. $OCIBOX_NETWORK, or bridge for root",
        },
        pull: {
          type: "enum",
          options: ["missing", "always", "newer", "never"],
          default: "missing",
          description:
            "When to pull; newer: always, but the image in the store will do where the registry does not give one",
        },
        ...pullOptions,
        ...lockOptions,
        quiet: { type: "boolean", alias: "q", description: "No pull progress" },
        "stop-timeout": { type: "string", valueHint: "SECONDS", description: "How long stop waits for it (10)" },
        label: {
          type: "string",
          alias: "l",
          repeat: true,
          valueHint: "NAME[=VALUE]",
          description: "Said of it by inspect",
        },
        ...moreOptions,
        ...planOptions,
        IMAGE: { type: "positional", description: "Name, tag or digest of the image" },
        COMMAND: { type: "positional", required: false, description: "The command and its arguments" },
      },
    },
    stopAtFirst: true,
    notYet,
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      await asRoot(globals);
      const run = start ?? (await import("./run-container.ts")).runCommand;
      return run(given, places(globals));
    },
  };
}
