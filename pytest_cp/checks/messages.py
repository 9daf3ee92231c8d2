"""The message of a failing check: required and found, classes and examples affected, how to reproduce it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from cp_compress.base.error_reasons import printable_line
from cp_compress.base.numbers import number, percent
from pytest_cp.checks.recorder import Record, decisive_requirement
from pytest_cp.checks.records import current_recorder

_LISTED = 8
_LISTED_LAYERS = 3
_LISTED_TOKENS = 4
_NAMED = ("language", "retrieval", "generation", "detections")  # their examples have no labels, but names
NO_LABEL = "none"
"""The label of an example of data without labels."""
_ANSWERS = (("reference_text", "reference_answer"), ("candidate_text", "answer"))


def failure_message(record: Record, hint: str = "") -> str:
    """Return the message of a failed check; its first line carries metric, value, bound, interval and n."""
    lines = [_headline(record)]
    if len(record["requirements"]) > 1:
        lines += [f"  {entry['outcome']}: {finding(entry)}" for entry in record["requirements"]]
    for entry in record["requirements"]:
        lines += _group_lines(entry)
    told = decisive_requirement(record) is not None  # the headline contains the first problem
    lines += [f"  baseline: {problem}" for problem in record["baseline_problems"][told:]]
    lines += [f"  {hint}" for hint in record["waiver_hints"]]
    lines += _subject_lines(record["subjects"])
    lines += _class_lines(record["details"].get("classes", []))
    lines += _slice_lines(record)
    lines += _language_lines(record["details"])
    lines += _output_lines(record["details"])
    lines += _table_lines(record["details"])
    lines += _flip_lines(record["details"].get("flips", []))
    lines += _example_lines(record["comparison"], record["examples"])
    lines += _worst_lines(record)
    lines += _origin_lines(record["origin"])
    lines += [f"  note: {note}" for note in record["notes"]]
    if hint:
        lines.append(f"  {hint}")
    lines.append(f"  reproduce: {reproduce_command(record)}")
    return "\n".join(map(printable_line, lines))


def _headline(record: Record) -> str:
    decisive = decisive_requirement(record)
    if decisive is None:
        return f"{record['assertion']}: {record['error']}"
    if record["baseline_problems"]:
        problem = record["baseline_problems"][0]
        names_value = any(problem.startswith(f"{entry['metric']} = ") for entry in record["requirements"])
        return problem if names_value else f"{decisive['metric']} = {number(decisive['value'])}: {problem}"
    extra = f"; {len(record['requirements'])} requirements" if len(record["requirements"]) > 1 else ""
    return f"{finding(decisive)}{extra}"


def finding(entry: Record) -> str:
    """Return the value found and the bound required, with interval, n and what would decide it, in one line."""
    value, bound = found_and_bound(entry)
    text = f"{entry['metric']} = {value}, required {bound}"
    if entry["interval"] is not None:
        low, high = (number(end, entry["bound"]) for end in entry["interval"])
        text += f" at {percent(entry['confidence'], digits=0)} confidence{_family(entry)} ({low} … {high})"
    clusters = entry.get("clusters")
    text += f", {_counted(entry)}"
    detectable = sensitivity(entry)
    text += f"; {detectable}" if detectable else ""
    if entry["outcome"] == "inconclusive":
        needed, units = entry["examples_needed"], "examples" if clusters is None else "clusters"
        text += ": inconclusive, " + (
            f"about {needed:,} more {units} would decide it"
            if needed
            else f"more {units} like these would not decide it"
        )
    elif entry["outcome"] == "error" and entry["metric"] == "coverage":
        text += ": it is unknown what the candidate changed, and unknown is never enough"
    elif entry["outcome"] == "error":
        text += ": not a number, so nothing was compared"
    return text


def _counted(entry: Record) -> str:
    """Return how many examples an entry is about, and what of them counts for a claim."""
    clusters, distinct = entry.get("clusters"), entry.get("distinct")
    text = f"n = {entry['count']}" if distinct is None else f"n = {distinct} distinct of {entry['count']}"
    return text if clusters is None else f"{text} in {clusters} clusters"


def found_and_bound(entry: Record) -> tuple[str, str]:
    """Return value and bound of a judged requirement, the bound with its sign, in digits that tell them apart."""
    sign = "≥" if entry["direction"] == "min" else "≤"
    return number(entry["value"], entry["bound"]), f"{sign} {number(entry['bound'], entry['value'])}"


def in_brief(entry: Record) -> str:
    """Return value and bound of a judged requirement in few words: whether it was only not proven, and how surely."""
    value, bound = found_and_bound(entry)
    text = f"{entry['metric']} = {value}, required {bound}"
    if entry["outcome"] != "inconclusive":
        return text
    return f"inconclusive: {text}, not proven at {percent(entry['confidence'], digits=0)}"


def sensitivity(entry: Record) -> str:
    """Return with which true value a claim that passed would not have passed; empty for others."""
    detectable = entry.get("detectable")
    if detectable is None:
        return ""
    shown = number(detectable, entry["bound"])
    told = f"were the true {entry['metric']} {shown}, 4 of 5 data sets of this size would not pass this check"
    return f"{told}; smaller damage can go unnoticed"


def sensitivities(records: Iterable[Record]) -> list[str]:
    """Return what the claims that passed would have found, a line each, of the first ones."""
    lines = [
        f"{entry['requirement']}, {_counted(entry)}, {compressed}: {sensitivity(entry)}"
        for record in records
        for compressed in [record["subjects"].get("candidate", {}).get("name", record["test"])]
        for entry in record["requirements"]
        if sensitivity(entry)
    ]
    more = len(lines) - _LISTED
    return [*lines[:_LISTED], f"… and {more} more claims"] if more > 0 else lines


def _family(entry: Record) -> str:
    return f" over {entry['family']} candidates" if entry.get("family", 1) > 1 else ""


def _group_lines(entry: Record) -> list[str]:
    """Name the groups that exceed their bound and those that are undecided, with Holm-adjusted p-values."""
    if entry["outcome"] == "pass":
        return []
    lines = []
    for verdict, key in (("refuted", "p_refuted"), ("undecided", "p_proven")):
        groups = sorted((one for one in entry["groups"] if one["verdict"] == verdict), key=lambda one: one["p_refuted"])
        texts = [
            f"{one['group']} ({number(one['value'], entry['bound'])}, n = {one['count']}, p = {number(one[key])})"
            for one in groups
        ]
        more = f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
        if texts:
            lines.append(f"  {entry['metric']} {verdict} for: {', '.join(texts[:_LISTED])}{more}")
    return lines


def _subject_lines(subjects: dict[str, Any]) -> list[str]:
    lines = []
    for role, subject in subjects.items():
        changed = changed_share(subject)
        lines.append(f"  {role}: {subject['name']}{_size(subject)}{f', changed: {changed}' if changed else ''}")
        lines += [f"    {text}" for text in subject.get("coverage", {}).get("steps", [])]
    return lines


def changed_share(subject: Record) -> str:
    """Return what share of its reference a candidate changed, in a few words; nothing for other subjects."""
    coverage = subject.get("coverage")
    if coverage is None:
        return ""
    return "unknown" if coverage["share"] is None else str(coverage["text"])


def _size(subject: Record) -> str:
    return f", {subject['count']} examples" if "count" in subject else ""


def _class_lines(classes: list[Record]) -> list[str]:
    worse = sorted((row for row in classes if row["drop"] > 0), key=lambda row: -float(row["drop"]))
    if not worse:
        return []
    rows = [f"    {row['class']}: {_before_and_after(row)} (n = {row['count']})" for row in worse[:_LISTED]]
    return ["  classes that lost accuracy, worst first:", *rows, *_rest(len(worse))]


def _slice_lines(record: Record) -> list[str]:
    slices = worst_slices(record)
    if not slices:
        return []
    return ["  slices that changed, worst first:", *(f"    {text}" for text in slices[:_LISTED]), *_rest(len(slices))]


def worst_slices(record: Record) -> list[str]:
    """Return what happened to each slice that changed, the worst first by what is required of slices."""
    unmet = {entry["metric"] for entry in record["requirements"] if entry["outcome"] != "pass"}
    by_drop = "max_slice_accuracy_drop" in unmet and "min_slice_agreement" not in unmet
    rows = [row for row in record["details"].get("slices", []) if row["agreement"] < 1 or row.get("drop", 0) > 0]
    rows.sort(key=lambda row: (-row["drop"] if by_drop else row["agreement"], row["count"]))
    return [
        f"{row['slice']}: agreement {number(row['agreement'])}"
        f"{f', accuracy {_before_and_after(row)}' if 'drop' in row else ''} (n = {row['count']})"
        for row in rows
    ]


def _before_and_after(row: Record) -> str:
    before, after = row["reference_accuracy"], row["accuracy"]
    return f"{percent(before, after)} → {percent(after, before)}"


def _language_lines(details: Record) -> list[str]:
    """Return the slices of documents by their perplexity ratio, and the tokens that changed most."""
    slices = sorted(details.get("token_slices", []), key=lambda row: -(row["perplexity_ratio"] or 0))
    rows = [
        f"    {row['slice']}: {_ratio(row)}agreement {number(row['agreement'])} (n = {row['count']})"
        for row in slices[:_LISTED]
    ]
    lines = ["  slices, worst first:", *rows, *_rest(len(slices))] if rows else []
    tokens = [f"    {token_change(row)}" for row in details.get("tokens", [])[:_LISTED_TOKENS]]
    return lines + (["  tokens that changed most:", *tokens] if tokens else [])


def _ratio(row: Record) -> str:
    return "" if row["perplexity_ratio"] is None else f"perplexity ratio {number(row['perplexity_ratio'])}, "


def _output_lines(details: Record) -> list[str]:
    """Return how far each of several outputs is from the reference's, the least alike first."""
    outputs = sorted(details.get("outputs", []), key=lambda row: -row["relative_error"])
    rows = [f"    {output_change(row)}" for row in outputs[:_LISTED]] if len(outputs) > 1 else []
    return ["  outputs, least alike first:", *rows, *_rest(len(outputs))] if rows else []


