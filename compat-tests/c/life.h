/*
 * What programs here need for nodes: directories, and what the process holds.
 */
#ifndef LIFE_H
#define LIFE_H

#include <dqlite.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

static inline void check_text(int line, const char *got, const char *want)
{
	if (strcmp(got, want) != 0) {
		fprintf(stderr, "line %d: \"%s\" is not \"%s\"\n", line, got, want);
		exit(1);
	}
}
#define CHECK_TEXT(got, want) check_text(__LINE__, got, want)

static const char *root;

/* A new directory under the root. */
static inline const char *new_dir(void)
{
	static char path[512];
	static int count;
	snprintf(path, sizeof path, "%s/%d", root, count++);
	CHECK(mkdir(path, 0700) == 0);
	return path;
}

static inline dqlite_node *new_node_at(dqlite_node_id id, const char *address, const char *dir)
{
	dqlite_node *n = NULL;
	CHECK_CODE(dqlite_node_create(id, address, dir, &n), DQLITE_OK);
	CHECK(n != NULL);
	CHECK_TEXT(dqlite_node_errmsg(n), "");
	return n;
}

static inline dqlite_node *new_node(void)
{
	return new_node_at(1, "1", new_dir());
}

static inline double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline int count_entries(const char *path)
{
	DIR *dir = opendir(path);
	const struct dirent *entry;
	int count = 0;
	CHECK(dir != NULL);
	while ((entry = readdir(dir)) != NULL) {
		if (entry->d_name[0] != '.') {
			count++;
		}
	}
	closedir(dir);
	return count;
}

/* The kernel lists a thread for a moment longer than pthread_join waits for it. */
static inline int threads_beside_this_one(void)
{
	int others = 0;
	for (int i = 0; i < 500; i++) {
		others = count_entries("/proc/self/task") - 1;
		if (others == 0) {
			break;
		}
		usleep(20000);
	}
	return others;
}

#endif /* LIFE_H */
