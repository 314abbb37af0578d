"""The rules of the house, as tests: style, types, layers of the code, start-up."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rootless", "slirp", "fuse_overlay")
SOURCES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULES = [".".join(p.relative_to(ROOT).with_suffix("").parts).replace(".__init__", "")
           for p in SOURCES]

# On the path of the verbs that people run all day; each costs milliseconds.
HEAVY = frozenset((
    "typing dataclasses re enum pathlib subprocess logging collections contextlib argparse shutil "
    "tempfile click socket asyncio urllib3 http.client ssl pyroute2 email inspect random datetime "
    "json tomli tomllib zstandard isal fuse threading functools").split())
DAILY = ("run", "create", "start", "exec", "ps", "logs", "stop", "kill", "wait", "rm", "images")

# What each package may know of. Data flows one way: cli, engine, runtime, linux.
FOUNDATION = {"errors", "record", "jsontext", "paths", "files", "config", "clock", "linux",
              "events", "quoted"}
BELOW = {
    "linux": {"errors", "record"},
    "cgroup": FOUNDATION,
    "runtime": FOUNDATION | {"userns", "cgroup"},
    "userns": FOUNDATION | {"cgroup"},
    "storage": FOUNDATION | {"userns"},
    "doctor": FOUNDATION | {"userns", "storage", "cgroup"},
    "image": FOUNDATION | {"userns", "storage"},
    "network": FOUNDATION | {"userns", "cgroup"},
    "container": FOUNDATION | {"userns", "storage", "image", "runtime", "network",
                                "cgroup"},
    "build": FOUNDATION | {"userns", "storage", "image", "runtime", "network", "container"},
}


def tool(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_ruff_is_content() -> None:
    tool("ruff", "check", "--quiet", ".")


def test_types_hold() -> None:
    tool("mypy")


def test_types_of_the_tests_hold() -> None:
    tool("mypy", "-p", "tests")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno
            if node.module in PACKAGES:
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", node.lineno


def test_nothing_lower_imports_anything_higher() -> None:
    wrong = []
    for path in SOURCES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        for name, line in imports(path):
            target = name.split(".")
            where = f"{path.relative_to(ROOT)}:{line}: {name}"
            if parts[0] != "rootless":
                if target[0] in PACKAGES and target[0] != parts[0]:
                    wrong.append(f"{where}: {parts[0]} must be usable alone")
            elif target[0] == "rootless" and len(parts) > 2 and len(target) > 1:
                allowed = BELOW.get(parts[1])
                if allowed is not None and target[1] not in allowed | {parts[1], "version"}:
                    wrong.append(where)
    assert not wrong, "\n".join(wrong)


RAW = ("rootless/linux/", "slirp/linux.py")


def test_only_one_module_of_a_program_makes_raw_system_calls() -> None:
    wrong = [f"{p.relative_to(ROOT)}:{line}" for p in SOURCES for name, line in imports(p)
             if name.split(".")[0] in ("ctypes", "_ctypes", "cffi")
             and not p.relative_to(ROOT).as_posix().startswith(RAW)]
    assert not wrong, "ctypes outside the modules for it: " + ", ".join(wrong)


FORBIDDEN = {
    r"\bTO" r"DO\b|\bFIX" r"ME\b|\bXX" r"X\b": "unfinished work",
    r"except Exc" r"eption|except Base" r"Exception|exce" r"pt:": "catches more than it can name",
    r"shell=Tr" r"ue|os\.sys" r"tem\(": "runs a shell",
    r"unittest\.mo" r"ck|monkey" r"patch\.setattr": "replaces our own functions",
    r"mark\.sk" r"ip|mark\.xf" r"ail|pytest\.sk" r"ip": "a test that does not run",
    r"NotImplemented" r"Error": "a stub",
}


@pytest.mark.parametrize("pattern, meaning", FORBIDDEN.items(), ids=list(FORBIDDEN.values()))
def test_no_source_holds(pattern: str, meaning: str) -> None:
    wrong = [f"{p.relative_to(ROOT)}:{n}: {line.strip()}" for p in [*SOURCES, *TESTS]
             for n, line in enumerate(p.read_text().splitlines(), 1) if re.search(pattern, line)]
    assert not wrong, f"{meaning}:\n" + "\n".join(wrong)


def test_the_library_never_exits() -> None:
    edge = {"rootless/__main__.py", "fuse_overlay/__main__.py", "slirp/__main__.py"}
    wrong = [f"{name}:{n}" for p in SOURCES
             if (name := p.relative_to(ROOT).as_posix()) not in edge
             for n, line in enumerate(p.read_text().splitlines(), 1)
             if re.search(r"\bsys\.exit\(|raise SystemExit", line)]
    assert not wrong, ", ".join(wrong)


def test_no_module_grows_beyond_reading() -> None:
    long = {str(p.relative_to(ROOT)): n for p in SOURCES
            if (n := len(p.read_text().splitlines())) > 600}
    assert not long, long


def test_the_distribution_ships_every_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'"([\w.]+)"', text[text.index("packages = ["):].split("]")[0]))
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in SOURCES
             if p.name == "__init__.py"}
    assert found == listed


def in_python(code: str) -> str:
    """Run as the launcher does, print what it prints."""
    head = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {sysconfig.get_path('purelib')!r}]\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", head + code], capture_output=True,
                          check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("verb", DAILY)
def test_daily_verbs_import_nothing_heavy(verb: str) -> None:
    loaded = set(in_python(
        "import rootless.__main__ as m\n"
        "from rootless.cli.command import parse\n"
        f"m.load({verb!r})\n"
        "print(*sys.modules)").split())
    assert not loaded & HEAVY, f"{verb} imports {', '.join(sorted(loaded & HEAVY))}"
    assert not [name for name in loaded if name.startswith("rootless.build")]


def test_every_verb_has_its_module() -> None:
    in_python("import rootless.__main__ as m\n"
              "from rootless.cli.table import VERBS, SUBCOMMANDS\n"
              "for v in VERBS:\n"
              "    if v not in SUBCOMMANDS: m.load(v)\n"
              "for v, group in SUBCOMMANDS.items():\n"
              "    for w in group: m.load(v + ' ' + w)\n")


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported_first(module: str) -> None:
    """No import cycle that only one order of imports survives."""
    if not module.endswith("__main__"):
        in_python(f"import {module}")
