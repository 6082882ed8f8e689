"""`tokscale list`: the registered compressors."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Annotated, Any

import typer

from . import _options, _print


def list_(
    trainable: Annotated[bool | None, typer.Option(help="Only those that have weights, or have none.")] = None,
    question_aware: Annotated[bool | None, typer.Option(help="Only those that hear the question, or do not.")] = None,
    needs: Annotated[str | None, typer.Option(help="Only those that run with no more than this: grid,text.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="A table in Markdown.")] = False,
    as_json: _options.AsJson = False,
) -> None:
    """List the compressors: what they need, and what they are."""
    from ..compressors import list_compressors

    given = None if needs is None else {need.strip() for need in needs.split(",") if need.strip()}
    entries = [
        _entry(name) for name in list_compressors(trainable=trainable, question_aware=question_aware, needs=given)
    ]
    if as_json:
        _print.document(entries)
        return
    if as_markdown:
        _print.out(_markdown(entries))
        return
    width = max(map(len, (entry["name"] for entry in entries)), default=0)
    for entry in entries:
        _print.out(f"{entry['name']:{width}}  {_traits(entry)}".rstrip())
        for text in (entry["summary"], entry["cost"] and f"Cost: {entry['cost']}", _origin(entry["source"])):
            if text:
                _print.out(textwrap.fill(text, 80, initial_indent="    ", subsequent_indent="    "))


def _markdown(entries: list[dict[str, Any]]) -> str:
    lines = ["| name | reads, is | what comes out | cost | source |", "| --- | --- | --- | --- | --- |"]
    for entry in entries:
        origin = _origin(entry["source"]).removeprefix("Source: ")
        cells = (f"`{entry['name']}`", _traits(entry), entry["summary"], entry["cost"] or "", origin)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _traits(entry: dict[str, Any]) -> str:
    """Return what a method reads and is, in a few words."""
    said = [f"{verb} {', '.join(entry[verb])}" for verb in ("needs", "uses") if entry[verb]]
    words = {"trainable": "trainable", "question_aware": "hears the question", "mixture": "mixture"}
    return "; ".join(said + [word for trait, word in words.items() if entry[trait]])


def _origin(source: str | None) -> str:
    """Return where a method comes from, without what differs from it."""
    origin = re.split(r"[.;]\s+[Dd]iffers from", source or "none")[0]
    return "" if origin.startswith("none") else f"Source: {origin}"


def _entry(name: str) -> dict[str, Any]:
    from ..compressors.registry import compressor_class, keywords_of, trait_of

    cls = compressor_class(name)
    sections = _sections(inspect.getdoc(cls) or "")
    traits = {trait: trait_of(cls, trait) for trait in ("needs", "uses", "trainable", "question_aware", "mixture")}
    return {
        "name": name,
        "class": cls.__name__,
        "module": cls.__module__,
        "needs": sorted(traits["needs"]),
        "uses": sorted(traits["uses"]),
        "trainable": bool(traits["trainable"]),
        "question_aware": bool(traits["question_aware"]),
        "mixture": bool(traits["mixture"]),
        "keywords": [str(keyword) for keyword in keywords_of(cls) if keyword is not None],
        "summary": sections[""],
        "cost": sections.get("Cost"),
        "source": sections.get("Source"),
    }


def _sections(text: str) -> dict[str, str]:
    """Return the first line of a docstring under "", and its paragraphs `Cost: ...` and `Source: ...` by name."""
    lines = text.splitlines() or [""]
    found = {"": lines[0].strip()}
    name = None
    for line in lines[1:]:
        head, colon, rest = line.partition(":")
        if colon and not line.startswith(" ") and head in ("Cost", "Source"):
            name, found[head] = head, rest.strip()
        elif name and line.strip():
            found[name] = f"{found[name]} {line.strip()}".strip()
        else:
            name = None
    return found
