/*
 * The floor of a confined start: what the launcher does, by as few system calls as it can be done with and nothing else.
 *
 * No parsing (the specification is compiled in as specification.h, which the benchmark writes from one that the daemon sent to its
 * launcher), no reports, no checks that a verified file is the same one, no watching: it waits for its child and is gone. No C
 * library either, so that it begins in its own first line. Descriptors: 3 and 4 are the plugin's, 5 is the leaf cgroup if LEAF.
 *
 * A step that fails ends it with the step's line as exit code, so that a floor is never less than the whole list.
 */
#define _GNU_SOURCE
#include <asm/ioctl.h>
#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>

#define NULL_FD 6
#define LEAF_FD 5
#define SIGCHLD 17
#define SIGKILL 9
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#define MNT_DETACH 2

struct bind { const char *from, *to; int attributes, idmap, optional, folder; };
struct setting { const char *name, *value; };
struct made_up { const char *path, *contents; };
struct fresh { const char *kind, *to; const struct setting *options; int attributes; };
struct limit { int resource; uint64_t soft, hard; };
struct path_rule { const char *path; uint64_t rights; };

#include "specification.h"

static inline long sys(long number, long a, long b, long c, long d, long e, long f)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#define S6(n, a, b, c, d, e, f) sys(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define S5(n, a, b, c, d, e) S6(n, a, b, c, d, e, 0)
#define S4(n, a, b, c, d) S5(n, a, b, c, d, 0)
#define S3(n, a, b, c) S4(n, a, b, c, 0)
#define S2(n, a, b) S3(n, a, b, 0)
#define S1(n, a) S2(n, a, 0)
#define S0(n) S1(n, 0)

/* Where the plugin's process says its listener, or that there is none, so that nobody waits for it. */
static int told[2] = { -1, -1 };

static long must(long result, int line)
{
	if (result < 0) {
		static char said[] = "floor: line 0000 errno 000\n";
		int value = line;
		for (int at = 15; at > 11; at--, value /= 10)
			said[at] = '0' + value % 10;
		value = -result;
		for (int at = 25; at > 22; at--, value /= 10)
			said[at] = '0' + value % 10;
		S3(write, 2, said, sizeof said - 1);
		S3(write, told[1], &result, sizeof result);
		S1(exit_group, 1);
	}
	return result;
}
#define MUST(call) must(call, __LINE__)

static size_t length(const char *text)
{
	size_t bytes = 0;
	while (text[bytes])
		bytes++;
	return bytes;
}

static void put(const char *path, const char *contents, int flags)
{
	long file = MUST(S4(openat, AT_FDCWD, path, flags, 0644));
	if (contents[0])
		MUST(S3(write, file, contents, length(contents)));
	S1(close, file);
}

static void number_into(char *path, long number, const char *name)
{
	static const char begin[] = "/proc/";
	char digits[12];
	int count = 0;
	for (const char *at = begin; *at; at++)
		*path++ = *at;
	do
		digits[count++] = '0' + number % 10;
	while (number /= 10);
	while (count)
		*path++ = digits[--count];
	do
		*path++ = *name;
	while (*name++);
}

static void map(long pid, const char *user, const char *group)
{
	char path[40];
	number_into(path, pid, "/setgroups");
	put(path, "deny", O_WRONLY);
	number_into(path, pid, "/uid_map");
	put(path, user, O_WRONLY);
	number_into(path, pid, "/gid_map");
	put(path, group, O_WRONLY);
}

static long clone3(uint64_t flags, int leaf)
{
	struct clone_args arguments = { .flags = flags, .exit_signal = SIGCHLD };
	if (leaf) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = LEAF_FD;
	}
	return MUST(S2(clone3, &arguments, sizeof arguments));
}

static void attributes(int tree, int set, int recursive, int namespace)
{
	struct mount_attr wanted = { .attr_set = set, .userns_fd = namespace };
	if (namespace)
		wanted.attr_set |= MOUNT_ATTR_IDMAP;
	MUST(S5(mount_setattr, tree, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &wanted, sizeof wanted));
}

#ifdef IDMAP_USER
static int user_namespace(void)
{
	char path[40];
	long pid = clone3(CLONE_NEWUSER, 0);
	if (!pid)
		for (;;)
			S0(pause);
	map(pid, IDMAP_USER, IDMAP_GROUP);
	number_into(path, pid, "/ns/user");
	long namespace = MUST(S4(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0));
	S2(kill, pid, SIGKILL);
	MUST(S4(wait4, pid, 0, 0, 0));
	return namespace;
}
#endif

