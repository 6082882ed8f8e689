"""The report: one file, nothing outside it, the answer first, and what its sentences say."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from tokscale import report
from tokscale.errors import InputError
from tokscale.report.answer import answers, held_out, which_laws
from tokscale.sweep.table import SweepResult

BUDGETS = (1, 4, 16, 64)


def table(compressor="divprune", scores=(0.1, 0.2, 0.4, 0.8), full=0.84, **more):
    common = {"status": "ok", "model": "toy", "task": "cell", "metric": "accuracy", "n_items": 200, **more}
    rows = [
        {**common, "compressor": compressor, "num_tokens": k, "num_tokens_kept": k, "mean_tokens": k, "score": s}
        | {"prefill_tflop": (k + 6) / 1e3, "kv_cache_mib": (k + 6) / 10, "prompt_tokens": k + 6}
        for k, s in zip(BUDGETS, scores)
    ]
    if full is not None:
        whole = {"compressor": "none", "num_tokens_kept": 144, "mean_tokens": 144, "native_tokens": 144, "score": full}
        rows.insert(0, {**common, **whole, "prefill_tflop": 0.15, "kv_cache_mib": 15.0, "prompt_tokens": 150})
    return SweepResult(rows)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path):
    failed = {"status": "failed", "compressor": "dart", "num_tokens": 4, "error": "ShapeError: <b>no</b>"}
    result = SweepResult([*table().rows, failed])
    picture = base64.b64decode("iVBORw0KGgo=")
    path = report.write(result, tmp_path / "r.html", pictures={"kept & dropped": picture}, footnotes=["One model."])
    text = path.read_text()
    page = Page(text)
    assert page.open == [] and [p.name for p in tmp_path.iterdir()] == ["r.html"]
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe"} and ("html", {"lang": "en"}) in page.tags
    for tag, attributes in page.tags:
        address = attributes.get("src") or attributes.get("href")
        assert address is None or address.startswith("data:")
        assert tag != "img" or attributes["alt"]
    assert "http" not in re.sub(r"base64,[^\"]*", "", text) and "<b>" not in text and "&lt;b&gt;no" in text
    (csv,) = [a["href"] for tag, a in page.tags if tag == "a"]
    (tmp_path / "s.csv").write_bytes(base64.b64decode(csv.partition("base64,")[2]))
    assert SweepResult.from_csv(tmp_path / "s.csv") == result
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    first = ["The answer", "Score against budget", "All scores", "Cost of a prompt"]
    assert heads == [*first, "What was kept", "Not measured", "How it was measured", "Versions"]


def test_the_answer_is_the_law_the_budget_and_the_saving():
    (one,) = answers(table(), share=0.95)
    assert one.fit.exponent == pytest.approx(0.5) and one.goal == pytest.approx(0.798)
    assert one.measured == "64" and one.by_law.startswith("64 [")
    assert one.saved == {"the prefill FLOPs": 1 - 0.07 / 0.15, "the KV cache": 1 - 7 / 15}
    assert one.sentence() == (
        f"exponent 0.500 [0.500, 0.500]; best law: {one.law}; 95% of the unpatched score is 0.798, for which the law "
        f"gives {one.by_law} tokens; measured, 64 reached it, "
        "which saves 53% of the prefill FLOPs and 53% of the KV cache."
    )


def test_two_lines_say_which_law_and_whether_it_predicts():
    found = [
        *answers(table("divprune", scores=(0.1, 0.2, 0.4, 0.8))),
        *answers(table("fuser", scores=(0.5, 0.5, 0.5, 0.5))),
    ]
    assert which_laws(found, {"fuser": "hears all"}).startswith("Which law (AICc over all forms): divprune: power (or ")
    assert which_laws(found).endswith("fuser: a constant. The data can tell for 0 of the 1 that change.")
    assert held_out(found) == "Does it predict: too few budgets to hold any out."  # three are needed below three
    assert which_laws(answers(table(scores=(0.2,)))) == "Which law: none can be fitted."


def test_answers_that_are_no_numbers_are_said_in_words():
    (flat,) = answers(table(scores=(0.5, 0.52, 0.49, 0.51)))
    assert flat.by_law == "no answer" and flat.notes[0].startswith("flat: ") and flat.measured == "all 144"
    assert "no measured budget below the whole reached it" in flat.sentence()
    assert "for which the law has no answer" in flat.sentence()
    (same,) = answers(table(scores=(0.5, 0.5, 0.5, 0.5)))
    assert same.exponent == "flat: one score at every budget" and same.law == "a constant"
    (zero,) = answers(table(scores=(0.0, 0.2, 0.4, 0.8)))
    assert zero.exponent == "no power law" and zero.fit.form == "power_additive" and zero.measured == "64"
    (one,) = answers(table(scores=(0.2,)))
    assert one.fit is None and one.law == one.by_law == "no law" and "no law: the only point has n = " in one.sentence()
    (far,) = answers(table(scores=(0.1, 0.11, 0.12, 0.13)))
    assert far.by_law == "more than 144"
    (alone,) = answers(table(full=None))
    assert alone.goal == pytest.approx(0.95 * 0.8) and alone.saved == {} and "of the best score" in alone.sentence()


def test_what_cannot_be_a_page_is_refused():
    with pytest.raises(InputError, match="no finished row"):
        report.render(SweepResult([{"status": "failed"}]))
    two = SweepResult([*table().rows, *table(model="other").rows])
    with pytest.raises(InputError, match="hold 2 values of model"):
        report.render(two)
    with pytest.raises(InputError, match=r"the report would have \d\.\d MB, the limit is 5; pass fewer"):
        report.render(table(), pictures={"big": bytes(4_000_000)})
