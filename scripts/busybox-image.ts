/** A small image of Debian's busybox-static, pushed to a registry: for the quickstart, the tests and the bench. */
import { symlinkSync } from "node:fs";
import { $ } from "bun";

/** A root with busybox under each of its names, and the files a user of alpine looks for. */
export async function makeTree(root: string): Promise<void> {
  await $`mkdir -p ${root}/bin ${root}/sbin ${root}/etc ${root}/root ${root}/tmp ${root}/usr/bin ${root}/usr/sbin ${root}/var`;
  await $`chmod 1777 ${root}/tmp && chmod 700 ${root}/root`;
  await $`cp /bin/busybox ${root}/bin/busybox && chmod 755 ${root}/bin/busybox`;
  const names = (await $`/bin/busybox --list`.text()).trim().split("\n");
  for (const name of names) if (name !== "busybox") symlinkSync("/bin/busybox", `${root}/bin/${name}`);
  await Bun.write(`${root}/etc/os-release`, 'ID=busybox\nPRETTY_NAME="busybox (standing in for Alpine)"\n');
  await Bun.write(`${root}/etc/passwd`, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
  await Bun.write(`${root}/etc/group`, "root:x:0:\nnogroup:x:65534:\n");
}

function digestOf(bytes: Uint8Array): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
}

/** distribution-spec, "Pushing blobs": a POST, then the whole of it in one PUT. */
export async function pushBlob(url: string, bytes: Uint8Array<ArrayBuffer>): Promise<{ digest: string; size: number }> {
  const started = await fetch(`${url}/blobs/uploads/`, { method: "POST" });
  const location = new URL(started.headers.get("location") ?? "", url);
  const digest = digestOf(bytes);
  location.searchParams.set("digest", digest);
  const put = await fetch(location, {
    method: "PUT",
    body: bytes,
    headers: { "Content-Type": "application/octet-stream" },
  });
  if (put.status !== 201) throw new Error(`the registry answers ${put.status} to a blob: ${await put.text()}`);
  return { digest, size: bytes.byteLength };
}

/** The config object of the image, image-spec's config.md#properties. */
export type ImageSettings = Readonly<Record<string, unknown>>;

const usualSettings: ImageSettings = { Env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], Cmd: ["/bin/sh"] };

/**
 * Pushes a directory as an image of one layer, owned by root.
 * @param url the repository's: http://HOST/v2/NAME
 * @throws Error with the registry's answer
 */
export async function pushImage(url: string, tree: string, settings = usualSettings, tag = "latest"): Promise<void> {
  const tar = await $`tar --numeric-owner --owner=0 --group=0 --sort=name -cf - -C ${tree} .`.arrayBuffer();
  const layer = new Uint8Array(tar);
  const json = (value: unknown): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(value));
  const config = json({
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    os: "linux",
    config: settings,
    rootfs: { type: "layers", diff_ids: [digestOf(layer)] },
  });
  const type = "application/vnd.oci.image";
  const manifest = json({
    schemaVersion: 2,
    mediaType: `${type}.manifest.v1+json`,
    config: { mediaType: `${type}.config.v1+json`, ...(await pushBlob(url, config)) },
    layers: [{ mediaType: `${type}.layer.v1.tar+gzip`, ...(await pushBlob(url, Bun.gzipSync(layer))) }],
  });
  const put = await fetch(`${url}/manifests/${tag}`, {
    method: "PUT",
    body: manifest,
    headers: { "Content-Type": `${type}.manifest.v1+json` },
  });
  if (put.status !== 201) throw new Error(`the registry answers ${put.status} to the manifest: ${await put.text()}`);
}