/* What was taken, and -1 where there was nothing. */
static int trees[sizeof BINDS / sizeof BINDS[0]];

static void take(void)
{
	for (size_t at = 0; at < sizeof BINDS / sizeof BINDS[0]; at++) {
		const struct bind *bind = &BINDS[at];
		int flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (bind->idmap ? 0 : AT_RECURSIVE);
		long tree = S3(open_tree, AT_FDCWD, bind->from, flags);
		if (tree < 0 && bind->optional) {
			trees[at] = -1;
			continue;
		}
		trees[at] = MUST(tree);
#ifdef IDMAP_USER
		attributes(tree, bind->attributes, !bind->idmap, bind->idmap ? user_namespace() : 0);
#else
		attributes(tree, bind->attributes, 1, 0);
#endif
	}
}

static int new_file_system(const char *kind, const struct setting *options, int set)
{
	long context = MUST(S2(fsopen, kind, FSOPEN_CLOEXEC));
	for (; options->name; options++)
		MUST(S5(fsconfig, context, FSCONFIG_SET_STRING, options->name, options->value, 0));
	MUST(S5(fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0));
	long tree = MUST(S3(fsmount, context, FSMOUNT_CLOEXEC, set));
	S1(close, context);
	return tree;
}

static void attach(int tree, const char *to)
{
	MUST(S5(move_mount, tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH));
}

