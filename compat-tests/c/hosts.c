/*
 * What a program that has a node in it may rely on: other processes and users are kept out, nothing is left
 * behind, and what its connect function does is its own affair.
 *
 *   GLIBC_TUNABLES=glibc.malloc.tcache_count=0 hosts DIR [CYCLES]
 *
 * DIR is an empty directory for the nodes' data. Without that variable, which has nothing kept in stock that
 * was freed, memory is not counted.
 */
#include <dqlite.h>

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>

#include "life.h"

static dqlite_node *start_node(void)
{
	dqlite_node *n = new_node();
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	return n;
}

/* Another process that asks who leads, once it is told whom; it ends with 0 if it gets no answer. */
static pid_t start_stranger(int *tell)
{
	int pipes[2];
	pid_t pid;
	CHECK(pipe(pipes) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		char address[16] = {0};
		unsigned char hello[24] = {0}, in[8];
		ssize_t got;
		int fd;
		close(pipes[1]);
		CHECK(read(pipes[0], address, sizeof address - 1) > 0);
		fd = connect_to(address);
		CHECK(fd >= 0);
		put_word(hello, 1);
		put_word(hello + 8, 1);
		/* It may be closed before this. */
		got = send(fd, hello, sizeof hello, MSG_NOSIGNAL);
		got = got < 0 ? got : read(fd, in, sizeof in);
		_exit(got <= 0 ? 0 : 1);
	}
	close(pipes[0]);
	*tell = pipes[1];
	return pid;
}

static void other_processes_are_not_served(pid_t stranger, int tell)
{
	dqlite_node *n = start_node();
	const char *address = dqlite_node_get_bind_address(n);
	int status;
	CHECK(write(tell, address, strlen(address)) == (ssize_t)strlen(address));
	close(tell);
	CHECK(waitpid(stranger, &status, 0) == stranger);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(ask(address, LEADER, 0, SERVER) == 1);
	dqlite_node_destroy(n);
}

