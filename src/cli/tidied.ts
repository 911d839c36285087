import { attempt } from "../../ffi/direct.ts";
import { tidy } from "../container/tidy.ts";
import { type Globals, type Places, places } from "./globals.ts";

/** Where things are kept, without what killed commands have left there (which only root can remove). */
export function tidied(globals: Globals): Places {
  const found = places(globals);
  if (attempt("geteuid") === 0) tidy(found.root, found.state);
  return found;
}
