import { expect, test } from "bun:test";
import { Undo } from "../../ffi/undo.ts";

test("the last first, all of it though some fail, and nothing of what is kept", () => {
  const done: string[] = [];
  const undo = new Undo();
  undo.defer(() => done.push("first"));
  undo.defer(() => {
    done.push("second");
    throw new Error("the second");
  });
  expect(undo.use({ [Symbol.dispose]: () => done.push("third"), name: "third" }).name).toBe("third");
  expect(() => undo[Symbol.dispose]()).toThrow("the second");
  expect(done).toEqual(["third", "second", "first"]);
  // It is done once.
  undo[Symbol.dispose]();
  undo.defer(() => done.push("kept"));
  undo.keep();
  undo[Symbol.dispose]();
  expect(done.length).toBe(3);
});
