from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tokscale import Compressed, TokenCompressor, create_compressor, list_compressors, register_compressor
from tokscale.compressors import registry

OURS = ["adaptive_pool", "cross_attention", "divprune", "random", "topk", "uniform"]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    yield


def make(name: str = "First", **body: Any) -> type[TokenCompressor]:
    def compress(self: TokenCompressor, vision_tokens: Tensor, **context: Any) -> Compressed:
        return Compressed.select(vision_tokens, torch.arange(self.output_length(vision_tokens.shape[1])))

    return type(name, (TokenCompressor,), {"compress": compress, "__module__": __name__, **body})


def test_the_methods_are_listed_sorted() -> None:
    names = list_compressors()
    assert names == sorted(names) and set(OURS) <= set(names)


def test_filters() -> None:
    assert "cross_attention" in list_compressors(trainable=True)
    assert "divprune" in list_compressors(trainable=False) and "divprune" not in list_compressors(trainable=True)
    assert "cross_attention" in list_compressors(question_aware=True, needs={"text"})
    assert {"adaptive_pool", "divprune", "random", "topk", "uniform"} <= set(list_compressors(needs=()))
    assert "cross_attention" not in list_compressors(needs={"grid", "importance"})
    with pytest.raises(
        tokscale.ArgumentError, match=r'^needs="gird" is unknown; choose from aligned, grid, importance, '
    ):
        list_compressors(needs={"gird"})


def test_a_trait_that_depends_on_keywords_is_that_of_the_defaults() -> None:
    def needs(self: Any) -> frozenset[str]:
        return frozenset({"importance"} if self.dim > 1 else ())

    def build(self: Any, num_tokens: int, dim: int) -> None:
        TokenCompressor.__init__(self, num_tokens)
        self.dim = dim

    register_compressor("first")(make(needs=property(needs), __init__=build))
    state = torch.get_rng_state()
    assert "first" not in list_compressors(needs=()) and "first" in list_compressors(needs={"importance"})
    assert torch.equal(state, torch.get_rng_state())


def test_create_builds_with_keywords() -> None:
    assert create_compressor("random", num_tokens=3, seed=7).config() == {"num_tokens": 3, "seed": 7}


@pytest.mark.parametrize(
    "name, near",
    [
        ("divprun", "divprune"),
        ("DivPrune", "divprune"),
        ("avg_pool", "adaptive_pool"),
        ("fuser", "cross_attention"),
        ("max-min", "divprune"),
        ("fastervlm", "attention_topk"),
        ("k-dpp", "dpp"),
        ("matryoshka", "m3"),
        ("mmr", "idpruner"),
    ],
)
def test_an_unknown_name_gets_a_suggestion_and_the_list(name: str, near: str) -> None:
    with pytest.raises(tokscale.UnknownCompressorError) as caught:
        create_compressor(name, num_tokens=3)
    known = ", ".join(list_compressors())
    assert str(caught.value) == f"unknown compressor {name!r}. Did you mean {near!r}? Known: {known}"
    assert isinstance(caught.value, KeyError)


def test_a_name_like_no_other_gets_the_list_alone() -> None:
    with pytest.raises(KeyError) as caught:
        create_compressor("zzzzzz", num_tokens=3)
    assert str(caught.value).startswith("unknown compressor 'zzzzzz'. Known: adaptive_pool, ")


@pytest.mark.parametrize(
    "name, keywords, text",
    [
        ("divprune", {"num_tokens": 3, "ratio": 0.5}, "divprune has no keyword 'ratio'; it takes num_tokens"),
        (
            "random",
            {"num_tokens": 3, "sed": 1},
            "random has no keyword 'sed'; it takes num_tokens, seed. Did you mean 'seed'?",
        ),
        ("divprune", {}, "divprune needs num_tokens, which was not given; it takes num_tokens"),
    ],
)
def test_keywords_are_checked(name: str, keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(tokscale.KeywordError, match=f"^{re.escape(text)}$") as caught:
        create_compressor(name, **keywords)
    assert isinstance(caught.value, TypeError)


def test_register_and_override() -> None:
    first = register_compressor("first")(make())
    assert type(create_compressor("first", num_tokens=2)) is first
    again = register_compressor("first")(make())  # the same class, defined again
    assert type(create_compressor("first", num_tokens=2)) is again
    text = f"the name 'first' is taken by {__name__}.First; choose another, or pass override=True"
    with pytest.raises(tokscale.RegistryError, match=f"^{re.escape(text)}$"):
        register_compressor("first")(make("Second"))
    second = register_compressor("first", override=True)(make("Second"))
    assert type(create_compressor("first", num_tokens=2)) is second


@pytest.mark.parametrize("name", ["First", "1st", "my-method", "", "a b", None])
def test_a_malformed_name_is_refused(name: Any) -> None:
    with pytest.raises(tokscale.RegistryError, match="a compressor name matches"):
        register_compressor(name)(make())


def test_only_compressors_are_registered() -> None:
    with pytest.raises(ValueError, match=r"must be a subclass of tokscale.TokenCompressor"):
        register_compressor("linear")(torch.nn.Linear)  # type: ignore[type-var]


def test_messages_use_the_registered_name_of_the_class_itself() -> None:
    child = make("Child")
    grandchild = type("Grandchild", (register_compressor("child")(child),), {"needs": frozenset({"keys"})})
    with pytest.raises(ValueError, match=r"^Grandchild needs keys"):
        grandchild(2).compress(torch.zeros(1, 4, 2))


def plugins(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in entries]
    monkeypatch.setattr(registry, "_plugins_read", False)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: found)


Plugin = make("Plugin")


def test_installed_packages_add_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, ("plugged", f"{__name__}:Plugin"))
    assert type(create_compressor("plugged", num_tokens=2)) is Plugin  # an unknown name reads the plug-ins
    assert "plugged" in list_compressors()


def test_a_broken_plugin_is_a_warning_and_the_others_load(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(
        monkeypatch, ("broken", "no_such_module:X"), ("divprune", f"{__name__}:Plugin"), ("works", f"{__name__}:Plugin")
    )
    with pytest.warns(RuntimeWarning) as caught:
        names = list_compressors()
    texts = [str(warning.message) for warning in caught]
    assert texts[0].startswith(
        "the plug-in broken = no_such_module:X of tokscale.compressors failed: ModuleNotFoundError"
    )
    assert "the name 'divprune' is taken" in texts[1]  # built-ins cannot be replaced
    assert "works" in names and type(create_compressor("divprune", num_tokens=1)).__name__ == "DivPrune"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list_compressors()  # read once


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, tokscale.compressors; print([m for m in ('transformers', 'triton', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
