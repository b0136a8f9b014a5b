"""The house rules, checked: who may import what, no clock in the core, no float near money, nothing
stale.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ledger"

# ----------------------------------------------------------------------------------------------
# The table of docs/architecture.md, as data
# ----------------------------------------------------------------------------------------------

NETWORK = {"aiohttp", "asyncio", "http", "select", "socket", "ssl", "urllib", "uvloop"}
"""Modules that know about the network."""
WORLD = NETWORK | {"logging", "random", "secrets", "time"}
"""Modules that know about time, chance, the network or a log."""
FILES = {"io", "os", "pathlib", "shutil", "tempfile"}
FRAME = {"ledger.layout", "ledger.errors"}
WIRE = {
    f"ledger.{name}" for name in ("_text", "_scan", "_canonical", "_schema", "_writer", "_codec")
}
"""The compiled modules that know the forms on the wire."""
CORE = {f"ledger.{path.stem}" for path in PACKAGE.glob("_*.p[yx]*") if path.stem[:2] != "__"} - WIRE
"""All other compiled modules."""
CYTHON = {"cpython", "cython", "libc", "libcpp"}


@dataclass(frozen=True, slots=True)
class Room:
    """Some files, the parts of the ledger and the packages they may import, and what they never
    may.
    """

    files: str
    ledger: set[str]
    packages: set[str]
    never: set[str]


ROOMS = [
    Room("layout.py", set(), {"numpy"}, WORLD | FILES),
    Room("errors.py", set(), set(), WORLD | FILES),
    Room("config.py", FRAME, set(), WORLD),
    *(
        Room(f"{name.removeprefix('ledger.')}.p*", FRAME | family, packages, WORLD | FILES)
        for family, packages in (
            (CORE, {"numpy", "blake3"} | CYTHON),
            (WIRE | {"ledger._u128", "ledger._layout"}, {"numpy"} | CYTHON),
        )
        for name in sorted(family)
    ),
    Room(
        "storage/*.py",
        FRAME | CORE | {"ledger.config", "ledger.storage"},
        {"numpy", "lmdb", "blake3"},
        NETWORK,
    ),
    Room("state.py", FRAME | CORE | {"ledger.config", "ledger.storage"}, {"numpy"}, WORLD),
    Room("__init__.py", FRAME | {"ledger.state"}, set(), WORLD | FILES),
    Room("proof/verify.py", set(), {"blake3", "cryptography"}, WORLD),
    Room(
        "proof/cosigners.py",
        FRAME | {"ledger.proof"},
        set(),
        NETWORK - {"http", "ssl", "urllib"},
    ),
    Room(
        "proof/*.py",
        FRAME | {"ledger._merkle", "ledger.proof"},
        {"numpy", "cryptography"},
        NETWORK,
    ),
    Room("clock.py", set(), set(), WORLD | FILES),
    Room("sealing.py", FRAME, set(), WORLD | FILES),
    Room("replies.py", FRAME | {"ledger.state"}, {"numpy"}, NETWORK - {"asyncio"} | {"time"}),
    Room("state_roots.py", FRAME | CORE | {"ledger.storage"}, {"numpy"}, NETWORK),
    Room(
        "engine.py",
        FRAME
        | CORE
        | {"ledger.config", "ledger.storage", "ledger.state", "ledger.clock", "ledger.sealing"}
        | {"ledger.state_roots", "ledger.replies"},
        {"numpy"},
        NETWORK - {"asyncio"} | {"json", "msgspec", "random"},
    ),
    Room(
        "api/*.py",
        FRAME
        | {"ledger.config", "ledger.engine", "ledger.proof", "ledger.api"}
        | {"ledger._codec", "ledger._canonical", "ledger._history"},
        {"numpy", "aiohttp", "msgspec", "uvloop", "cryptography"},
        {"lmdb", "random"},
    ),
    Room(
        "client*.py",
        FRAME | {"ledger._codec", "ledger._canonical", "ledger.client_proofs"},
        {"numpy", "aiohttp", "msgspec"},
        {"lmdb"},
    ),
]
FREE = ["__main__.py", "cli/*.py", "bench/*.py"]
"""Composition: may import everything."""

DIRECTIVES = ["-3", "-Xboundscheck=False", "-Xwraparound=False", "-Xcdivision=True"]
"""As in setup.py, as far as they change what the compiler hints at."""
JSON_NUMBERS = {"_canonical.pyx"}
"""Writes the numbers of metadata in their canonical form, which RFC 8785 defines by doubles."""

CIMPORT = re.compile(
    r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(.+)|c?import\s+([\w., ]+))", re.MULTILINE
)


def sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*") if path.suffix in suffixes)


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def python_imports(path: Path) -> set[str]:
    """Return the modules a .py imports, anywhere in it; ``from ledger import x`` counts as
    ``ledger.x``.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            found |= {f"ledger.{a.name}" for a in node.names} if module == "ledger" else {module}
    return found


