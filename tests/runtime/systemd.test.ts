/**
 * The systemd driver against a stand-in for systemd that speaks D-Bus: what is asked of it, and what becomes of its
 * answers. systemd itself is asked in tests/vm.
 */
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decodeMessage, encodeMessage, type Message, type Value } from "../../src/runtime/dbus-wire.ts";
import { enterScope, ownedByUser, stopUnit, updateUnit } from "../../src/runtime/systemd.ts";
import { testWith } from "../lib/needs.ts";

interface Call {
  readonly member: string;
  readonly body: readonly Value[];
}

/** Takes every call; a job ends as `result` says, before its own answer is there: it must not be missed. */
function standIn(path: string, result: string, calls: Call[], errors: Readonly<Record<string, string>> = {}) {
  let serial = 100;
  return Bun.listen<{ started: boolean }>({
    unix: path,
    socket: {
      open(socket) {
        socket.data = { started: false };
      },
      data(socket, bytes) {
        if (!socket.data.started) {
          const text = bytes.toString();
          if (text.includes("AUTH EXTERNAL\r\n")) socket.write("DATA\r\n");
          else if (text.startsWith("DATA\r\n")) socket.write("OK 0123456789abcdef\r\n");
          socket.data.started = text.includes("BEGIN\r\n");
          const rest = text.indexOf("BEGIN\r\n") + 7;
          if (!socket.data.started || rest === text.length) return;
          bytes = bytes.subarray(rest);
        }
        for (let all = new Uint8Array(bytes); ; ) {
          const decoded = decodeMessage(all);
          if (decoded === undefined) return;
          all = all.slice(decoded.end);
          const { member = "", body, serial: replySerial } = decoded.message;
          calls.push({ member, body });
          const send = (message: Partial<Message>) =>
            socket.write(encodeMessage({ kind: "return", serial: ++serial, body: [], ...message }));
          const errorName = errors[member];
          if (errorName !== undefined) {
            send({ kind: "error", errorName, replySerial, signature: "s", body: ["it is so"] });
            continue;
          }
          if (member !== "StartTransientUnit" && member !== "StopUnit") {
            send({ replySerial });
            continue;
          }
          const job = `/job/${serial}`;
          const [unit = ""] = body;
          const signal = { path: "/org/freedesktop/systemd1", interface: "org.freedesktop.systemd1.Manager" };
          send({ kind: "signal", ...signal, member: "JobRemoved", signature: "uoss", body: [1, job, unit, result] });
          send({ replySerial, signature: "o", body: [job] });
        }
      },
    },
  });
}

const unit = { slice: "machine.slice", name: "libpod-abc.scope" };
const host = {
  mode: "v2",
  hierarchies: [{ name: "", mount: "/sys/fs/cgroup", own: "/" }],
  controllers: ["pids"],
  writable: true,
} as const;

async function withStandIn(
  result: string,
  errors: Readonly<Record<string, string>>,
  body: (calls: Call[]) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "ocibox-systemd-"));
  const calls: Call[] = [];
  using listener = standIn(join(dir, "bus"), result, calls, errors);
  const name = ownedByUser() ? "DBUS_SESSION_BUS_ADDRESS" : "DBUS_SYSTEM_BUS_ADDRESS";
  const before = process.env[name];
  process.env[name] = `unix:path=${join(dir, "bus")},guid=1`;
  try {
    await body(calls);
  } finally {
    if (before === undefined) delete process.env[name];
    else process.env[name] = before;
    listener.stop(true);
    rmSync(dir, { recursive: true });
  }
}

const missing = existsSync("/run/systemd/private") ? "systemd itself runs here" : undefined;
const testAlone = testWith({ missing });

testAlone("a scope is asked for with its limits; a process that is not in it then is an error", () =>
  withStandIn("done", {}, async (calls) => {
    const entered = enterScope(unit, "abc", { pids: { limit: 100 } }, host);
    expect(await entered.catch(String)).toContain(
      'systemd does not make the unit "libpod-abc.scope": this process is in',
    );
    expect(calls.map(({ member }) => member)).toEqual(["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]);
    const [name, how, properties] = calls[3]?.body ?? [];
    expect([name, how]).toEqual(["libpod-abc.scope", "replace"]);
    expect(properties).toContainEqual(["PIDs", { signature: "au", value: [process.pid] }]);
    expect(properties).toContainEqual(["Slice", { signature: "s", value: "machine.slice" }]);
    expect(properties).toContainEqual(["Delegate", { signature: "b", value: true }]);
    expect(properties).toContainEqual(["TasksMax", { signature: "t", value: 100n }]);
  }),
);

testAlone("a job that fails, and a refusal, are told", async () => {
  await withStandIn("failed", {}, async () => {
    expect(await enterScope(unit, "abc", {}, host).catch(String)).toContain('the job has ended as "failed"');
  });
  const refusal = { StartTransientUnit: "org.freedesktop.DBus.Error.AccessDenied" };
  await withStandIn("done", refusal, async () => {
    expect(await enterScope(unit, "abc", {}, host).catch(String)).toContain("it is so");
  });
  const exists = { StartTransientUnit: "org.freedesktop.systemd1.UnitExists" };
  await withStandIn("done", exists, async (calls) => {
    expect(await enterScope(unit, "abc", {}, host).catch(String)).toContain("it is so");
    // What is left of one that failed is forgotten, and it is tried once more.
    expect(calls.map(({ member }) => member).slice(3)).toEqual([
      "StartTransientUnit",
      "ResetFailedUnit",
      "StartTransientUnit",
    ]);
  });
});

testAlone("update and the end", () =>
  withStandIn("done", { ResetFailedUnit: "org.freedesktop.systemd1.NoSuchUnit" }, async (calls) => {
    await updateUnit("a.scope", { memory: { limit: -1 } }, "v2");
    expect(calls.at(-1)).toEqual({
      member: "SetUnitProperties",
      body: ["a.scope", true, [["MemoryMax", { signature: "t", value: 2n ** 64n - 1n }]]],
    });
    await stopUnit("a.scope");
    expect(calls.slice(-2).map(({ member }) => member)).toEqual(["StopUnit", "ResetFailedUnit"]);
  }),
);

test("a slice in place of a scope is refused", async () => {
  const entered = enterScope({ slice: "a.slice", name: "b.slice" }, "abc", {}, host);
  expect(await entered.catch(String)).toContain("is not supported");
});
