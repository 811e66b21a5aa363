"""A chat in the terminal: tokens as they come, the thinking dimmed and apart from the answer.

    python recipes/09_playground/chat.py --model outputs/tiny/grpo
    echo "What is 17 + 25?" | python recipes/09_playground/chat.py --model outputs/tiny/grpo

Takes any folder with a causal language model, a tokenizer and a chat template. The thinking of earlier turns is not
shown to the model again, as in training. With `--tools true` it may call a calculator, and with `--corpus
outputs/tiny/4_corpus` a search over what it has read, too; calls and what they give are shown.
"""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from rich.console import Console
from transformers import set_seed
from transformers.generation.streamers import BaseStreamer

from crawl2chat.chat import load_model, load_tokenizer, split_thinking
from crawl2chat.stage import StageError, bounded, parse
from crawl2chat.tools import CALCULATOR, SEARCH, calls_in, run_call, toolbox

HELP = "/model NAME talks to another model, /clear forgets the chat, /quit ends it."
TAGS = ("<think>", "</think>")
MAX_CALLS = 3  # rounds of calls within one reply


@dataclass
class ChatConfig:
    model: str = field(metadata={"help": "Folder with model, tokenizer and chat template."})
    temperature: float = bounded(0.0, "0 takes the likeliest token; higher values vary more.", low=0.0, high=10.0)
    max_new_tokens: int = bounded(512, "Longest reply, thinking included.", low=1)
    tools: bool = bounded(False, "Offer the model a calculator.")
    corpus: str = bounded("", "Folder of 4_build_corpus.py; offer the model a search over it.")
    seed: int = bounded(0, "Seed of the sampling.", low=0)


class Reply(BaseStreamer):
    """Prints a reply token by token. Holds back what may yet become a tag or a character of several tokens."""

    def __init__(self, console: Console, tokenizer, thinking: bool):
        self.console, self.tokenizer = console, tokenizer
        self.thinking = thinking  # some templates open the thought in the prompt
        self.ids: list[int] | None = None
        self.text, self.num_shown, self.label = "", 0, None

    def put(self, ids: torch.Tensor) -> None:
        if self.ids is None:  # the prompt comes first
            self.ids = []
            return
        self.ids += ids.flatten().tolist()
        self.text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        self._show(len(self.text) - _num_open(self.text))

    def end(self) -> None:
        self._show(len(self.text))
        self.console.print()

    def _show(self, end: int) -> None:
        for piece in re.split("(</?think>)", self.text[self.num_shown : end]):
            if piece in TAGS:
                self.thinking = piece == "<think>"
            else:
                self._print(piece)
        self.num_shown = end

    def _print(self, piece: str) -> None:
        label = "thinking" if self.thinking else "answer"
        if label != self.label:
            piece = piece.lstrip()
            if not piece:
                return
            self.console.print(f"{chr(10) if self.label else ''}{label}: ", end="", style="bold dim")
            self.label = label
        style = "dim italic" if self.thinking else None
        self.console.print(piece, end="", style=style, markup=False, highlight=False, soft_wrap=True)


def _num_open(text: str) -> int:
    """Characters at the end of a text that the next token may change or complete."""
    if text.endswith("\ufffd"):
        return 1
    return max((n for tag in TAGS for n in range(1, len(tag)) if text.endswith(tag[:n])), default=0)


class Chat:
    """A model and what was said so far."""

    def __init__(self, config: ChatConfig, console: Console):
        self.config, self.console = config, console
        self.history: list[dict[str, str]] = []
        self.toolbox = toolbox(config.corpus or None) if config.tools or config.corpus else {}
        self.offered = [tool for tool in (CALCULATOR, SEARCH) if tool["function"]["name"] in self.toolbox]
        self.folder = Path(config.model)
        self.load(config.model)

    def load(self, folder: str) -> None:
        """Talks to the model of a folder from now on, or of one beside the last; if it cannot be loaded, that one stays."""
        beside = self.folder.parent / folder
        if not Path(folder).is_dir() and beside.is_dir():
            folder = str(beside)
        if not Path(folder).is_dir():
            raise StageError(f"there is no folder {folder}; name one that a training stage wrote.")
        tokenizer = load_tokenizer(folder)
        if not tokenizer.chat_template:
            raise StageError(f"the tokenizer in {folder} has no chat template; 5_train_tokenizer.py saves one inside.")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer = load_model(folder, tokenizer).to(device).eval(), tokenizer
        self.folder = Path(folder)
        self.history.clear()
        millions = self.model.num_parameters() / 1e6
        self.console.print(f"{folder}, {millions:.1f}M parameters. {HELP}", style="dim", highlight=False)

    def reply(self, message: str) -> None:
        """Prints the model's reply as it comes, runs the tools that it calls, and remembers what was said."""
        messages = [*self.history, {"role": "user", "content": message}]
        for calls_left in reversed(range(MAX_CALLS + 1)):
            messages, text = self._say(messages)
            calls = calls_in(text) if self.toolbox and calls_left else []
            if not calls:
                break
            for call in calls:
                result = run_call(call, self.toolbox)
                self.console.print(f"tool: {result}", style="dim", markup=False, highlight=False)
                messages.append({"role": "tool", "content": result})
        self.history = messages

    def _say(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], str]:
        """The messages with the model's next one, and that as it was written."""
        messages, prompt, ids = self._prompt(messages)
        sampled = self.config.temperature > 0
        streamer = Reply(self.console, self.tokenizer, thinking=prompt.rstrip().endswith("<think>"))
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.config.max_new_tokens,
            do_sample=sampled,
            temperature=self.config.temperature if sampled else None,
            streamer=streamer,
        )
        if output.shape[1] - ids.shape[1] == self.config.max_new_tokens:
            note = f"(cut at --max_new_tokens {self.config.max_new_tokens})"
            self.console.print(note, style="dim", highlight=False)
        answer = "" if streamer.thinking else split_thinking(streamer.text)[1]
        return [*messages, {"role": "assistant", "content": answer}], streamer.text

    def _prompt(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], str, torch.Tensor]:
        """The newest of the messages that leave room for a reply, their prompt as text and as ids (1, T)."""
        room = getattr(self.model.config, "max_position_embeddings", sys.maxsize) - self.config.max_new_tokens
        tools = self.offered or None
        prompt = self.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"].to(self.model.device)
        if ids.shape[1] <= room:
            return messages, prompt, ids
        later = [i for i, message in enumerate(messages) if i and message["role"] == "user"]
        if not later:
            raise StageError(
                f"the message is {ids.shape[1]} tokens long and the model takes {room}, with --max_new_tokens "
                f"{self.config.max_new_tokens} kept for the reply; shorten it."
            )
        return self._prompt(messages[later[0] :])


def main(config: ChatConfig) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    set_seed(config.seed)
    console = Console()
    chat = Chat(config, console)
    prompt = "\nyou: " if sys.stdin.isatty() else ""
    while True:
        try:
            message = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        command, _, argument = message.partition(" ")
        try:
            if command == "/quit":
                return
            elif command == "/clear":
                chat.history.clear()
            elif command == "/model":
                chat.load(argument.strip())
            elif command.startswith("/"):
                console.print(HELP, style="dim", highlight=False)
            elif message:
                chat.reply(message)
        except StageError as error:
            if not sys.stdin.isatty():
                raise
            console.print(str(error), style="red", markup=False, highlight=False)
        except KeyboardInterrupt:
            console.print("\n(stopped)", style="dim")


if __name__ == "__main__":
    try:
        main(*parse(sys.argv[1:], ChatConfig))
    except StageError as error:
        sys.exit(f"chat: error: {error}")
