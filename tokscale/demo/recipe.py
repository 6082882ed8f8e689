"""`recipe.json`: how the packaged model and fusers were trained, and what was measured of them."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .evaluation import Evaluation

CHECKPOINT = "checkpoint"  # folder of unfinished trainings beside the recipe


def versions() -> dict[str, str]:
    """Return the versions that decide the numbers."""
    import sklearn
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }


def scored(result: Evaluation) -> dict[str, Any]:
    """Return an evaluation as it stands in `recipe.json`."""
    return {
        "accuracy": round(result.accuracy, 4),
        "correct": result.correct,
        "n": result.n,
        "wilson95": [round(end, 4) for end in result.interval],
    }


def read_recipe(folder: Path) -> dict[str, Any]:
    """Return what `recipe.json` says, or an empty dict where there is none."""
    path = folder / "recipe.json"
    return json.loads(path.read_text()) if path.exists() else {}


def update_recipe(folder: Path, **entries: Any) -> None:
    """Write entries into `recipe.json`, keeping the others; written aside, then renamed."""
    aside = folder / "recipe.json.part"
    aside.write_text(json.dumps({**read_recipe(folder), **entries}, indent=1) + "\n")
    os.replace(aside, folder / "recipe.json")
