"""The command line: ``python -m proactorx demo``, ``probe``, ``run``, ``top``, ``ps`` and ``pstree``.

This file parses and dispatches. Each command is a module of the same name, imported only when it is used, so
that ``run`` adds almost nothing to the program that it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import proactorx
from proactorx.cli.errors import CliError
from proactorx.drivers import BACKENDS

PROG = "python -m proactorx"
CHOICE = f"{', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}; default: PROACTORX_BACKEND, else auto"
MAX_SIZE = 16 * 1024 * 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if not args:
        parser.print_help()
        return 2
    program: list[str] = []
    if args[0] == "run":
        args, program = _split_run(args)
    options = parser.parse_args(args)
    try:
        return _dispatch(options, program)
    except CliError as error:
        print(f"proactorx: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        if options.command == "run":  # the program shows it as it would without us
            raise
        print("proactorx: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if options.command == "run":
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone: flushing at exit must not fail
        return 1


def _dispatch(options: argparse.Namespace, program: list[str]) -> int:
    if options.command == "demo" and options.what == "threads":
        from proactorx.cli.demo_threads import demo_threads

        return demo_threads(seconds=options.seconds or 5.0, backend=options.backend)
    if options.command == "demo":
        from proactorx.cli.demo import demo

        return demo(
            connections=options.connections,
            seconds=options.seconds or 6.0,
            size=options.size,
            backend=options.backend,
        )
    if options.command == "bench":
        from proactorx.cli.bench import bench

        return bench(
            quick=options.quick, loops=options.loops, rows=options.rows, svg=options.svg, out=options.json
        )
    if options.command == "probe":
        from proactorx.cli.probe import probe

        return probe(as_json=options.json)
    if options.command == "top":
        from proactorx.cli.top import record, top

        if options.record is not None:
            return record(options.pid, options.record)
        return top(options.pid, once=options.once, as_json=options.json)
    if options.command == "ps":
        from proactorx.cli.top import ps

        return ps(options.pid, as_json=options.json)
    if options.command == "pstree":
        from proactorx.cli.top import pstree

        return pstree(options.pid)
    from proactorx.cli.run import run

    return run(
        program,
        as_module=options.module is not None,
        backend=options.backend,
        restrict=options.restrict,
        watchdog=options.watchdog,
        metrics=options.metrics,
        top=options.top,
    )


def _split_run(args: list[str]) -> tuple[list[str], list[str]]:
    """Split at the start of the program, as in ``run --backend epoll script.py --help``.

    Returns our arguments, with a stand-in for the program (argparse reports a missing one),
    and the program's.
    """
    at = 1
    while at < len(args):
        word = args[at]
        if word in ("--backend", "--watchdog", "--metrics"):
            at += 2
        elif word == "-m":
            return args[: at + 2], args[at + 1 :]
        elif word.startswith("-m"):
            return args[: at + 1], [word[2:], *args[at + 1 :]]
        elif word == "--":
            return [*args[:at], *(["SCRIPT"] if args[at + 1 :] else [])], args[at + 1 :]
        elif word.startswith("-") and word != "-":
            at += 1
        else:
            return [*args[:at], "SCRIPT"], args[at:]
    return args, []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="An asyncio event loop on a completion port.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"proactorx {proactorx.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_bench(commands)
    _add_probe(commands)
    _add_run(commands)
    _add_top(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="compare an echo server on this loop with one on stock asyncio; or show the two thread pools",
        description="echo: starts an echo server on this loop and one on stock asyncio, loads both in "
        "turn with the same client over loopback TCP, and shows requests per second, latency and the "
        "server's CPU time per request. threads: shows the workers and IO threads grow and shrink under a "
        "load that first saturates the workers, then blocks callbacks on IO threads.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("what", nargs="?", choices=("echo", "threads"), default="echo", help="what to show (default: echo)")
    add(
        "--connections",
        type=_whole(1, 20_000),
        default=300,
        metavar="N",
        help="echo: open connections (default: 300)",
    )
    add(
        "--seconds",
        type=_seconds,
        metavar="S",
        help="echo: seconds of load on each server, over all rounds (default: 6); threads: seconds in total "
        "(default: 5)",
    )
    add("--backend", choices=BACKENDS, metavar="B", help=f"driver of the loop: {CHOICE}")
    add(
        "--size",
        type=_whole(1, MAX_SIZE),
        default=1024,
        metavar="BYTES",
        help="echo: bytes per request and per answer (default: 1024)",
    )


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        help="compare this loop with asyncio, uvloop and others that are installed",
        description="Measures the CPU time per request of echo servers and of calls on each loop that this "
        "Python can import, in rounds that alternate, and draws how they compare. Installs nothing.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a few seconds, to see that it runs: the figures are noise")
    add("--loops", type=_names, metavar="A,B", help="loops to measure, as in io_uring,epoll,asyncio,uvloop")
    add("--rows", type=_names, metavar="A,B", help="rows to measure, by their names in the JSON file")
    add("--svg", metavar="FILE", help="write a chart")
    add("--json", metavar="FILE", help="write all samples")


def _add_probe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "probe",
        help="show which drivers can run here and why the others cannot",
        description="Shows which drivers can run here and why the others cannot, the kernel, the feature "
        "tier, the ops and the setup flags. The exit code is 1 if no loop can start, PROACTORX_BACKEND "
        "included.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        usage=f"{PROG} run [-h] [--backend B] [--restrict] [--watchdog AFTER] [--metrics HOST:PORT] [--top] "
        "(SCRIPT | -m MODULE) [ARG ...]",
        help="run an unchanged asyncio program on this loop",
        description="Runs a program as 'python SCRIPT ARG ...' or 'python -m MODULE ARG ...' would, "
        "except that asyncio's default loop is this package's. It does not override a loop that the program "
        "selects itself (loop_factory=, its own policy), and it does not affect processes that the program "
        "starts.",
        allow_abbrev=False,
    )
    parser.add_argument("--backend", choices=BACKENDS, metavar="B", help=f"driver of the loop: {CHOICE}")
    parser.add_argument(
        "--restrict", action="store_true", help="let the kernel refuse what the loop does not use of io_uring"
    )
    parser.add_argument(
        "--watchdog",
        type=_duration,
        metavar="AFTER",
        help="report turns of the loop that last longer, with the stack: 100ms, 0.5s",
    )
    parser.add_argument(
        "--metrics",
        type=_host_and_port,
        metavar="HOST:PORT",
        help="serve counters for Prometheus at http://HOST:PORT/metrics, on a thread of its own",
    )
    parser.add_argument("--top", action="store_true", help="let the commands top, ps and pstree look at it")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-m", dest="module", metavar="MODULE", help="run a module, found on sys.path")
    what.add_argument(
        "script", nargs="?", metavar="SCRIPT", help="run a file, or a directory or zip with a __main__.py"
    )


def _add_top(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    number = _whole(1, 1 << 30)
    parser = commands.add_parser(
        "top",
        help="watch the loops of another process",
        description="Shows what the loops of another process of yours do, also while they are stuck. The "
        "process has to ask for it: PROACTORX_TOP=1, loop.expose() or run --top. Without PID: lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("pid", nargs="?", type=number, metavar="PID")
    parser.add_argument(
        "--record", metavar="FILE", help="write the last turns as a trace; FILE.html: a page that draws it"
    )
    parser.add_argument("--once", action="store_true", help="print one picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser = commands.add_parser(
        "ps",
        help="list the tasks of another process, and where each one is",
        description="Lists the tasks of another process, where each one is, and what it waits for. See top.",
        allow_abbrev=False,
    )
    parser.add_argument("pid", type=number, metavar="PID")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser = commands.add_parser(
        "pstree",
        help="draw which tasks of another process wait for which",
        description="Draws which tasks of another process wait for which. See top.",
        allow_abbrev=False,
    )
    parser.add_argument("pid", type=number, metavar="PID")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high}")
        return value

    return parse


def _names(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _duration(text: str) -> float:
    from proactorx.observe.watchdog import seconds_of

    try:
        return seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, as in 127.0.0.1:9100")
    return host, int(port)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 3600")
    return value
