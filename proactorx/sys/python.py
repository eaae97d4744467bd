"""What kind of Python this is."""

from __future__ import annotations

import sysconfig

#: Whether it was built to run without the GIL; it may have one nevertheless, ``sys._is_gil_enabled()``.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
