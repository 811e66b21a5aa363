"""What the invented web knows about its pages, against what the path made of them.

`truth.jsonl` has a line a page: url, what must become of it (`fate`), its text, and the personal data planted in it.
"""

import re
from collections import Counter

# Which steps are right for a fate. What is thin, repetitive or spam may be caught by any rule on quality.
QUALITY = {"extract", "repetition", "gopher", "c4", "fineweb", "quality"}
STEPS_OF_FATE = {
    "blocked_host": {"url"},
    "other_language": {"language_gate", "language"},
    "opt_out": {"opt_out"},
    "protected": {"protected"},
    "thin": QUALITY,
    "repetitive": QUALITY,
    "spam": QUALITY,
    "duplicate": {"duplicate"},
    "broken": {"read"},
    "not_a_page": {"read"},
}


def score(truth: list[dict], fates: list[dict], kept: dict[str, str]) -> dict:
    """Precision and recall of the steps, F1 of extraction, leaks of personal data, recall of duplicates.

    Args:
        truth: the lines of `truth.jsonl`.
        fates: url and reason of every dropped page.
        kept: url -> text of every page of the corpus.
    """
    fate_of = {page["url"]: page["fate"] for page in truth}
    step_of = {line["url"]: line["reason"].split("/")[0] for line in fates if line["url"] not in kept}
    pages_in = [page for page in truth if page["url"] in kept or page["url"] in step_of]
    scores = {
        "num_pages": len(truth),
        "num_lost": len([page for page in truth if page["fate"] != "broken"])
        - len([p for p in pages_in if p["fate"] != "broken"]),
        "fates": {fate: _of_fate(fate, truth, step_of, kept) for fate in sorted(set(fate_of.values()))},
        "steps": {step: _of_step(step, step_of, fate_of) for step in sorted(set(step_of.values()))},
        "duplicates": _of_duplicates(truth, kept),
        "extraction_f1": _mean([token_f1(kept[p["url"]], p["text"]) for p in truth if p["url"] in kept and p["text"]]),
    }
    planted = [
        (page["url"], value) for page in truth if page["url"] in kept for value in _values(page.get("pii") or [])
    ]
    scores["personal_data"] = {
        "num_planted": len(planted),
        "num_leaked": sum(value in kept[url] for url, value in planted),
    }
    return scores


def _of_fate(fate: str, truth: list[dict], step_of: dict, kept: dict) -> dict:
    """Of the pages with this fate: how many were dropped (for "keep": kept), and by a step that is meant for it."""
    urls = [page["url"] for page in truth if page["fate"] == fate]
    if fate == "keep":
        return {"num_pages": len(urls), "recall": _share(sum(url in kept for url in urls), len(urls))}
    dropped = sum(url not in kept for url in urls)  # a broken record may be dropped without its url being known
    right = sum(step_of.get(url) in STEPS_OF_FATE.get(fate, ()) for url in urls)
    return {
        "num_pages": len(urls),
        "recall": _share(dropped, len(urls)),
        "recall_by_its_step": _share(right, len(urls)),
    }


def _of_step(step: str, step_of: dict, fate_of: dict) -> dict:
    """Of the pages a step dropped: how many had to go at all, and how many had to go there."""
    fates = [fate_of.get(url) for url, where in step_of.items() if where == step]
    to_go = sum(fate not in (None, "keep") for fate in fates)
    here = sum(step in STEPS_OF_FATE.get(fate, ()) for fate in fates)
    return {
        "num_dropped": len(fates),
        "precision": _share(to_go, len(fates)),
        "precision_of_reason": _share(here, len(fates)),
        "fates": dict(Counter(map(str, fates)).most_common()),
    }


def _of_duplicates(truth: list[dict], kept: dict) -> dict:
    """Recall counts what is too many in a group of duplicates: which of them stays is the path's choice."""
    fate_of = {page["url"]: page["fate"] for page in truth}
    groups: dict[str, set[str]] = {}
    for page in truth:
        if page["fate"] == "duplicate" and page.get("duplicate_of"):
            groups.setdefault(page["duplicate_of"], {page["duplicate_of"]}).add(page["url"])
    # A group whose original goes for another reason has no page that must stay.
    groups = {original: urls for original, urls in groups.items() if fate_of.get(original) == "keep"}
    surplus = sum(len(urls) - 1 for urls in groups.values())
    left = sum(max(0, sum(url in kept for url in urls) - 1) for urls in groups.values())
    lost = sum(not any(url in kept for url in urls) for urls in groups.values())
    return {"num_groups": len(groups), "recall": _share(surplus - left, surplus), "num_groups_lost": lost}


def token_f1(text: str, truth: str) -> float:
    """F1 of the multisets of words."""
    ours, theirs = Counter(re.findall(r"\w+", text)), Counter(re.findall(r"\w+", truth))
    common = (ours & theirs).total()
    return 2 * common / max(1, ours.total() + theirs.total())


def _values(pii: list) -> list[str]:
    """Planted values, given as text or as {"kind": ..., "value": ...}."""
    return [item if isinstance(item, str) else item["value"] for item in pii]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
