/** A connection to a D-Bus server over a unix socket: a bus, or systemd itself, which takes calls without one. */
import { OciboxError, reason } from "../errors.ts";
import { decodeMessage, encodeMessage, type Message, type Value } from "./dbus-wire.ts";

/** Milliseconds for an answer. */
const patience = 30_000;

/** An error that the other side gave as its answer. */
export class DbusError extends Error {
  override readonly name = "DbusError";

  constructor(
    readonly errorName: string,
    message: string,
  ) {
    super(message);
  }
}

interface Waiter {
  wants(message: Message): boolean;
  take(message: Message): void;
  fail(error: unknown): void;
}

export class DbusConnection implements Disposable {
  #received = new Uint8Array(0);
  #serial = 0;
  #authenticated = false;
  #line: { take(line: string): void; fail(error: unknown): void } | undefined;
  #waiters: Waiter[] = [];
  #broken: unknown;
  #socket: { write(bytes: Uint8Array): number; end(): void } | undefined;

  /** @throws OciboxError HOST where nobody answers */
  static async open(path: string): Promise<DbusConnection> {
    const connection = new DbusConnection();
    try {
      connection.#socket = await Bun.connect({
        unix: path,
        socket: {
          data: (_, bytes) => connection.#receive(bytes),
          close: () => connection.#fail(new Error("the connection has ended")),
          error: (_, error) => connection.#fail(error),
        },
      });
      await connection.#authenticate();
    } catch (error) {
      connection[Symbol.dispose]();
      throw new OciboxError("HOST", `cannot speak with systemd at "${path}": ${reason(error)}`);
    }
    return connection;
  }

  /** The server takes the user from the socket: nothing is said of it, for in a user namespace it has another number. */
  async #authenticate(): Promise<void> {
    this.#write(new TextEncoder().encode("\0AUTH EXTERNAL\r\n"));
    const answer = await this.#readLine();
    if (!answer.startsWith("DATA")) throw new Error(`it answers ${JSON.stringify(answer)}`);
    this.#write(new TextEncoder().encode("DATA\r\n"));
    const verdict = await this.#readLine();
    if (!verdict.startsWith("OK ")) throw new Error(`it answers ${JSON.stringify(verdict)}`);
    this.#authenticated = true;
    this.#write(new TextEncoder().encode("BEGIN\r\n"));
  }

  #write(bytes: Uint8Array): void {
    if (this.#broken !== undefined) throw this.#broken;
    // Small messages into an empty buffer: a socket that takes less is as good as broken.
    if (this.#socket?.write(bytes) !== bytes.byteLength) throw new Error("it does not take what is sent");
  }

  #readLine(): Promise<string> {
    return this.#within("its greeting", (take, fail) => {
      this.#line = { take, fail };
    });
  }

  #within<T>(what: string, start: (take: (value: T) => void, fail: (error: unknown) => void) => void): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#broken !== undefined) return reject(this.#broken);
      const timer = setTimeout(() => reject(new Error(`no ${what} within ${patience / 1000} seconds`)), patience);
      start(
        (value) => {
          clearTimeout(timer);
          resolve(value);
        },
        (error) => {
          clearTimeout(timer);
          reject(error);
        },
      );
    });
  }

  #fail(error: unknown): void {
    this.#broken ??= error;
    this.#line?.fail(error);
    for (const waiter of this.#waiters.splice(0)) waiter.fail(error);
  }

  #receive(bytes: Uint8Array): void {
    const all = new Uint8Array(this.#received.byteLength + bytes.byteLength);
    all.set(this.#received);
    all.set(bytes, this.#received.byteLength);
    this.#received = all;
    try {
      if (!this.#authenticated) this.#receiveLine();
      else while (this.#receiveMessage());
    } catch (error) {
      this.#fail(error);
    }
  }

  #receiveLine(): void {
    const text = new TextDecoder().decode(this.#received);
    const end = text.indexOf("\r\n");
    if (end < 0) return;
    this.#received = this.#received.slice(end + 2);
    this.#line?.take(text.slice(0, end));
  }

  #receiveMessage(): boolean {
    const decoded = decodeMessage(this.#received);
    if (decoded === undefined) return false;
    this.#received = this.#received.slice(decoded.end);
    const { message } = decoded;
    for (const waiter of this.#waiters.filter((each) => each.wants(message))) {
      this.#waiters = this.#waiters.filter((each) => each !== waiter);
      waiter.take(message);
    }
    return true;
  }

  /** The next message of a kind. */
  #next(what: string, wants: (message: Message) => boolean): Promise<Message> {
    return this.#within(what, (take, fail) => {
      this.#waiters.push({ wants, take, fail });
    });
  }

  /** All signals of a name from here on, to be asked for one by one. */
  listen(member: string): AsyncDisposable & { until(test: (body: readonly Value[]) => boolean): Promise<void> } {
    const seen: (readonly Value[])[] = [];
    let wake: Waiter | undefined;
    let test: ((body: readonly Value[]) => boolean) | undefined;
    let listening = true;
    const waiter: Waiter = {
      wants: (message) => message.kind === "signal" && message.member === member,
      take: (message) => {
        if (!listening) return;
        this.#waiters.push(waiter);
        seen.push(message.body);
        if (test?.(message.body) === true) wake?.take(message);
      },
      fail: (error) => wake?.fail(error),
    };
    this.#waiters.push(waiter);
    return {
      until: (matches) =>
        this.#within(`signal ${member}`, (take, fail) => {
          test = matches;
          wake = { wants: () => false, take: () => take(undefined), fail };
          if (seen.some(matches)) take(undefined);
        }),
      [Symbol.asyncDispose]: async () => {
        listening = false;
      },
    };
  }

  /** Calls a method. @throws DbusError with the other side's error, Error where there is no answer */
  async call(message: Omit<Message, "kind" | "serial">): Promise<readonly Value[]> {
    const serial = ++this.#serial;
    const answer = this.#next(`answer to ${message.member}`, (each) => each.replySerial === serial);
    this.#write(encodeMessage({ ...message, kind: "call", serial }));
    const { kind, errorName = "", body } = await answer;
    if (kind !== "error") return body;
    throw new DbusError(errorName, typeof body[0] === "string" ? body[0] : errorName);
  }

  [Symbol.dispose](): void {
    this.#socket?.end();
  }
}
