/**
 * Layouts of the kernel's structures, as data: field name → type, in order, with C's alignment rules. tests/ffi checks
 * each size and offset against the C compiler's own.
 */

export type FieldType = "u8" | "u16" | "u32" | "i32" | "u64" | "i64" | "ptr" | `bytes:${number}`;

export const layouts = {
  /** openat2(2) */
  open_how: { flags: "u64", mode: "u64", resolve: "u64" },
  /** mount_setattr(2) */
  mount_attr: { attr_set: "u64", attr_clr: "u64", propagation: "u64", userns_fd: "u64" },
  /** clone3(2), CLONE_ARGS_SIZE_VER2 */
  clone_args: {
    flags: "u64",
    pidfd: "ptr",
    child_tid: "ptr",
    parent_tid: "ptr",
    exit_signal: "u64",
    stack: "u64",
    stack_size: "u64",
    tls: "u64",
    set_tid: "ptr",
    set_tid_size: "u64",
    cgroup: "u64",
  },
  /** seccomp(2): struct sock_fprog */
  sock_fprog: { len: "u16", filter: "ptr" },
  /** prlimit64(2) */
  rlimit64: { rlim_cur: "u64", rlim_max: "u64" },
  /** capset(2), version 3 */
  __user_cap_header_struct: { version: "u32", pid: "i32" },
  __user_cap_data_struct_v3: {
    effective0: "u32",
    permitted0: "u32",
    inheritable0: "u32",
    effective1: "u32",
    permitted1: "u32",
    inheritable1: "u32",
  },
  iovec: { iov_base: "ptr", iov_len: "u64" },
  msghdr: {
    msg_name: "ptr",
    msg_namelen: "u32",
    msg_iov: "ptr",
    msg_iovlen: "u64",
    msg_control: "ptr",
    msg_controllen: "u64",
    msg_flags: "i32",
  },
  /** ioctl_tty(2) */
  winsize: { ws_row: "u16", ws_col: "u16", ws_xpixel: "u16", ws_ypixel: "u16" },
  /** netdevice(7): struct ifreq with its flags member */
  ifreq: { ifr_name: "bytes:16", ifr_flags: "u16", pad: "bytes:22" },
  timespec: { tv_sec: "i64", tv_nsec: "i64" },
  /** fcntl(2): struct flock of a 64-bit kernel */
  flock: { l_type: "u16", l_whence: "u16", l_start: "i64", l_len: "i64", l_pid: "i32" },
  /** bpf(2): union bpf_attr for BPF_PROG_LOAD, up to prog_name */
  bpf_prog_load: {
    prog_type: "u32",
    insn_cnt: "u32",
    insns: "ptr",
    license: "ptr",
    log_level: "u32",
    log_size: "u32",
    log_buf: "ptr",
    kern_version: "u32",
    prog_flags: "u32",
  },
  /** bpf(2): union bpf_attr for BPF_PROG_ATTACH, up to replace_bpf_fd */
  bpf_prog_attach: { target_fd: "u32", attach_bpf_fd: "u32", attach_type: "u32", attach_flags: "u32" },
  /** sched_setattr(2), SCHED_ATTR_SIZE_VER0 */
  sched_attr: {
    size: "u32",
    sched_policy: "u32",
    sched_flags: "u64",
    sched_nice: "i32",
    sched_priority: "u32",
    sched_runtime: "u64",
    sched_deadline: "u64",
    sched_period: "u64",
  },
  pollfd: { fd: "i32", events: "u16", revents: "u16" },
  /** statfs(2) */
  statfs: {
    f_type: "i64",
    f_bsize: "i64",
    f_blocks: "u64",
    f_bfree: "u64",
    f_bavail: "u64",
    f_files: "u64",
    f_ffree: "u64",
    f_fsid: "u64",
    f_namelen: "i64",
    f_frsize: "i64",
    f_flags: "i64",
    f_spare: "bytes:32",
  },
  /** statx(2) */
  statx: {
    stx_mask: "u32",
    stx_blksize: "u32",
    stx_attributes: "u64",
    stx_nlink: "u32",
    stx_uid: "u32",
    stx_gid: "u32",
    stx_mode: "u16",
    stx_ino: "u64",
    stx_size: "u64",
    stx_blocks: "u64",
    stx_attributes_mask: "u64",
    stx_atime_sec: "i64",
    stx_atime_nsec: "u32",
    stx_btime_sec: "i64",
    stx_btime_nsec: "u32",
    stx_ctime_sec: "i64",
    stx_ctime_nsec: "u32",
    stx_mtime_sec: "i64",
    stx_mtime_nsec: "u32",
    stx_mtime_pad: "u32",
    stx_rdev_major: "u32",
    stx_rdev_minor: "u32",
    stx_dev_major: "u32",
    stx_dev_minor: "u32",
    stx_mnt_id: "u64",
    stx_spare: "bytes:104",
  },
} as const satisfies Record<string, Record<string, FieldType>>;

