import { OciboxError } from "../errors.ts";
import type { Digest } from "../spec/digest.ts";
import { checkStore, discardDamaged, type Problem } from "../store/check.ts";
import { openStore } from "../store/store.ts";
import { asRoot, type Globals, places } from "./globals.ts";
import { interruptible } from "./interruptible.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { isTerminal, print, say } from "./output.ts";

function show(problems: readonly Problem[]): void {
  for (const { kind, of, what } of problems) print(`${kind} ${of}: ${what}`);
}

/** Fetches images anew by the names that they have: what is there whole is not fetched again. */
async function fetchAgain(globals: Globals, spoiled: ReadonlyMap<Digest, readonly string[]>): Promise<void> {
  const { pullByName } = await import("./pull-image.ts");
  const { parseReference, canonical } = await import("../reference/reference.ts");
  for (const [digest, names] of spoiled) {
    const [name] = names;
    if (name === undefined) {
      say(`the image ${digest.slice(7, 19)} has no name to fetch it by`);
      continue;
    }
    const { tag: _, digest: __, ...repository } = parseReference(name);
    await pullByName(canonical({ ...repository, digest }), places(globals), {
      platform: undefined,
      authFile: undefined,
      tlsVerify: true,
      quiet: true,
      names,
    });
    print(`mended ${name}`);
  }
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "check", description: "Verify the store: every blob, every image, every unpacked layer" },
      args: {
        quick: { type: "boolean", description: "Blobs and images only: layers are not unpacked again to compare" },
        repair: { type: "boolean", description: "Fetch what is damaged anew, by the names that images have" },
      },
    },
    words: [0, 0],
    async run(given) {
      await asRoot(globals);
      const store = openStoreOf(globals);
      const quick = given.flag("quick");
      const look = (): Promise<Problem[]> =>
        interruptible("the check", (signal) =>
          checkStore(store, {
            quick,
            signal,
            ...(isTerminal(2) ? { looking: (what: string) => say(what) } : {}),
          }),
        );
      const problems = await look();
      show(problems);
      if (problems.length === 0) {
        print("all is well");
        return 0;
      }
      const failed = (left: number): OciboxError =>
        new OciboxError("STORE", `${left} thing${left === 1 ? " is" : "s are"} wrong with the store "${store.root}"`, {
          hint: given.flag("repair")
            ? "pull these images again, or remove them"
            : "mend it with: ocibox check --repair",
        });
      if (!given.flag("repair")) throw failed(problems.length);
      await fetchAgain(globals, await discardDamaged(openStore(store.root), problems));
      const left = await look();
      show(left);
      if (left.length > 0) throw failed(left.length);
      print("all is well");
      return 0;
    },
  };
}
