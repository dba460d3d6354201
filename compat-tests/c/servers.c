/*
 * What C programs do with the dqlite_server functions: clusters that form, stop as a whole and come back,
 * and the files that a server remembers itself by.
 *
 *   servers DIR     an empty directory for the servers' data
 */
#include <dqlite.h>

#include <pthread.h>

#include "life.h"

static dqlite_server *new_server(const char *dir, const char *address, const char *join)
{
	dqlite_server *server;
	CHECK_CODE(dqlite_server_create(dir, &server), 0);
	CHECK(dqlite_server_get_id(server) == 0);
	CHECK_CODE(dqlite_server_set_address(server, address), 0);
	if (join == NULL) {
		CHECK_CODE(dqlite_server_set_auto_bootstrap(server, true), 0);
	} else {
		CHECK_CODE(dqlite_server_set_auto_join(server, &join, 1), 0);
	}
	return server;
}

/* The number of members that the list in a server's directory calls voters. */
static int voters_listed(const char *dir)
{
	char path[600], line[256];
	int count = 0;
	FILE *file;
	snprintf(path, sizeof path, "%s/node-store", dir);
	file = fopen(path, "r");
	CHECK(file != NULL);
	while (fgets(line, sizeof line, file) != NULL) {
		count += strcmp(line, "voter\n") == 0;
	}
	fclose(file);
	return count;
}

/* The leader that somebody knows of within a while, or 0. */
static uint64_t wait_leader(const char *address)
{
	double end = now() + 30;
	uint64_t id = 0;
	while (id == 0 && now() < end) {
		usleep(20000);
		id = ask(address, LEADER, 0, SERVER);
	}
	return id;
}

static void servers_form_a_cluster_that_survives_a_full_stop(void)
{
	dqlite_server *servers[3], *lone;
	char dirs[3][512], addresses[3][64];
	uint64_t ids[3];

	for (int i = 0; i < 3; i++) {
		snprintf(dirs[i], sizeof dirs[i], "%s", new_dir());
		snprintf(addresses[i], sizeof addresses[i], "@capi-%d-%d", (int)getpid(), i);
		servers[i] = new_server(dirs[i], addresses[i], i == 0 ? NULL : addresses[0]);
		CHECK_CODE(dqlite_server_stop(servers[i]), DQLITE_MISUSE);
		CHECK_CODE(dqlite_server_handover(servers[i]), DQLITE_MISUSE);
		CHECK_CODE(dqlite_server_start(servers[i]), 0);
		CHECK_CODE(dqlite_server_start(servers[i]), DQLITE_MISUSE);
		ids[i] = dqlite_server_get_id(servers[i]);
		CHECK(ids[i] != 0);
	}
	CHECK(ids[0] == 0x2dc171858c3155be);
	CHECK(voters_listed(dirs[0]) == 1);

	/* Roles are managed: in a while all three vote, and one can go. */
	double end = now() + 60;
	while (dqlite_server_handover(servers[0]) != 0 && now() < end) {
		uint64_t leader = wait_leader(addresses[1]);
		if (leader != 0 && leader != ids[0]) {
			break;
		}
		usleep(100000);
	}
	CHECK(now() < end);

	for (int i = 0; i < 3; i++) {
		CHECK_CODE(dqlite_server_stop(servers[i]), 0);
		CHECK_CODE(dqlite_server_stop(servers[i]), DQLITE_MISUSE);
	}
	/* All at once: nobody waits for a leader. */
	for (int i = 0; i < 3; i++) {
		CHECK_CODE(dqlite_server_start(servers[i]), 0);
		CHECK(dqlite_server_get_id(servers[i]) == ids[i]);
	}
	CHECK(wait_leader(addresses[0]) != 0 || wait_leader(addresses[1]) != 0);
	for (int i = 0; i < 3; i++) {
		dqlite_server_destroy(servers[i]);
	}

	/* Without an address, and with nobody to join. */
	CHECK_CODE(dqlite_server_create(new_dir(), &lone), 0);
	CHECK_CODE(dqlite_server_set_auto_bootstrap(lone, true), 0);
	CHECK_CODE(dqlite_server_start(lone), DQLITE_MISUSE);
	dqlite_server_destroy(lone);
	lone = new_server(new_dir(), "@capi-lone", "@capi-nobody");
	CHECK_CODE(dqlite_server_start(lone), DQLITE_ERROR);
	dqlite_server_destroy(lone);
}

