/** Debian's docker-registry on a port of the loopback, for the benches. */
import { $ } from "bun";

export interface Registry {
  /** "127.0.0.1:PORT" */
  readonly host: string;
  stop(): Promise<void>;
}

function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

/**
 * @param storage where the images are, or will be
 * @param file where its configuration is written
 */
export async function startRegistry(storage: string, file: string): Promise<Registry> {
  const host = `127.0.0.1:${freePort()}`;
  await $`mkdir -p ${storage}`;
  await Bun.write(
    file,
    `version: 0.1\nstorage: {filesystem: {rootdirectory: "${storage}"}}\nhttp: {addr: "${host}"}\nlog: {level: error, accesslog: {disabled: true}}\n`,
  );
  const registry = Bun.spawn(["docker-registry", "serve", file], { stdio: ["ignore", "ignore", "ignore"] });
  const stop = async (): Promise<void> => {
    registry.kill("SIGKILL");
    await registry.exited;
  };
  for (let tries = 0; tries < 200; tries++) {
    if ((await fetch(`http://${host}/v2/`).catch(() => undefined)) !== undefined) return { host, stop };
    await Bun.sleep(25);
  }
  await stop();
  throw new Error("docker-registry does not answer");
}
