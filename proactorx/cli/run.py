"""``run``: run an unchanged asyncio program on this loop.

The program runs as Python itself would run it. ``__main__`` is its own module and stays in ``sys.modules``
until the interpreter ends; ``sys.argv`` and ``sys.path[0]`` are the program's; exceptions, SystemExit and
KeyboardInterrupt included, reach the interpreter, which exits with the usual code.

Only asyncio's *default* loop changes: the one that it makes for ``asyncio.run()``, ``Runner()``,
``new_event_loop()`` or, on Pythons where it still makes one, ``get_event_loop()``.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import builtins
import functools
import importlib.machinery
import io
import os
import pkgutil
import runpy
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import proactorx
from proactorx.cli.errors import CliError
from proactorx.drivers import probe
from proactorx.observe.expose import expose
from proactorx.observe.watchdog import watch_all

_HERE = os.path.dirname(os.path.abspath(__file__))

Factory = Callable[[], asyncio.AbstractEventLoop]


def run(
    program: list[str],
    *,
    as_module: bool,
    backend: str | None,
    restrict: bool = False,
    watchdog: float | None = None,
    metrics: tuple[str, int] | None = None,
    top: bool = False,
) -> int:
    """Run ``program`` (its name, then its arguments) to its end, and return the exit code."""
    if backend not in (None, "auto"):
        found = probe(backend)
        if not found.available:
            raise CliError(f"backend {backend} (--backend) cannot run here: {found.reason}")
    name = program[0]
    code = None if as_module else _read(name)
    _observe(watchdog, metrics, top)
    make_default(functools.partial(proactorx.new_event_loop, backend=backend, restrict=restrict))
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show
    sys.argv = ["-m", *program[1:]] if as_module else program
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    if as_module:
        _set_first_path(os.getcwd())
        _run_as_main(name, alter_argv=True)
    elif code is None:
        _set_first_path(os.path.join(os.getcwd(), name))
        _run_as_main("__main__", alter_argv=False)
    else:
        _set_first_path(os.path.dirname(os.path.realpath(name)))
        # As Python has it: GetFullPathName drops "." and turns slashes,
        # POSIX's half only puts the folder before.
        path = os.path.abspath(name) if sys.platform == "win32" else os.path.join(os.getcwd(), name)
        main.__file__ = path
        if sys.version_info < (3, 15):
            main.__dict__["__cached__"] = None
        main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
        exec(compile(code, path, "exec", dont_inherit=True), main.__dict__)
    return 0


def _observe(watchdog: float | None, metrics: tuple[str, int] | None, top: bool) -> None:
    if top:
        try:
            expose()
        except (OSError, RuntimeError) as error:
            raise CliError(f"cannot let others look at this process: {error}") from None
    if watchdog is not None:
        watch_all(watchdog)
    if metrics is not None:
        from proactorx.metrics import serve

        try:
            endpoint = serve(*metrics)
        except OSError as error:
            raise CliError(f"cannot serve metrics at {metrics[0]}:{metrics[1]}: {error.strerror}") from None
        print("proactorx: metrics at http://{}:{}/metrics".format(*endpoint.address), file=sys.stderr)


def make_default(factory: Factory) -> None:
    """Make ``factory`` the default of asyncio, used where the program selects no loop."""
    with warnings.catch_warnings():
        # Python 3.14 and 3.15 deprecate policies, but only a policy reaches get_event_loop() there.
        warnings.filterwarnings("ignore", r"'asyncio\.\w*[pP]olicy' is deprecated", DeprecationWarning)
        if hasattr(asyncio, "set_event_loop_policy"):

            class Policy(asyncio.DefaultEventLoopPolicy):
                """asyncio's own policy with another factory."""

                def new_event_loop(self) -> asyncio.AbstractEventLoop:
                    """asyncio calls this to make a loop."""
                    return factory()

            asyncio.set_event_loop_policy(Policy())
            return
    for module in (asyncio, asyncio.events):
        module.new_event_loop = factory  # type: ignore[attr-defined]
    init = asyncio.Runner.__init__

    @functools.wraps(init)
    def with_our_loop(self: asyncio.Runner, *, loop_factory: Factory | None = None, **options: Any) -> None:
        init(self, loop_factory=loop_factory or factory, **options)

    asyncio.Runner.__init__ = with_our_loop  # type: ignore[method-assign]


def _read(name: str) -> bytes | None:
    """Return the script's source, or None for a directory or zip file with a ``__main__.py``."""
    if pkgutil.get_importer(name) is not None:
        return None
    try:
        with io.open_code(os.path.abspath(name)) as file:
            return file.read()
    except OSError as error:
        raise CliError(f"can't open file {name!r}: [Errno {error.errno}] {error.strerror}", 2) from None


def _set_first_path(path: str) -> None:
    """Replace the entry that Python added for ``python -m proactorx``;
    with ``-P`` and ``-I`` it added none.
    """
    if not sys.flags.safe_path:
        sys.path[0] = path


def _run_as_main(name: str, *, alter_argv: bool) -> None:
    # What `python -m` itself calls; the public run_module() would undo sys.modules["__main__"] too early,
    # while threads and exit handlers of the program still live,
    # and cannot tell a missing module from a failing import.
    as_main: Callable[[str, bool], Any] = runpy._run_module_as_main  # type: ignore[attr-defined]
    as_main(name, alter_argv)


def _show(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Show an unhandled error without our frames, which led to the program."""
    rest = trace
    while rest is not None and _is_ours(rest.tb_frame.f_code.co_filename):
        rest = rest.tb_next
    if rest is None and not isinstance(error, SyntaxError):  # our own error: hide nothing
        rest = trace
    sys.__excepthook__(kind, error.with_traceback(rest), rest)


def _is_ours(filename: str) -> bool:
    return filename.startswith("<frozen runpy") or os.path.dirname(filename) in (
        _HERE,
        os.path.dirname(_HERE),
    )
