/* Switches Nagle's algorithm off in a program that does not do so itself: preloaded into nodes of C dqlite
 * by dq-bench, to tell what of a difference is that algorithm's doing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static void no_delay(int fd)
{
	int saved = errno;
	int on = 1;
	/* Fails for what is no TCP socket, which is fine. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	errno = saved;
}

int socket(int domain, int type, int protocol)
{
	int (*next)(int, int, int) = dlsym(RTLD_NEXT, "socket");
	int fd = next(domain, type, protocol);
	if (fd >= 0 && (domain == AF_INET || domain == AF_INET6))
		no_delay(fd);
	return fd;
}

int accept(int listener, struct sockaddr *address, socklen_t *size)
{
	int (*next)(int, struct sockaddr *, socklen_t *) = dlsym(RTLD_NEXT, "accept");
	int fd = next(listener, address, size);
	if (fd >= 0)
		no_delay(fd);
	return fd;
}

int accept4(int listener, struct sockaddr *address, socklen_t *size, int flags)
{
	int (*next)(int, struct sockaddr *, socklen_t *, int) = dlsym(RTLD_NEXT, "accept4");
	int fd = next(listener, address, size, flags);
	if (fd >= 0)
		no_delay(fd);
	return fd;
}
