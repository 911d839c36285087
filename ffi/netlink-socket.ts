/** A socket of netlink(7), for the direct back end: the kernel answers what it is told while it takes it. */
import { AF, IFLA, MSG_DONTWAIT, NLM_F, RTM, SOCK } from "./constants.ts";
import { attempt, direct, SyscallError } from "./direct.ts";
import { errnoWords, failedBy } from "./errno.ts";
import { OwnedFd } from "./fd.ts";
import {
  attribute,
  errnoIn,
  linkBody,
  type NetlinkMessage,
  netlinkMessage,
  type Received,
  receivedIn,
} from "./netlink.ts";
import { alloc } from "./structs.ts";

/** The kernel sends no more at once: NLMSG_GOODSIZE, and 32 KiB of a dump. */
const mostBytes = 1 << 16;
const mostTurns = 8;
/** What is received is copied out of it. */
let buffer: Uint8Array<ArrayBuffer> | undefined;

/** The kernel does not tell what was asked for. */
export class NetlinkError extends Error {
  override readonly name = "NetlinkError";
}

export class NetlinkSocket implements Disposable {
  readonly #socket: OwnedFd;

  /** In the network namespace that this thread is in. @throws SyscallError */
  constructor(protocol: number) {
    this.#socket = new OwnedFd(direct.socket(AF.AF_NETLINK, SOCK.SOCK_RAW | SOCK.SOCK_CLOEXEC, protocol));
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }

  #send({ bytes }: Pick<NetlinkMessage, "bytes">): void {
    direct.sendto(this.#socket.fd, bytes, bytes.byteLength, 0, null, 0);
  }

  /** @param flags MSG_DONTWAIT: nothing where nothing is there */
  #receive(flags: number): Received[] {
    buffer ??= alloc(mostBytes);
    const got = attempt("recvfrom", this.#socket.fd, buffer, mostBytes, flags, null, null);
    if (failedBy(got, "EAGAIN")) return [];
    if (got < 0) throw new SyscallError("recvfrom", [this.#socket.fd, buffer, mostBytes, flags, null, null], -got);
    return receivedIn(buffer.subarray(0, got));
  }

  /** Tells something that the kernel is to say yes or no to (NLM_F_ACK). @returns the errno, or 0 */
  tell(message: Pick<NetlinkMessage, "bytes">): number {
    const answer = this.ask(message);
    return typeof answer === "number" ? answer : 0;
  }

  /** The same for messages that hold together. @returns the first errno of all answers, or 0 */
  tellAll(messages: Pick<NetlinkMessage, "bytes">): number {
    this.#send(messages);
    let first = 0;
    for (;;) {
      const answers = this.#receive(MSG_DONTWAIT);
      if (answers.length === 0) return first;
      for (const each of answers) first ||= errnoIn(each) ?? 0;
    }
  }

  /** Asks for one thing. @returns it, or the errno (positive) of the answer */
  ask(message: Pick<NetlinkMessage, "bytes">): Received | number {
    this.#send(message);
    const [answer] = this.#receive(0);
    if (answer === undefined) throw new NetlinkError("netlink(7) has no answer");
    return errnoIn(answer) ?? answer;
  }

  /** The device of a name. @returns it, or the errno */
  link(name: string): Received | number {
    return this.ask(netlinkMessage(RTM.RTM_GETLINK, 0, linkBody(0), [attribute(IFLA.IFLA_IFNAME, name)]));
  }

  /**
   * All that there is of a kind; again where something changed meanwhile.
   * @param body of the request: it says what is to be told
   * @throws NetlinkError
   */
  dump(type: number, body: Uint8Array): Received[] {
    const request = netlinkMessage(type, NLM_F.NLM_F_DUMP, body);
    for (let turn = 0; turn < mostTurns; turn++) {
      this.#send(request);
      const found: Received[] = [];
      let torn = false;
      for (let more = true; more; )
        for (const each of this.#receive(0)) {
          const errno = errnoIn(each) ?? 0;
          if (errno !== 0) throw new NetlinkError(`netlink(7) tells nothing: ${errnoWords(errno)}`);
          torn ||= (each.flags & NLM_F.NLM_F_DUMP_INTR) !== 0;
          if (each.type === RTM.NLMSG_DONE) more = false;
          else found.push(each);
        }
      if (!torn) return found;
    }
    throw new NetlinkError("what netlink(7) tells does not stop changing");
  }
}
