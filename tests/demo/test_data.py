"""The pictures and questions: what they show is what they say, and each sample stands alone."""

from __future__ import annotations

import builtins
import sys

import numpy as np
import pytest

from tokscale import demo
from tokscale.demo import batches, data
from tokscale.errors import ArgumentError, MissingDependencyError


def test_no_scan_is_in_two_splits():
    test, train = (demo.scans(split)[0].reshape(-1, 64) for split in ("test", "train"))
    assert test.shape == (360, 64) and train.shape == (1437, 64)
    assert len(np.unique(np.concatenate([test, train]), axis=0)) == 1797  # so no scan is its own twin elsewhere either
    inner = [demo.scans(split)[0].reshape(-1, 64) for split in ("inner_train", "inner_valid")]
    assert np.array_equal(np.concatenate(inner), train)


def test_scans_are_copies():
    images, labels = demo.scans("test")
    images[:], labels[:] = 0, 0
    assert demo.scans("test")[0].max() == 16 and demo.scans("test")[1].max() == 9


@pytest.mark.parametrize("kind", sorted(data.KINDS))
def test_a_short_list_is_a_prefix_of_a_long_one(kind):
    for short, long in zip(demo.samples(3, 5, kind=kind), demo.samples(9, 5, kind=kind)):
        assert (short.question, short.answer, short.kind) == (long.question, long.answer, long.kind)
        assert short.image.tobytes() == long.image.tobytes() and np.array_equal(short.grid, long.grid)


def test_seed_split_kind_and_index_each_change_the_picture():
    pictures = [
        *[s.image.tobytes() for s in demo.samples(4)],
        *[demo.samples(1, seed=1)[0].image.tobytes(), demo.samples(1, split="train")[0].image.tobytes()],
        *[demo.samples(1, kind=kind)[0].image.tobytes() for kind in ("row", "count", "most")],
    ]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("kind", sorted(data.KINDS))
def test_answers_follow_from_the_grid(kind):
    for sample in demo.samples(60, seed=3, kind=kind):
        words, grid = sample.question.split(), sample.grid.tolist()
        assert words[-1] == "?" and sample.kind == kind
        flat = [digit for row in grid for digit in row]
        if kind == "cell":
            expected = grid[int(words[1][1])][int(words[2][1])]
        elif kind == "row":
            expected = grid[int(words[3][1])].count(int(words[1]))
        elif kind == "count":
            expected = flat.count(int(words[1]))
        else:
            expected = max(range(10), key=lambda digit: (flat.count(digit), -digit))
        assert sample.answer == str(expected)
        assert {*words, sample.answer} <= set(data.WORDS)


def test_pixels_show_what_the_grid_says():
    """The nearest noise-free scan to the asked cell's pixels, over all places and scans of the split, has its digit."""
    images, labels = demo.scans("test")
    glyphs = images.reshape(-1, 64).astype(np.float64)
    glyphs /= np.linalg.norm(glyphs, axis=1, keepdims=True)
    for sample in demo.samples(60, seed=7):
        row, column = (int(word[1]) for word in sample.question.split()[1:3])
        cell = np.asarray(sample.image)[16 * row : 16 * row + 16, 16 * column : 16 * column + 16, 0].astype(float)
        windows = np.lib.stride_tricks.sliding_window_view(cell, (8, 8)).reshape(-1, 64)
        best = (windows @ glyphs.T).max(axis=0).argmax()
        assert str(labels[best]) == sample.answer


def test_picture_format():
    sample = demo.samples(1)[0]
    assert sample.image.mode == "RGB" and sample.image.size == (96, 96)
    pixels = np.asarray(sample.image)
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    assert sample.grid.shape == (6, 6) and sample.grid.dtype == np.int64


