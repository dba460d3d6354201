/*
 * A node's whole life with SQL in it: several clients at once, their statements, transactions, errors and
 * rudeness, snapshots, a stop in the middle of it, and the same directory again. For memory checkers
 * above all.
 *
 *   clients DIR [ROUNDS]     DIR: an empty directory for the node's data
 */
#include <dqlite.h>

#include <pthread.h>

#include "wire.h"

enum { CLIENTS = 4, BUSY = 5, CONSTRAINT = 19 };

static const char *dir;
static int rounds;

static dqlite_node *start(void)
{
	dqlite_node *n = NULL;
	CHECK_CODE(dqlite_node_create(1, "1", dir, &n), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_bind_address(n, "@"), DQLITE_OK);
	/* Some snapshots, compressed and not. */
	CHECK_CODE(dqlite_node_set_snapshot_params(n, 8, 16), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_busy_timeout(n, 1), DQLITE_OK);
	CHECK_CODE(dqlite_node_set_pool_thread_count(n, 2), DQLITE_OK);
	CHECK_CODE(dqlite_node_start(n), DQLITE_OK);
	return n;
}

/* Carries out a statement; waits as long as another one's transaction is in the way. */
static void execute(int fd, const char *sql)
{
	unsigned char in[512];
	unsigned answer;
	do {
		answer = statement(fd, EXEC_SQL, sql, in, sizeof in);
		CHECK(answer == RESULT || (answer == FAILURE && get_word(in) == BUSY));
	} while (answer != RESULT);
}

/* Prepares a statement and returns its id. */
static uint32_t prepare(int fd, const char *sql, uint64_t params)
{
	unsigned char in[512];
	CHECK(statement(fd, PREPARE, sql, in, sizeof in) == STMT);
	CHECK(get_word(in + 8) == params);
	return (uint32_t)(get_word(in) >> 32);
}

/* Inserts (key, text) with a statement, and once more, which the key forbids. */
static void insert(int fd, uint32_t id, uint64_t key, const char *text)
{
	unsigned char out[512], in[512];
	unsigned answer;
	size_t size = 0;
	put_word(out, (uint64_t)id << 32);
	/* Three parameters: an integer, a text, a blob. */
	put_word(out + 8, 3 | 1 << 8 | 3 << 16 | 4 << 24);
	put_word(out + 16, key);
	size = 24 + put_text(out + 24, text);
	put_word(out + size, 5);
	memcpy(out + size + 8, "\1\2\3\4\5\0\0", 8);
	size += 16;
	do {
		answer = request(fd, EXEC, out, size, in, sizeof in);
		CHECK(answer == RESULT || (answer == FAILURE && get_word(in) == BUSY));
	} while (answer != RESULT);
	CHECK(get_word(in + 8) == 1);
	do {
		CHECK(request(fd, EXEC, out, size, in, sizeof in) == FAILURE);
	} while (get_word(in) == BUSY);
	CHECK((get_word(in) & 255) == CONSTRAINT);
}

/* Sends a query of rows that fill several answers, and reads them all. */
static void read_many(int fd, bool interrupted)
{
	static const char sql[] = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) "
				  "SELECT i, 'row ' || i FROM n";
	const uint64_t more = 0xeeeeeeeeeeeeeeee, end = 0xffffffffffffffff;
	unsigned char out[512], header[8], *in = malloc(1 << 20);
	uint64_t mark = more;
	int answers = 0;
	CHECK(in != NULL);
	put_word(out, 0);
	send_request(fd, QUERY_SQL, out, 8 + put_text(out + 8, sql));
	if (interrupted) {
		put_word(out, 0);
		send_request(fd, INTERRUPT, out, 8);
	}
	while (true) {
		size_t size;
		read_exactly(fd, header, 8);
		size = (size_t)(get_word(header) & 0xffffffff) * 8;
		CHECK(size >= 8 && size <= 1 << 20);
		read_exactly(fd, in, size);
		answers++;
		if (header[4] == EMPTY) {
			CHECK(interrupted);
			break;
		}
		if (header[4] == FAILURE) {
			/* Interrupted; the answer to the interruption follows. */
			CHECK(interrupted && get_word(in) == SQLITE_INTERRUPT);
			continue;
		}
		CHECK(header[4] == ROWS);
		mark = get_word(in + size - 8);
		CHECK(mark == more || mark == end);
		if (mark == end && !interrupted) {
			break;
		}
	}
	CHECK(interrupted || answers > 1);
	free(in);
}

struct client {
	const char *address;
	int number;
};

