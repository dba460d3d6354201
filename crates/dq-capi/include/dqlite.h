/*
 * The C interface of dqlite, version 1.18.6, as libdqlite.so.0 of the dq project offers it.
 *
 * Common to all functions:
 *
 * - Pointers to nodes and servers come from the respective create function and are not used any more
 *   once their destroy function was called. Functions may be called from any thread; each object does
 *   one thing at a time.
 * - Texts are C strings in UTF-8, and copied during the call. Texts that are returned belong to the
 *   object.
 * - Functions that return int return DQLITE_OK or one of the other codes; dqlite_node_errmsg then says
 *   what was wrong. Nothing that a caller does wrong with a node ends the program.
 */
#ifndef DQLITE_H
#define DQLITE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef DQLITE_API
#if defined(__GNUC__)
#define DQLITE_API __attribute__((visibility("default")))
#else
#define DQLITE_API
#endif
#endif

/* Marks what may change in any release. */
#define DQLITE_EXPERIMENTAL

#ifndef DQLITE_VISIBLE_TO_TESTS
#define DQLITE_VISIBLE_TO_TESTS DQLITE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define DQLITE_VERSION_MAJOR 1
#define DQLITE_VERSION_MINOR 18
#define DQLITE_VERSION_RELEASE 6
#define DQLITE_VERSION_NUMBER \
	(DQLITE_VERSION_MAJOR * 10000 + DQLITE_VERSION_MINOR * 100 + DQLITE_VERSION_RELEASE)

/* Codes that clients get beside those of SQLite: certainly not executed, and perhaps executed. */
#define SQLITE_IOERR_NOT_LEADER (SQLITE_IOERR | (40 << 8))
#define SQLITE_IOERR_LEADERSHIP_LOST (SQLITE_IOERR | (41 << 8))

/* What functions return. */
enum {
	DQLITE_OK = 0,
	DQLITE_ERROR = 1,  /* it failed */
	DQLITE_MISUSE = 2, /* it must not be called so, or not now */
	DQLITE_NOMEM = 3   /* out of memory */
};

/* DQLITE_VERSION_NUMBER of the library that is loaded, and its full version. */
DQLITE_API int dqlite_version_number(void);
DQLITE_API extern const char *dqlite_version_string;

/* The id of a node: never 0. */
typedef unsigned long long dqlite_node_id;

/* Makes up an id from the node's address and the time. */
DQLITE_API dqlite_node_id dqlite_generate_node_id(const char *address);

/* ---------------------------------------------------------------------------------------------- */
/* Nodes                                                                                          */

typedef struct dqlite_node dqlite_node;

/*
 * Makes a node that keeps its state in data_dir, which exists. Id and address are the same at every
 * start; id 1 (and one other, of go-dqlite) begins a new cluster when the directory is empty. The
 * address is what clients and other nodes are told: any text that their connect functions understand.
 *
 * There is a node in *n, to be destroyed, even if this fails; NULL only when out of memory, which
 * dqlite_node_errmsg and dqlite_node_destroy take.
 */
DQLITE_API int dqlite_node_create(dqlite_node_id id,
				  const char *address,
				  const char *data_dir,
				  dqlite_node **n);

/* Stops the node if it runs, waits until no call of the connect function is under way, frees it. */
DQLITE_API void dqlite_node_destroy(dqlite_node *n);

/* What went wrong last, or an empty text. Valid until the node is destroyed. */
DQLITE_API const char *dqlite_node_errmsg(dqlite_node *n);

/*
 * Binds an address at once, to listen on it from the start on. One of
 *
 *   1.2.3.4   1.2.3.4:9000   ::1   [::1]:9000   @name   @
 *
 * The port is 8080 if there is none, and chosen by the kernel if it is 0. With '@' it is a unix socket
 * in the abstract namespace (with a name chosen by the kernel), on which only this process is served.
 * An earlier bind is given up. Before the start.
 */
DQLITE_API int dqlite_node_set_bind_address(dqlite_node *n, const char *address);

/* What is bound, port and name resolved; NULL if nothing is. Valid until the next bind. */
DQLITE_API const char *dqlite_node_get_bind_address(dqlite_node *n);

/*
 * The function that opens streams to nodes, this one included, given their addresses. It blocks until
 * there is one, stores it in *fd, which the library closes later, and returns 0; or another number if
 * it cannot. Called from any thread, several times at once, until dqlite_node_destroy returns. The
 * socket is a TCP or unix stream socket. Before the start.
 */