def test_patch_labels_name_the_patch_that_holds_the_digit():
    """Without noise the labelled patch is the brightest of its cell's four, and there is one a cell."""
    images, labels = demo.scans("train")
    rng = np.random.default_rng(0)
    which = rng.integers(0, len(images), (4, 36))
    drawn = data.draw_pictures(rng, images[which].astype(np.float32) / 16, labels[which])
    assert ((drawn.patches < 10).sum(axis=1) == 36).all()
    mass = drawn.pixels.reshape(4, 12, 8, 12, 8).astype(float).sum(axis=(2, 4))
    mass = mass.reshape(4, 6, 2, 6, 2).transpose(0, 1, 3, 2, 4).reshape(4, 36, 4)
    held = drawn.patches.reshape(4, 6, 2, 6, 2).transpose(0, 1, 3, 2, 4).reshape(4, 36, 4)
    assert np.array_equal(mass.argmax(-1), (held < 10).argmax(-1))
    assert np.array_equal(held.min(-1), drawn.grid.reshape(4, 36))


def test_distorted_scans_keep_the_scan_and_move_the_rest():
    glyphs = batches.distorted("inner_valid")
    images = demo.scans("inner_valid")[0].astype(np.float32) / 16
    assert glyphs.images.shape == (287, 24, 8, 8) and glyphs.images.dtype == np.float32
    assert np.array_equal(glyphs.images[:, 0], images)
    assert glyphs.images.min() >= 0 and glyphs.images.max() <= 1
    moved = np.abs(glyphs.images[:, 1:] - images[:, None]).mean(axis=(0, 2, 3))
    assert (moved > 0.02).all()
    total = glyphs.images.sum(axis=(2, 3))
    assert 0.7 < (total[:, 1:] / total[:, :1]).mean() < 1.1  # little ink is lost over the edge


@pytest.mark.parametrize("cell_only", [True, False])
def test_training_sequences_ask_no_question_twice(cell_only):
    glyphs = batches.distorted("inner_valid")
    for step in range(5):
        batch = batches.training_batch(glyphs, seed=0, step=step, cell_only=cell_only)
        for ids, labels in zip(batch.input_ids, batch.labels):
            words = [data.WORDS[i] for i in ids.tolist() if i != 0]
            assert words[0] == "<s>" and words[1:145] == ["<image>"] * 144
            turns = " ".join(words[145:]).split(" </s>")[:-1]
            asked = [turn.rpartition(" ")[0].strip() for turn in turns]
            assert len(asked) == len(set(asked)) == 24
            assert all(q.startswith("cell") for q in asked) or not cell_only
            learnt = labels != -100
            assert learnt.sum() == 48 and (ids[learnt] == labels[learnt]).all()


def test_a_training_batch_is_a_function_of_seed_and_step():
    glyphs = batches.distorted("inner_valid")
    first, again, other = (
        batches.training_batch(glyphs, seed=0, step=step, cell_only=False, pictures=2) for step in (3, 3, 4)
    )
    assert first.pixel_values.equal(again.pixel_values) and first.input_ids.equal(again.input_ids)
    assert not first.pixel_values.equal(other.pixel_values)


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match=r'^kind="colour" is unknown; choose from cell, count, most, row$'):
        demo.samples(1, kind="colour")
    with pytest.raises(
        ArgumentError, match=r'^split="val" is unknown; choose from inner_train, inner_valid, test, train$'
    ):
        demo.samples(1, split="val")
    with pytest.raises(ArgumentError, match=r'^split="val" is unknown'):
        demo.scans("val")
    for n in (0, -1, 1.5, True):
        with pytest.raises(ArgumentError, match=rf"^n must be an integer >= 1, got {n}$"):
            demo.samples(n)
    with pytest.raises(ArgumentError, match=r"^seed must be an integer >= 0, got -1$"):
        demo.samples(1, seed=-1)


def test_without_scikit_learn(monkeypatch):
    data._load.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def blocked(name, *args, **kwargs):
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    monkeypatch.setattr("importlib.import_module", lambda name, *a: blocked(name))
    with pytest.raises(MissingDependencyError) as caught:
        demo.samples(1)
    assert str(caught.value) == (
        'tokscale.demo.samples needs scikit-learn, which is not installed. Run: pip install "tokscale[demo]"'
    )
