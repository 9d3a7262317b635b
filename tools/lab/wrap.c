// SPDX-License-Identifier: GPL-2.0-only
/*
 * Linked into the selftests by the lab, with ld's --wrap, and only by the lab.
 */
#include <poll.h>
#include <stdlib.h>

int __real_poll(struct pollfd *fds, nfds_t nfds, int timeout);

/*
 * The harness waits for a test with poll() and half a minute's patience. A guest
 * that hangs, as it does on kernels with the bugs at hand, is hung after
 * $LAB_TIMEOUT seconds as well.
 */
int __wrap_poll(struct pollfd *fds, nfds_t nfds, int timeout)
{
	const char *limit = getenv("LAB_TIMEOUT");

	if (limit && timeout > atoi(limit) * 1000)
		timeout = atoi(limit) * 1000;
	return __real_poll(fds, nfds, timeout);
}
