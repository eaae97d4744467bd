"""Each compiled module has a stub, and the two agree: names, bases, parameters, and what can be set."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import proactorx

PACKAGE = Path(proactorx.__file__).parent
LINUX_ONLY = (
    *(
        f"proactorx.drivers.{name}"
        for name in (
            "readiness.epollset",
            "epoll.driver",
            "io_uring.driver",
            "io_uring.encode",
            "io_uring.features",
        )
    ),
    "proactorx.files.path_ops",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = dict[str, ast.stmt]


def _module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_name(path.name.partition(".")[0]).parts
    return ".".join(("proactorx", *parts))


STUBS = {_module_name(path): path for path in sorted(PACKAGE.rglob("*.pyi"))}
WINDOWS_ONLY = tuple(
    f"proactorx.{name}"
    for name in (
        "drivers.iocp.driver",
        "drivers.iocp.encode",
        "port.binding_windows",
        "port.kernel_operations",
        "port.completion_port_windows",
        "files.windows",
    )
)
POSIX_ONLY = tuple(
    f"proactorx.{name}"
    for name in ("transports.pipe", "port.shared_driver", "port.binding_posix", "port.completion_port_posix")
)
ELSEWHERE = {
    *(LINUX_ONLY if not sys.platform.startswith("linux") else ()),
    *(WINDOWS_ONLY if sys.platform != "win32" else POSIX_ONLY),
}
HERE = [name for name in STUBS if name not in ELSEWHERE]
EACH = pytest.mark.parametrize("name", HERE)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that count on this Python: of ``if sys.version_info ...`` one branch."""
    for node in body:
        if isinstance(node, ast.If):
            holds = eval(compile(ast.Expression(node.test), "<stub>", "eval"), {"sys": sys})
            yield from _statements(node.body if holds else node.orelse)
        else:
            yield node


def _is_decorated(node: ast.stmt, word: str) -> bool:
    return isinstance(node, ast.ClassDef | Function) and word in map(ast.unparse, node.decorator_list)


def _names(body: list[ast.stmt]) -> Scope:
    """What a stub says that there is at run time:
    without its type variables and helpers for type checkers.
    """
    found: Scope = {}
    for node in _statements(body):
        if isinstance(node, ast.ClassDef | Function) and not _is_decorated(node, "type_check_only"):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def _load(name: str) -> tuple[ModuleType, Scope]:
    return importlib.import_module(name), _names(ast.parse(STUBS[name].read_text()).body)


def _classes(name: str) -> Iterator[tuple[type, ast.ClassDef]]:
    module, scope = _load(name)
    for word, node in scope.items():
        if isinstance(node, ast.ClassDef):
            yield getattr(module, word), node


def _is_own(module: ModuleType, value: Any) -> bool:
    """Whether what the module holds was made there, and not imported."""
    if isinstance(value, ModuleType):
        return False
    return not callable(value) or value.__module__ == module.__name__


def _public(owner: Any) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _stub_signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> inspect.Signature:
    """The signature of a function of a stub, without types."""
    bare = ast.FunctionDef(name=node.name, args=node.args, body=[ast.Pass()], decorator_list=[])
    for arg in ast.walk(bare.args):
        if isinstance(arg, ast.arg):
            arg.annotation = None
    made: dict[str, Any] = {}
    exec(ast.unparse(ast.fix_missing_locations(bare)), made)
    return inspect.signature(made[node.name])


def _parameters(signature: inspect.Signature) -> list[tuple[str, object, object]]:
    """Without the kind of ``self``: a method descriptor takes it by position only, which no caller sees."""
    return [
        (p.name, None if p.name == "self" else p.kind, p.default)
        for p in signature.parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]


def test_every_compiled_module_has_a_stub_and_nothing_else_has() -> None:
    compiled = {
        _module_name(path) for path in PACKAGE.rglob("*") if path.name.endswith(tuple(EXTENSION_SUFFIXES))
    }
    assert compiled == set(HERE)


@EACH
def test_names_of_the_module(name: str) -> None:
    module, scope = _load(name)
    assert scope.keys() - vars(module).keys() == set(), "only in the stub"
    assert {word for word in _public(module) - scope.keys() if _is_own(module, vars(module)[word])} == set()


@EACH
def test_names_of_its_classes(name: str) -> None:
    for cls, node in _classes(name):
        scope = _names(node.body)
        # A special method may be inherited: what __cinit__ takes shows in no __init__ of the class's own.
        missing = {
            word for word in scope if word not in vars(cls) and not (_is_special(word) and hasattr(cls, word))
        }
        assert missing == set(), f"{node.name}: only in the stub"
        assert _public(cls) - scope.keys() == set(), f"{node.name}: only in the module"


@EACH
def test_bases(name: str) -> None:
    """The bases in the stub are the real ones, and those which ``__class__`` shows to ``isinstance``."""
    for cls, node in _classes(name):
        said = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases} - {"Generic"}
        real = {base.__name__ for base in cls.__bases__ if base is not object}
        shown = (
            {base.__name__ for base in cls.__new__(cls).__class__.__mro__}
            if "__class__" in vars(cls)
            else set()
        )
        assert real <= said <= real | shown, node.name


@EACH
def test_parameters(name: str) -> None:
    """Names, kinds and defaults; keywords that a function passes on to asyncio are typed one by one."""
    for owner, scope in [_load(name), *((cls, _names(node.body)) for cls, node in _classes(name))]:
        for word, node in scope.items():
            # Of special methods a compiled class has no signature.
            if not isinstance(node, Function) or _is_special(word) or _is_decorated(node, "property"):
                continue
            real = inspect.signature(getattr(owner, word))
            said, expected = _parameters(_stub_signature(node)), _parameters(real)
            if any(p.kind is p.VAR_KEYWORD for p in real.parameters.values()):
                said = said[: len(expected)]
            assert said == expected, f"{owner.__name__}.{word}"


@EACH
def test_attributes_and_properties(name: str) -> None:
    """What the stub calls a property cannot be set, and what it calls an attribute can."""
    for cls, node in _classes(name):
        made = cls.__new__(cls)
        for word, member in _names(node.body).items():
            if _is_decorated(member, "property"):
                with pytest.raises(AttributeError):
                    setattr(made, word, getattr(made, word))
            elif isinstance(member, ast.AnnAssign) and "ClassVar" not in ast.unparse(member.annotation):
                setattr(made, word, getattr(made, word))
            elif isinstance(member, Function):
                assert callable(getattr(made, word)), word
