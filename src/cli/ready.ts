import { chainsOf, type Store, type StoredImage } from "../store/store.ts";

/** Whether an image of the store can be mounted; where its layers only lie there in another way they are unpacked. */
export async function isReady(store: Store, image: StoredImage, quiet: boolean): Promise<boolean> {
  if (store.unpackedAs(chainsOf(image)) !== undefined) return true;
  if (!image.layers.every(({ descriptor }) => store.hasBlob(descriptor.digest, descriptor.size))) return false;
  const { unpackHere } = await import("./load-image.ts");
  await unpackHere(store, image, quiet);
  return true;
}
