"""What is shipped: built, opened, and used from a folder that does not see the checkout."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import zipfile

import pytest

import tokscale

ROOT = pathlib.Path(tokscale.__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_holds_what_it_needs_and_works(tmp_path: pathlib.Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 6e6
    names = zipfile.ZipFile(wheel).namelist()
    needed = ("py.typed", "demo/digits/model.safetensors", "demo/digits/tokenizer.json", "report/report.html.j2")
    assert {f"tokscale/{name}" for name in needed} <= set(names)
    assert not [name for name in names if name.startswith("tests/") or name.endswith((".pyc", ".bin", ".pt", ".pkl"))]
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import json, tokscale\n"
        "from tokscale import demo\n"
        "model, processor = demo.load()\n"
        "with tokscale.patch(model, demo.load_fuser('question'), num_tokens=1):\n"
        "    right = demo.evaluate(model, processor, demo.samples(64)).accuracy\n"
        "print(json.dumps({'file': tokscale.__file__, 'right': right}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    seen = json.loads(done.stdout.splitlines()[-1])
    assert pathlib.Path(seen["file"]).is_relative_to(target) and seen["right"] > 0.9
