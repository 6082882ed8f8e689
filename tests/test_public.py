"""What a user sees on `import tokscale`: the names, what the import costs, and the direction of imports."""

from __future__ import annotations

import ast
import json
import pathlib
import subprocess
import sys

import pytest

import tokscale
from tokscale import errors

ROOT = pathlib.Path(tokscale.__file__).parent

NAMES = [
    "AdaptivePooler", "ArgumentError", "BackendError", "BudgetError", "Compressed", "CompressorError",
    "CrossAttentionFuser", "DtypeError", "FitError", "InputError", "KeywordError", "MissingContextError",
    "MissingDependencyError", "NonFiniteError", "PatchError", "PatchHandle", "RegistryError", "ScalingFit",
    "ShapeError", "SweepResult", "TokenCompressor", "TokscaleError", "TopKSelector", "UnknownCompressorError",
    "UnsupportedInputError", "UnsupportedModelError", "compare_laws", "cost", "create_compressor", "errors",
    "fit_power_law", "list_compressors", "ops", "patch", "plotting", "profile", "register_compressor", "scaling",
    "sweep", "training",
]  # fmt: skip


def test_the_public_list_is_frozen() -> None:
    assert tokscale.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(tokscale, name)
    assert value.__doc__ and len(value.__doc__.strip()) > 20


def test_dir_lists_the_public_names() -> None:
    assert set(dir(tokscale)) == {*NAMES, "demo", "__version__"}
    assert tokscale.demo.load


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tokscale.nonsense  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'ptch'\. Did you mean 'patch'\?"):
        tokscale.ptch  # noqa: B018


def test_sweep_stays_the_function_after_its_module_is_imported() -> None:
    import tokscale.sweep

    assert callable(tokscale.sweep) and tokscale.sweep.__name__ == "sweep"
    from tokscale.sweep import SweepResult

    assert SweepResult is tokscale.SweepResult


def test_profile_is_a_module_and_can_be_called() -> None:
    from tokscale.profile import Profile, profile

    assert tokscale.profile.profile is profile and tokscale.profile.Profile is Profile
    with pytest.raises(errors.BudgetError, match="repeats must be an integer >= 1, got 0"):
        tokscale.profile(None, [], None, budgets=[1], repeats=0)


def _fresh(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_is_light() -> None:
    """Past torch the public names cost less than half a second, and bring neither transformers nor triton."""
    code = (
        "import sys, json, time, torch\n"
        "before = set(sys.modules)\n"
        "start = time.process_time()\n"
        "import tokscale\n"
        "bare = sorted(m for m in ('transformers', 'triton', 'scipy') if m in set(sys.modules) - before)\n"
        "tokscale.TokenCompressor, tokscale.AdaptivePooler, tokscale.fit_power_law, tokscale.ops\n"
        "seconds = time.process_time() - start\n"
        "heavy = ('transformers', 'triton', 'matplotlib', 'scipy.stats')\n"
        "loaded = sorted(m for m in heavy if m in set(sys.modules) - before)\n"
        "print(json.dumps({'bare': bare, 'loaded': loaded, 'seconds': seconds}))\n"
    )
    seen = _fresh(code)
    assert seen["bare"] == [] and seen["loaded"] == []
    assert seen["seconds"] < 1.0  # measured .3 to .4 alone; the margin is for a busy machine


def test_import_brings_no_torch() -> None:
    seen = _fresh("import sys, json, tokscale\nprint(json.dumps({'torch': 'torch' in sys.modules}))")
    assert seen == {"torch": False}


# errors, _checks <- ops <- compressors <- hf <- sweep, training, profile, report <- demo, integrations <- cli
FLOORS = [
    {"errors"},
    {"_checks"},
    {"_provenance", "_files", "_hub"},
    {"scaling", "cost"},
    {"ops"},
    {"compressors"},
    {"testing"},
    {"hf"},
    {"sweep", "training"},
    {"profile"},
    {"plotting"},
    {"report"},
    {"demo", "integrations"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def _imports(path: pathlib.Path) -> list[tuple[str, bool]]:
    """Return (absolute dotted module, inside a function or TYPE_CHECKING block) of every import of a file."""
    tree = ast.parse(path.read_text())
    package = ["tokscale", *path.relative_to(ROOT).parent.parts]
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        inner = id(node) not in top
        if isinstance(node, ast.Import):
            found += [(alias.name, inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found += [(f"{stem}.{alias.name}" if stem == "tokscale" else stem, inner) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: pathlib.Path) -> None:
    relative = path.relative_to(ROOT)
    part = relative.parts[0].removesuffix(".py")
    own = LEVEL[part]  # a KeyError here: place the new module in FLOORS
    for module, inner in _imports(path):
        pieces = module.split(".")
        if pieces[0] == "tokscale" and len(pieces) > 1 and pieces[1] in LEVEL and pieces[1] != part:
            late_plot = inner and pieces[1] == "plotting"
            assert LEVEL[pieces[1]] < own or late_plot, f"{relative} imports {module}, which lies above it"
        if pieces[0] == "transformers":
            assert part in {"hf", "demo", "cli"}, f"{relative} imports transformers"
        if pieces[0] == "triton":
            assert relative.name == "kernel.py" or relative.parent.name == "_triton", f"{relative} imports triton"
        if pieces[0] == "matplotlib":
            assert part == "plotting" and inner, f"{relative} imports matplotlib at its top"
        if pieces[0] == "torch":
            assert part not in {"scaling", "cost", "errors"}, f"{relative} imports torch"


def test_no_assert_and_no_pickle_in_the_library() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), path
        assert "pickle" not in {module.split(".")[0] for module, _ in _imports(path)}, path


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_are_also_what_a_caller_expects(name: str) -> None:
    cls = getattr(errors, name)
    assert issubclass(cls, errors.TokscaleError) and getattr(tokscale, name) is cls
    if cls is not errors.TokscaleError:
        builtins = (ValueError, TypeError, RuntimeError, KeyError, ImportError)
        assert issubclass(cls, builtins)
    assert str(cls("one line")) == "one line"
