/*
 * An SQLite extension as a loadable one is written: it calls SQLite through the table that it gets.
 *
 *   twice(x)    2x; counts how many threads are inside it at most
 */
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1

#include <stdatomic.h>
#include <time.h>

/* Threads in the function now, and the most there were. */
static atomic_int inside;
atomic_int most_inside;

static void twice(sqlite3_context *context, int argc, sqlite3_value **argv)
{
	struct timespec moment = {0, 200000};
	int now = atomic_fetch_add(&inside, 1) + 1, most = atomic_load(&most_inside);
	(void)argc;
	while (now > most && !atomic_compare_exchange_weak(&most_inside, &most, now)) {
	}
	/* Long enough for others to come in, were they let. */
	nanosleep(&moment, NULL);
	atomic_fetch_sub(&inside, 1);
	sqlite3_result_int64(context, 2 * sqlite3_value_int64(argv[0]));
}

int twice_init(sqlite3 *db, char **error, const sqlite3_api_routines *api)
{
	(void)error;
	SQLITE_EXTENSION_INIT2(api);
	return sqlite3_create_function(db, "twice", 1, SQLITE_UTF8, NULL, twice, NULL, NULL);
}

int broken_init(sqlite3 *db, char **error, const sqlite3_api_routines *api)
{
	(void)db;
	SQLITE_EXTENSION_INIT2(api);
	*error = sqlite3_mprintf("broken on purpose");
	return SQLITE_ERROR;
}
