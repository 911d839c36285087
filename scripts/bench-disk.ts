/**
 * The disk that pulls are measured on: an ext4 with a journal on a loop device, made anew before each. Its file lies in
 * memory where there is room (and is written once beforehand), which takes the disk's own noise away, for all alike.
 */
import { statfsSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";

const size = 5 * 1024 ** 3;

function hasRoom(directory: string): boolean {
  try {
    const { bavail, bsize } = statfsSync(directory);
    return bavail * bsize > size * 1.5;
  } catch {
    return false;
  }
}

async function memoryAvailable(): Promise<number> {
  const text = await Bun.file("/proc/meminfo").text();
  return Number(/^MemAvailable: +(\d+)/m.exec(text)?.[1] ?? 0) * 1024;
}

export class BenchDisk {
  private constructor(
    readonly file: string,
    /** Where it is mounted; empty but for "tmp". */
    readonly mounted: string,
    /** For people: what it lies on. */
    readonly kind: string,
    /** scripts/bench-floor.c, compiled. */
    readonly floor: string,
  ) {}

  /** @param directory where it is mounted, and where its file lies if there is no room in memory */
  static async make(directory: string, floor: string): Promise<BenchDisk> {
    const asked = process.env.BENCH_DISK;
    const inMemory = asked === undefined && hasRoom("/dev/shm") && (await memoryAvailable()) > size * 2;
    const place = asked ?? (inMemory ? "/dev/shm" : directory);
    const file = join(place, `ocibox-bench-${process.pid}`);
    const disk = new BenchDisk(file, join(directory, "disk"), `a loop device on a file in ${place}`, floor);
    await $`mkdir -p ${disk.mounted}`;
    try {
      await $`dd if=/dev/zero of=${file} bs=1M count=${size / 2 ** 20}`.quiet();
    } catch (error) {
      await disk.end();
      throw error;
    }
    return disk;
  }

  /** An empty file system, with nothing left to be written. */
  async fresh(): Promise<void> {
    await this.unmount();
    await $`mkfs.ext4 -q -F -E nodiscard ${this.file}`.quiet();
    // Nor is anything initialised behind anybody's back.
    await $`mount -o loop,noinit_itable ${this.file} ${this.mounted} && mkdir ${this.mounted}/tmp && sync`;
    // So that no program pays for memory which a virtual machine's host has taken back.
    const megabytes = Math.min(4096, Math.floor((await memoryAvailable()) / 2 ** 21));
    await $`${this.floor} warm ${megabytes}`;
  }

  /** With whatever a program has mounted in it. */
  async unmount(): Promise<void> {
    const own = (await Bun.file("/proc/self/mountinfo").text())
      .split("\n")
      .map((line) => line.split(" ")[4] ?? "")
      .filter((each) => each === this.mounted || each.startsWith(`${this.mounted}/`));
    for (const each of own.reverse()) {
      for (let tries = 0; (await $`umount ${each}`.quiet().nothrow()).exitCode !== 0; tries++) {
        if (tries === 50) throw new Error(`cannot unmount "${each}"`);
        await Bun.sleep(100);
      }
    }
  }

  async end(): Promise<void> {
    await this.unmount();
    await $`rm -f ${this.file}`;
  }
}
