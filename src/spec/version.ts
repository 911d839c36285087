/** The version of runtime-spec that is kept to. */
export const runtimeSpecVersion = "1.3.0";
