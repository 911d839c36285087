/** Annotations of config.json that change what is done: all others are only kept. */

/** crun's, by which podman's `--group-add keep-groups` asks that its user's own groups stay: "1". */
export const keepGroups = "run.oci.keep_original_groups";
