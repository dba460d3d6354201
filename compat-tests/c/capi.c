/*
 * What C programs do with libdqlite: every function of dqlite.h, and every way to misuse one that the
 * library answers. Exits with 0 if all is well, else names the line of the first check that failed.
 *
 *   capi DIR     an empty directory for the nodes' data
 */
#include <dqlite.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include "life.h"

static void versions_are_those_of_the_interface(void)
{
	CHECK(dqlite_version_number() == DQLITE_VERSION_NUMBER);
	CHECK(DQLITE_VERSION_NUMBER == 11806);
	CHECK(strncmp(dqlite_version_string, "1.18.6@dq-", 10) == 0);
	CHECK(SQLITE_IOERR_NOT_LEADER == 10250 && SQLITE_IOERR_LEADERSHIP_LOST == 10506);
	CHECK(sizeof(dqlite_node_info_ext) == DQLITE_NODE_INFO_EXT_SZ_ORIG);
	CHECK(dqlite_generate_node_id("1") > 1);
	CHECK(dqlite_generate_node_id("1") != dqlite_generate_node_id("2"));
}

static void null_objects_are_misuse(void)
{
	uint64_t index, term;
	dqlite_server *server = NULL;
	CHECK_TEXT(dqlite_node_errmsg(NULL), "node is NULL");
	dqlite_node_destroy(NULL);
	CHECK_CODE(dqlite_node_create(1, "1", root, NULL), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_start(NULL), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_stop(NULL), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_handover(NULL), DQLITE_MISUSE);
	CHECK(dqlite_node_get_bind_address(NULL) == NULL);
	CHECK_CODE(dqlite_node_describe_last_entry(NULL, &index, &term), DQLITE_MISUSE);
	dqlite_server_destroy(NULL);
	CHECK_CODE(dqlite_server_create(root, NULL), DQLITE_MISUSE);
	CHECK_CODE(dqlite_server_start(server), DQLITE_MISUSE);
	CHECK(dqlite_server_get_id(server) == 0);
}

