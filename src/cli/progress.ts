/**
 * How a pull is shown, on stderr: a bar for each layer on a terminal, a line now and then elsewhere, nothing with -q.
 * process.stderr costs 7 ms to touch, so that the terminal is asked and written to by system calls.
 */
import { IOCTL } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { layoutOf } from "../../ffi/structs.ts";
import type { Digest } from "../spec/digest.ts";
import type { LayerState, PullEvents, PullSummary } from "../spec/progress.ts";

export interface ProgressOptions {
  readonly quiet?: boolean | undefined;
  /** The descriptor to write to; 2 if left out. */
  readonly fd?: number | undefined;
  readonly env?: Readonly<Record<string, string | undefined>> | undefined;
  /** Milliseconds between two lines where there is no terminal; 10,000 if left out. */
  readonly heartbeat?: number | undefined;
}

/** Milliseconds between two redraws of a terminal. */
const redrawInterval = 100;
/** struct termios of the kernel is smaller: only whether the call succeeds matters. Bytes. */
const termiosRoom = 64;

function isTerminal(fd: number): boolean {
  return attempt("ioctl", fd, IOCTL.TCGETS, new Uint8Array(new ArrayBuffer(termiosRoom))) >= 0;
}

/** The terminal's size, 24 lines of 80 columns where it does not say. ioctl_tty(2) */
function windowSize(fd: number): { rows: number; columns: number } {
  const size = new Uint8Array(new ArrayBuffer(layoutOf("winsize").size));
  if (attempt("ioctl", fd, IOCTL.TIOCGWINSZ, size) < 0) return { rows: 24, columns: 80 };
  const view = new DataView(size.buffer);
  return { rows: view.getUint16(0, true) || 24, columns: view.getUint16(2, true) || 80 };
}

/** Writes it all; what cannot be written (a closed pipe, a full disk) is dropped: progress is no reason to fail. */
function write(fd: number, text: string): void {
  let bytes = new TextEncoder().encode(text);
  while (bytes.byteLength > 0) {
    const written = attempt("write", fd, bytes, bytes.byteLength);
    if (written <= 0) return;
    bytes = bytes.slice(written);
  }
}