/* Root may do everything, so it asks as somebody else. */
static void directories_of_others_are_refused(void)
{
	char closed[512], read_only[512], want[600];
	int status;
	pid_t pid;
	if (geteuid() != 0) {
		return;
	}
	snprintf(closed, sizeof closed, "%s", new_dir());
	snprintf(read_only, sizeof read_only, "%s", new_dir());
	CHECK(chmod(root, 0755) == 0 && chmod(read_only, 0755) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		dqlite_node *n = NULL;
		CHECK(setgid(65534) == 0 && setuid(65534) == 0);
		CHECK_CODE(dqlite_node_create(1, "1", closed, &n), DQLITE_ERROR);
		snprintf(want, sizeof want, "raft_init(): io: can't access directory '%s'", closed);
		CHECK_TEXT(dqlite_node_errmsg(n), want);
		dqlite_node_destroy(n);
		CHECK_CODE(dqlite_node_create(1, "1", read_only, &n), DQLITE_ERROR);
		snprintf(want, sizeof want, "raft_init(): io: directory '%s' is not writable", read_only);
		CHECK_TEXT(dqlite_node_errmsg(n), want);
		dqlite_node_destroy(n);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Descriptors are not passed on to programs that this one executes. */
static void descriptors_are_closed_on_exec(void)
{
	enum { MOST = 1024 };
	static bool before[MOST];
	dqlite_node *n;
	int mine, others = 0;
	for (int fd = 0; fd < MOST; fd++) {
		before[fd] = fcntl(fd, F_GETFD) >= 0;
	}
	n = start_node();
	mine = open_database(dqlite_node_get_bind_address(n), "db");
	CHECK(mine >= 0);
	for (int fd = 0; fd < MOST; fd++) {
		int flags = fcntl(fd, F_GETFD);
		if (flags >= 0 && !before[fd] && fd != mine) {
			CHECK((flags & FD_CLOEXEC) != 0);
			others++;
		}
	}
	CHECK(others >= 3);
	close(mine);
	dqlite_node_destroy(n);
}

/* The data are the owner's alone; creating a node writes nothing. */
static void files_are_the_owners(void)
{
	unsigned char in[64];
	char path[1024];
	const char *dir = new_dir();
	dqlite_node *n = new_node_at(1, "1", dir);
	const struct dirent *entry;
	int fd, files = 0;
	DIR *stream;
	CHECK(count_entries(dir) == 0);
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	fd = open_database(dqlite_node_get_bind_address(n), "db");
	CHECK(fd >= 0);
	CHECK(statement(fd, EXEC_SQL, "CREATE TABLE t (n)", in, sizeof in) == RESULT);
	close(fd);
	dqlite_node_destroy(n);
	stream = opendir(dir);
	CHECK(stream != NULL);
	while ((entry = readdir(stream)) != NULL) {
		struct stat about;
		snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
		CHECK(stat(path, &about) == 0);
		if (S_ISREG(about.st_mode)) {
			CHECK((about.st_mode & 07777) == 0600);
			files++;
		}
	}
	closedir(stream);
	CHECK(files >= 3);
}

enum gift { NOTHING, NO_FILE, NO_SOCKET, DATAGRAMS, CODE, GIFTS };

/* A connect function that returns what the argument says. */
static int give(void *arg, const char *address, int *fd)
{
	int pipes[2];
	(void)address;
	switch (*(const enum gift *)arg) {
	case NOTHING:
		return 0;
	case NO_FILE:
		*fd = 54321;
		return 0;
	case NO_SOCKET:
		CHECK(pipe(pipes) == 0);
		close(pipes[1]);
		*fd = pipes[0];
		return 0;
	case DATAGRAMS:
		*fd = socket(AF_INET, SOCK_DGRAM, 0);
		CHECK(*fd >= 0);
		return 0;
	default:
		return -1;
	}
}

/* Open sockets and pipes; there are files as well, which the log comes to need in its time. */
static int streams(void)
{
	DIR *dir = opendir("/proc/self/fd");
	const struct dirent *entry;
	int count = 0;
	CHECK(dir != NULL);
	while ((entry = readdir(dir)) != NULL) {
		struct stat about;
		if (fstat(atoi(entry->d_name), &about) == 0) {
			count += S_ISSOCK(about.st_mode) || S_ISFIFO(about.st_mode);
		}
	}
	closedir(dir);
	return count;
}

static void a_connect_function_may_give_anything(void)
{
	enum gift gift = NOTHING;
	dqlite_node *n = new_node();
	int open = 0;
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_connect_func(n, give, &gift), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	open = streams();
	for (; gift < GIFTS; gift++) {
		/* It asks itself first. */
		CHECK_CODE(dqlite_node_handover(n), DQLITE_ERROR);
		CHECK(strstr(dqlite_node_errmsg(n), "handover: connect function") != NULL);
	}
	CHECK(streams() == open);
	CHECK(ask(dqlite_node_get_bind_address(n), LEADER, 0, SERVER) == 1);
	dqlite_node_destroy(n);
}

/* A connect function that asks the node for its address and sets what it may. */
static int call_back(void *arg, const char *address, int *fd)
{
	dqlite_node *n = arg;
	(void)address;
	CHECK(dqlite_node_get_bind_address(n) != NULL);
	CHECK_CODE(dqlite_node_set_failure_domain(n, 3), DQLITE_OK);
	*fd = connect_to(dqlite_node_get_bind_address(n));
	return *fd < 0 ? 1 : 0;
}

static void a_connect_function_may_use_its_node(void)
{
	dqlite_node *n = new_node();
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_connect_func(n, call_back, n), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_handover(n), DQLITE_ERROR);
	CHECK_TEXT(dqlite_node_errmsg(n), "handover: no other server can become a voter");
	CHECK(ask(dqlite_node_get_bind_address(n), DESCRIBE, 0, METADATA) == 3);
	dqlite_node_destroy(n);
}

struct end {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	dqlite_node *n;
	bool destroyed;
};

/* A connect function that destroys its node. */
static int destroy_it(void *arg, const char *address, int *fd)
{
	struct end *end = arg;
	(void)address;
	(void)fd;
	pthread_mutex_lock(&end->lock);
	if (!end->destroyed) {
		dqlite_node_destroy(end->n);
		end->destroyed = true;
		pthread_cond_broadcast(&end->changed);
	}
	pthread_mutex_unlock(&end->lock);
	return 1;
}

static void a_connect_function_may_end_its_node(void)
{
	struct end end = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, false};
	dqlite_node_info members[] = {{1, "1"}, {2, "2"}};
	const char *dir = new_dir();
	dqlite_node *n = new_node_at(1, "1", dir);
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_recover(n, members, 2), DQLITE_OK);
	dqlite_node_destroy(n);

	pthread_mutex_lock(&end.lock);
	end.n = new_node_at(1, "1", dir);
	CHECK_CODE(dqlite_node_set_network_latency_ms(end.n, 5), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_connect_func(end.n, destroy_it, &end), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_bind_address(end.n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(end.n), DQLITE_OK);
	while (!end.destroyed) {
		pthread_cond_wait(&end.changed, &end.lock);
	}
	pthread_mutex_unlock(&end.lock);
	/* The argument is ours again once that call is over. */
	CHECK(threads_beside_this_one() == 0);
}