static void a_directory_that_cannot_be_used_is_refused(void)
{
	char path[1200], want[1300];
	dqlite_node *n = NULL;
	FILE *file;

	snprintf(path, sizeof path, "%s/missing", root);
	CHECK_CODE(dqlite_node_create(1, "1", path, &n), DQLITE_ERROR);
	snprintf(want, sizeof want, "raft_init(): io: directory '%s' does not exist", path);
	CHECK_TEXT(dqlite_node_errmsg(n), want);
	dqlite_node_destroy(n);

	snprintf(path, sizeof path, "%s/file", root);
	file = fopen(path, "w");
	CHECK(file != NULL && fclose(file) == 0);
	CHECK_CODE(dqlite_node_create(1, "1", path, &n), DQLITE_ERROR);
	snprintf(want, sizeof want, "raft_init(): io: path '%s' is not a directory", path);
	CHECK_TEXT(dqlite_node_errmsg(n), want);
	dqlite_node_destroy(n);

	memset(path, 'x', 1000);
	path[1000] = 0;
	CHECK_CODE(dqlite_node_create(1, "1", path, &n), DQLITE_ERROR);
	CHECK_TEXT(dqlite_node_errmsg(n), "raft_uv_init(): directory path too long");
	dqlite_node_destroy(n);

	snprintf(path, sizeof path, "%s/metadata1", new_dir());
	file = fopen(path, "w");
	CHECK(file != NULL && fwrite("\7\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32, 1, file) == 1);
	CHECK(fclose(file) == 0);
	*strrchr(path, '/') = 0;
	CHECK_CODE(dqlite_node_create(1, "1", path, &n), DQLITE_ERROR);
	CHECK_TEXT(dqlite_node_errmsg(n),
		   "raft_init(): io: decode content of metadata1: bad format version 7");
	dqlite_node_destroy(n);

	CHECK_CODE(dqlite_node_create(1, NULL, root, &n), DQLITE_MISUSE);
	CHECK_TEXT(dqlite_node_errmsg(n), "a text is NULL");
	dqlite_node_destroy(n);
	CHECK_CODE(dqlite_node_create(1, "1", NULL, &n), DQLITE_MISUSE);
	CHECK_TEXT(dqlite_node_errmsg(n), "a path is NULL");
	dqlite_node_destroy(n);
	CHECK_CODE(dqlite_node_create(1, "\xff", root, &n), DQLITE_ERROR);
	CHECK_TEXT(dqlite_node_errmsg(n), "a text is not UTF-8");
	dqlite_node_destroy(n);
}

static void settings_have_ranges(void)
{
	dqlite_node *n = new_node();
	CHECK_CODE(dqlite_node_set_network_latency(n, 0), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_network_latency(n, 999999), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_network_latency(n, 1000000), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_network_latency(n, 3600ULL * 1000000000), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_network_latency(n, 3600ULL * 1000000000 + 1), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_network_latency_ms(n, 0), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_network_latency_ms(n, 3600001), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_network_latency_ms(n, 1), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_snapshot_params(n, 2, 3), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_snapshot_params(n, 5, 4), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_snapshot_params(n, 0, 4), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_snapshot_params_v2(n, 4, 4, 2), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_snapshot_params_v2(n, 4, 4, -1), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_snapshot_params_v2(n, 1024, 8192, DQLITE_SNAPSHOT_TRAILING_DYNAMIC),
		   DQLITE_OK);
	CHECK_CODE(dqlite_node_set_block_size(n, 0), DQLITE_ERROR);
	CHECK_CODE(dqlite_node_set_block_size(n, 511), DQLITE_ERROR);
	CHECK_CODE(dqlite_node_set_block_size(n, 256), DQLITE_ERROR);
	CHECK_CODE(dqlite_node_set_block_size(n, 524288), DQLITE_ERROR);
	CHECK_CODE(dqlite_node_set_block_size(n, 262144), DQLITE_OK);
	CHECK_CODE(dqlite_node_enable_disk_mode(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_target_voters(n, -1), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_target_standbys(n, 1), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_pool_thread_count(n, 0), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_pool_thread_count(n, 3), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_auto_recovery(n, false), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_snapshot_compression(n, true), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_busy_timeout(n, 10), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_connect_func(n, NULL, NULL), DQLITE_OK);
	dqlite_node_destroy(n);
}

static void addresses_are_bound_at_once(void)
{
	dqlite_node *n = new_node(), *other = new_node();
	const char *bad[] = {"", "8080", "localhost", "/a/path", "[::1]", "127.0.0.1:99999"};
	char first[128];
	int fd;

	CHECK(dqlite_node_get_bind_address(n) == NULL);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		CHECK_CODE(dqlite_node_set_bind_address(n, bad[i]), DQLITE_ERROR);
		CHECK(dqlite_node_errmsg(n)[0] != 0);
	}
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK(strlen(dqlite_node_get_bind_address(n)) == 6);
	CHECK_CODE(dqlite_node_set_bind_address(other, dqlite_node_get_bind_address(n)), DQLITE_ERROR);

	CHECK_CODE(dqlite_node_set_bind_address(n, "127.0.0.1:0"), DQLITE_OK);
	snprintf(first, sizeof first, "%s", dqlite_node_get_bind_address(n));
	CHECK(strncmp(first, "127.0.0.1:", 10) == 0 && atoi(first + 10) > 0);
	CHECK(connect_to(first) == -1 && errno == ECONNREFUSED);
	/* Both may bind; who starts first has it. */
	CHECK_CODE(dqlite_node_set_bind_address(other, first), DQLITE_OK);
	CHECK_TEXT(dqlite_node_get_bind_address(other), first);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(other), DQLITE_ERROR);
	CHECK(dqlite_node_errmsg(other)[0] != 0);
	fd = connect_to(first);
	CHECK(fd >= 0);
	close(fd);
	CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
	CHECK(connect_to(first) == -1);
	dqlite_node_destroy(n);

	/* A bind gives up the one before it. */
	CHECK_CODE(dqlite_node_set_bind_address(other, "@"), DQLITE_OK);
	n = new_node();
	CHECK_CODE(dqlite_node_set_bind_address(n, first), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	dqlite_node_destroy(n);
	dqlite_node_destroy(other);
}

static void what_is_out_of_order_is_misuse(void)
{
	dqlite_node *n = new_node();
	uint64_t index, term;
	dqlite_node_info info = {1, "1"};

	CHECK_CODE(dqlite_node_stop(n), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_handover(n), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_start(n), DQLITE_MISUSE);
	CHECK_TEXT(dqlite_node_errmsg(n), "no bind address");
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_connect_func(n, NULL, NULL), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_network_latency(n, 1000000), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_network_latency_ms(n, 1), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_snapshot_params(n, 4, 4), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_snapshot_params_v2(n, 4, 4, 0), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_set_block_size(n, 4096), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_enable_disk_mode(n), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_recover(n, &info, 1), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_describe_last_entry(n, &index, &term), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_stop(n), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_handover(n), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_start(n), DQLITE_MISUSE);
	CHECK_TEXT(dqlite_node_errmsg(n), "a stopped node cannot be started again");
	dqlite_node_destroy(n);
}

static void who_is_nobody_cannot_start(void)
{
	const dqlite_node_id ids[] = {0, 1};
	const char *addresses[] = {"1", ""};
	const char *dir = new_dir();
	for (int i = 0; i < 2; i++) {
		dqlite_node *n = new_node_at(ids[i], addresses[i], dir);
		CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
		CHECK_CODE(dqlite_node_start(n), DQLITE_ERROR);
		CHECK(dqlite_node_errmsg(n)[0] != 0);
		dqlite_node_destroy(n);
	}
	/* And the directory may be gone by then. */
	CHECK(count_entries(dir) == 0);
	dqlite_node *n = new_node_at(1, "1", dir);
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK(rmdir(dir) == 0);
	CHECK_CODE(dqlite_node_start(n), DQLITE_ERROR);
	CHECK(strstr(dqlite_node_errmsg(n), dir) != NULL);
	dqlite_node_destroy(n);
}

static void a_sole_voter_leads_when_start_returns(void)
{
	dqlite_node *n = new_node();
	CHECK_CODE(dqlite_node_set_failure_domain(n, 7), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK(ask(dqlite_node_get_bind_address(n), LEADER, 0, SERVER) == 1);
	CHECK(ask(dqlite_node_get_bind_address(n), DESCRIBE, 0, METADATA) == 7);
	CHECK_CODE(dqlite_node_set_failure_domain(n, 8), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_busy_timeout(n, 5), DQLITE_OK);
	CHECK(ask(dqlite_node_get_bind_address(n), DESCRIBE, 0, METADATA) == 8);
	/* Nobody is there to take anything over, and nobody at the address "1" either. */
	CHECK_CODE(dqlite_node_handover(n), DQLITE_ERROR);
	/* Running: stopped by destroy. */
	dqlite_node_destroy(n);
}

static void a_directory_has_one_node_at_a_time(void)
{
	const char *dir = new_dir();
	dqlite_node *n = new_node_at(1, "1", dir), *other;
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	other = new_node_at(1, "1", dir);
	CHECK_CODE(dqlite_node_set_bind_address(other, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(other), DQLITE_ERROR);
	CHECK_TEXT(dqlite_node_errmsg(other), "couldn't lock the raft directory");
	CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
	/* What failed can be tried again. */
	CHECK_CODE(dqlite_node_start(other), DQLITE_OK);
	CHECK_CODE(dqlite_node_stop(other), DQLITE_OK);
	dqlite_node_destroy(n);
	dqlite_node_destroy(other);
}

static void a_configuration_can_be_forced(void)
{
	const char *dir = new_dir();
	dqlite_node *n = new_node_at(1, "1", dir);
	uint64_t index = 9, term = 9, before;
	dqlite_node_info_ext infos[2] = {
		{sizeof infos[0], 1, (uint64_t)(uintptr_t) "1", 0},
		{sizeof infos[0], 2, (uint64_t)(uintptr_t) "2", 2},
	};
	dqlite_node_info plain[2] = {{1, "1"}, {1, "2"}};
	/* As a later version may define it. */
	uint64_t large[2][5] = {
		{40, 1, (uint64_t)(uintptr_t) "1", 0, 0},
		{40, 2, (uint64_t)(uintptr_t) "2", 1, 0},
	};

	CHECK_CODE(dqlite_node_describe_last_entry(n, &index, &term), DQLITE_OK);
	CHECK(index == 0 && term == 0);
	CHECK_CODE(dqlite_node_describe_last_entry(n, NULL, &term), DQLITE_MISUSE);
	CHECK_TEXT(dqlite_node_errmsg(n), "there is no place for index and term");
	CHECK_CODE(dqlite_node_recover_ext(n, infos, 2), DQLITE_ERROR);
	CHECK_TEXT(dqlite_node_errmsg(n), "raft_recover(): nothing to recover");
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
	dqlite_node_destroy(n);

	n = new_node_at(1, "1", dir);
	CHECK_CODE(dqlite_node_describe_last_entry(n, &before, &term), DQLITE_OK);
	CHECK(before > 0 && term > 0);
	CHECK_CODE(dqlite_node_recover(n, plain, 2), DQLITE_ERROR);
	plain[1].id = 2;
	plain[1].address = "1";
	CHECK_CODE(dqlite_node_recover(n, plain, 2), DQLITE_ERROR);
	plain[1].address = "2";
	CHECK_CODE(dqlite_node_recover(n, plain, 0), DQLITE_MISUSE);
	CHECK_CODE(dqlite_node_recover(n, NULL, 1), DQLITE_MISUSE);
	infos[1].size = 24;
	CHECK_CODE(dqlite_node_recover_ext(n, infos, 2), DQLITE_MISUSE);
	infos[1].size = sizeof infos[0];
	large[1][4] = 1;
	CHECK_CODE(dqlite_node_recover_ext(n, (dqlite_node_info_ext *)large, 2), DQLITE_MISUSE);
	large[1][4] = 0;
	CHECK_CODE(dqlite_node_describe_last_entry(n, &index, &term), DQLITE_OK);
	CHECK(index == before);
	CHECK_CODE(dqlite_node_recover_ext(n, (dqlite_node_info_ext *)large, 2), DQLITE_OK);
	CHECK_CODE(dqlite_node_recover_ext(n, infos, 2), DQLITE_OK);
	CHECK_CODE(dqlite_node_recover(n, plain, 1), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_auto_recovery(n, false), DQLITE_OK);
	CHECK_CODE(dqlite_node_describe_last_entry(n, &index, &term), DQLITE_OK);
	CHECK(index == before + 3 && term > 0);
	dqlite_node_destroy(n);

	/* Of the last configuration it is the only voter again. */
	n = new_node_at(1, "1", dir);
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK(ask(dqlite_node_get_bind_address(n), LEADER, 0, SERVER) == 1);
	dqlite_node_destroy(n);
}

struct dials {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int entered, left, hold;
};

/* Waits as long as it is held, then fails. */
static int held_dial(void *arg, const char *address, int *fd)
{
	struct dials *dials = arg;
	(void)address;
	(void)fd;
	pthread_mutex_lock(&dials->lock);
	dials->entered++;
	pthread_cond_broadcast(&dials->changed);
	while (dials->hold) {
		pthread_cond_wait(&dials->changed, &dials->lock);
	}
	dials->left++;
	pthread_mutex_unlock(&dials->lock);
	return 16;
}

static void *release(void *arg)
{
	struct dials *dials = arg;
	pthread_mutex_lock(&dials->lock);
	dials->hold = 0;
	pthread_cond_broadcast(&dials->changed);
	pthread_mutex_unlock(&dials->lock);
	return NULL;
}

static void stop_does_not_wait_for_a_dial_but_destroy_does(void)
{
	struct dials dials = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 1};
	const char *dir = new_dir();
	dqlite_node *n = new_node_at(1, "1", dir);
	dqlite_node_info plain[2] = {{1, "1"}, {2, "2"}};
	pthread_t thread;
	double began;

	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
	CHECK_CODE(dqlite_node_recover(n, plain, 2), DQLITE_OK);
	dqlite_node_destroy(n);

	/* It looks for the other voter. */
	n = new_node_at(1, "1", dir);
	CHECK_CODE(dqlite_node_set_network_latency_ms(n, 5), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_connect_func(n, held_dial, &dials), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	pthread_mutex_lock(&dials.lock);
	while (dials.entered == 0) {
		pthread_cond_wait(&dials.changed, &dials.lock);
	}
	pthread_mutex_unlock(&dials.lock);
	began = now();
	CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
	CHECK(now() - began < 2);
	CHECK(dials.left == 0);
	CHECK(pthread_create(&thread, NULL, release, &dials) == 0);
	dqlite_node_destroy(n);
	CHECK(dials.left == dials.entered);
	CHECK(pthread_join(thread, NULL) == 0);
}

static void stop_interrupts_a_statement_without_end(void)
{
	unsigned char out[512], in[16];
	dqlite_node *n = new_node();
	size_t size;
	double began;
	int fd;

	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	fd = open_database(dqlite_node_get_bind_address(n), "endless");
	CHECK(fd >= 0);
	put_word(out, 0);
	size = 8 + put_text(out + 8, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
				     "SELECT count(*) FROM n");
	send_request(fd, QUERY_SQL, out, size);
	/* Another connection is served meanwhile. */
	CHECK(ask(dqlite_node_get_bind_address(n), LEADER, 0, SERVER) == 1);
	began = now();
	CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
	CHECK(now() - began < 3);
	/* No answer, only the end. */
	CHECK(read(fd, in, sizeof in) <= 0);
	close(fd);
	dqlite_node_destroy(n);
}

int main(int argc, char **argv)
{
	struct sigaction before[32];
	CHECK(argc >= 2);
	root = argv[1];
	/* Whoever started this may have one ignored, as nohup does. */
	for (int i = 1; i < 32; i++) {
		CHECK(sigaction(i, NULL, &before[i]) == 0);
	}
	versions_are_those_of_the_interface();
	null_objects_are_misuse();
	a_directory_that_cannot_be_used_is_refused();
	settings_have_ranges();
	addresses_are_bound_at_once();
	what_is_out_of_order_is_misuse();
	who_is_nobody_cannot_start();
	a_sole_voter_leads_when_start_returns();
	a_directory_has_one_node_at_a_time();
	a_configuration_can_be_forced();
	stop_does_not_wait_for_a_dial_but_destroy_does();
	stop_interrupts_a_statement_without_end();
	/* Nobody has touched what signals do. */
	for (int i = 1; i < 32; i++) {
		struct sigaction action;
		CHECK(sigaction(i, NULL, &action) == 0 && action.sa_handler == before[i].sa_handler);
	}
	return 0;
}
