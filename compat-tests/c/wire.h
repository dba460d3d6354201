/*
 * Checks that end the program, and as much of the client protocol as the programs here need.
 */
#ifndef WIRE_H
#define WIRE_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CHECK(condition)                                                            \
	do {                                                                        \
		if (!(condition)) {                                                 \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			exit(1);                                                    \
		}                                                                   \
	} while (0)

#define CHECK_CODE(call, want)                                                       \
	do {                                                                         \
		int got_ = (call);                                                   \
		if (got_ != (want)) {                                                \
			fprintf(stderr, "%s:%d: %s is %d, not %d\n", __FILE__, __LINE__, \
				#call, got_, (want));                                \
			exit(1);                                                     \
		}                                                                    \
	} while (0)

/* A connection to an address as get_bind_address gives it, or -1. */
static inline int connect_to(const char *address)
{
	int fd;
	if (address[0] == '@') {
		struct sockaddr_un sun;
		size_t size = strlen(address + 1);
		memset(&sun, 0, sizeof sun);
		sun.sun_family = AF_UNIX;
		memcpy(sun.sun_path + 1, address + 1, size);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CHECK(fd >= 0);
		if (connect(fd, (struct sockaddr *)&sun,
			    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + size)) != 0) {
			close(fd);
			return -1;
		}
	} else {
		struct sockaddr_in in;
		const char *colon = strchr(address, ':');
		CHECK(colon != NULL);
		memset(&in, 0, sizeof in);
		in.sin_family = AF_INET;
		in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		in.sin_port = htons((uint16_t)atoi(colon + 1));
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CHECK(fd >= 0);
		if (connect(fd, (struct sockaddr *)&in, sizeof in) != 0) {
			close(fd);
			return -1;
		}
	}
	return fd;
}

static inline void put_word(unsigned char *at, uint64_t word)
{
	for (int i = 0; i < 8; i++) {
		at[i] = (unsigned char)(word >> (8 * i));
	}
}

static inline uint64_t get_word(const unsigned char *at)
{
	uint64_t word = 0;
	for (int i = 7; i >= 0; i--) {
		word = word << 8 | at[i];
	}
	return word;
}

static inline void read_exactly(int fd, unsigned char *into, size_t size)
{
	while (size > 0) {
		ssize_t n = read(fd, into, size);
		CHECK(n > 0);
		into += n;
		size -= (size_t)n;
	}
}

/* Sends a request of one word and returns the first word of the answer, whose type is checked. */
static inline uint64_t ask(const char *address, unsigned type, uint64_t word, unsigned want)
{
	unsigned char out[24] = {0}, in[8], body[4096];
	int fd = connect_to(address);
	uint64_t header, size;
	CHECK(fd >= 0);
	put_word(out, 1);
	put_word(out + 8, 1 | (uint64_t)type << 32);
	put_word(out + 16, word);
	CHECK(write(fd, out, sizeof out) == (ssize_t)sizeof out);
	read_exactly(fd, in, 8);
	header = get_word(in);
	CHECK((header >> 32 & 0xff) == want);
	size = (header & 0xffffffff) * 8;
	CHECK(size >= 8 && size <= sizeof body);
	read_exactly(fd, body, size);
	close(fd);
	return get_word(body);
}

static inline size_t put_text(unsigned char *at, const char *text)
{
	size_t size = strlen(text) + 1, padded = (size + 7) / 8 * 8;
	memset(at, 0, padded);
	memcpy(at, text, size);
	return padded;
}

static inline void send_request(int fd, unsigned type, const unsigned char *body, size_t size)
{
	unsigned char header[8];
	put_word(header, size / 8 | (uint64_t)type << 32);
	CHECK(write(fd, header, 8) == 8);
	CHECK(write(fd, body, size) == (ssize_t)size);
}

/* Types of requests and of responses. */
enum {
	LEADER = 0,
	OPEN = 3,
	PREPARE = 4,
	EXEC = 5,
	QUERY = 6,
	FINALIZE = 7,
	EXEC_SQL = 8,
	QUERY_SQL = 9,
	INTERRUPT = 10,
	DUMP = 15,
	CLUSTER = 16,
	DESCRIBE = 18,
	WEIGHT = 19
};
enum {
	FAILURE = 0,
	SERVER = 1,
	SERVERS = 3,
	DB = 4,
	STMT = 5,
	RESULT = 6,
	ROWS = 7,
	EMPTY = 8,
	FILES = 9,
	METADATA = 10
};

/* Reads an answer, whose type is returned, and its body. */
static inline unsigned read_answer(int fd, unsigned char *body, size_t capacity)
{
	unsigned char header[8];
	size_t size;
	read_exactly(fd, header, 8);
	size = (size_t)(get_word(header) & 0xffffffff) * 8;
	CHECK(size <= capacity);
	read_exactly(fd, body, size);
	return header[4];
}

static inline unsigned request(int fd, unsigned type, const unsigned char *body, size_t size,
			       unsigned char *answer, size_t capacity)
{
	send_request(fd, type, body, size);
	return read_answer(fd, answer, capacity);
}

/* A connection with a database open, or -1 if the node does not open it. */
static inline int open_database(const char *address, const char *name)
{
	unsigned char out[128], in[512];
	size_t size;
	ssize_t got;
	int fd = connect_to(address);
	CHECK(fd >= 0);
	put_word(out, 1);
	CHECK(write(fd, out, 8) == 8);
	size = put_text(out, name);
	put_word(out + size, 0);
	size += 8;
	size += put_text(out + size, "volatile");
	send_request(fd, OPEN, out, size);
	got = recv(fd, in, 16, MSG_WAITALL);
	if (got != 16 || in[4] != DB) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Asks one of the requests that carry a statement, without parameters. */
static inline unsigned statement(int fd, unsigned type, const char *sql, unsigned char *answer,
				 size_t capacity)
{
	unsigned char out[512];
	CHECK(strlen(sql) < sizeof out - 16);
	put_word(out, 0);
	return request(fd, type, out, 8 + put_text(out + 8, sql), answer, capacity);
}

/* The number that a query gives, its column's name being shorter than a word. */
static inline uint64_t query(int fd, const char *sql)
{
	unsigned char in[512];
	CHECK(statement(fd, QUERY_SQL, sql, in, sizeof in) == ROWS);
	/* One column, its name in one word, the row's types, the value. */
	CHECK(get_word(in) == 1);
	CHECK((in[16] & 15) == 1);
	return get_word(in + 24);
}

#endif /* WIRE_H */
