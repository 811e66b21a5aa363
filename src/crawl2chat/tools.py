"""Tools a model may call while it answers: a calculator and a search over the corpus.

The model writes `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the runtime runs the call and puts what comes
out into a turn of the role `tool`, which no loss is taken of, and the model goes on (`generation.complete_with_tools`).
Nothing is ever evaluated: the calculator walks the parsed expression with bounded operands, and whatever goes wrong is
told to the model as a result that begins with "error:". Results are cut to `MAX_RESULT` characters, and no token of the
chat template in them counts as one, so that a page that was found cannot end the turn or forge another.
"""

import ast
import json
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import wraps
from pathlib import Path

import pyarrow.parquet as pq

from crawl2chat.chat import ADDED_TOKENS, SPECIAL_TOKENS
from crawl2chat.stage import StageError

MAX_EXPRESSION, MAX_RESULT, MAX_BITS = 200, 400, 512
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_CALL = re.compile(r"<tool_call>(.*?)(</tool_call>|$)", re.DOTALL)
_MARKUP = re.compile("|".join(re.escape(token) for token in sorted(SPECIAL_TOKENS + ADDED_TOKENS, key=len)))


def schema(name: str, argument: str, description: str) -> dict:
    """A tool of one text argument, as chat templates, TRL and OpenAI's protocol take it."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


CALCULATOR = schema("calculator", "expression", "works out a sum")
SEARCH = schema("search", "query", "finds sentences in what was read")


def calculate(expression: str) -> str:
    """The value of an expression of numbers, + - * / // % and brackets; exact, a fraction as a decimal number.

    Raises:
        ValueError: it is none, too long, divides by zero, or a number in it would become too large.
    """
    value = evaluated(parsed(expression))
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.10g}"


def parsed(expression: str) -> ast.expr:
    """The tree of an expression, of which `evaluated` knows the value.

    Raises:
        ValueError: it is none, or too long.
    """
    if len(expression) > MAX_EXPRESSION:
        raise ValueError(f"the expression is longer than {MAX_EXPRESSION} characters")
    try:
        return ast.parse(expression.strip().replace("×", "*").replace("−", "-"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # before Python 3.11.4 ValueError for a null byte
        raise ValueError(f"{expression!r} is no expression") from None


def calculator(expression: str) -> str:
    """`2 + 3 = 5`, as a calculator shows it; raises ValueError as `calculate` does.

    The result stands behind a space, as numbers do in prose: `-3` at the start of a line is another token than in "is -3",
    and a small model then copies it wrong.
    """
    return f"{expression.strip()} = {calculate(expression)}"


def evaluated(tree: ast.expr) -> Fraction:
    """The exact value of an expression; raises ValueError as `calculate` does."""
    try:
        return _value(tree)
    except RecursionError:
        raise ValueError("the expression is nested too deep") from None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = Fraction(str(node.value)) if abs(node.value) < float("inf") else Fraction(2) ** (MAX_BITS + 1)
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        value = _OPERATORS[type(node.op)](_value(node.operand))
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        try:
            value = Fraction(_OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
        except ZeroDivisionError:
            raise ValueError("division by zero") from None
    else:
        raise ValueError("only numbers, + - * / // % and brackets are worked out")
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ValueError("the number is too large")
    return value


class Search:
    """BM25 (https://doi.org/10.1561/1500000019, by the library bm25s) over the sentences of a corpus.

    Args:
        corpus: folder of 4_build_corpus.py.

    Raises:
        StageError: there is no corpus.
    """

    def __init__(self, corpus: str | Path):
        import bm25s

        files = sorted(Path(corpus).glob("*/*.parquet"))
        if not files:
            raise StageError(f"{corpus} has no */*.parquet in it; name the folder of 4_build_corpus.py.")
        self.sources: dict[str, str] = {}  # of each sentence the page that has it first
        for file in files:
            table = pq.read_table(
                file, columns=[name for name in ("text", "url") if name in pq.read_schema(file).names]
            )
            urls = table["url"].to_pylist() if "url" in table.column_names else [file.name] * len(table)
            for text, url in zip(table["text"].to_pylist(), urls):
                for sentence in re.split(r"(?<=[.!?])\s+", text):
                    if 10 <= len(sentence) <= MAX_RESULT:
                        self.sources.setdefault(sentence, url)
        self.sentences = list(self.sources)
        self.index = bm25s.BM25()
        self.index.index(self._words(self.sentences), show_progress=False)

    def __call__(self, query: str, num_results: int = 2) -> str:
        """The best sentences, one after the other, or "nothing found"."""
        return " ".join(self.best(query, num_results)) or "nothing found"

    def best(self, query: str, num_results: int) -> list[str]:
        words = [word for word in self._words([query[:MAX_RESULT]])[0] if word in self.index.vocab_dict]
        if not words:
            return []
        found, scores = self.index.retrieve([words], k=min(num_results, len(self.sentences)), show_progress=False)
        return [self.sentences[i] for i, points in zip(found[0], scores[0]) if points > 0]

    @staticmethod
    def _words(texts: list[str]) -> list[list[str]]:
        return [re.findall(r"\w+", text.lower()) for text in texts]


def calls_in(completion: str) -> list[str]:
    """What stands in each call of a completion, the last one maybe not closed."""
    return [found[1] for found in _CALL.finditer(completion)]


def run_call(call: str, tools: dict[str, tuple[str, Callable[[str], str]]]) -> str:
    """What one call gives; never raises, for the model is to see what was wrong.

    Args:
        call: the JSON between the tags.
        tools: by name, the name of the argument and the function of it.
    """
    try:
        asked = json.loads(call)
        name, arguments = asked["name"], asked["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        argument, function = tools[name]
        result = str(function(str(arguments[argument])))
    except json.JSONDecodeError:
        result = "error: the call is not valid JSON"
    except KeyError as error:
        result = f"error: there is no {error}"
    except (TypeError, AttributeError, RecursionError):
        result = "error: a call has a name and arguments"
    except ValueError as error:
        result = f"error: {error}"
    return plain(result)[:MAX_RESULT]


def plain(text: str) -> str:
    """The text with the tokens of the template broken, so that they are read as what they are: characters."""
    return _MARKUP.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def callables(names: list[str], corpus: str | Path | None = None) -> list[Callable[..., str]]:
    """The tools of these names as TRL's trainers take them: functions whose docstrings make the schemas above.

    Raises:
        StageError: there is no such tool, or the search has no corpus.
    """
    if wrong := set(names) - {"calculator", "search"}:
        raise StageError(f"there is no tool `{min(wrong)}`; name calculator or search.")
    if "search" in names and not corpus:
        raise StageError("the search needs a `corpus`; give the folder of 4_build_corpus.py.")
    box = toolbox(corpus if "search" in names else None)

    def runs(shown: Callable) -> Callable[..., str]:
        @wraps(shown)
        def run(**arguments) -> str:
            return run_call(json.dumps({"name": shown.__name__, "arguments": arguments}), box)

        return run

    def calculator(expression: str) -> str:
        """works out a sum

        Args:
            expression: of numbers, + - * / and brackets
        """

    def search(query: str) -> str:
        """finds sentences in what was read

        Args:
            query: words of them
        """

    return [runs({"calculator": calculator, "search": search}[name]) for name in names]


def toolbox(corpus: str | Path | None = None) -> dict[str, tuple[str, Callable[[str], str]]]:
    """The tools by name, as `run_call` takes them: the calculator, and with a corpus the search."""
    tools: dict[str, tuple[str, Callable[[str], str]]] = {"calculator": ("expression", calculator)}
    return tools | ({"search": ("query", Search(corpus))} if corpus else {})
