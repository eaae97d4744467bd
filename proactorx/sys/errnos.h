/* Error numbers as Python's `errno` module has them.  On Windows it prefers Winsock's to those of <errno.h>.
 * */
#ifndef PROACTORX_SYS_ERRNOS_H
#define PROACTORX_SYS_ERRNOS_H

#include <errno.h>

#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <winsock2.h>
#undef ECONNABORTED
#undef ECONNRESET
#undef EINPROGRESS
#undef EMSGSIZE
#undef ENOBUFS
#undef EOPNOTSUPP
#undef EWOULDBLOCK
#define ECONNABORTED WSAECONNABORTED
#define ECONNRESET WSAECONNRESET
#define EINPROGRESS WSAEINPROGRESS
#define EMSGSIZE WSAEMSGSIZE
#define ENOBUFS WSAENOBUFS
#define EOPNOTSUPP WSAEOPNOTSUPP
#define EWOULDBLOCK WSAEWOULDBLOCK
#endif

#endif
