"""Write the page on the public names, ``pages/reference.md``, from the sources; nothing is imported.

MkDocs calls this before it builds the site, so the page is not in the repository.  By hand:

    python docs/reference.py

Signatures come from the ``.py`` and ``.pyi`` files, docstrings from the ``.py`` and ``.pyx`` files.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "proactorx"
PAGE = DOCS / "pages" / "reference.md"

HEAD = """# Reference

The public names, with the types that a checker sees. `EventLoop` has all methods of asyncio's loops: see the
[Python documentation](https://docs.python.org/3/library/asyncio-eventloop.html). Below are those that it
has beside them. This page is written by `docs/reference.py` from the sources.
"""
#: The modules whose public names the page has, and those that it has elsewhere or not at all.
MODULES = {
    "proactorx": {"open"},
    "proactorx.files": {"os", "tempfile", *(f"std{name}" for name in ("in", "out", "err"))}
    | {f"std{name}_bytes" for name in ("in", "out", "err")},
}
ASYNCIO = {*dir(asyncio.AbstractEventLoop), *dir(asyncio.BaseEventLoop)}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """A module's declarations, and where its docstrings are."""

    path: Path
    tree: ast.Module
    #: The text of the ``.pyx``; None where the declarations have the docstrings.
    compiled: str | None

    def docstring(self, node: Function | ast.ClassDef, scope: str = "") -> str:
        """What a function or a class says of itself."""
        if self.compiled is None:
            return ast.get_docstring(node) or ""
        text = self.compiled
        if scope:
            start = rf"^(?:cdef )?class {scope}\b"
            text = re.split(start, text, maxsplit=1, flags=re.MULTILINE)[-1].partition("\n")[2]
            text = re.split(r"^\S", text, maxsplit=1, flags=re.MULTILINE)[0]
        kind = "(?:cdef )?class" if isinstance(node, ast.ClassDef) else "(?:async )?c?p?def"
        found = re.search(
            rf'^ *{kind} {node.name}\b[^"]*?:\n\s*r?"""(.*?)"""', text, re.MULTILINE | re.DOTALL
        )
        if found:
            return inspect.cleandoc(found[1])
        # What is written in Python and put into a compiled class.
        if alias := re.search(rf"^    {node.name} = _coroutines\.(\w+)$", text, re.MULTILINE):
            there, functions = find(alias[1], "proactorx.files.coroutines")
            return there.docstring(functions[0]) if isinstance(functions, list) else ""
        return ""


@functools.cache
def module(name: str) -> Module:
    """A module of the package, by its dotted name."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    if path.is_dir():
        path /= "__init__"
    stub, source = path.with_suffix(".pyi"), path.with_suffix(".py")
    if source.exists():
        return Module(source, ast.parse(source.read_text()), None)
    return Module(stub, ast.parse(stub.read_text()), path.with_suffix(".pyx").read_text())


def find(name: str, home: str) -> tuple[Module, list[Function] | ast.ClassDef]:
    """Where a name is declared, through imports: its functions (several if overloaded), or its class."""
    here = module(home)
    functions: list[Function] = []
    for node in ast.walk(here.tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return here, node
        if isinstance(node, Function) and node.name == name and node in here.tree.body:
            functions.append(node)
    if functions:
        return here, functions
    sources = [
        node.module
        for node in ast.walk(here.tree)
        if isinstance(node, ast.ImportFrom) and any(one.name == name for one in node.names)
    ]
    wanted = [source for source in sources if source and "windows" not in source]
    if not wanted:
        raise LookupError(f"{home} has no {name}")
    return find(name, wanted[-1])


def _decorators(node: Function) -> list[str]:
    return [ast.unparse(one) for one in node.decorator_list]


def _arguments(given: ast.arguments) -> list[str]:
    """The arguments of a function, with ``/`` and ``*`` between them."""

    def one(argument: ast.arg, default: ast.expr | None, stars: str = "") -> str:
        type_ = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
        equals = " = " if type_ else "="
        return f"{stars}{argument.arg}{type_}{equals + ast.unparse(default) if default else ''}"

    plain = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    words = [one(argument, default) for argument, default in zip(plain, defaults, strict=True)]
    if given.posonlyargs:
        words.insert(len(given.posonlyargs), "/")
    if given.vararg:
        words.append(one(given.vararg, None, "*"))
    elif given.kwonlyargs:
        words.append("*")
    words += [
        one(argument, value) for argument, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    if given.kwarg:
        words.append(one(given.kwarg, None, "**"))
    return words


def signature(node: Function, name: str, *, method: bool) -> str:
    """A function as it is called."""
    words = _arguments(node.args)
    if method:
        words = words[1:] if words[1:2] != ["/"] else words[2:]
    arguments = ", ".join(words)
    word = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{word}{name}({arguments}){returns}"


def text(doc: str) -> str:
    """A docstring as Markdown: its sections become lists."""
    doc = re.sub(r":(?:func|class|meth|mod):`([^`]+)`", r"`\1`", doc).replace("``", "`")
    out: list[str] = []
    section = False
    for line in doc.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Yields|Attributes):", line):
            out += ["", f"*{line[:-1]}*", ""]
            section = True
        elif section and re.match(r"    \S", line):
            name, colon, rest = line.strip().partition(": ")
            out.append(f"* `{name}`: {rest}" if colon and " " not in name else f"* {line.strip()}")
        elif section and line.startswith("     "):
            out.append(f"  {line.strip()}")
        else:
            section = section and not line.strip()
            out.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def members(here: Module, node: ast.ClassDef) -> Iterator[tuple[Module, str, Function]]:
    """The public methods and properties of a class, and of its bases in this package."""
    for item in node.body:
        if isinstance(item, Function) and not item.name.startswith("_"):
            yield here, node.name, item
    for base in node.bases:
        if not isinstance(base, ast.Name):
            continue
        home = ".".join(here.path.relative_to(PACKAGE.parent).with_suffix("").parts)
        try:
            there, found = find(base.id, home.removesuffix(".__init__"))
        except LookupError:
            continue
        except FileNotFoundError:
            continue
        if isinstance(found, ast.ClassDef):
            yield from members(there, found)


def _fields(here: Module, node: ast.ClassDef) -> Iterator[str]:
    """The public attributes that a class declares, with the comment above each."""
    lines = here.path.read_text().splitlines()
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            if item.target.id.startswith("_"):
                continue
            comment = []
            number = item.lineno - 2
            while lines[number].strip().startswith("#: "):
                comment.insert(0, lines[number].strip().removeprefix("#: "))
                number -= 1
            said = f": {' '.join(comment)}" if comment else ""
            yield f"* `{item.target.id}: {ast.unparse(item.annotation)}`{said}"


def class_lines(here: Module, node: ast.ClassDef) -> Iterator[str]:
    """A class: how it is made, what it says, its attributes and its methods."""
    made = [item for item in node.body if isinstance(item, Function) and item.name == "__init__"]
    for item in made:
        yield f"```python\n{signature(item, node.name, method=True).removesuffix(' -> None')}\n```\n"
    yield text(here.docstring(node))
    fields = list(_fields(here, node))
    if fields:
        yield "\n" + "\n".join(fields)
    seen: dict[str, list[tuple[Module, str, Function]]] = {}
    for where, scope, item in members(here, node):
        if node.name == "EventLoop" and item.name in ASYNCIO:
            continue
        there = seen.setdefault(item.name, [])
        if not there or there[0][1] == scope:
            there.append((where, scope, item))
    for name, found in seen.items():
        yield f"\n#### {node.name}.{name}\n"
        forms = [item for _, _, item in found if not any("setter" in one for one in _decorators(item))]
        overloaded = [item for item in forms if "overload" in _decorators(item)] or forms[:1]
        for item in overloaded:
            if any("property" in one for one in _decorators(item)):
                yield f"```python\n{name}: {ast.unparse(item.returns) if item.returns else 'Any'}\n```\n"
            else:
                yield f"```python\n{signature(item, name, method=True)}\n```\n"
        docs = (where.docstring(item, scope) for where, scope, item in found)
        yield text(next(filter(None, docs), ""))


def public(home: str) -> list[str]:
    """The names in a module's ``__all__``."""
    for node in module(home).tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            found: list[str] = ast.literal_eval(node.value)
            return found
    raise LookupError(f"{home} has no __all__")


def page() -> str:
    """The page."""
    out = [HEAD]
    for home, others in MODULES.items():
        out.append(f"## {home}\n")
        for name in public(home):
            if name in others:
                continue
            here, found = find(name, home)
            out.append(f"### {home}.{name}\n")
            if isinstance(found, ast.ClassDef):
                out += class_lines(here, found)
            else:
                forms = [one for one in found if "overload" in _decorators(one)] or found[:1]
                calls = "\n".join(signature(one, name, method=False) for one in forms)
                out.append(f"```python\n{calls}\n```\n")
                out.append(text(next(filter(None, map(here.docstring, found)), "")))
            out.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip() + "\n"


def on_pre_build(config: object) -> None:
    """What MkDocs calls: see ``hooks`` in ``mkdocs.yml``."""
    made = page()
    if not PAGE.exists() or PAGE.read_text() != made:
        PAGE.write_text(made)


if __name__ == "__main__":
    on_pre_build(None)
