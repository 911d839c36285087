/**
 * The recording back end: calls are written down as the steps of a plan, which init/ runs after this program is gone.
 *
 * A plan is one flat list. It begins in the parent (the process that was ocibox); `clone3` in it makes the child, which
 * goes on at the next step like the parent does, so a branch on the result parts them. Nothing here makes a call.
 */
import type { CallName } from "./calls.ts";
import { type ErrnoName, errnoOf } from "./errno.ts";
import { nr } from "./machine.ts";
import type { Formatted, Memory, Sys } from "./sys.ts";

/** Where a step's result will be: 64 bits, or one 32-bit half of them (as socketpair(2) fills a pair). */
export interface Slot {
  readonly slot: number;
  readonly name: string;
  readonly half?: 0 | 1;
}

/** A place in the plan that jumps go to. */
export interface Label {
  readonly label: number;
  readonly name: string;
}

export type Compare = "==" | "!=" | "<" | ">";

/** What a failing step is in the end, for the exit code: ours (125), or a command that cannot be run (126, 127). */
export type Blame = "ocibox" | "command";

interface Common {
  /** The field of config.json (or the flag) that asked for it: "mounts[3].options". */
  readonly field: string;
}

export interface CallStep extends Common {
  readonly op: "call";
  readonly name: CallName;
  readonly args: readonly unknown[];
  readonly result: Slot | null;
  /** Errnos (positive) that are an answer: the slot then holds the negative errno. */
  readonly tolerate: readonly number[];
  /** Where a tolerated errno leads; else on to the next step. */
  readonly orElse: Label | null;
  /** Any failure is reported as a warning and passed over: teardown goes on. */
  readonly carryOn: boolean;
  /** How often the call is made again after EBUSY, EAGAIN or ENOTEMPTY, 1 ms apart. */
  readonly retries: number;
  /** Says what failed in place of the call: `cannot run "nope"`. */
  readonly says: string | null;
  readonly blame: Blame;
}

/** Where a supervised process's output is kept. */
export interface LogPlan {
  /** Open for appending. */
  readonly file: Slot;
  /** What is read: pipes from its stdout and stderr, or null for both, where it has a terminal. */
  readonly out: Slot | null;
  readonly err: Slot | null;
}

export type Step =
  | CallStep
  | (Common & { readonly op: "label"; readonly label: Label })
  | (Common & { readonly op: "jump"; readonly to: Label })
  | (Common & {
      readonly op: "branch";
      readonly slot: Slot;
      readonly compare: Compare;
      readonly value: number;
      readonly to: Label;
    })
  /** slot = value */
  | (Common & { readonly op: "set"; readonly slot: Slot; readonly value: number })
  /** Writes a slot's low 32 bits into memory (a control message's descriptor), or reads them back out. */
  | (Common & { readonly op: "store" | "load"; readonly memory: Memory; readonly offset: number; readonly slot: Slot })
  /** From here on a failure is reported on stderr, sets `code`, and goes to `to`. The parent's way. */
  | (Common & { readonly op: "onFailure"; readonly to: Label; readonly code: Slot })
  /** From here on a failure is sent to the other end of `socket` as (step, errno), and the process exits. The child's. */
  | (Common & { readonly op: "reportTo"; readonly socket: Slot })
  /**
   * Waits for the child's word. A report is printed, sets `code` and leads to the failure label; one byte leads on. The
   * end of the socket leads on too (execve has closed it), or is a failure, where `byte` says that one must come.
   */
  | (Common & { readonly op: "await"; readonly socket: Slot; readonly byte: boolean })
  /**
   * From here on a failure is written to `fd` as `prefix`, the message (in JSON's escapes, which are logfmt's too) and
   * `suffix`, in place of a plain line on stderr; a warning as `warning`, the message and `suffix`. Given twice, it is
   * written to both.
   */
  | (Common & {
      readonly op: "logTo";
      readonly fd: Slot | number;
      readonly prefix: string;
      readonly warning: string;
      readonly suffix: string;
    })
  /**
   * Fails as if a call had: with this errno, these words and this blame; or only warns, and goes on. An errno in a slot
   * (its negative, as calls return it) is told in words behind the others.
   */
  | (Common & {
      readonly op: "fail";
      readonly errno: number | Slot;
      readonly says: string | Formatted<Slot | Memory>;
      readonly blame: Blame;
      readonly warning?: boolean;
    })
  /** Blocks all signals and sets every disposition back to the default: Bun ignores SIGPIPE and SIGXFSZ. */
  | (Common & { readonly op: "takeSignals" })
  /** Unblocks all signals, as the last step before execve. */
  | (Common & { readonly op: "giveSignals" })
  /**
   * Until the process behind `pid` ends: forwards signals to it, copies between the terminal and `terminal` (the pty's
   * master), reaps. Then `code` is its exit code, 128+n for signal n.
   */
  | (Common & {
      readonly op: "supervise";
      readonly pid: Slot;
      readonly pidfd: Slot | null;
      readonly terminal: Slot | null;
      /** Copy stdin to the terminal, with the caller's terminal in raw mode. */
      readonly interactive: boolean;
      /** What the process writes goes into a file, a line each, in place of this process's own stdout. */
      readonly log?: LogPlan | undefined;
      readonly code: Slot;
    })
  /** Nothing is left of the environment that init was started with: from here on others may look into this process. */
  | (Common & { readonly op: "forgetEnvironment" })
  /** The terminal's line ends are no longer made into CR and LF: whoever reads the master gets what was written. termios(3) */
  | (Common & { readonly op: "plainLines"; readonly terminal: Slot })
  /**
   * `into` is an O_PATH descriptor of what lies at `path` under `root`, made where it is not there, also where symlinks
   * lead that end nowhere: directories on the way as 0755, the last as `kind`. None leads out of the root.
   */
  | (Common & {
      readonly op: "ensure";
      readonly root: Slot | number;
      readonly path: string;
      readonly kind: "directory" | "file";
      readonly into: Slot;
    })
  /** Removes the tree `name` in `dirfd`, following no symlink and crossing no mount. */
  | (Common & { readonly op: "remove"; readonly dirfd: Slot | number; readonly name: string })
  /** Ends the process. */
  | (Common & { readonly op: "exit"; readonly code: Slot | number });

