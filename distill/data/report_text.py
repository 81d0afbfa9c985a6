"""Tables and sentences of the statistics of data sets: what ``distill data`` prints."""

from collections.abc import Iterable, Mapping
from typing import Any

import rich.console
import rich.table

from distill.counting import counted, joined, share
from distill.data import repeats, tallies

_NAMED = 12  # unknown characters that a sentence names
_WHOLE, _PARTS = "train+validation", ("train", "validation")  # the training file where validation rows are cut from it


def _there(result: Mapping[str, Any]) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    """Yields set, split and statistics of the splits whose files exist."""
    for name, of_set in result["sets"].items():
        for split, found in of_set.items():
            if "missing" not in found:
                yield name, split, found


def _percent(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "–"
    return f"{share['share']:.2%} ({share['share_low']:.1%}–{share['share_high']:.1%})"


_COUNTS = {
    "rows": "rows",
    "rejected": "rejected",
    "gold label": "with_label",
    "rationale": "with_rationale",
}
_REPLIES = {
    "teacher's label": "with_llm_label",
    "parsed": "parsed",
    "failed": "failed",
    "undecided": "undecided",
}


def _rows_table(result: Mapping[str, Any]) -> rich.table.Table:
    taught = any(found["replies"] or found["with_llm_label"] for _, _, found in _there(result))
    title = "Rows, and how often the teacher agrees with gold (95 % interval)" if taught else "Rows"
    table = rich.table.Table(title=title)
    for name in ("set", "split"):
        table.add_column(name)
    columns = {**_COUNTS, **(_REPLIES if taught else {})}
    for name in (*columns, *(("agreement, strict", "agreement, improved") if taught else ())):
        table.add_column(name, justify="right")
    for name, split, found in _there(result):
        counts = [f"{found[key]:,}" for key in columns.values()]
        agreement = [_percent(found["agreement"][mode]) for mode in ("strict", "improved")] if taught else []
        table.add_row(name, split, *counts, *agreement)
    return table


def _no_value(found: Mapping[str, Any]) -> list[str]:
    """The labels of a data set of equations that no answer equals, in words; nothing if there are none."""
    if not found["no_value"]:
        return []
    first = found["first_no_value"]
    place = f", {first['file']}:{first['line']}" if first["file"] else ""
    are = share(found["no_value"], found["with_label"], "gold label", "is", "are")
    return [f"{are} not arithmetic, so no answer counts as right (first: {first['label']!r}{place})"]


def unknown_sentences(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """``unknown`` of a split's report in words.

    >>> unknown_sentences({"label": {"texts": 9, "unknown": 9, "characters": {"7": 8, "+": 1}}})
    ["9 of 9 labels have tokens that the vocabulary does not know, from the characters '7' and '+'"]
    """
    out = []
    for name, counts in found.items():
        characters = [repr(character) for character in counts["characters"]]
        more = len(characters) - _NAMED
        named = [*characters[:_NAMED], *([counted(more, "other")] if more > 0 else [])]
        words = joined(named)
        have = share(counts["unknown"], counts["texts"], name, "has", "have")
        of = f", from the characters {words}" if named else ""
        out.append(f"{have} tokens that the vocabulary does not know{of}")
    return out


def _findings(found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What is to be said of a split besides the tables: name → how many, and the sentence."""
    out = {name: (f"{found['repeats'][name]:,}", text) for name, text in repeats.sentences(found["repeats"]).items()}
    if found["used"] < found["rows"]:
        are = share(found["used"], found["rows"], "row", "is", "are")
        out["used"] = f"{found['used']:,}", f"{are} used (SUBSAMPLE)"
    if several := found["several_rationales"]:
        have = share(several, found["rows"], "row", "has", "have")
        text = f"{have} several rationales: training uses one in each epoch; RATIONALES sets which"
        out["several_rationales"] = f"{several:,}", text
    for text in _no_value(found):
        out["no_value"] = f"{found['no_value']:,} of {found['with_label']:,}", text
    for (name, counts), text in zip(found["unknown"].items(), unknown_sentences(found["unknown"]), strict=True):
        out[f"unknown {name}"] = f"{counts['unknown']:,} of {counts['texts']:,}", text
    return out


def _once(findings: Mapping[str, Mapping[str, tuple[str, str]]]) -> dict[str, list[str]]:
    """Findings of several splits, each said once: the splits in words → what is true of them.

    What is said of the whole training file is not repeated for its two parts; it names them with how many each has.

    >>> _once({"train": {"a": ("1", "is so")}, "test": {"a": ("1", "is so"), "b": ("", "and so")}})
    {'train and test': ['is so'], 'test': ['and so']}
    >>> _once({"train+validation": {"a": ("9", "9 do")}, "train": {"a": ("8", "8 do")}, "validation": {"a": ("1", "1 do")}})
    {'train+validation': ['9 do (train: 8, validation: 1)']}
    """
    out: dict[str, list[str]] = {}
    for finding in dict.fromkeys(name for of_split in findings.values() for name in of_split):
        having = {split: of_split[finding] for split, of_split in findings.items() if finding in of_split}
        if _WHOLE in having:
            parts = [f"{part}: {having.pop(part)[0]}" for part in _PARTS if part in having]
            many, text = having[_WHOLE]
            having[_WHOLE] = many, f"{text} ({', '.join(parts)})" if many and parts else text
        alike: dict[str, list[str]] = {}
        for split, (_, text) in having.items():
            alike.setdefault(text, []).append(split)
        for text, splits in alike.items():
            named = joined(splits)
            out.setdefault(named, []).append(text)
    return out


def _lengths_table(result: Mapping[str, Any]) -> rich.table.Table:
    size, special = result["vocabulary_size"], "EOS and the BOS of inputs" if result["encoder_bos"] else "EOS"
    table = rich.table.Table(title=f"Lengths in tokens, {special} included (vocabulary of {size:,})")
    for name in ("set", "split", "sequence"):
        table.add_column(name)
    for name in ("mean", *(f"p{q}" if q < 100 else "max" for q in tallies.PERCENTILES), "limit", "truncated"):
        table.add_column(name, justify="right")
    for name, split, found in _there(result):
        for sequence, values in found["lengths"].items():
            if values["sequences"]:
                numbers = [f"{values['mean']:.1f}", *(str(values[f"p{q}"]) for q in tallies.PERCENTILES)]
                cut = f"{values['truncated']:.2%}" if "truncated" in values else "–"
                table.add_row(name, split, sequence.replace("_", " "), *numbers, str(values.get("limit", "–")), cut)
    return table


def render(result: Mapping[str, Any], console: rich.console.Console | None = None) -> None:
    """Prints a report as tables; with details, also rows with a problem and rows that the two modes parse differently.

    Args:
      result: the result of :func:`distill.data.report.report`.
      console: the output; None prints to standard output.
    """
    console = console or rich.console.Console()
    console.print(_rows_table(result))
    console.print(_lengths_table(result))
    write = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    for name, of_set in result["sets"].items():
        for split, found in of_set.items():
            if "missing" in found:
                write(f"\n{name} {split}: left out: {found['missing']}")
    for name, of_set in result["sets"].items():
        there = {split: found for split, found in of_set.items() if "missing" not in found}
        for title, counts in (("problems", "problems"), ("strict and improved differ", "differences")):
            lines = {
                split: {reason: ("", f"  {number:6,}  {reason}") for reason, number in found[counts].items()}
                for split, found in there.items()
            }
            for splits, told in _once(lines).items():
                console.print(f"\n{name} {splits}: {title}", style="bold", markup=False)
                for line in told:
                    write(line)
        for splits, told in _once({split: _findings(found) for split, found in there.items()}).items():
            for sentence in told:
                write(f"\n{name} {splits}: {sentence}")
    listed: set[tuple[Any, ...]] = set()  # train+validation has the rows of its two parts
    for name, _, found in _there(result):
        for row in (*found.get("lacking", ()), *found.get("truncated", ())):
            place = f"{row['file']}:{row['line']}" if row["file"] else f"id {row['id']}"
            if (name, place, row["reason"]) not in listed:
                listed.add((name, place, row["reason"]))
                write(f"  {place}  {row['reason']}")
        for problem in found.get("failures", ()):
            key = (name, problem["file"], problem["line"], problem["reason"])
            if key in listed:
                continue
            listed.add(key)
            excerpt = f" — {problem['text']!r}" if problem["text"] else ""
            write(f"  {problem['file']}:{problem['line']}  {problem['reason']}{excerpt}")
        for row in found.get("differing_rows", ()):
            of_row = (name, row["id"], row["line"])
            if of_row in listed:
                continue
            listed.add(of_row)
            labels = f"strict {row['strict']!r}, improved {row['improved']!r}, gold {row['gold']!r}"
            write(f"  line {row['line']}  {'; '.join(row['reasons'])}: {labels}")
