/**
 * Makes a small image of Debian's busybox-static, serves it as docker.io/library/alpine from docker-registry on
 * loopback, and runs a command to which that registry is a mirror of docker.io.
 * usage: bun scripts/stand-in.ts DIRECTORY COMMAND...
 */
import { $ } from "bun";
import { makeTree, pushImage } from "./busybox-image.ts";

const [dir, ...command] = process.argv.slice(2);
if (dir === undefined || command.length === 0) throw new Error("usage: bun scripts/stand-in.ts DIRECTORY COMMAND...");

/** A port that was free a moment ago. */
function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

async function untilAnswered(url: string): Promise<void> {
  for (let tries = 0; tries < 200; tries++) {
    const answer = await fetch(url).catch(() => undefined);
    if (answer !== undefined) return;
    await Bun.sleep(25);
  }
  throw new Error("docker-registry does not answer");
}

const port = freePort();
await Bun.write(
  `${dir}/registry.yml`,
  `version: 0.1
storage: {filesystem: {rootdirectory: ${JSON.stringify(`${dir}/registry`)}}}
http: {addr: "127.0.0.1:${port}"}
log: {level: error, accesslog: {disabled: true}}
`,
);
await Bun.write(
  `${dir}/registries.conf`,
  `[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "127.0.0.1:${port}"
insecure = true
`,
);
const registry = Bun.spawn(["docker-registry", "serve", `${dir}/registry.yml`], {
  stdio: ["ignore", "ignore", "inherit"],
});
try {
  await untilAnswered(`http://127.0.0.1:${port}/v2/`);
  await makeTree(`${dir}/tree`);
  await pushImage(`http://127.0.0.1:${port}/v2/library/alpine`, `${dir}/tree`);
  await $`rm -rf ${dir}/tree`;
  const ran = Bun.spawn(command, {
    stdio: ["inherit", "inherit", "inherit"],
    env: { ...process.env, OCIBOX_REGISTRIES_CONF: `${dir}/registries.conf` },
  });
  process.exitCode = await ran.exited;
} finally {
  registry.kill("SIGKILL");
  await registry.exited;
}
