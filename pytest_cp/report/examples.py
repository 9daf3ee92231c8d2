"""The examples of a check on the page: what each shows, how its maps were made, and for which there is room."""

from __future__ import annotations

import itertools
from typing import Any

from pytest_cp.checks.messages import NO_LABEL
from pytest_cp.checks.recorder import Record

PAGE_BYTES = 950_000
_MARKUP_BYTES = 2_000  # of an example's pictures, beside the files themselves
OPEN_EXAMPLES = 2
_COARSE_SIDE = 64  # the pixels of smaller images and maps are shown as they are
_PICTURES = ("image", "decoded", "reference_map", "candidate_map", "difference_map", "outline")
_KINDS = {"iVBOR": "png", "UklGR": "webp", "/9j/": "jpeg", "PHN2Z": "svg+xml"}
_OUTLINES = {"must_look": "the solid line surrounds where the model must look"}
_OUTLINES |= {"must_not_look": "the dashed line surrounds where it must not look"}
_TOLD_ELSEWHERE = ("predictions", "attributions")


class Images:
    """The pictures of a page, each once, within the bytes that there is room for."""

    def __init__(self, room: int) -> None:
        self.by_content: dict[str, int] = {}
        self.left_out = 0
        self._room = room

    def choose(self, checks: list[Record]) -> None:
        """Take the pictures of as many examples as there is room for: the worst example of every check comes first."""
        shown = [(check.get("evidence") or {"examples": []})["examples"] for check in checks]
        for row in itertools.chain(*itertools.zip_longest(*shown)):
            if row and row.get("image") and not self._take([row[kind] for kind in _PICTURES if row.get(kind)]):
                self.left_out += 1

    def name(self, content: str | None) -> str | None:
        """Return the CSS class that shows a picture, or None where there is none or no room for it."""
        return f"i{self.by_content[content]}" if content in self.by_content else None

    def always(self, content: str) -> str:
        """Return the CSS class of a picture that is shown whatever its size."""
        return f"i{self.by_content.setdefault(content, len(self.by_content))}"

    def _take(self, contents: list[str]) -> bool:
        new = dict.fromkeys(content for content in contents if content not in self.by_content)
        size = sum(map(len, new)) + _MARKUP_BYTES
        if size > self._room:
            return False
        self._room -= size
        for content in new:
            self.by_content[content] = len(self.by_content)
        return True


def image_kind(content: str) -> str:
    """Return the kind of an image, such as png, from the beginning of its base64."""
    return next((kind for start, kind in _KINDS.items() if content.startswith(start)), "png")


def example_views(record: Record, images: Images) -> dict[str, Any]:
    """Return what the template shows of a check's examples and of the maps beside them."""
    evidence = record.get("evidence") or {"examples": []}
    maps = evidence.get("maps")
    # a document of an earlier version does not say which maps an IoU is of
    hidden = () if "maps" in evidence else ("iou",)
    rows = [{name: value for name, value in row.items() if name not in hidden} for row in evidence["examples"]]
    views = [_view(record, row, maps, images) for row in rows]
    own_scale = any("difference_scale" in row for row in rows)
    left_out = sum(bool(row.get("image")) and images.name(row["image"]) is None for row in rows)
    return {
        "examples": views,
        "open_examples": OPEN_EXAMPLES,
        "maps": _legend(maps, images, own_scale) if maps and any(view["image"] for view in views) else None,
        "outlines": _outlines(evidence) if any(view["outline"] for view in views) else "",
        "images_left_out": left_out,
    }


def _view(record: Record, row: Record, maps: Record | None, images: Images) -> dict[str, Any]:
    pictures = {kind: images.name(row.get(kind)) for kind in _PICTURES}
    predicted = row.get("predicted")
    answers = {who: f": {name}" for who, name in predicted.items()} if predicted else {"reference": "", "candidate": ""}
    size = row.get("size") or [1, 1]
    return {
        "index": row["index"],
        "label": "" if row["label"] == NO_LABEL else row["label"],
        "text": row.get("text", ""),
        "lines": _lines(record["comparison"], row),
        "answers": answers,
        "told_iou": f", IoU {row['iou']:.2f}" if "iou" in row else "",
        "size": size,
        "coarse": max(size) < _COARSE_SIDE,
        "coarse_map": maps is not None and max(maps.get("places", [0])) < _COARSE_SIDE // 2,
        "full": _full_colour(row) if pictures["reference_map"] else "",
        **pictures,
    }


def _full_colour(row: Record) -> str:
    """Return the strengths at full colour of an example's maps and of their difference."""
    if row.get("scale") is None:
        return ""
    told = f"full colour: {row['scale']:g} × the mean strength"
    return f"{told}; of the difference {row['difference_scale']:g} ×" if "difference_scale" in row else told


def _outlines(evidence: Record) -> str:
    told = "; ".join(_OUTLINES[name] for name in evidence.get("masks", []))
    return f"{told[:1].upper()}{told[1:]}." if told else ""


def _lines(comparison: str | None, row: Record) -> list[str]:
    """Return what changed, in a line each; classes and measures of maps never stand on the two sides of one arrow."""
    predicted, lines = row.get("predicted"), []
    if predicted:
        was, now = predicted["reference"], predicted["candidate"]
        lines.append(f"both models predict {was}" if was == now else f"the prediction changed: {was} → {now}")
    if not predicted or comparison not in _TOLD_ELSEWHERE:
        lines.append(f"{row['before']} → {row['after']}")
    if "iou" in row:
        context = "" if comparison == "attributions" else ", for context: not part of this check"
        lines.append(f"IoU of the maps {row['iou']:.2f}{context}")
    return lines


def _legend(maps: Record, images: Images, own_scale: bool) -> dict[str, Any]:
    whose = "as this check compared them" if maps["of_check"] else "for context: this check does not compare maps"
    lines = [f"Attribution maps by {maps['method']}, {whose}; both models explain the reference's class."]
    if "left_out" in maps:
        return {"lines": [*lines, maps["left_out"].capitalize() + "."]}
    height, width = maps["places"]
    drawn = f"Maps of {height} × {width} places, channels added, each scaled to the same sum of strengths"
    if own_scale:
        drawn += "; their difference has a colour scale of its own"
    if maps["smoothing"]:
        smoothed = f"smoothed (Gaussian, {maps['smoothing']} places), and clear where they are weaker than their mean"
        drawn += f". For the eye only they are {smoothed}"
        drawn += ", and the colour is that of the sign which prevails among neighbours" if maps["mixed"] else ""
        drawn += "; the IoU is that of the maps as they were made"
    lines.append(f"{drawn}.")
    bars = {name: images.always(content) for name, content in maps["bars"].items()}
    return {
        "lines": lines,
        "signed": maps["signed"],
        "bar": bars["signs"],
        "difference_bar": bars["difference"],
        "mixed_bar": bars["mixed"] if maps["mixed"] else None,
    }
