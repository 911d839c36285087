/** What is to be undone at the end of a scope. As DisposableStack, whose first use takes a start 0.08 ms. */
export class Undo implements Disposable {
  readonly #all: (() => void)[] = [];

  defer(callback: () => void): void {
    this.#all.push(callback);
  }

  /** A thing that goes with the scope. @returns it */
  use<T extends Disposable>(value: T): T {
    this.#all.push(() => value[Symbol.dispose]());
    return value;
  }

  /** Nothing is undone: all of it stays. */
  keep(): void {
    this.#all.length = 0;
  }

  /** The last first, all of it whatever fails. @throws what failed last */
  [Symbol.dispose](): void {
    const callback = this.#all.pop();
    if (callback === undefined) return;
    try {
      callback();
    } finally {
      this[Symbol.dispose]();
    }
  }
}