static void enter(void)
{
	MUST(S5(mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0));
	int base = new_file_system("tmpfs", BASE_OPTIONS, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	attach(base, "/");
	MUST(S1(fchdir, base));
	for (size_t at = 0; FOLDERS[at]; at++)
		MUST(S2(mkdir, FOLDERS[at], 0755));
	for (size_t at = 0; FILES[at].path; at++)
		put(FILES[at].path, FILES[at].contents, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC);
	for (size_t at = 0; LINKS[at].path; at++)
		MUST(S2(symlink, LINKS[at].contents, LINKS[at].path));
	for (size_t at = 0; at < sizeof BINDS / sizeof BINDS[0]; at++) {
		if (trees[at] < 0)
			continue;
		/* Folders that exist already are refused, which is as well. */
		if (BINDS[at].folder)
			S2(mkdir, BINDS[at].to, 0755);
		else
			S1(close, S4(openat, AT_FDCWD, BINDS[at].to, O_WRONLY | O_CREAT | O_EXCL, 0644));
		attach(trees[at], BINDS[at].to);
	}
	for (size_t at = 0; at < sizeof NEWS / sizeof NEWS[0]; at++) {
		int tree = new_file_system(NEWS[at].kind, NEWS[at].options, NEWS[at].attributes);
		S2(mkdir, NEWS[at].to, 0755);
		attach(tree, NEWS[at].to);
	}
	attributes(base, MOUNT_ATTR_RDONLY, 0, 0);
	MUST(S2(pivot_root, ".", "."));
	MUST(S2(umount2, ".", MNT_DETACH));
	MUST(S1(chdir, "/"));
}

static void powerless(void)
{
	struct { uint32_t version; int pid; } head = { 0x20080522, 0 };
	uint32_t sets[6] = { 0 };
	MUST(S5(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	MUST(S2(capset, &head, sets));
	MUST(S5(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void landlock(void)
{
	struct { uint64_t files, network, scoped; } denied = { LANDLOCK_FILES, LANDLOCK_NETWORK, LANDLOCK_SCOPED };
	if (!LANDLOCK_FILES)
		return;
	long set = MUST(S3(landlock_create_ruleset, &denied, sizeof denied, 0));
	for (size_t at = 0; RULES[at].path; at++) {
		long folder = S4(openat, AT_FDCWD, RULES[at].path, O_PATH | O_CLOEXEC, 0);
		struct landlock_path_beneath_attr rule = { RULES[at].rights, MUST(folder) };
		MUST(S4(landlock_add_rule, set, LANDLOCK_RULE_PATH_BENEATH, &rule, 0));
		S1(close, folder);
	}
	MUST(S2(landlock_restrict_self, set, 0));
	S1(close, set);
}

static void become_plugin(int entry)
{
	struct { uint16_t length; const uint64_t *filter; } program = { sizeof FILTER / sizeof FILTER[0], FILTER };
	MUST(S0(setsid));
	MUST(S5(prctl, PR_SET_DUMPABLE, 1, 0, 0, 0));
	put("/proc/self/oom_score_adj", OOM_SCORE_ADJ, O_WRONLY);
	MUST(S1(chdir, DIRECTORY));
	for (int at = 0; at < 3; at++)
		MUST(S2(dup2, NULL_FD, at));
	MUST(S3(close_range, 5, ~0U, CLOSE_RANGE_CLOEXEC));
	for (size_t at = 0; at < sizeof LIMITS / sizeof LIMITS[0]; at++)
		MUST(S4(prlimit64, 0, LIMITS[at].resource, &LIMITS[at].soft, 0));
	powerless();
	landlock();
	if (program.length) {
		int flags = EXEC_ONCE ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;
		long listener = MUST(S3(seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
		if (EXEC_ONCE)
			MUST(S3(write, told[1], &listener, sizeof listener));
	}
	MUST(S5(execveat, entry, "", ARGUMENTS, ENVIRONMENT, AT_EMPTY_PATH));
}

/* Lets the first exec through. The listener is this process's as well, as the two share their descriptors until then. */
static void attend(void)
{
	long listener;
	struct seccomp_notif asked;
	for (size_t at = 0; at < sizeof asked; at++)
		((volatile char *)&asked)[at] = 0;
	MUST(S3(read, told[0], &listener, sizeof listener));
	MUST(listener);
	MUST(S3(ioctl, listener, SECCOMP_IOCTL_NOTIF_RECV, &asked));
	struct seccomp_notif_resp answer = { .id = asked.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };
	MUST(S3(ioctl, listener, SECCOMP_IOCTL_NOTIF_SEND, &answer));
}

static void init(int begin)
{
	char byte;
	MUST(S5(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
	if (MUST(S3(read, begin, &byte, 1)) != 1)
		S1(exit_group, 1);
	S1(umask, 022);
	if (!BOUND_BY_LAUNCHER)
		take();
	MUST(S3(setresgid, INSIDE, INSIDE, INSIDE));
	MUST(S3(setresuid, INSIDE, INSIDE, INSIDE));
	MUST(S5(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
	MUST(S2(sethostname, HOSTNAME, sizeof HOSTNAME - 1));
#ifdef WATCHES
	put("/proc/sys/user/max_inotify_instances", WATCHER_INSTANCES, O_WRONLY);
	put("/proc/sys/user/max_inotify_watches", WATCHES, O_WRONLY);
#endif
	{
		struct { char name[16]; short flags; char rest[22]; } request = { "lo", 1, "" };
		long socket = MUST(S3(socket, 2, 2, 0));
		MUST(S3(ioctl, socket, 0x8914, &request));
		S1(close, socket);
	}
	MUST(S1(unshare, CLONE_NEWCGROUP));
	enter();
	long entry = MUST(S4(openat, AT_FDCWD, ENTRY, O_PATH | O_CLOEXEC, 0));
	MUST(S2(pipe2, told, O_CLOEXEC));
	/* For the plugin as well. */
	for (int at = 0; !S2(prctl, PR_CAPBSET_DROP, at); at++)
		;
	long plugin = clone3(EXEC_ONCE ? CLONE_FILES : CLONE_VFORK, 0);
	if (!plugin) {
		become_plugin(entry);
	}
	if (EXEC_ONCE)
		attend();
	powerless();
	/* In a table of its own, as the plugin has not necessarily taken its copy. */
	S3(close_range, 3, ~0U, CLOSE_RANGE_UNSHARE);
	MUST(S4(wait4, plugin, 0, 0, 0));
	S1(exit_group, 0);
}

__attribute__((force_align_arg_pointer, noreturn)) void _start(void)
{
	int begin[2];
	long null = MUST(S4(openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0));
	MUST(S2(dup2, null, NULL_FD));
	/* Only root may. */
	S2(setgroups, 0, 0);
	if (BOUND_BY_LAUNCHER)
		take();
	MUST(S2(pipe2, begin, O_CLOEXEC));
	long pid = clone3(NAMESPACES | CLONE_NEWPID, LEAF);
	if (!pid) {
		S1(close, begin[1]);
		init(begin[0]);
	}
	map(pid, MAP_USER, MAP_GROUP);
	MUST(S3(write, begin[1], "", 1));
	/* Whatever stayed open here would keep the plugin's pipes open. */
	S3(close_range, 3, ~0U, 0);
	MUST(S4(wait4, pid, 0, 0, 0));
	S1(exit_group, 0);
	__builtin_unreachable();
}
