/** What ocibox's network is called on the host. */

/** The bridge that containers are at. */
export const bridgeName = "ocibox0";
/** The table of nf_tables(8). */
export const tableName = "ocibox";
/** What the container has of it. */
export const insideName = "eth0";