interface CallOptions {
  tolerate?: readonly number[];
  orElse?: Label;
  carryOn?: boolean;
  retries?: number;
  says?: string;
  blame?: Blame;
  into?: Slot;
}

/** Writes calls down as steps. */
export class Recorder {
  readonly steps: Step[] = [];
  #field = "";
  #slots = 0;
  #labels = 0;
  #memories = 0;
  #options: CallOptions = {};

  /** Every call as a method that returns the slot of its result. */
  readonly sys: Sys<Slot>;

  constructor() {
    // A method is made when it is first asked for: most plans use few of the calls there are.
    const made: Record<string, (...args: unknown[]) => Slot> = {};
    this.sys = new Proxy(made, {
      get: (methods, name: string) => {
        if (!Object.hasOwn(nr, name)) throw new TypeError(`there is no system call ${name}`);
        methods[name] ??= (...args) => this.#call(name as CallName, args);
        return methods[name];
      },
    }) as unknown as Sys<Slot>;
  }

  get slotCount(): number {
    return this.#slots;
  }

  /** Names the field of config.json that asks for the steps after this one. */
  field(path: string): this {
    this.#field = path;
    return this;
  }

  /** The next call's failure with one of these is an answer (its slot holds -errno). */
  tolerate(...errnos: ErrnoName[]): Sys<Slot> {
    this.#options = { ...this.#options, tolerate: errnos.map(errnoOf) };
    return this.sys;
  }

  /** The next call's failure with one of these jumps to the label. */
  orElse(label: Label, ...errnos: ErrnoName[]): Sys<Slot> {
    this.#options = { ...this.#options, tolerate: errnos.map(errnoOf), orElse: label };
    return this.sys;
  }

  /** The next call's failure is only a warning. */
  carryOn(...answers: ErrnoName[]): Sys<Slot> {
    this.#options = { ...this.#options, carryOn: true, tolerate: answers.map(errnoOf) };
    return this.sys;
  }

  /**
   * More about the next call, to be followed by one of the above or by the call on `sys`. `into` is the slot for its
   * result, where two calls in turn may fill it.
   */
  with(options: { retries?: number; says?: string; blame?: Blame; into?: Slot }): this {
    this.#options = { ...this.#options, ...options };
    return this;
  }

  /** A slot of its own, for `socketpair` and the like: `.lo` and `.hi` of it are its halves. */
  slot(name: string): Slot {
    return { slot: this.#slots++, name };
  }

  half(of: Slot, half: 0 | 1): Slot {
    return { slot: of.slot, name: `${of.name}[${half}]`, half };
  }

  /** Memory in the image, zeroed or with bytes to begin with. @param size bytes */
  memory(name: string, size: number, initial?: Uint8Array): Memory {
    return { memory: this.#memories++, size, name, ...(initial === undefined ? {} : { initial }) };
  }

  /** Text with slots in it: p.text`/proc/${pid}/ns/net`. */
  text(parts: TemplateStringsArray, ...slots: Slot[]): Formatted<Slot> {
    const format: (string | Slot)[] = [];
    parts.forEach((part, index) => {
      if (part !== "") format.push(part);
      const slot = slots[index];
      if (slot !== undefined) format.push(slot);
    });
    return { format };
  }

  newLabel(name: string): Label {
    return { label: this.#labels++, name };
  }

  place(label: Label): void {
    this.add({ op: "label", label });
  }

  jump(to: Label): void {
    this.add({ op: "jump", to });
  }

  branch(slot: Slot, compare: Compare, value: number, to: Label): void {
    this.add({ op: "branch", slot, compare, value, to });
  }

  /** Any step but a call. */
  add(step: DistributiveOmit<Exclude<Step, CallStep>, "field">): void {
    this.steps.push({ ...step, field: this.#field } as Step);
  }

  #call(name: CallName, args: readonly unknown[]): Slot {
    const options = this.#options;
    this.#options = {};
    const result = options.into ?? this.slot(name);
    this.steps.push({
      op: "call",
      name,
      args,
      result,
      tolerate: options.tolerate ?? [],
      orElse: options.orElse ?? null,
      carryOn: options.carryOn ?? false,
      retries: options.retries ?? 0,
      says: options.says ?? null,
      blame: options.blame ?? "ocibox",
      field: this.#field,
    });
    return result;
  }
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;
