/** The flags of `ocibox run` that few containers have. */
import type { OptionDef } from "./options.ts";

const list = { type: "string", repeat: true } as const;

export const moreOptions = {
  mount: {
    ...list,
    valueHint: "type=volume,src=NAME,dst=DIR",
    description: "A bind, a volume or a tmpfs, said at length",
  },
  "volumes-from": { ...list, valueHint: "CONTAINER[:ro]", description: "All that another container mounts" },
  "group-add": { ...list, valueHint: "GROUP", description: "One more group for the command" },
  umask: { type: "string", valueHint: "OCTAL", description: "Mask of the modes of new files (0022)" },
  domainname: { type: "string", valueHint: "NAME", description: "NIS domain name in the container" },
  "add-host": { ...list, valueHint: "NAME:ADDRESS", description: "A line of /etc/hosts" },
  publish: {
    ...list,
    alias: "p",
    valueHint: "[[ADDRESS:]PORT:]PORT[/udp]",
    description: "A port of the host that leads to one of the container's; ranges too",
  },
  "publish-all": { type: "boolean", alias: "P", description: "All ports that the image exposes, and --expose" },
  expose: { ...list, valueHint: "PORT[/udp]", description: "One more port for --publish-all" },
  ip: { type: "string", valueHint: "ADDRESS", description: "Its address at the bridge" },
  dns: { ...list, valueHint: "ADDRESS", description: "A name server of /etc/resolv.conf" },
  "dns-search": { ...list, valueHint: "DOMAIN", description: "A search domain of /etc/resolv.conf" },
  "dns-option": { ...list, also: "dns-opt", valueHint: "OPTION", description: "An option of /etc/resolv.conf" },
  "memory-swap": { type: "string", valueHint: "SIZE", description: "Limit of memory and swap together; -1 for none" },
  "memory-reservation": { type: "string", valueHint: "SIZE", description: "Memory that is left when it runs short" },
  "cpu-shares": { type: "string", alias: "c", valueHint: "N", description: "Weight of its CPU time (1024)" },
  "cpu-period": { type: "string", valueHint: "MICROSECONDS", description: "Time that --cpu-quota is for (100000)" },
  "cpu-quota": { type: "string", valueHint: "MICROSECONDS", description: "CPU time in each period" },
  "cpuset-cpus": { type: "string", valueHint: "LIST", description: "Processors: 0-3,5" },
  "cpuset-mems": { type: "string", valueHint: "LIST", description: "Memory nodes: 0,1" },
  "oom-score-adj": { type: "string", valueHint: "N", description: "Who goes first when memory is out: -1000 to 1000" },
  "shm-size": { type: "string", valueHint: "SIZE", description: "Size of /dev/shm (64m)" },
  device: { ...list, valueHint: "PATH[:PATH][:rwm]", description: "A device of the host's" },
  "device-cgroup-rule": { ...list, valueHint: "RULE", description: 'Devices that may be used: "c 10:200 rwm"' },
  sysctl: { ...list, valueHint: "NAME=VALUE", description: "A setting of the container's own namespaces" },
  annotation: { ...list, valueHint: "NAME=VALUE", description: "An annotation of config.json" },
  timeout: { type: "string", valueHint: "SECONDS", description: "Kill it when it has run for so long; 0 for no limit" },
  report: {
    type: "string",
    valueHint: "FILE",
    description: "What became of it, as JSON: the exit code and whose it is, the image's digest, times",
  },
  pidfile: { type: "string", valueHint: "FILE", description: "Write the number of its first process into a file" },
  "label-file": { ...list, valueHint: "FILE", description: "Labels, one a line" },
  restart: {
    type: "string",
    valueHint: "POLICY",
    description: "With -d: on-failure[:N], always or unless-stopped: start it once more when it has ended",
  },
  ipc: { type: "enum", options: ["private", "host"], description: "Shared memory: its own, or the host's" },
  uts: { type: "enum", options: ["private", "host"], description: "Host name: its own, or the host's" },
  cgroupns: { type: "enum", options: ["private", "host"], description: "The view of cgroups: its own, or the host's" },
  privileged: {
    type: "boolean",
    description:
      "All that ocibox has itself: capabilities, devices, no filter, no masks. Root in it is root on the host",
  },
} as const satisfies Readonly<Record<string, OptionDef>>;

const services = "a service manager can do that: ocibox ends with the container's exit code";

/** What docker and podman have, and what to do without it. */
export const notYet = (): Readonly<Record<string, string>> => ({
  "--ip6": "containers have IPv4 at the bridge, and the host's IPv6 with --network host",
  "--mac-address": "it follows from the address, which --ip chooses: 02:42 and its four numbers",
  ...Object.fromEntries(
    ["--link", "--network-alias"].map((flag) => [
      flag,
      "containers know each other by address (inspect tells it), or share a network: --network container:NAME",
    ]),
  ),
  ...Object.fromEntries(
    ["cmd", "interval", "retries", "timeout", "start-period"].map((each) => [`--health-${each}`, services]),
  ),
  "--log-driver": "-d keeps a log, which logs prints; without -d the output is ocibox's own",
  "--pid": "nsenter(1) gets into the host's namespaces",
  "--userns": "root has the host's ids, and a user those of /etc/subuid",
  "--cgroup-parent": "limits can be given with the container",
  "--blkio-weight": "most kernels have no weights of disks; --cpu-shares weighs CPU time",
  "--gpus": "give the devices with --device",
  "--runtime": "ocibox is its own runtime",
});
