"""What completions of one problem say together: pass@k, majority votes, and whether a thought and its answer agree."""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from crawl2chat.chat import split_thinking
from crawl2chat.verify import answered, numbers_in


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The chance that at least one of `k` completions is right, unbiased (https://arxiv.org/abs/2107.03374, section 2.1)."""
    assert 0 <= num_right <= num_samples and 0 < k <= num_samples
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def majority(completions: Sequence[str]) -> str:
    """The first completion with the answer that most give (self-consistency, https://arxiv.org/abs/2203.11171).

    Of answers that are equally frequent the first; completions without an answer have no vote.
    """
    answers = [answered(text) for text in completions]
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return completions[0]
    return completions[answers.index(votes.most_common(1)[0][0])]


def agrees(completion: str) -> bool | None:
    """Whether the last number of the thought is the answer; None if there is no thought with a number, or no answer."""
    thought, answer = split_thinking(completion)[0] or "", answered(completion)
    # A comma may stand between thousands or, as in our working, between results: `9+7+1=17,171`.
    last: list[Fraction] = [
        numbers[-1] for text in (thought, thought.replace(",", ", ")) if (numbers := numbers_in(text))
    ]
    return answer in last if last and answer is not None else None
