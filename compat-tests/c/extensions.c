/*
 * What the library offers beyond the original, and what it does with the program's own SQLite.
 *
 *   extensions DIR own       built with an SQLite of its own
 *   extensions DIR shared    built with the system's, which this program uses as well
 *   extensions DIR single    the same, and the program has switched SQLite's mutexes off
 */
#include <dqlite.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "wire.h"

#ifdef SHARED
#define CONFIGURE(option) sqlite3_config(option)
#define AUTO(init) sqlite3_auto_extension((void (*)(void))(init))
#else
#define CONFIGURE(option) 0
#define AUTO(init) 0
#endif

extern atomic_int most_inside;
int twice_init(sqlite3 *db, char **error, const struct sqlite3_api_routines *api);
int broken_init(sqlite3 *db, char **error, const struct sqlite3_api_routines *api);

static const char *root;

static dqlite_node *new_node(void)
{
	static int count;
	char path[512];
	dqlite_node *n = NULL;
	snprintf(path, sizeof path, "%s/%d", root, count++);
	CHECK(mkdir(path, 0700) == 0);
	CHECK_CODE(dqlite_node_create(1, "1", path, &n), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	return n;
}

static dqlite_node *start_node(void)
{
	dqlite_node *n = new_node();
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	return n;
}

static atomic_int calls;

static void on_log(void *arg, int level, const char *target, const char *message)
{
	CHECK(arg == &calls);
	CHECK(level >= 1 && level <= 4);
	CHECK(target[0] != 0 && message[0] != 0);
	atomic_fetch_add(&calls, 1);
}

static void a_function_gets_what_is_logged(void)
{
	int before;
	CHECK_CODE(dqx_set_log_func(on_log, &calls, 0), DQLITE_MISUSE);
	CHECK_CODE(dqx_set_log_func(on_log, &calls, 5), DQLITE_MISUSE);
	CHECK_CODE(dqx_set_log_func(on_log, &calls, 1), DQLITE_OK);
	dqlite_node_destroy(start_node());
	CHECK(atomic_load(&calls) > 0);
	CHECK_CODE(dqx_set_log_func(NULL, NULL, 0), DQLITE_OK);
	before = atomic_load(&calls);
	dqlite_node_destroy(start_node());
	CHECK(atomic_load(&calls) == before);
}

static void a_node_starts_with_its_weight(void)
{
	unsigned char out[8], in[512], hello[8];
	dqlite_node *n = new_node();
	int fd;
	CHECK_CODE(dqx_node_set_weight(NULL, 1), DQLITE_MISUSE);
	CHECK_CODE(dqx_node_set_weight(n, 17), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK_CODE(dqx_node_set_weight(n, 18), DQLITE_MISUSE);
	fd = connect_to(dqlite_node_get_bind_address(n));
	CHECK(fd >= 0);
	put_word(hello, 1);
	CHECK(write(fd, hello, 8) == 8);
	put_word(out, 0);
	request(fd, DESCRIBE, out, 8, in, sizeof in);
	CHECK(get_word(in + 8) == 17);
	put_word(out, 19);
	request(fd, WEIGHT, out, 8, in, sizeof in);
	put_word(out, 0);
	request(fd, DESCRIBE, out, 8, in, sizeof in);
	CHECK(get_word(in + 8) == 19);
	close(fd);
	dqlite_node_destroy(n);
}

static void a_node_has_the_extension_that_it_was_given(void)
{
	dqlite_node *n = new_node(), *other = start_node();
	unsigned char out[64], in[512];
	int fd;
	CHECK_CODE(dqx_node_set_extension_init(n, twice_init), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK_CODE(dqx_node_set_extension_init(n, NULL), DQLITE_MISUSE);
	fd = open_database(dqlite_node_get_bind_address(n), "db");
	CHECK(fd >= 0);
	CHECK(query(fd, "SELECT twice(21) AS x") == 42);
	close(fd);
	/* And only that one. */
	fd = open_database(dqlite_node_get_bind_address(other), "db");
	CHECK(fd >= 0);
	put_word(out, 0);
	CHECK(request(fd, QUERY_SQL, out, 8 + put_text(out + 8, "SELECT twice(21)"), in, sizeof in) == FAILURE);
	close(fd);
	dqlite_node_destroy(other);
	dqlite_node_destroy(n);

	/* One that fails fails the opening of databases, and nothing else. */
	n = new_node();
	CHECK_CODE(dqx_node_set_extension_init(n, broken_init), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK(open_database(dqlite_node_get_bind_address(n), "db") == -1);
	dqlite_node_destroy(n);
}

static void *ask_often(void *node)
{
	int fd = open_database(dqlite_node_get_bind_address(node), "db");
	CHECK(fd >= 0);
	for (uint64_t i = 0; i < 50; i++) {
		char sql[64];
		snprintf(sql, sizeof sql, "SELECT twice(%d) AS x", (int)i);
		CHECK(query(fd, sql) == 2 * i);
	}
	close(fd);
	return NULL;
}

/* What the program has registered with its SQLite is there in all nodes; threads of several nodes meet
 * in it only if SQLite can bear that. */
static void nodes_share_the_programs_sqlite(bool single)
{
	dqlite_node *nodes[3];
	pthread_t threads[6];
	CHECK_CODE(AUTO(twice_init), 0);
	for (int i = 0; i < 3; i++) {
		nodes[i] = start_node();
	}
	for (int i = 0; i < 6; i++) {
		CHECK(pthread_create(&threads[i], NULL, ask_often, nodes[i % 3]) == 0);
	}
	for (int i = 0; i < 6; i++) {
		CHECK(pthread_join(threads[i], NULL) == 0);
	}
	CHECK(atomic_load(&most_inside) >= 1);
	CHECK(!single || atomic_load(&most_inside) == 1);
	for (int i = 0; i < 3; i++) {
		dqlite_node_destroy(nodes[i]);
	}
}

int main(int argc, char **argv)
{
	bool single;
	CHECK(argc == 3);
	root = argv[1];
	single = strcmp(argv[2], "single") == 0;
	/* Neither loading the library nor creating a node initialises SQLite: after that the program could
	 * not configure it any more. */
	dqlite_node_destroy(new_node());
	CHECK_CODE(CONFIGURE(single ? SQLITE_CONFIG_SINGLETHREAD : SQLITE_CONFIG_MULTITHREAD), 0);
	a_function_gets_what_is_logged();
	a_node_starts_with_its_weight();
	a_node_has_the_extension_that_it_was_given();
	if (strcmp(argv[2], "own") != 0) {
		nodes_share_the_programs_sqlite(single);
	}
	return 0;
}
