import { readConnected } from "../container/network.ts";
import { findContainer } from "../container/record.ts";
import { OciboxError } from "../errors.ts";
import { type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";
import { portLines } from "./ports.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: {
        name: "port",
        description: "Print the ports of the host that lead to a container, or to one of its ports",
      },
      args: {
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id" },
        PORT: { type: "positional", required: false, description: "A port of the container's: 80, 53/udp" },
      },
    },
    words: [1, 2],
    run(given) {
      const { root, state } = places(globals);
      const [word = "", port] = given.words;
      if (port !== undefined && !/^\d{1,5}(?:\/(?:tcp|udp))?$/.test(port))
        throw new OciboxError("USAGE", `the port is "${port}", which is not NUMBER[/tcp|/udp]`);
      const { id, name, running } = findContainer(root, state, word);
      const ports = (running && readConnected(root, id)?.ports) || [];
      const lines = portLines(ports, port === undefined || port.includes("/") ? port : `${port}/tcp`);
      if (port !== undefined && lines.length === 0)
        throw new OciboxError("NOT_FOUND", `the port "${port}" of the container "${name}" is not published`, {
          hint: running ? `see: ocibox port ${name}` : "it is not running",
        });
      for (const line of lines) print(line);
      return 0;
    },
  };
}