static void write_file(const char *dir, const char *name, const char *text)
{
	char path[600];
	FILE *file;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	file = fopen(path, "w");
	CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void read_file(const char *dir, const char *name, char *text, size_t capacity)
{
	char path[600];
	size_t size;
	FILE *file;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	file = fopen(path, "r");
	CHECK(file != NULL);
	size = fread(text, 1, capacity - 1, file);
	text[size] = 0;
	fclose(file);
}

static void a_server_is_who_its_files_say(void)
{
	char dir[512], address[64], text[512], want[512];
	dqlite_server *server;
	snprintf(dir, sizeof dir, "%s", new_dir());
	snprintf(address, sizeof address, "@capi-%d-first", (int)getpid());
	server = new_server(dir, address, NULL);
	CHECK_CODE(dqlite_server_start(server), 0);
	dqlite_server_destroy(server);
	read_file(dir, "server-info", text, sizeof text);
	snprintf(want, sizeof want, "v1\n%s\n%llu\n", address, 0x2dc171858c3155beULL);
	CHECK_TEXT(text, want);
	read_file(dir, "node-store", text, sizeof text);
	snprintf(want, sizeof want, "v1\n%s\n%llu\nvoter\n", address, 0x2dc171858c3155beULL);
	CHECK_TEXT(text, want);

	/* Another address is not heeded any more, and none is needed. */
	server = new_server(dir, "@capi-other", NULL);
	CHECK_CODE(dqlite_server_start(server), 0);
	CHECK(ask(address, LEADER, 0, SERVER) == 0x2dc171858c3155be);
	CHECK_CODE(dqlite_server_set_address(server, "@late"), DQLITE_MISUSE);
	CHECK_CODE(dqlite_server_set_bind_address(server, "@late"), DQLITE_MISUSE);
	CHECK_CODE(dqlite_server_set_auto_bootstrap(server, false), DQLITE_MISUSE);
	dqlite_server_destroy(server);
	CHECK_CODE(dqlite_server_create(dir, &server), 0);
	CHECK_CODE(dqlite_server_start(server), 0);
	CHECK(dqlite_server_get_id(server) == 0x2dc171858c3155be);
	dqlite_server_destroy(server);

	/* A crash between the two files: it knows the cluster from its log. */
	write_file(dir, "node-store", "");
	CHECK_CODE(dqlite_server_create(dir, &server), 0);
	CHECK_CODE(dqlite_server_start(server), 0);
	dqlite_server_destroy(server);
	CHECK(voters_listed(dir) == 1);
}

static void damaged_files_of_a_server_are_refused(void)
{
	const char *infos[] = {"v1\n", "v2\n@a\n1\n", "v1\n@a\n-1\n", "v1\n@a\n99999999999999999999\n", "v1\n@a\n1"};
	const char *stores[] = {"v1\n@a\n1\n", "v1\n@a\n1\nking\n", "v9\n", "v1\n@a\nx\nvoter\n"};
	char dir[512];
	dqlite_server *server;
	snprintf(dir, sizeof dir, "%s", new_dir());
	for (size_t i = 0; i < sizeof infos / sizeof *infos; i++) {
		write_file(dir, "server-info", infos[i]);
		server = new_server(dir, "@a", NULL);
		CHECK_CODE(dqlite_server_start(server), DQLITE_ERROR);
		CHECK_CODE(dqlite_server_stop(server), DQLITE_MISUSE);
		dqlite_server_destroy(server);
	}
	write_file(dir, "server-info", "");
	for (size_t i = 0; i < sizeof stores / sizeof *stores; i++) {
		write_file(dir, "node-store", stores[i]);
		server = new_server(dir, "@a", NULL);
		CHECK_CODE(dqlite_server_start(server), DQLITE_ERROR);
		dqlite_server_destroy(server);
	}
	/* A list of members, but no name; a first server that joins; a directory that is not there. */
	write_file(dir, "node-store", "v1\n@a\n1\nvoter\n");
	server = new_server(dir, "@a", NULL);
	CHECK_CODE(dqlite_server_start(server), DQLITE_ERROR);
	dqlite_server_destroy(server);
	server = new_server(new_dir(), "@a", "@b");
	CHECK_CODE(dqlite_server_set_auto_bootstrap(server, true), 0);
	CHECK_CODE(dqlite_server_start(server), DQLITE_ERROR);
	dqlite_server_destroy(server);
	server = new_server("/dev/null/nowhere", "@a", NULL);
	CHECK_CODE(dqlite_server_start(server), DQLITE_ERROR);
	dqlite_server_destroy(server);
	CHECK_CODE(dqlite_server_create(NULL, &server), DQLITE_MISUSE);
	CHECK(server == NULL);
}

struct caller {
	dqlite_server *server;
	pthread_t thread;
	int calls;
};

/* A connect function that uses the server which calls it, on the very thread that starts it. */
static int call_back(void *arg, const char *address, int *fd)
{
	struct caller *caller = arg;
	if (pthread_equal(pthread_self(), caller->thread)) {
		caller->calls++;
		CHECK(dqlite_server_get_id(caller->server) != 0);
		CHECK_CODE(dqlite_server_set_address(caller->server, "@c"), DQLITE_MISUSE);
		CHECK_CODE(dqlite_server_stop(caller->server), DQLITE_MISUSE);
	}
	*fd = connect_to(address);
	return *fd < 0 ? 1 : 0;
}

static void a_connect_function_may_use_its_server(void)
{
	char first[64], second[64];
	dqlite_server *bootstrap;
	struct caller caller = {NULL, pthread_self(), 0};
	snprintf(first, sizeof first, "@capi-%d-calls-1", (int)getpid());
	snprintf(second, sizeof second, "@capi-%d-calls-2", (int)getpid());
	bootstrap = new_server(new_dir(), first, NULL);
	CHECK_CODE(dqlite_server_start(bootstrap), 0);
	caller.server = new_server(new_dir(), second, first);
	CHECK_CODE(dqlite_server_set_connect_func(caller.server, NULL, NULL), DQLITE_MISUSE);
	CHECK_CODE(dqlite_server_set_connect_func(caller.server, call_back, &caller), 0);
	CHECK_CODE(dqlite_server_set_auto_join(caller.server, NULL, 1), DQLITE_MISUSE);
	CHECK_CODE(dqlite_server_set_auto_join(caller.server, NULL, 0), 0);
	CHECK_CODE(dqlite_server_start(caller.server), 0);
	CHECK(caller.calls > 0);
	dqlite_server_destroy(caller.server);
	dqlite_server_destroy(bootstrap);
}

int main(int argc, char **argv)
{
	CHECK(argc >= 2);
	root = argv[1];
	a_server_is_who_its_files_say();
	damaged_files_of_a_server_are_refused();
	a_connect_function_may_use_its_server();
	servers_form_a_cluster_that_survives_a_full_stop();
	CHECK(threads_beside_this_one() == 0);
	return 0;
}