export type LayoutName = keyof typeof layouts;

export interface Placed {
  readonly name: string;
  readonly type: FieldType;
  readonly offset: number;
  readonly size: number;
}

export interface Layout {
  readonly size: number;
  readonly fields: readonly Placed[];
}

const placed = new Map<LayoutName, Layout>();

/** Bytes of a number, which it is aligned to as well. */
const widths: Readonly<Record<string, number>> = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8, i64: 8, ptr: 8 };

function sizeOf(type: FieldType): number {
  return widths[type] ?? Number(type.slice("bytes:".length));
}

/** The first place from `at` on where a field of the type can be. */
function alignedTo(at: number, type: FieldType): number {
  const align = widths[type] ?? 1;
  return (at + align - 1) & -align;
}

/** Size in bytes and the offset of every field of a layout. */
export function layoutOf(name: LayoutName): Layout {
  const known = placed.get(name);
  if (known !== undefined) return known;
  const fields: Placed[] = [];
  let at = 0;
  let widest = 1;
  const source: Record<string, FieldType> = layouts[name];
  for (const field in source) {
    const type = source[field] as FieldType;
    const offset = alignedTo(at, type);
    const size = sizeOf(type);
    fields.push({ name: field, type, offset, size });
    at = offset + size;
    if (widths[type] !== undefined && size > widest) widest = size;
  }
  const layout = { size: (at + widest - 1) & -widest, fields };
  placed.set(name, layout);
  return layout;
}

/** One field, without the places of all others where nobody has asked for these. */
function placeOf(name: LayoutName, field: string): Pick<Placed, "type" | "offset"> | undefined {
  const source: Record<string, FieldType> = layouts[name];
  let at = 0;
  for (const each in source) {
    const type = source[each] as FieldType;
    const offset = alignedTo(at, type);
    if (each === field) return { type, offset };
    at = offset + sizeOf(type);
  }
  return undefined;
}

/** Bytes that never move: fact 17 of bun:ffi; a small array that JavaScript allocates for itself may. */
export function alloc(size: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new ArrayBuffer(size));
}

/**
 * A structure's field out of raw bytes: integers as numbers (exact up to 2^53), all else is an error of the caller.
 */
export function readField(name: LayoutName, bytes: Uint8Array, field: string, base = 0): number {
  const place = placeOf(name, field);
  if (place === undefined) throw new TypeError(`no field ${field} in struct ${name}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset + base, bytes.byteLength - base);
  switch (place.type) {
    case "u8":
      return view.getUint8(place.offset);
    case "u16":
      return view.getUint16(place.offset, true);
    case "u32":
      return view.getUint32(place.offset, true);
    case "i32":
      return view.getInt32(place.offset, true);
    case "u64":
      return Number(view.getBigUint64(place.offset, true));
    case "i64":
      return Number(view.getBigInt64(place.offset, true));
    default:
      throw new TypeError(`struct ${name}.${field} is not a number`);
  }
}
