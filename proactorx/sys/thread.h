/* The name of a thread, where the system shows it. */
#ifndef PROACTORX_SYS_THREAD_H
#define PROACTORX_SYS_THREAD_H

#if defined(__linux__)
#include <sys/prctl.h>
/* The kernel takes the first 15 bytes, prctl(2). */
static inline void px_name_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
#elif defined(__APPLE__)
int pthread_setname_np(const char *);
static inline void px_name_thread(const char *name) { pthread_setname_np(name); }
#else
static inline void px_name_thread(const char *name) { (void)name; }
#endif

#endif