static void *use(void *arg)
{
	const struct client *client = arg;
	unsigned char in[8192];
	char text[128];
	uint32_t id;
	int fd = open_database(client->address, "db");
	CHECK(fd >= 0);
	id = prepare(fd, "INSERT INTO t VALUES (?, ?, ?)", 3);
	for (int i = 0; i < rounds; i++) {
		snprintf(text, sizeof text, "row %d of client %d", i, client->number);
		insert(fd, id, (uint64_t)client->number * 1000000 + (uint64_t)i, text);
		CHECK(statement(fd, QUERY_SQL, "SELECT * FROM t ORDER BY k DESC LIMIT 3", in, sizeof in) == ROWS);
		CHECK(statement(fd, EXEC_SQL, "SELEC 1", in, sizeof in) == FAILURE);
		CHECK(statement(fd, QUERY_SQL, "SELECT * FROM missing", in, sizeof in) == FAILURE);
		execute(fd, "BEGIN IMMEDIATE");
		execute(fd, "UPDATE t SET text = text || '.' WHERE k % 7 = 0");
		execute(fd, i % 2 == 0 ? "COMMIT" : "ROLLBACK");
		read_many(fd, i % 2 == 0);
	}
	put_word(in, (uint64_t)id << 32);
	CHECK(request(fd, FINALIZE, in, 8, in, sizeof in) == EMPTY);
	/* It goes in the middle of a transaction, of a query, and of a message. */
	execute(fd, "BEGIN IMMEDIATE");
	execute(fd, "DELETE FROM t");
	put_word(in, 0);
	send_request(fd, QUERY_SQL, in, 8 + put_text(in + 8, "SELECT * FROM t a, t b, t c"));
	put_word(in, 100 | (uint64_t)EXEC_SQL << 32);
	CHECK(write(fd, in, 8) == 8);
	close(fd);
	return NULL;
}

/* What is no dqlite client at all. */
static void send_nonsense(const char *address)
{
	unsigned char out[64], in[64];
	for (int kind = 0; kind < 3; kind++) {
		int fd = connect_to(address);
		CHECK(fd >= 0);
		memset(out, 0x47, sizeof out);
		if (kind > 0) {
			put_word(out, 1);
			/* An unknown request, then one that is larger than it may be. */
			put_word(out + 8, kind == 1 ? 1 | 77ULL << 32 : 0xffffffff);
		}
		CHECK(write(fd, out, sizeof out) == (ssize_t)sizeof out);
		while (read(fd, in, sizeof in) > 0) {
		}
		close(fd);
	}
}

static void dump(int fd)
{
	unsigned char out[64], *in = malloc(4 << 20);
	CHECK(in != NULL);
	CHECK(request(fd, DUMP, out, put_text(out, "db"), in, 4 << 20) == FILES);
	CHECK(get_word(in) == 2);
	CHECK(strcmp((char *)in + 8, "db") == 0);
	put_word(out, 1);
	CHECK(request(fd, CLUSTER, out, 8, in, 4 << 20) == SERVERS);
	CHECK(get_word(in) == 1);
	free(in);
}

int main(int argc, char **argv)
{
	pthread_t threads[CLIENTS];
	struct client clients[CLIENTS];
	dqlite_node *n;
	int fd, left;

	CHECK(argc >= 2);
	dir = argv[1];
	rounds = argc > 2 ? atoi(argv[2]) : 20;
	n = start();
	fd = open_database(dqlite_node_get_bind_address(n), "db");
	CHECK(fd >= 0);
	execute(fd, "CREATE TABLE t (k INTEGER PRIMARY KEY, text TEXT, bytes BLOB)");
	for (int i = 0; i < CLIENTS; i++) {
		clients[i].address = dqlite_node_get_bind_address(n);
		clients[i].number = i;
		CHECK(pthread_create(&threads[i], NULL, use, &clients[i]) == 0);
	}
	send_nonsense(dqlite_node_get_bind_address(n));
	for (int i = 0; i < CLIENTS; i++) {
		CHECK(pthread_join(threads[i], NULL) == 0);
	}
	CHECK(query(fd, "SELECT count(*) AS n FROM t") == (uint64_t)(CLIENTS * rounds));
	dump(fd);
	/* Two connections are open, one with a transaction, when the node stops. */
	left = open_database(dqlite_node_get_bind_address(n), "db");
	execute(left, "BEGIN IMMEDIATE");
	execute(left, "DELETE FROM t");
	CHECK_CODE(dqlite_node_stop(n), DQLITE_OK);
	dqlite_node_destroy(n);
	close(left);
	close(fd);

	/* What was committed is there again. */
	n = start();
	fd = open_database(dqlite_node_get_bind_address(n), "db");
	CHECK(fd >= 0);
	CHECK(query(fd, "SELECT count(*) AS n FROM t") == (uint64_t)(CLIENTS * rounds));
	close(fd);
	dqlite_node_destroy(n);
	return 0;
}
