"""One scorer for reward and evaluation: is the number a completion ends on the right one?"""

import re
from fractions import Fraction

from crawl2chat.chat import split_thinking

# An optional sign, digits in groups of three or not, an optional decimal part.
_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)")
_CALL = re.compile(r"<tool_call>.*?(</tool_call>|$)", re.DOTALL)


def score(completion: str, answer: str) -> float | None:
    """1.0 if the last number after the thinking equals `answer`, 0.0 if not, None if `answer` is no number.

    The last number wins, so naming several answers gains nothing. What stands inside `<think>` or a call of a tool never
    counts, and a thought that is not closed leaves no answer.
    """
    gold = _numbers(str(answer))
    if len(gold) != 1:
        return None
    given = _numbers(_CALL.sub("", split_thinking(completion)[1]))
    return float(bool(given) and given[-1] == gold[0])


def _numbers(text: str) -> list[Fraction]:
    return [Fraction(match.replace(",", "").replace("−", "-")) for match in _NUMBER.findall(text)]