def output_change(row: Record) -> str:
    """Return how far an output is from the reference's."""
    return (
        f"{row['output'] or 'output'}: relative error {number(row['relative_error'])}, SQNR {number(row['sqnr'])} dB, "
        f"at most {number(row['output_error'])} at one value"
    )


def token_change(row: Record) -> str:
    """Return what happened at one token: where it is, its divergence, and what both models hold for most likely."""
    old, new = (row.get(name, row[other]) for name, other in _ANSWERS)
    before = f" after {row['context']}" if "context" in row else ""
    return (
        f"#{row['document']} token {row['position']}{before}: {_how_far(row)} nats, most likely {old} → {new}, "
        f"the text has {row.get('text', row['token'])} (margin {number(row['margin'])})"
    )


def _how_far(row: Record) -> str:
    """Return the divergence at a token, or where it is not known the change of the token's likelihood."""
    if row["kl"] is not None:
        return f"KL {number(row['kl'])}"
    return f"its negative log-likelihood rises by {number(row['nll'] - row['reference_nll'])}"


def table_texts(details: Record) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the tables that a comparison gives of its groups: caption, heads of the columns, and rows as texts."""
    return [
        (
            one["caption"],
            one["columns"],
            [["–" if cell is None else number(cell) for cell in row] for row in one["rows"]],
        )
        for one in details.get("tables", [])
        if one["rows"]
    ]


def row_text(columns: list[str], row: list[str]) -> str:
    """Return one row of such a table in a line: its first cell, and the others by name."""
    named = (f"{column} {cell}" for column, cell in zip(columns[1:], row[1:], strict=True))
    return f"{row[0]}: {', '.join(named)}"


def _table_lines(details: Record) -> list[str]:
    lines = []
    for caption, columns, rows in table_texts(details):
        told = [f"    {row_text(columns, row)}" for row in rows[:_LISTED]]
        lines += [f"  {caption}:", *told, *_rest(len(rows))]
    return lines


def _flip_lines(flips: list[Record]) -> list[str]:
    if not flips:
        return []
    rows = [f"    {flip['before']} → {flip['after']}: {flip['count']}" for flip in flips[:_LISTED]]
    return ["  predictions that changed, by class pair:", *rows, *_rest(len(flips))]


def _example_lines(comparison: str, examples: list[Record]) -> list[str]:
    if not examples:
        return []
    rows = [f"    {example_change(comparison, change)}" for change in examples[:_LISTED]]
    return ["  examples that changed most:", *rows, *_rest(len(examples))]


def _worst_lines(record: Record) -> list[str]:
    worst = record["worst"]
    if worst is None:
        return []
    found = f"{worst['metric']} = {number(worst['value'])}"
    heading = f"  worst of {record['runs']} runs (the failure above is the simplest one): {found}"
    return [heading, *(f"    {example_change(record['comparison'], one)}" for one in worst["examples"])]


def example_name(comparison: str, change: Record) -> str:
    """Return the label of an example, or what else it is called by; empty where its number says all."""
    label = str(change["label"])
    if label in (NO_LABEL, f"#{change['index']}", f"image {change['index']}"):
        return ""
    return label if comparison in _NAMED else f"label {label}"


def example_change(comparison: str, change: Record) -> str:
    """Return what happened to an example, with its number and its name."""
    name = example_name(comparison, change)
    return f"#{change['index']}{name and f' ({name})'}: {change['before']} → {change['after']}"


def _origin_lines(origin: Record | None) -> list[str]:
    if origin is None:
        return []
    flips = origin.get("asked", 0)
    rows = [_layer_line(layer, flips) for layer in origin["layers"][:_LISTED_LAYERS]]
    if rows:
        restored = f"share of the {flips} changed predictions that restoring the layer alone brings back"
        rows = [f"  layers that cause the damage ({restored if flips else 'by the noise that each adds'}):", *rows]
    rows += [
        f"  stage {stage['scheme']} introduced {stage['share']:.0%} of the {stage['flips']} changed predictions"
        for stage in origin["stages"]
    ]
    return rows + [f"  note: {note}" for note in origin["notes"]]


def _layer_line(layer: Record, flips: int) -> str:
    noise = layer["added_snr"]
    texts = [f"{layer['share']:.0%}"] if flips else []
    if isinstance(noise, float):
        texts.append(f"signal-to-noise ratio {noise:.1f} dB")
    return f"    {layer['name']} ({layer['kind']}): {', '.join(texts) or 'unknown'}"


def _rest(count: int) -> list[str]:
    return [f"    … and {count - _LISTED} more"] if count > _LISTED else []


def reproduce_command(record: Record) -> str:
    """Return the command that runs a record's test alone, with the same execution."""
    recorder = current_recorder()
    if recorder is None or not recorder.arguments:
        return f"call {record['assertion']} again with the same arguments"
    return " ".join(shlex.quote(part) for part in ("pytest", *recorder.arguments))