DQLITE_API int dqlite_node_set_connect_func(dqlite_node *n,
					    int (*f)(void *arg, const char *address, int *fd),
					    void *arg);

/*
 * One-way network latency, from 1 ms to an hour. The leader's heartbeats come 1.5 times, followers
 * give up on it after 15 times as much. The same on all nodes. Before the start.
 */
DQLITE_API int dqlite_node_set_network_latency_ms(dqlite_node *n, unsigned milliseconds);

/* The same in nanoseconds; deprecated. */
DQLITE_API int dqlite_node_set_network_latency(dqlite_node *n, unsigned long long nanoseconds);

/* A number that nodes have in common that fail together. At any time. */
DQLITE_API int dqlite_node_set_failure_domain(dqlite_node *n, unsigned long long code);

enum {
	DQLITE_SNAPSHOT_TRAILING_STATIC = 0,
	DQLITE_SNAPSHOT_TRAILING_DYNAMIC = 1
};

/*
 * A snapshot is taken snapshot_threshold entries of the log after the last one, and
 * snapshot_trailing entries are kept behind it: at least 4, and at least the threshold. Before the
 * start. A dynamic strategy keeps as many of them as fit in the size of the snapshot, but at least
 * the threshold.
 */
DQLITE_API int dqlite_node_set_snapshot_params_v2(dqlite_node *n,
						  unsigned snapshot_threshold,
						  unsigned snapshot_trailing,
						  int trailing_strategy);

/* The same with DQLITE_SNAPSHOT_TRAILING_STATIC; deprecated. */
DQLITE_API int dqlite_node_set_snapshot_params(dqlite_node *n,
					       unsigned snapshot_threshold,
					       unsigned snapshot_trailing);

/* The unit in which the log is written: a power of two from 512 to 262144 bytes. Before the start. */
DQLITE_API int dqlite_node_set_block_size(dqlite_node *n, size_t size);

/*
 * Was to keep databases on disk, in releases 1.13 to 1.18.2; they are in memory always here. Programs
 * need the function to be there. Before the start.
 */
DQLITE_API int dqlite_node_enable_disk_mode(dqlite_node *n);

/* Voters (3) and standbys (0) that role management keeps. Before the start. */
DQLITE_API int dqlite_node_set_target_voters(dqlite_node *n, int voters);
DQLITE_API int dqlite_node_set_target_standbys(dqlite_node *n, int standbys);

/* Lets the leader promote and demote members of the cluster. Before the start. */
DQLITE_API int dqlite_node_enable_role_management(dqlite_node *n);

/* Threads for long statements, 64 at most; 0 leaves it to the library. Before the start. */
DQLITE_API int dqlite_node_set_pool_thread_count(dqlite_node *n, unsigned thread_count);

/*
 * Whether damaged files at the end of the log are set aside at start, which may lose transactions, or
 * the start fails. On at first.
 */
DQLITE_API int dqlite_node_set_auto_recovery(dqlite_node *n, bool enabled);

/* Whether snapshots are compressed. On at first. */
DQLITE_API int dqlite_node_set_snapshot_compression(dqlite_node *n, bool enabled);

/* How long a write waits for another connection's open transaction; 0 at first. At any time. */
DQLITE_API int dqlite_node_set_busy_timeout(dqlite_node *n, unsigned msecs);

/*
 * Starts the node on the address that was bound. When this returns 0 it takes connections, and leads
 * if it is the only voter. A node starts once: to start again, make a new one.
 */
DQLITE_API int dqlite_node_start(dqlite_node *n);

/*
 * Hands over what a running node does for its cluster: leadership to another voter, then its vote to
 * a member that has none. Returns 0 if everything was handed over. The node can be stopped either
 * way.
 */
DQLITE_API int dqlite_node_handover(dqlite_node *n);

/* Stops the node: statements are interrupted, connections closed; the address is free again. */
DQLITE_API int dqlite_node_stop(dqlite_node *n);

/* A member of a cluster. */
struct dqlite_node_info
{
	dqlite_node_id id;
	const char *address;
};
typedef struct dqlite_node_info dqlite_node_info;

/* The same with a role: 0 voter, 1 standby, 2 spare. Later versions may append words that are not 0. */
struct dqlite_node_info_ext
{
	uint64_t size;    /* of this structure */
	uint64_t id;      /* a dqlite_node_id */
	uint64_t address; /* a const char * */
	uint64_t dqlite_role;
};
typedef struct dqlite_node_info_ext dqlite_node_info_ext;
#define DQLITE_NODE_INFO_EXT_SZ_ORIG 32U

