import { describe, expect, test } from "bun:test";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { claim, isRunning, sweep } from "../../src/container/state.ts";
import { around, temporary } from "../lib/around.ts";

let directory = "";
around({}, (owned) => {
  directory = temporary(owned, "state");
});

describe("the state directory", () => {
  test("a claim is running while it is held and leaves nothing", () => {
    {
      using held = claim(directory);
      expect(held.id).toMatch(/^[0-9a-f]{64}$/);
      expect(isRunning(directory, held.id)).toBe(true);
      expect(sweep(directory, () => {})).toBe(0);
      expect(readdirSync(directory)).toEqual([held.id]);
    }
    expect(readdirSync(directory)).toEqual([]);
  });

  test("a file that nobody has locked is swept, once, and others are left alone", () => {
    const id = "0".repeat(63);
    writeFileSync(join(directory, `${id}1`), "");
    writeFileSync(join(directory, "notes.txt"), "");
    const swept: string[] = [];
    expect(sweep(directory, (each) => swept.push(each))).toBe(1);
    expect(swept).toEqual([`${id}1`]);
    expect(readdirSync(directory)).toEqual(["notes.txt"]);
    rmSync(join(directory, "notes.txt"));
  });

  test("a lock of another process counts, and is free when it is killed", async () => {
    const held = Bun.spawn(
      [
        process.execPath,
        "-e",
        `import { claim } from ${JSON.stringify(join(import.meta.dir, "../../src/container/state.ts"))};
         const held = claim(${JSON.stringify(directory)}); console.log(held.id); setInterval(() => {}, 1000);`,
      ],
      { stdout: "pipe" },
    );
    try {
      const { value } = await held.stdout.getReader().read();
      const id = new TextDecoder().decode(value).trim();
      expect(readdirSync(directory)).toEqual([id]);
      expect(sweep(directory, () => {})).toBe(0);
      held.kill("SIGKILL");
      await held.exited;
      expect(sweep(directory, () => {})).toBe(1);
      expect(readdirSync(directory)).toEqual([]);
    } finally {
      held.kill("SIGKILL");
    }
  });
});
