"""A chat in the terminal: tokens as they come, the thinking dimmed and apart from the answer.

    python recipes/09_playground/chat.py --model outputs/tiny/grpo
    echo "What is 17 + 25?" | python recipes/09_playground/chat.py --model outputs/tiny/grpo

Takes any folder with a causal language model, a tokenizer and a chat template. The thinking of earlier turns is not
shown to the model again, as in training. With `--tools true` it may call a calculator, and with `--corpus
outputs/tiny/4_corpus` a search over what it has read, too; calls and what they give are shown.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from rich.console import Console
from transformers import set_seed

from crawl2chat.chat import load_model, load_tokenizer
from crawl2chat.conversation import Conversation
from crawl2chat.stage import StageError, bounded, parse
from crawl2chat.tools import toolbox

HELP = "/model NAME talks to another model, /clear forgets the chat, /quit ends it."
LABELS = {"result": "tool"}
STYLES = {"thinking": "dim italic", "call": "dim", "result": "dim", "cut": "dim"}


@dataclass
class ChatConfig:
    model: str = field(metadata={"help": "Folder with model, tokenizer and chat template."})
    temperature: float = bounded(0.0, "0 takes the likeliest token; higher values vary more.", low=0.0, high=10.0)
    max_new_tokens: int = bounded(512, "Longest reply, thinking included.", low=1)
    tools: bool = bounded(False, "Offer the model a calculator.")
    corpus: str = bounded("", "Folder of 4_build_corpus.py; offer the model a search over it.")
    seed: int = bounded(0, "Seed of the sampling.", low=0)


class Chat:
    """A conversation, and the terminal that shows it."""

    def __init__(self, config: ChatConfig, console: Console):
        self.config, self.console = config, console
        self.toolbox = toolbox(config.corpus or None) if config.tools or config.corpus else {}
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
        model = load_model(folder, tokenizer).to("cuda" if torch.cuda.is_available() else "cpu").eval()
        length, temperature = self.config.max_new_tokens, self.config.temperature
        self.conversation = Conversation(model, tokenizer, self.toolbox, length, temperature)
        self.folder = Path(folder)
        millions = model.num_parameters() / 1e6
        self.console.print(f"{folder}, {millions:.1f}M parameters. {HELP}", style="dim", highlight=False)

    def reply(self, message: str) -> None:
        shown = ""
        for piece in self.conversation.reply(message):
            begins = piece.kind != shown or piece.kind == "result"
            text = piece.text.lstrip() if begins else piece.text
            if text:
                self._show(piece.kind, text, begins, line_ends=bool(begins and shown))
                shown = piece.kind
        self.console.print()

    def _show(self, kind: str, text: str, begins: bool, line_ends: bool) -> None:
        if line_ends:
            self.console.print()
        if kind == "cut":
            text = f"({text}; --max_new_tokens allows more)"
        elif begins:
            self.console.print(f"{LABELS.get(kind, kind)}: ", end="", style="bold dim")
        style = STYLES.get(kind)
        self.console.print(text, end="", style=style, markup=False, highlight=False, soft_wrap=True)


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
                chat.conversation.history.clear()
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
