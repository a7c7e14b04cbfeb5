"""Digests of code: what a job runs is in it, function by function, and nothing else."""

import pytest

from frcore.workflow import codehash
from frcore.workflow.codehash import closure, code_hash


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`package(name=text, ...)` writes modules frcore.NAME in a folder and reads them anew."""
    folder = tmp_path / "frcore"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(codehash, "_ROOT", tmp_path)

    def write(**modules):
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)
        codehash._read.cache_clear()
        code_hash.cache_clear()

    write.folder = tmp_path
    yield write
    codehash._read.cache_clear()
    code_hash.cache_clear()


A = """
from frcore.b import f, TABLE

LIMIT = 3

def g(x):
    return f(x) + LIMIT

def other():
    return 1
"""
B = """
def f(x):
    return helper(x)

def helper(x):
    return 2 * x

def unused():
    return 3

TABLE = {}
TABLE["a"] = 1
"""


def test_what_a_function_uses_counts_and_nothing_else(package):
    package(a=A, b=B)
    assert set(closure("frcore.a:g")) == {
        "frcore.a:g",
        "frcore.a:LIMIT",
        "frcore.b:f",
        "frcore.b:helper",
    }
    first = code_hash("frcore.a:g")
    same = [
        {"a": A.replace("return 1", "return 11")},  # another function of the file
        {"b": B.replace("return 3", "return 33")},
        {"b": B + "\n\ndef new():\n    return 4\n"},
        {"b": B.replace("def f(x):", '"""Words."""\n\n# why\ndef f(x):\n    """More."""')},
        {"a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import frcore.c\n" + A},
    ]
    for change in same:
        package(**{"a": A, "b": B, **change})
        assert code_hash("frcore.a:g") == first, change
    other = [
        {"a": A.replace("LIMIT = 3", "LIMIT = 4")},
        {"b": B.replace("2 * x", "3 * x")},  # two imports away
        {"b": B.replace("return helper(x)", "return helper(x) + 1")},
    ]
    for change in other:
        package(**{"a": A, "b": B, **change})
        assert code_hash("frcore.a:g") != first, change


@pytest.mark.parametrize(
    "text",
    [
        "from frcore import b\n\ndef g(x):\n    return b.f(x)\n",
        "import frcore.b as b\n\ndef g(x):\n    return b.f(x)\n",
        "import frcore.b\n\ndef g(x):\n    return frcore.b.f(x)\n",
        "def g(x):\n    from frcore.b import f as h\n    return h(x)\n",
        "from frcore.c import f\n\ndef g(x):\n    return f(x)\n",  # passed on by c
        "from frcore.b import f\n\ndef g(x, do=f):\n    return do(x)\n",
        "from frcore.b import f\n\n@f\ndef g(x):\n    return x\n",
    ],
)
def test_every_way_to_import_is_followed(package, text):
    package(a=text, b=B, c="from frcore.b import f\n")
    found = set(closure("frcore.a:g"))
    assert {"frcore.b:f", "frcore.b:helper"} <= found
    assert "frcore.b:unused" not in found


def test_a_module_that_is_handed_on_counts_whole(package):
    package(a="from frcore import b\n\ndef g(do):\n    return do(b)\n", b=B)
    assert "frcore.b:unused" in closure("frcore.a:g")


def test_a_table_counts_with_its_changes_and_what_runs_on_import_counts(package):
    package(a=A + "\ndef h():\n    return TABLE\n", b=B + "\nprint(LOUD)\nLOUD = 1\n")
    found = closure("frcore.a:h")
    assert "'a'" in found["frcore.b:TABLE"]
    assert "frcore.b:" in found and "frcore.b:LOUD" in found


def test_modules_can_be_left_out_and_schemas_are(package):
    package(a=A, b=B, config="def x():\n    return 1\n")
    assert set(closure("-frcore.b", "frcore.a:g")) == {"frcore.a:g", "frcore.a:LIMIT"}
    package(a="from frcore.config import x\n\ndef g():\n    return x()\n")
    assert set(closure("frcore.a:g")) == {"frcore.a:g"}


def test_a_users_file_counts_with_the_files_beside_it(package):
    folder = package.folder / "mine"
    folder.mkdir()
    method = folder / "method.py"
    method.write_text("from parts import half\n\ndef build():\n    return half(1)\n")
    (folder / "parts.py").write_text("def half(x):\n    return x / 2\n")
    package(a=A, b=B)
    first = code_hash(str(method))
    assert set(closure(str(method))) == {"method.py:build", "parts.py:half"}
    moved = package.folder / "elsewhere"
    folder.rename(moved)
    package()
    assert code_hash(str(moved / "method.py")) == first
    (moved / "parts.py").write_text("def half(x):\n    return x / 3\n")
    package()
    assert code_hash(str(moved / "method.py")) != first


def test_unknown_entries_are_refused(package):
    package(a=A, b=B)
    for entry in ("frcore.z", "frcore.a:z", "mine/none.py"):
        with pytest.raises(ValueError, match="no code"):
            code_hash(entry)
