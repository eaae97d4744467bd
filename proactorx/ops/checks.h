/* Assertions on what the package keeps account of: the states of ops, and the counters of drivers.
 *
 * On in debug builds and builds in place (development and tests), see _build.py; off elsewhere, at no cost.
 * */
#ifndef PROACTORX_OPS_CHECKS_H
#define PROACTORX_OPS_CHECKS_H

#include "Python.h"

#ifndef PX_CHECKS
#define PX_CHECKS 0
#endif

/* `ok` is not evaluated where checks are off.  Where it does not hold, the process ends with a traceback. */
#define px_check(ok, what) ((void)(!PX_CHECKS || (ok) || (Py_FatalError(what), 0)))

#endif
