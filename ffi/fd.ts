/** Descriptors that close themselves at the end of their scope. */
import { direct } from "./direct.ts";

/** An owned descriptor: `using fd = new OwnedFd(…)` closes it; `release()` hands it on unclosed. */
export class OwnedFd implements Disposable {
  #fd: number;

  /** @param fd an open descriptor, owned from here on */
  constructor(fd: number) {
    this.#fd = fd;
  }

  get fd(): number {
    if (this.#fd < 0) throw new Error("a descriptor was used after it was closed or handed on");
    return this.#fd;
  }

  /** Gives the descriptor up: the caller owns it now. */
  release(): number {
    const fd = this.fd;
    this.#fd = -1;
    return fd;
  }

  [Symbol.dispose](): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#fd = -1;
    direct.close(fd);
  }
}
