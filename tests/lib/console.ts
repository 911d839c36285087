/** The other end of --console-socket and --pidfd-socket: receives a descriptor, and says what it is good for. */
import { join } from "node:path";
import { until } from "./sandbox.ts";

/** What is done with the descriptor: its terminal read to the end, or the pid behind it looked up. */
const program = `
import array, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(1)
peer, _ = server.accept()
text, control, _, _ = peer.recvmsg(64, socket.CMSG_LEN(4))
fds = array.array("i")
fds.frombytes(control[0][2][:4])
fd = fds[0]
if sys.argv[2] == "pid":
    info = open("/proc/self/fdinfo/%d" % fd).read()
    print([line.split()[1] for line in info.splitlines() if line.startswith("Pid:")][0])
else:
    print(text.decode())
    size = os.get_terminal_size(fd)
    print("%dx%d" % (size.lines, size.columns))
    if sys.argv[2] != "":
        os.write(fd, sys.argv[2].encode())
    while True:
        try:
            got = os.read(fd, 4096)
        except OSError:
            break
        if not got:
            break
        sys.stdout.write(got.decode())
`;

/** Waits at a socket of this name in the folder. @param what "pid", or what is typed */
export async function receiver(folder: string, what: string): Promise<{ path: string; heard(): Promise<string> }> {
  const path = join(folder, `${crypto.randomUUID().slice(0, 8)}.sock`);
  const child = Bun.spawn(["python3", "-c", program, path, what], { stdio: ["ignore", "pipe", "inherit"] });
  await until(() => Bun.spawnSync(["test", "-S", path]).exitCode === 0);
  return {
    path,
    async heard() {
      const text = await child.stdout.text();
      await child.exited;
      return text.replaceAll("\r", "");
    },
  };
}
