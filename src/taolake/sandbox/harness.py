"""The child that runs a generated program's tests: one program, one verdict. Started by `taolake.scoring.code`.

Tests are Python text, run after the program in a copy of its names: statements at the top level, functions `test*`
without parameters, classes of `unittest`. The verdict carries a number that the parent drew, so that a program which
ends early, or prints that it passed, has not passed.

What this does not stop: the program and its tests share an interpreter. A program that searches the stack for the
number and forges a verdict, or returns objects that equal everything, passes. Rebinding builtins, or functions of
modules that the tests import, does not help it: they are put back before the tests run.
"""

import ast
import importlib
import json
import os
import resource
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from taolake.sandbox.isolation import forbid_calls, isolate, refuse
from taolake.sandbox.limits import die_with_parent, limit_files, limit_memory

_FILE_MB, _FOLDER_MB, _OPEN_FILES = 8, 16, 64
_MAX_ERROR_CHARS = 300
_MAX_NAMED = 20
Names = list[tuple[Any, dict[str, Any]]]


def main(options: str) -> None:
    """Read `{code, tests, nonce}` from standard input; write a line when it starts and one with the verdict."""
    given = json.loads(options)
    die_with_parent(given["parent"])
    job = json.load(sys.stdin)
    verdict = os.dup(1)
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    _import_what_is_tested(job["tests"])
    limit_memory(given["memory_mb"])
    walled = given["isolate"] and isolate(given["folder"], _FOLDER_MB)
    os.chdir(given["folder"])
    limit_files(_FILE_MB << 20)
    resource.setrlimit(resource.RLIMIT_CPU, (given["cpu_s"], given["cpu_s"] + 1))
    os.closerange(verdict + 1, 256)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    has_filter = forbid_calls()
    walled = walled and has_filter
    if not walled:
        refuse(given["folder"], has_filter)
    os.write(verdict, json.dumps({"walled": walled}).encode() + b"\n")
    found = _verdict(job["code"], job["tests"])
    os.write(verdict, json.dumps({**found, "nonce": job["nonce"]}).encode() + b"\n")
    os._exit(0)


def _verdict(code: str, tests: str) -> dict[str, Any]:
    """Run the program, then its tests: how many there were, which failed, and how the first of them did."""
    answer = types.ModuleType("answer")
    sys.modules["answer"] = answer
    kept = _names()
    try:
        exec(compile(code, "<answer>", "exec"), answer.__dict__)
    except BaseException as error:  # SystemExit too: a program that leaves before its tests has not passed them
        return {"tests": 0, "failed": ["the program itself"], "error": _last_line(error)}
    finally:
        _put_back(kept)
    names = {**vars(answer), "__name__": "tests"}
    count, failed, first = 0, list[str](), ""
    for name, run in _tests_in(tests, names):
        count += 1
        try:
            run()
        except BaseException as error:
            failed.append(name)
            first = first or _last_line(error)
    return {"tests": count, "failed": failed[:_MAX_NAMED], "error": first}


def _tests_in(tests: str, names: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    """The top level as one test, then what it defined: functions and `unittest` classes, in the order of the text."""
    yield "the top level", lambda: exec(compile(tests, "<tests>", "exec"), names)
    with suppress(SyntaxError):
        for node in ast.parse(tests).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and node.name in names:
                yield node.name, names[node.name]
            elif isinstance(node, ast.ClassDef) and "unittest" in sys.modules and node.name in names:
                yield from _cases(node.name, names[node.name])


def _cases(name: str, kind: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    unittest = sys.modules["unittest"]
    if isinstance(kind, type) and issubclass(kind, unittest.TestCase):
        for method in unittest.TestLoader().getTestCaseNames(kind):
            yield f"{name}.{method}", _debug(kind, method)


def _debug(kind: Any, method: str) -> Callable[[], object]:
    """Run one method with its set-up and tear-down, raising what it raises; `setUpClass` is called for each."""

    def run() -> None:
        kind.setUpClass()
        try:
            kind(method).debug()
        finally:
            kind.tearDownClass()

    return run


def _import_what_is_tested(tests: str) -> None:
    """Load the modules the tests import, so that `_names` knows how they were before the program ran."""
    with suppress(SyntaxError):
        for node in ast.walk(ast.parse(tests)):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for module in found:
                with suppress(ImportError):
                    importlib.import_module(module)


def _names() -> Names:
    """Every name of every module that is loaded, and of the classes tests rest on."""
    holders: list[Any] = [module for module in sys.modules.values() if isinstance(module, types.ModuleType)]
    if "unittest" in sys.modules:
        holders += [sys.modules["unittest"].TestCase, sys.modules["unittest"].TestLoader]
    return [(holder, dict(vars(holder))) for holder in holders] + [(sys.modules, dict(sys.modules))]


def _put_back(kept: Names) -> None:
    """Undo what the program did to names that are not its own, and take its tracing functions away."""
    sys.settrace(None)
    sys.setprofile(None)
    threading.settrace(None)
    for holder, names in kept:
        for name, value in names.items():
            if holder is sys.modules:
                sys.modules[name] = value
            elif vars(holder).get(name, kept) is not value:
                setattr(holder, name, value)


def _last_line(error: BaseException) -> str:
    """The last line of the traceback, and which line of the tests led to it."""
    text = traceback.format_exception_only(error)[-1].strip()
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<tests>"]
    return (f"line {lines[-1]} of the tests: {text}" if lines else text)[:_MAX_ERROR_CHARS]