/* Bytes that are allocated. */
static size_t allocated(void)
{
	struct mallinfo2 info = mallinfo2();
	return info.uordblks + info.hblkhd;
}

static void lives_leave_nothing_behind(int cycles)
{
	const char *dir = NULL;
	size_t bytes = 0;
	int fds = 0;
	for (int i = 0; i < cycles; i++) {
		dqlite_node *n;
		uint64_t index, term;
		/* Each start adds to the log: not too long a one. */
		if (i % 50 == 0) {
			dir = new_dir();
		}
		n = new_node_at(1, "1", dir);
		CHECK_CODE(dqlite_node_describe_last_entry(n, &index, &term), DQLITE_OK);
		dqlite_node_destroy(n);
		n = new_node_at(1, "1", dir);
		CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
		CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
		CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
		dqlite_node_destroy(n);
		if (i == 1) {
			fds = count_entries("/proc/self/fd");
		}
		if (i == cycles / 10) {
			CHECK(threads_beside_this_one() == 0);
			bytes = allocated();
		}
	}
	CHECK(count_entries("/proc/self/fd") == fds);
	CHECK(threads_beside_this_one() == 0);
	if (getenv("GLIBC_TUNABLES") != NULL) {
		/* Once, and not each time. */
		CHECK(allocated() < bytes + 1024);
	}
}

/* What fails leaves nothing behind either. */
static void failures_leave_nothing_behind(void)
{
	int fds = count_entries("/proc/self/fd");
	const char *dir = new_dir();
	dqlite_node *holder = new_node_at(1, "1", dir);
	dqlite_node_info info = {1, "1"};
	char missing[600];
	snprintf(missing, sizeof missing, "%s/missing", dir);
	CHECK_CODE(dqlite_node_set_bind_address(holder, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(holder), DQLITE_OK);
	for (int i = 0; i < 50; i++) {
		dqlite_node *n = NULL;
		CHECK_CODE(dqlite_node_create(1, "1", missing, &n), DQLITE_ERROR);
		CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
		CHECK_CODE(dqlite_node_start(n), DQLITE_ERROR);
		dqlite_node_destroy(n);
		n = new_node_at(1, "1", dir);
		CHECK_CODE(dqlite_node_set_bind_address(n, "nowhere"), DQLITE_ERROR);
		CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
		CHECK_CODE(dqlite_node_start(n), DQLITE_ERROR);
		CHECK_CODE(dqlite_node_start(n), DQLITE_ERROR);
		CHECK_CODE(dqlite_node_recover(n, &info, 1), DQLITE_ERROR);
		CHECK_TEXT(dqlite_node_errmsg(n), "couldn't lock the raft directory");
		dqlite_node_destroy(n);
	}
	dqlite_node_destroy(holder);
	CHECK(threads_beside_this_one() == 0);
	CHECK(count_entries("/proc/self/fd") == fds);
}

int main(int argc, char **argv)
{
	int tell = -1;
	pid_t stranger;
	CHECK(argc >= 2);
	root = argv[1];
	/* Before there are threads. */
	stranger = start_stranger(&tell);
	directories_of_others_are_refused();
	other_processes_are_not_served(stranger, tell);
	descriptors_are_closed_on_exec();
	files_are_the_owners();
	a_connect_function_may_give_anything();
	a_connect_function_may_use_its_node();
	a_connect_function_may_end_its_node();
	failures_leave_nothing_behind();
	lives_leave_nothing_behind(argc > 2 ? atoi(argv[2]) : 50);
	return 0;
}