def cython_imports(path: Path) -> set[str]:
    """Return the modules a .pyx or .pxd imports or cimports, by the same rule."""
    found: set[str] = set()
    for module, names, plain in CIMPORT.findall(without_prose(path.read_text())):
        if plain:
            found |= {part.split(" as ")[0].strip() for part in plain.split(",")}
        elif module == "ledger":
            found |= {f"ledger.{n.split(' as ')[0].strip(' ()')}" for n in names.split(",")}
        else:
            found.add(module)
    return found


def without_prose(text: str) -> str:
    """Return Cython source without docstrings, literals and comments."""
    text = re.sub(r'("""|\'\'\')(?:.|\n)*?\1', "", text)
    text = re.sub(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'", "''", text)
    return re.sub(r"#.*", "", text)


def room_of(path: Path) -> Room | None:
    for one in ROOMS:
        if fnmatch(name_of(path), one.files):
            return one
    assert any(fnmatch(name_of(path), files) for files in FREE), f"{name_of(path)} is in no room"
    return None


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("path", sources(".py", ".pyx", ".pxd"), ids=name_of)
def test_imports_stay_within_the_room(path: Path) -> None:
    place = room_of(path)
    if place is None:
        return
    imports = python_imports(path) if path.suffix == ".py" else cython_imports(path)
    for module in sorted(imports):
        top = module.split(".")[0]
        if top == "ledger":
            inside = ".".join(module.split(".")[:2])
            assert inside in place.ledger, f"{name_of(path)} may not import {module}"
        else:
            known = top in sys.stdlib_module_names or top in place.packages
            assert known, f"{name_of(path)} may not import {module}"
            assert top not in place.never, f"{name_of(path)} must never import {module}"


def test_compiled_modules_import_each_other_downwards() -> None:
    """Whatever the order is, there is one: no module leads back to itself."""
    below: dict[str, set[str]] = {}
    for path in sources(".pyx", ".pxd"):
        name = f"ledger.{path.stem}"
        imports = {module for module in cython_imports(path) if module in CORE | WIRE}
        below.setdefault(name, set()).update(imports - {name})
    while below:
        lowest = {name for name, imports in below.items() if not imports & below.keys()}
        assert lowest, f"a circle among {sorted(below)}"
        below = {name: imports for name, imports in below.items() if name not in lowest}


@pytest.mark.parametrize(
    "path", [p for p in sources(".pyx", ".pxd") if p.name not in JSON_NUMBERS], ids=name_of
)
def test_no_float_in_compiled_code(path: Path) -> None:
    text = without_prose(path.read_text())
    words = re.findall(r"\b(?:float|double|float32|float64|f4|f8)\b", text)
    assert not words, f"{name_of(path)}: floating point near money: {words}"


@pytest.mark.parametrize("path", sources(".pyx", ".pxd"), ids=name_of)
def test_no_clock_or_chance_from_c(path: Path) -> None:
    text = path.read_text()
    for name in ("libc.time", "posix.", "clock_gettime", "gettimeofday", "getrandom", " rand("):
        assert name not in text, f"{name_of(path)} uses {name}"


@pytest.mark.parametrize("path", sources(".pyx", ".pxd"), ids=name_of)
def test_a_compiled_module_is_one_idea_in_short_lines(path: Path) -> None:
    if path.name == "_layout.pxd":
        return  # generated
    lines = path.read_text().splitlines()
    assert len(lines) <= 900, f"{name_of(path)} has {len(lines)} lines"
    assert not [i for i, line in enumerate(lines, 1) if len(line) > 100], "a line above 100"
    assert 'include "' not in path.read_text()


@pytest.mark.parametrize("path", sources(".py", ".pyx"), ids=name_of)
def test_no_print(path: Path) -> None:
    if path.suffix == ".pyx":
        assert not re.search(r"\bprint\s*\(", without_prose(path.read_text()))
        return
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not calls, f"{name_of(path)} prints at lines {calls}"


@pytest.mark.parametrize("path", sources(".pyx"), ids=name_of)
def test_no_performance_hint(path: Path, tmp_path: Path) -> None:
    """A forgotten ``noexcept`` costs a hundred times, and the compiler only hints at it."""
    output = tmp_path / f"{path.stem}.c"
    done = run("-m", "cython", *DIRECTIVES, str(path.relative_to(ROOT)), "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert output.exists()
    assert "performance hint" not in done.stderr.lower(), done.stderr


def test_a_forgotten_noexcept_would_be_seen(tmp_path: Path) -> None:
    slow = tmp_path / "slow.pyx"
    slow.write_text(
        "cdef void inner() nogil:\n    pass\n\ndef outer():\n    with nogil:\n        inner()\n"
    )
    done = run("-m", "cython", *DIRECTIVES, str(slow), "-o", str(tmp_path / "slow.c"))
    assert "performance hint" in done.stderr.lower()


def test_generated_files_are_current() -> None:
    done = run("tools/generate.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff_is_clean(arguments: list[str]) -> None:
    done = run("-m", "ruff", *arguments, "--no-cache", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_strict() -> None:
    done = run("-m", "mypy")
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_committed_names_a_place_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"/(?:root|home|work)/[\w.-]+|index-url|/simple\b")
    for name in listed.stdout.split():
        path = ROOT / name
        if path == Path(__file__) or path.suffix not in {".py", ".pyx", ".pxd", ".md", ".toml", ""}:
            continue
        if path.is_file():
            found = pattern.findall(path.read_text(errors="ignore"))
            assert not found, f"{name}: {found}"


def test_the_page_on_architecture_lists_every_module() -> None:
    page = (PACKAGE.parent / "docs/architecture.md").read_text()
    rooms = page[page.index("## Rooms") : page.index("## Words")]
    # `_core.pxd/.pyx` and `_books` name a compiled module, `store.py` the one file.
    named = {word for code in re.findall(r"`([^`]+)`", rooms) for word in re.split("[ /]", code)}
    compiled = {word.removesuffix(".pyx").removesuffix(".pxd") for word in named}
    unlisted = [
        name_of(path)
        for path in sources(".py", ".pyx", ".pxd", ".h", ".html")
        if not path.name.startswith("__")
        and path.name not in named
        and not (path.suffix in (".pyx", ".pxd") and path.stem in compiled)
    ]
    assert unlisted == []


def test_the_page_on_http_lists_every_route() -> None:
    page = (PACKAGE.parent / "docs/http.md").read_text()
    routes = set(re.findall(r'"(/[\w{}./-]+)"', (PACKAGE / "api/routes.py").read_text()))
    assert len(routes) > 20
    # A second path in a row of the table may stand with … for what it shares with the first.
    unlisted = [
        route
        for route in routes - {"/tile/{path}"}
        if f"{route}`" not in page
        and f"{route}?" not in page
        and f"…/{route.rpartition('/')[2]}`" not in page
    ]
    assert unlisted == []
    assert "`/tile/…`" in page