/** "1.2 MB", as docker writes sizes: powers of ten. */
export function showBytes(count: number): string {
  let value = count;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 999.5) return `${value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

/** "850 ms", "4.2 s", "3 min 7 s" */
export function showTime(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 59_950) return `${(milliseconds / 1000).toFixed(1)} s`;
  const seconds = Math.round(milliseconds / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** Names come from strangers' configuration as well: nothing of them may steer the terminal. */
function plain(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, "?");
}

interface Layer {
  readonly id: string;
  readonly size: number;
  done: number;
  state: LayerState;
}

const words: Readonly<Record<LayerState, string>> = {
  waiting: "waiting",
  downloading: "downloading",
  applying: "unpacking",
  done: "done",
  exists: "already here",
};

/** One layer's line, at most `width` columns wide. */
export function layerLine(layer: Readonly<Layer>, width: number): string {
  const head = `${layer.id}  ${words[layer.state].padEnd(12)}`;
  if (layer.state === "exists" || layer.state === "waiting") return head.trimEnd().slice(0, width);
  const share = layer.size === 0 ? 1 : Math.min(1, layer.done / layer.size);
  const done = layer.state === "downloading" ? showBytes(layer.done) : showBytes(layer.size);
  const amount = `${done.padStart(7)} / ${showBytes(layer.size)}`;
  const room = Math.min(30, width - head.length - amount.length - 5);
  if (layer.state !== "downloading" || room < 5) return `${head} ${amount}`.slice(0, width);
  const full = Math.round(share * room);
  return `${head} [${"#".repeat(full)}${".".repeat(room - full)}] ${amount}`.slice(0, width);
}

/** What is common to the ways of showing: which layers there are and how far they have come. */
abstract class Shown implements PullEvents, Disposable {
  protected readonly layers = new Map<Digest, Layer>();
  protected name = "";
  #timer: Timer | undefined;

  constructor(
    protected readonly fd: number,
    private readonly interval: number,
  ) {}

  resolved(name: string, _digest: Digest, layers: readonly { digest: Digest; size: number }[]): void {
    this.name = plain(name);
    for (const layer of layers) {
      const id = layer.digest.slice(7, 19);
      this.layers.set(layer.digest, { id, size: layer.size, done: 0, state: "waiting" });
    }
    this.begin();
    this.#timer ??= setInterval(() => this.tick(), this.interval);
    // The pull keeps the program alive, its display does not.
    this.#timer.unref();
  }

  layerBytes(digest: Digest, done: number): void {
    const layer = this.layers.get(digest);
    if (layer === undefined) return;
    layer.done = done;
    if (layer.state === "waiting") layer.state = "downloading";
  }

  layerState(digest: Digest, state: LayerState): void {
    const layer = this.layers.get(digest);
    if (layer !== undefined) layer.state = state;
  }

  done(summary: PullSummary): void {
    this.end();
    const took = `${showBytes(summary.downloaded)} in ${showTime(summary.elapsed)}`;
    write(this.fd, `Pulled ${plain(summary.name)} (${summary.digest.slice(0, 19)}): ${took}\n`);
  }

  [Symbol.dispose](): void {
    this.end();
  }

  /** Bytes that have come, and how many there are to come in all. */
  protected total(): { done: number; size: number } {
    let done = 0;
    let size = 0;
    for (const layer of this.layers.values()) {
      if (layer.state === "exists") continue;
      size += layer.size;
      done += layer.state === "applying" || layer.state === "done" ? layer.size : Math.min(layer.done, layer.size);
    }
    return { done, size };
  }

  protected end(): void {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.finish();
  }

  protected abstract begin(): void;
  protected abstract tick(): void;
  protected abstract finish(): void;
}

/** Lines for logs and pipes. */
class Lines extends Shown {
  protected begin(): void {
    const { size } = this.total();
    const count = this.layers.size;
    write(this.fd, `Pulling ${this.name}: ${count} layer${count === 1 ? "" : "s"}, ${showBytes(size)}\n`);
  }

  protected tick(): void {
    const { done, size } = this.total();
    const share = size === 0 ? 100 : Math.floor((done * 100) / size);
    write(this.fd, `Pulling ${this.name}: ${showBytes(done)} of ${showBytes(size)} (${share} %)\n`);
  }

  protected finish(): void {}
}

/** Bars that are drawn over again. */
class Bars extends Shown {
  /** Lines of the last drawing, which the next one goes over. */
  #drawn = 0;

  constructor(
    fd: number,
    private readonly colour: boolean,
  ) {
    super(fd, redrawInterval);
  }

  protected begin(): void {
    write(this.fd, `Pulling ${this.name}\n`);
    this.#draw();
  }

  protected tick(): void {
    this.#draw();
  }

  protected finish(): void {
    this.#draw();
  }

  #draw(): void {
    const { rows, columns } = windowSize(this.fd);
    const width = Math.max(1, columns - 1);
    const all = [...this.layers.values()];
    // What has scrolled out of the window cannot be drawn over: where not all fit, those at work are shown.
    const active = all.filter((layer) => layer.state === "downloading" || layer.state === "applying");
    const shown = all.length < rows - 1 ? all : active.slice(0, Math.max(1, rows - 2));
    const lines = shown.map((layer) => this.#coloured(layer, layerLine(layer, width)));
    const up = this.#drawn === 0 ? "" : `\u001b[${this.#drawn}A\r`;
    write(this.fd, `${up}${lines.map((line) => `${line}\u001b[K\n`).join("")}\u001b[J`);
    this.#drawn = lines.length;
  }

  #coloured(layer: Layer, line: string): string {
    if (!this.colour) return line;
    if (layer.state === "done" || layer.state === "exists") return `\u001b[32m${line}\u001b[0m`;
    return layer.state === "waiting" ? `\u001b[2m${line}\u001b[0m` : line;
  }
}

class Silent implements PullEvents, Disposable {
  resolved(): void {}
  layerBytes(): void {}
  layerState(): void {}
  done(): void {}
  [Symbol.dispose](): void {}
}

/**
 * The display of one pull. Dispose of it (`using`) before anything else is written to the terminal.
 * TERM=dumb gets lines, NO_COLOR bars without colour.
 */
export function createProgress(options: ProgressOptions = {}): PullEvents & Disposable {
  if (options.quiet === true) return new Silent();
  const fd = options.fd ?? 2;
  const env = options.env ?? process.env;
  if (env.TERM === "dumb" || !isTerminal(fd)) return new Lines(fd, options.heartbeat ?? 10_000);
  return new Bars(fd, (env.NO_COLOR ?? "") === "");
}