/*
 * For clusters that have lost the majority of their voters for good. Stop all nodes, find the one
 * whose log is most recent (dqlite_node_describe_last_entry: by term, then by index), call this on it
 * with the members that are left, copy its directory over those of the others, and start them. Nodes
 * that were not stopped, or not copied to, lead to two clusters.
 */
DQLITE_API int dqlite_node_recover_ext(dqlite_node *n, dqlite_node_info_ext infos[], int n_info);

/* The same with voters only; deprecated. */
DQLITE_API int dqlite_node_recover(dqlite_node *n, dqlite_node_info infos[], int n_info);

/* The last entry in the directory of a node that does not run; zeros if there is none. */
DQLITE_API int dqlite_node_describe_last_entry(dqlite_node *n,
					       uint64_t *last_entry_index,
					       uint64_t *last_entry_term);

/* ---------------------------------------------------------------------------------------------- */
/* Servers: nodes that remember who they are, and the cluster that they belong to. Experimental.  */

DQLITE_EXPERIMENTAL typedef struct dqlite_server dqlite_server;

/* As for dqlite_node_set_connect_func. */
DQLITE_EXPERIMENTAL typedef int (*dqlite_connect_func)(void *arg, const char *addr, int *fd);

/* All of these return 0, or another number if it failed. */

/* Makes a server whose state is in the directory at path, which exists. To be destroyed. */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_create(const char *path, dqlite_server **server);

/* The address that others are told. For the first start only; after that it is the stored one. */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_set_address(dqlite_server *server,
							     const char *address);

/* Whether this server begins the cluster, at its first start. Exactly one does. */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_set_auto_bootstrap(dqlite_server *server, bool on);

/* Adds n addresses of servers through which this one joins, at its first start. */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_set_auto_join(dqlite_server *server,
							       const char *const *addrs,
							       unsigned n);

/* Where to listen, if not at the address. See dqlite_node_set_bind_address. */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_set_bind_address(dqlite_server *server,
								  const char *addr);

/* How to reach servers. See dqlite_node_set_connect_func. */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_set_connect_func(dqlite_server *server,
								  dqlite_connect_func f,
								  void *arg);

/*
 * Starts the server. At its first start it has joined the cluster when this returns 0; later it looks
 * for the others in the background.
 */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_start(dqlite_server *server);

/* Its id, or 0 before the first start. */
DQLITE_API DQLITE_EXPERIMENTAL dqlite_node_id dqlite_server_get_id(dqlite_server *server);

/* See dqlite_node_handover. */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_handover(dqlite_server *server);

/* Stops the server, which can be started again. */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_stop(dqlite_server *server);

/* Stops the server if it runs, and frees it. */
DQLITE_API DQLITE_EXPERIMENTAL void dqlite_server_destroy(dqlite_server *server);

/* Deprecated, and used by nothing. */
struct dqlite_buffer
{
	void *base;
	size_t len;
};

/* ---------------------------------------------------------------------------------------------- */
/* What the original does not have                                                                */

/* The library has these. */
#define DQX_VERSION 1

/* The weight that the node reports until a client sets another; lighter nodes are preferred for
 * roles. Before the start. */
DQLITE_API int dqx_node_set_weight(dqlite_node *n, unsigned long long weight);

/*
 * An SQLite extension for all connections of the node, functions and virtual tables for instance: the
 * entry point of a loadable extension, which calls SQLite through the table that it gets (as code that
 * includes sqlite3ext.h does). NULL for none. Called from any thread, several times at once, until the
 * node is destroyed. Every node of a cluster needs it, as each may lead. Before the start.
 */
struct sqlite3_api_routines;
DQLITE_API int dqx_node_set_extension_init(dqlite_node *n,
					   int (*init)(sqlite3 *db,
						       char **error,
						       const struct sqlite3_api_routines *api));

/*
 * Sends what the library logs, from a level on, to a function; NULL for none. Levels are 1 for
 * everything, 2 for what happens, 3 for warnings, 4 for errors. It is called from any thread, several
 * times at once, and must not call this library. No call of the function before is under way when this
 * returns. DQLITE_MISUSE if there is no such level.
 */
DQLITE_API int dqx_set_log_func(
    void (*f)(void *arg, int level, const char *target, const char *message), void *arg, int level);

#ifdef __cplusplus
}
#endif

#endif /* DQLITE_H */
