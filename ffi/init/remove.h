/*
 * Removing a tree: no symlink is followed, no mount crossed, and neither stack nor descriptors grow with its depth. A
 * directory inside a directory is moved up beside it, so that there are only ever two levels to look at.
 */

struct dirent { uint64_t ino; int64_t off; uint16_t length; uint8_t type; char name[]; }; /* getdents64(2) */

static long open_directory(int in, const char *name)
{
	struct open_how how = { O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS };
	return SYS(__NR_openat2, in, name, &how, sizeof how);
}

static int is_dot(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

static char top_entries[32768], sub_entries[32768];

static long move_up(int from, const char *name, int top)
{
	static uint64_t count;
	for (;;) {
		report.length = 0;
		put_text(".ocibox-");
		put_number(count++, 10);
		report.text[report.length] = 0;
		long result = sys6(__NR_renameat2, from, (long)name, top, (long)report.text, RENAME_NOREPLACE, 0);
		if (result != -EEXIST) return result;
	}
}

/* Empties a directory of files, and of directories by moving them up. Returns how many names went, or -errno. */
static long empty_into(int sub, int top)
{
	long gone = 0, last = 0, got;
	while ((got = SYS(__NR_getdents64, sub, sub_entries, sizeof sub_entries, 0)) > 0) {
		for (long i = 0; i < got;) {
			struct dirent *entry = (void *)(sub_entries + i);
			i += entry->length;
			if (is_dot(entry->name)) continue;
			long result = SYS(__NR_unlinkat, sub, entry->name, 0, 0);
			if (result == -EISDIR) result = SYS(__NR_unlinkat, sub, entry->name, AT_REMOVEDIR, 0);
			if (result == -ENOTEMPTY) result = move_up(sub, entry->name, top);
			if (result >= 0) gone++;
			else last = result;
		}
	}
	return gone ? gone : last;
}

/* One look at the top directory. Returns how many names went or moved, or -errno where none could. */
static long sweep_top(int top)
{
	long gone = 0, last = 0, got;
	SYS(__NR_lseek, top, 0, 0, 0);
	while ((got = SYS(__NR_getdents64, top, top_entries, sizeof top_entries, 0)) > 0) {
		for (long i = 0; i < got;) {
			struct dirent *entry = (void *)(top_entries + i);
			i += entry->length;
			if (is_dot(entry->name)) continue;
			long result = SYS(__NR_unlinkat, top, entry->name, 0, 0);
			if (result == -EISDIR) result = SYS(__NR_unlinkat, top, entry->name, AT_REMOVEDIR, 0);
			if (result == -ENOTEMPTY) {
				long sub = open_directory(top, entry->name);
				result = sub;
				if (sub >= 0) {
					result = empty_into((int)sub, top);
					SYS(__NR_close, sub, 0, 0, 0);
					SYS(__NR_unlinkat, top, entry->name, AT_REMOVEDIR, 0);
				}
			}
			if (result >= 0) gone++;
			else last = result;
		}
	}
	return gone ? gone : last;
}

/* Returns 0, or the errno of what could not be removed. A tree that is not there is no error. */
static int remove_tree(int in, const char *name)
{
	long result = SYS(__NR_unlinkat, in, name, 0, 0);
	if (result >= 0 || result == -ENOENT) return 0;
	if (result != -EISDIR) return (int)-result;
	long top = open_directory(in, name);
	if (top < 0) return (int)-top;
	do result = sweep_top((int)top); while (result > 0);
	SYS(__NR_close, top, 0, 0, 0);
	long removed = SYS(__NR_unlinkat, in, name, AT_REMOVEDIR, 0);
	return removed < 0 && removed != -ENOENT ? (int)(result < 0 ? -result : -removed) : 0;
}
