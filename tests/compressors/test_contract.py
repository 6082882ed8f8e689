"""The contract of section 12, over everything that is registered and over the modes of each method."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokscale import CompressorError, TokenCompressor, list_compressors
from tokscale.compressors import Compressed
from tokscale.compressors.registry import compressor_class, keywords_of
from tokscale.testing import CHECKS, Subject, check_compressor

MODES: dict[str, list[dict[str, Any]]] = {  # besides the defaults
    "adaptive_pool": [{"mode": "gated", "dim": 16}, {"mode": "projected", "dim": 16}],
    "topk": [
        {"score": "text"},
        {"score": "text", "text_reduce": "max", "text_sign": -1},
        {"score": "importance"},
        {"score": "learned", "dim": 16},
    ],
    "cross_attention": [
        {"condition": "none"},
        {"condition": "keys", "pointer": False},
        {"condition": "query", "spatial_bias": False, "mlp_ratio": 0, "out_dim": 8},
        {"collect_scores": True, "num_heads": 2, "depth": 1},
    ],
    "cdpruner": [{"text_sign": -1, "theta": 0.5}],
    "dart": [{"image_pivots": 1, "text_pivots": 0}],
    "scope": [{"alpha": 0.0}],
    "mmtok": [{"text_temperature": 1.0, "vision_weight": 0.0}],
    "idpruner": [{"balance": 0.0}],
    "vispruner": [{"important_ratio": 0.0, "step": 1}],
    "holov": [{"chunks": 1}],
    "hiprune": [{"alpha": 5.0}],
    "dycoke": [{"window": 1}],
    "visionzip": [{"num_contextual": 1, "merge": "mean"}],
    "vscan": [{"window": 2, "local_ratio": 1, "merge": False}],
    "tome": [{"metric": "keys"}],
    "fastvid": [{"segments": 1, "threshold": -1, "context_ratio": 1, "period": 2}],
    "mqt": [{"keys": "position"}],
}
CASES = [(name, mode) for name in list_compressors() for mode in [{}, *MODES.get(name, [])]]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name, mode", CASES, ids=[f"{n}-{'-'.join(map(str, m.values()))}" for n, m in CASES])
def test_contract(name: str, mode: dict[str, Any], check: str) -> None:
    CHECKS[check](Subject(compressor_class(name), mode))


@pytest.mark.parametrize("k", [64, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2879))])
@pytest.mark.parametrize("name", list_compressors())
def test_a_long_input_keeps_exactly_k(name: str, k: int) -> None:
    mode = {"num_queries": 2879} if "num_queries" in keywords_of(compressor_class(name)) else {}
    subject = Subject(compressor_class(name), mode)
    module, x = subject.build(k), torch.randn(1, 2880, 16)
    subject.run(module, x, subject.context(module, x, (5, 24, 24)), "length", "2880 tokens")


class _Wrong(TokenCompressor):
    """Keeps its promises unless `flaw` names one to break."""

    flaw = ""

    def compress(self, vision_tokens: torch.Tensor, **context: Any) -> Compressed:
        b, n, _ = vision_tokens.shape
        k = self.output_length(n)
        result = Compressed.select(vision_tokens, torch.arange(k))
        if self.flaw == "descending":
            return Compressed(vision_tokens[:, :k].flip(1), result.positions.flip(1))
        if self.flaw == "repeated":
            return result._replace(positions=torch.zeros_like(result.positions))
        if self.flaw == "out of range":
            return result._replace(positions=result.positions + n)
        if self.flaw == "int32":
            return result._replace(positions=result.positions.int())
        if self.flaw == "scaled":
            return result._replace(tokens=2 * result.tokens)
        if self.flaw == "batch statistics":
            return result._replace(tokens=result.tokens - vision_tokens.mean(0, keepdim=True)[:, :k])
        if self.flaw == "random":
            return Compressed.select(vision_tokens, torch.randperm(n)[:k])
        if self.flaw == "writes":
            vision_tokens[:, 0] = 0
            return Compressed.select(vision_tokens, torch.arange(k))
        if self.flaw == "dtype":
            return result._replace(tokens=result.tokens.double())
        if self.flaw == "assignment":
            return result._replace(assignment=torch.zeros(b, k, n))
        if self.flaw == "scores":
            return result._replace(scores=torch.zeros(b, n + 1))
        if self.flaw == "no gradient":
            return result._replace(tokens=result.tokens.detach())
        return result


def test_a_correct_method_passes_every_check() -> None:
    assert check_compressor(_Wrong) == list(CHECKS)


@pytest.mark.parametrize(
    "flaw, message",
    [
        ("descending", "positions are not strictly ascending"),
        ("repeated", "positions are not strictly ascending"),
        ("out of range", r"positions lie outside \[0, "),
        ("int32", "positions are torch.int32, not torch.int64"),
        ("scaled", "tokens are no copies of the rows at positions"),
        ("batch statistics", "tokens are no copies of the rows"),
        ("random", "a second call gives another result"),
        ("writes", "an input was changed"),
        ("dtype", "tokens are torch.float64, not torch.float32"),
        ("assignment", "tokens differ from assignment @ x"),
        ("scores", r"scores have shape \(2, 3\), not \(2, 2\)"),
    ],
)
def test_a_broken_promise_is_found_and_named(flaw: str, message: str) -> None:
    broken = type("Broken", (_Wrong,), {"flaw": flaw})
    with pytest.raises(CompressorError, match=message):
        check_compressor(broken)


def test_a_missing_gradient_is_found() -> None:
    broken = type("Broken", (_Wrong,), {"flaw": "no gradient"})
    with pytest.raises((CompressorError, RuntimeError), match="grad"):
        check_compressor(broken)
