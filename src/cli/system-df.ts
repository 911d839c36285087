import { namesIn } from "../../ffi/files.ts";
import { listVolumes, volumeUsers } from "../container/volumes.ts";
import { inUse, usageOf, volumeBytes } from "../store/collect.ts";
import { layerFolders } from "../store/snapshotter.ts";
import { asRoot, type Globals, places } from "./globals.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { humanSize, print, table } from "./output.ts";
import { storeMax } from "./store-max.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "system df", description: "What lies on the disk" },
      args: { format: { type: "string", valueHint: "json", description: "json for machines" } },
    },
    words: [0, 0],
    async run(given) {
      await asRoot(globals);
      const store = openStoreOf(globals);
      const usage = usageOf(store);
      const used = inUse(store);
      const users = volumeUsers(store.root);
      const rows = [
        { Type: "Images", Total: store.list().length, Active: used.images, Size: usage.blobs },
        {
          Type: "Layers, unpacked",
          Total: Object.values(layerFolders).reduce((sum, each) => sum + namesIn(`${store.root}/${each}`).length, 0),
          Active: used.layers,
          Size: usage.layers,
        },
        { Type: "Containers", Total: used.containers, Active: used.containers, Size: usage.containers },
        { Type: "Volumes", Total: listVolumes(store.root).length, Active: users.size, Size: volumeBytes(store) },
        { Type: "Unfinished, kept plans", Total: namesIn(`${store.root}/tmp`).length, Active: 0, Size: usage.other },
      ];
      const at = places(globals);
      const most = storeMax(at);
      const limit = { Type: "Limit of images and layers", Total: 0, Active: 0, Size: most };
      if (given.text("format") === "json") print(JSON.stringify(most === undefined ? rows : [...rows, limit]));
      else {
        print(
          table(
            ["TYPE", "TOTAL", "ACTIVE", "SIZE"],
            rows.map((row) => [row.Type, String(row.Total), String(row.Active), humanSize(row.Size)]),
          ),
        );
        if (most !== undefined) print(`Images and layers may take ${at.storeMax} (--store-max)`);
      }
      return 0;
    },
  };
}
