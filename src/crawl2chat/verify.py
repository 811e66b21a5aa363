r"""One scorer for reward and evaluation: does a completion end on the right answer?

What counts is the answer that stands last, and of it one value: after the last `####`, in the last `\boxed{...}`, or after
the last "answer is" its first number (behind an equals sign, if there is one); where nothing is marked, the last number of
the text. So naming several answers gains nothing. Nothing inside `<think>` or a call of a tool counts, and a thought that
is not closed leaves no answer.
"""

import ast
import re
import threading
from fractions import Fraction

from crawl2chat.chat import split_thinking
from crawl2chat.tools import evaluated, parsed

MAX_LATEX = 300  # characters; what is longer is no answer
# Digits in groups of three or not, a decimal part; a fraction or mixed number; a sign that is no minus between numbers.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-−]\s?)?[$€£¥]?(?P<whole>(?:\d+\s+(?=\d+\s?/\s?\d))?)(?P<digits>{_DIGITS})"
    r"(?:\s?/\s?(?P<divisor>\d+))?(?!\d)(?P<percent>\s?(?:%|percent\b))?",
    re.IGNORECASE,
)
_MARK = re.compile(r"####\s*|\\boxed\s*(?=\{)|\b(?:answer|result)\s*(?:is|was|:|=)+\s*:?\s*", re.IGNORECASE)
_CALL = re.compile(r"<tool_call>.*?(</tool_call>|$)", re.DOTALL)
_PLAIN = (ast.BinOp, ast.Constant, ast.Add, ast.Sub, ast.Mult, ast.Div)  # what Countdown allows
_CHOICE = re.compile(r"(?:^|(?<=[\s(\[*]))([A-J])(?=[)\].:,;*]|\s*$)")


def score(completion: str, answer: str) -> float | None:
    r"""1.0 if a completion ends on `answer`, 0.0 if not, None if `answer` is nothing that could be checked.

    Args:
        answer: a number (`1,250`, `-3`, `3/4`, `2 1/2`, `$5.50`, `85%`, `12 apples`), GSM8K's worked answer that ends in
            `#### 72`, LaTeX (`\frac{\pi}{2}`, by math-verify), or the letter of a choice from A to J.
    """
    gold = str(answer).rpartition("####")[2].strip()
    said, is_marked = final_answer(completion)
    if re.fullmatch(r"\(?[A-J]\)?\.?", gold):
        found = re.findall(r"^\W*(?:option |choice )?([A-J])\b", said) if is_marked else _CHOICE.findall(said)
        return float(bool(found) and found[-1] == gold.strip("()."))
    if re.search(r"[\\^{]", gold):
        return _same_latex(said, gold)
    numbers = list(_NUMBER.finditer(gold))
    if len(numbers) != 1:
        return None
    if is_marked and re.search(r"[\\^{]", said):
        return _same_latex(said, gold)
    given = _given(said, is_marked)
    return float(given is not None and bool(_values(given) & _values(numbers[0])))


def answered(completion: str) -> Fraction | None:
    """The number that `score` would compare; None if there is none."""
    given = _given(*final_answer(completion))
    return max(_values(given), default=None) if given else None


def numbers_in(text: str) -> list[Fraction]:
    return [max(values) for match in _NUMBER.finditer(text) if (values := _values(match))]


def final_answer(completion: str) -> tuple[str, bool]:
    """The text in which the answer stands, and whether it was marked as the answer."""
    text = _CALL.sub("", split_thinking(completion)[1])
    marks = [mark for mark in _MARK.finditer(text) if text[mark.end() :].strip()]
    if not marks:
        return text.strip(), False
    said = text[marks[-1].end() :]
    if said.startswith("{"):
        return _in_braces(said), True
    said = said.strip().splitlines()[0]
    if said.startswith("$") and said.count("$") > 1:  # LaTeX, and no dollars
        said = said[1 : said.index("$", 1)]
    return said, True


def countdown(completion: str, numbers: list[int], target: int) -> float:
    """1.0 if the answer is an expression that uses each number exactly once and comes to the target (the Countdown game).

    Checked on the parsed expression; nothing is evaluated. What follows an equals sign does not count.
    """
    said, _ = final_answer(completion)
    lines = [line for line in said.splitlines() if line.strip()]
    expression = lines[-1].split("=")[0].strip().rstrip(".") if lines else ""
    try:
        tree = parsed(expression)
        value = evaluated(tree)
    except ValueError:
        return 0.0
    nodes = list(ast.walk(tree))
    used = [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
    is_plain = all(isinstance(node, _PLAIN) for node in nodes)
    return float(is_plain and value == target and sorted(used) == sorted(map(str, numbers)))


def exact(completion: str, answer: str) -> float | None:
    """1.0 if the answer's words are the right ones, whatever their case and the signs around them; None for no words."""
    gold = _words(str(answer))
    return float(_words(final_answer(completion)[0]) == gold) if gold else None


def _given(said: str, is_marked: bool) -> re.Match | None:
    found = list(_NUMBER.finditer(said.rpartition("=")[2] if is_marked and "=" in said else said))
    return found[0 if is_marked else -1] if found else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _values(match: re.Match) -> set[Fraction]:
    """What a number may mean; 85% is 85 and 0.85."""
    value = Fraction(match["digits"].replace(",", ""))
    if match["divisor"]:
        if int(match["divisor"]) == 0:
            return set()
        value /= int(match["divisor"])
    value += int(match["whole"] or 0)
    value = -value if match["sign"] else value
    return {value, value / 100} if match["percent"] else {value}


def _in_braces(text: str) -> str:
    """What stands in the brace that the text begins with; to the end if it is not closed."""
    depth = 0
    for i, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return text[1:i].strip()
    return text[1:].strip()


def _same_latex(said: str, gold: str) -> float | None:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # Its time limits are signals, which only the main thread gets; elsewhere the length has to do.
    in_main = threading.current_thread() is threading.main_thread()
    limit = 5 if in_main else None
    ways = (LatexExtractionConfig(), ExprExtractionConfig())
    parsed = parse(f"${gold}$", extraction_config=ways, parsing_timeout=limit)
    if not parsed:
        return None
    if len(said) > MAX_LATEX:
        return 0.0
    given = parse(f"${said}$", extraction_config=ways, parsing_timeout=limit)
    return float(bool(given) and verify(parsed, given, timeout_seconds=limit))
