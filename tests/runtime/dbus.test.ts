/** D-Bus: bytes as the specification has them, and Debian's own bus as the other side. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DbusConnection, DbusError } from "../../src/runtime/dbus.ts";
import { decodeMessage, encodeMessage, type Message } from "../../src/runtime/dbus-wire.ts";
import { limitProperties, maskOf } from "../../src/runtime/systemd-properties.ts";
import { testWith } from "../lib/needs.ts";

test("a message as it is on the wire", () => {
  const hello: Message = {
    kind: "call",
    serial: 1,
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "Hello",
    destination: "org.freedesktop.DBus",
    body: [],
  };
  const bytes = encodeMessage(hello);
  expect(bytes.subarray(0, 16).toHex()).toBe("6c01000100000000010000006d000000");
  expect(bytes.subarray(16, 48).toHex()).toBe("01016f00150000002f6f72672f667265656465736b746f702f44427573000000");
  expect(bytes.byteLength).toBe(128);
});

test("every kind of value comes back", () => {
  const message: Message = {
    kind: "signal",
    serial: 7,
    path: "/a",
    interface: "b.c",
    member: "D",
    signature: "ybnqiuxtsoga(sv)a{sv}aay",
    body: [
      ...[1, true, 65_535, 2, -3, 4_000_000_000, 5n, 2n ** 64n - 1n, "text é", "/path", "a(sv)"],
      [["x", { signature: "au", value: [1, 2, 3] }]],
      [["k", { signature: "(tb)", value: [9n, false] }]],
      [[], [1, 2, 3]],
    ],
  };
  const bytes = encodeMessage(message);
  expect(decodeMessage(bytes)).toEqual({ message, end: bytes.byteLength });
  for (let cut = 0; cut < bytes.byteLength; cut++) expect(decodeMessage(bytes.subarray(0, cut))).toBeUndefined();
});

const bus = { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

testWith({ programs: ["dbus-daemon"] })("Debian's bus understands it", async () => {
  const dir = mkdtempSync(join(tmpdir(), "ocibox-dbus-"));
  const daemon = Bun.spawn(
    ["dbus-daemon", "--session", "--nofork", "--nosyslog", "--print-address", `--address=unix:path=${dir}/bus`],
    {
      stdout: "pipe",
      stderr: "ignore",
      stdin: "ignore",
    },
  );
  try {
    await daemon.stdout.getReader().read();
    using connection = await DbusConnection.open(join(dir, "bus"));
    const [name] = await connection.call({ ...bus, member: "Hello", body: [] });
    expect(name).toMatch(/^:\d/);
    await using signals = connection.listen("NameOwnerChanged");
    await connection.call({ ...bus, member: "AddMatch", signature: "s", body: ["type='signal'"] });
    const [taken] = await connection.call({ ...bus, member: "RequestName", signature: "su", body: ["a.b.C", 0] });
    expect(taken).toBe(1);
    await signals.until(([what, , owner]) => what === "a.b.C" && owner === name);
    const [names] = await connection.call({ ...bus, member: "ListNames", body: [] });
    expect(names).toContain("a.b.C");
    const wrong = connection.call({ ...bus, member: "GetNameOwner", signature: "s", body: ["no.such.name"] });
    expect(await wrong.catch((error: unknown) => error)).toBeInstanceOf(DbusError);
  } finally {
    daemon.kill();
    await daemon.exited;
    rmSync(dir, { recursive: true });
  }
});

test("nobody at the socket", async () => {
  const refused = DbusConnection.open("/nowhere/at/all");
  expect(await refused.then(String, String)).toContain('cannot speak with systemd at "/nowhere/at/all"');
});

test("limits as properties of a unit", () => {
  const resources = {
    cpu: { shares: 1024, quota: 55_555, period: 100_000, cpus: "0,9", mems: "0" },
    memory: { limit: 1 << 28, swap: 1 << 29, reservation: 1 << 27 },
    pids: { limit: 100 },
    blockIO: { weight: 500 },
  };
  expect(limitProperties(resources, "v2")).toMatchSnapshot();
  expect(limitProperties(resources, "v1")).toMatchSnapshot();
  // Such that ocibox itself could not live in are only written to the kernel's files, when it is out again.
  expect(limitProperties({ memory: { limit: 4 << 20 }, pids: { limit: 1 } }, "v2")).toEqual([]);
  const unified = { "memory.high": "120000000", "pids.max": "max", "memory.max": "5", "io.max": "8:0 rbps=5" };
  expect(limitProperties({ unified }, "v2")).toEqual([
    ["MemoryHigh", { signature: "t", value: 120_000_000n }],
    ["TasksMax", { signature: "t", value: 2n ** 64n - 1n }],
  ]);
  expect(maskOf("0-2,8,17")).toEqual([7, 1, 2]);
});
