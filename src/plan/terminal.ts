/** A process's pseudoterminal: made in the container, its master handed out of it. pty(7), ioctl_tty(2) */
import { IOCTL, O } from "../../ffi/constants.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";
import type { Process } from "../spec/runtime.ts";
import { descriptorAt, descriptorMessage } from "./sync.ts";

const MSG_CMSG_CLOEXEC = 0x40000000;

/**
 * Unlocks a pty. @returns its slave, owned by the process's user and of the size that was asked for
 * @param plain whether line ends stay as they are written, as runc has it where it is the reader
 */
export function unlockSlave(p: Recorder, master: Slot, process: Process, plain: boolean): Slot {
  p.sys.ioctl(master, IOCTL.TIOCSPTLCK, p.memory("unlock", 8));
  const slave = p.sys.ioctl(master, IOCTL.TIOCGPTPEER, O.O_RDWR | O.O_NOCTTY | O.O_CLOEXEC);
  p.sys.fchown(slave, process.user.uid, -1);
  if (plain) p.add({ op: "plainLines", terminal: slave });
  const size = process.consoleSize;
  if (size !== undefined)
    p.sys.ioctl(master, IOCTL.TIOCSWINSZ, struct<Slot>("winsize", { ws_row: size.height, ws_col: size.width }));
  return slave;
}

/** The pty's master, or 0 bytes where the child has ended before it sent one; `await` then says why. */
export function receiveTerminal(p: Recorder, socket: Slot): Slot {
  p.field("process.terminal");
  const { message, control } = descriptorMessage(p, "received");
  const terminal = p.slot("terminal");
  const none = p.newLabel("no terminal");
  p.add({ op: "set", slot: terminal, value: -1 });
  const got = p.sys.recvmsg(socket, message, MSG_CMSG_CLOEXEC);
  p.branch(got, "<", 1, none);
  p.add({ op: "load", memory: control, offset: descriptorAt, slot: terminal });
  p.place(none);
  p.sys.close(socket);
  return terminal;
}
