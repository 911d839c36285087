/** Processes as `ps -ef` lists them, out of /proc: proc_pid_stat(5). No program is run for it. */
import { readText } from "../../ffi/files.ts";
import { statOf, ticksPerSecond } from "../runtime/process-mark.ts";

const day = 86_400_000;
const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

function two(value: number): string {
  return String(value).padStart(2, "0");
}

/** Names of the host's users, by their numbers. */
function usersOf(passwd: string): ReadonlyMap<string, string> {
  return new Map(
    passwd
      .split("\n")
      .map((line) => line.split(":"))
      .flatMap(([name = "", , id = ""]) => (id === "" ? [] : [[id, name] as const])),
  );
}

/** "pts/3" by a number of tty_nr: the minor number is in two pieces. */
function terminalOf(device: number): string {
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  if (major >= 136 && major <= 143) return `pts/${minor + (major - 136) * 256}`;
  return major === 4 ? `tty${minor}` : "?";
}

/** The hour of the day, or of what began earlier the day of the year. */
function begunAt(began: Date, now: Date): string {
  if (now.getTime() - began.getTime() < day) return `${two(began.getHours())}:${two(began.getMinutes())}`;
  return `${months[began.getMonth()]}${two(began.getDate())}`;
}

function timeOf(seconds: number): string {
  const days = Math.floor(seconds / 86_400);
  const clock = [Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60].map(two);
  return `${days === 0 ? "" : `${days}-`}${clock.join(":")}`;
}

/** What was typed, on one line; the name in brackets of one that has no more of it. */
function commandOf(pid: number, name: string): string {
  const text = (readText(`/proc/${pid}/cmdline`) ?? "").replace(/\0+$/, "").replaceAll("\0", " ");
  // Whatever a process calls itself is not to move the terminal's cursor.
  return text === "" ? `[${name}]` : text.replace(/\p{Cc}/gu, "?");
}

/** A row for each process that is there: UID, PID, PPID, C, STIME, TTY, TIME, CMD. */
export function processRows(pids: readonly number[], now = new Date()): string[][] {
  const users = usersOf(readText("/etc/passwd", 1 << 20) ?? "");
  const uptime = Number((readText("/proc/uptime") ?? "0").split(" ")[0]);
  return pids.flatMap((pid) => {
    const stat = readText(`/proc/${pid}/stat`);
    const uid = /^Uid:\s+(\d+)/m.exec(readText(`/proc/${pid}/status`) ?? "")?.[1];
    if (stat === undefined || uid === undefined) return [];
    const { name, fields } = statOf(stat);
    // By proc_pid_stat(5)'s numbers, of which the first two are in front.
    const field = (number: number): number => Number(fields[number - 3]);
    const [ppid, terminal, user, system, start] = [4, 7, 14, 15, 22].map(field) as [
      number,
      number,
      number,
      number,
      number,
    ];
    const used = (user + system) / ticksPerSecond;
    const lived = Math.max(0.01, uptime - start / ticksPerSecond);
    const began = new Date(now.getTime() - lived * 1000);
    return [
      [
        users.get(uid) ?? uid,
        String(pid),
        String(ppid),
        String(Math.min(99, Math.floor((used / lived) * 100))),
        begunAt(began, now),
        terminalOf(terminal),
        timeOf(used),
        commandOf(pid, name.replace(/\p{Cc}/gu, "?")),
      ],
    ];
  });
}
