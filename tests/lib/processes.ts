/** Processes of ocibox's on this machine. */
import { readdirSync, readFileSync } from "node:fs";

/** Supervisors of ocibox's and what they started, by their command lines. */
export function processes(): string[] {
  const found: string[] = [];
  for (const pid of readdirSync("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const name = readFileSync(`/proc/${pid}/comm`, "utf8").trim();
      const cgroup = readFileSync(`/proc/${pid}/cgroup`, "utf8");
      const state = /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
      if (state !== "Z" && (/^ocibox/.test(name) || cgroup.includes("/ocibox-"))) found.push(`${pid} ${name}`);
    } catch {
      // it has ended
    }
  }
  return found;
}

/** Waits for a moment until there are none: what the tests of another file started may still be ending. */
export async function untilNoProcesses(): Promise<void> {
  const end = performance.now() + 3000;
  while (processes().length > 0 && performance.now() < end) await Bun.sleep(20);
}
