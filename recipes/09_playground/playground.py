"""A page in the browser on what a run has made: its tokens, its next tokens, its models side by side, and what they read.

    python recipes/09_playground/playground.py --run outputs/tiny
    python recipes/09_playground/playground.py --models outputs/tiny/sft HuggingFaceTB/SmolLM2-135M-Instruct

*Tokens* shows a text as the tokens of several tokenizers. *Next token* shows what a model expects, how temperature and
top-p (https://arxiv.org/abs/1904.09751) change what is drawn, the tree of what may follow, and where a text surprised it.
*Chat* asks several models the same, streaming, with thoughts folded and tools run. *Corpus* finds what was read.

A model is loaded when it is first asked. The page is served to this machine only, and nothing of it leaves it.
"""

import sys
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache, wraps
from itertools import groupby, zip_longest
from pathlib import Path

import gradio as gr
import torch
import transformers

from crawl2chat import playground as page
from crawl2chat.chat import load_model, load_tokenizer
from crawl2chat.conversation import Conversation, Piece
from crawl2chat.inside import Vocabulary, branches, candidates, expectation
from crawl2chat.stage import StageError, bounded, parse
from crawl2chat.tools import Search, toolbox

STAGES = (
    "base",
    "draft",
    "sft",
    "dpo",
    "ppo",
    "ppo_sums",
    "grpo",
)  # of a run, in the order in which they were trained
NUM_SHOWN = 3000  # tokens of a text
NUM_LOOKED_AT = 256  # tokens before the next one
NUM_CANDIDATES = 10
LEAST_SHOWN = 0.01  # probability of a branch, unless it is the likeliest
QUIETLY = {"show_progress": "hidden", "trigger_mode": "always_last"}
PAUSE = 0.05  # seconds between two pictures of a reply


@dataclass
class PlaygroundConfig:
    run: str = field(default="", metadata={"help": "Folder of a whole run, e.g. outputs/tiny."})
    models: list[str] = field(default_factory=list, metadata={"help": "Model folders or Hub ids, beside the run's."})
    tokenizers: list[str] = field(default_factory=list, metadata={"help": "More tokenizers, folders or Hub ids."})
    corpus: str = field(default="", metadata={"help": "Folder of 4_build_corpus.py; empty takes the run's."})
    max_new_tokens: int = bounded(256, "Longest reply, thinking included.", low=1)
    host: str = field(default="127.0.0.1", metadata={"help": "Address to serve at; 0.0.0.0 serves the network."})
    port: int = bounded(7860, "Port to serve at.", low=0, high=65535)

    def problems(self) -> list[str]:
        return [] if self.run or self.models else ["name a `run`, or `models` to look at."]


class Studio:
    """Models, tokenizers and corpus by the names that the page shows; each loaded once, when it is first asked for."""

    def __init__(self, config: PlaygroundConfig):
        run = Path(config.run)
        self.folders = {
            name: str(run / name) for name in STAGES if config.run and (run / name / "config.json").is_file()
        }
        self.folders |= {short_name(model): model for model in config.models}
        if not self.folders:
            raise StageError(f"{config.run} holds no model of {', '.join(STAGES)}; run recipes/run_tiny.sh first.")
        self.tokenizers = {short_name(name): name for name in config.tokenizers} | self.folders
        corpus = config.corpus or (str(run / "4_corpus") if config.run and (run / "4_corpus").is_dir() else "")
        self.toolbox = toolbox(corpus or None)
        self.search = self.toolbox["search"][1] if corpus else None
        self.max_new_tokens = config.max_new_tokens
        self.vocabulary = lru_cache(self._vocabulary)
        self.model = lru_cache(self._model)

    def _vocabulary(self, name: str) -> Vocabulary:
        return Vocabulary(load_tokenizer(self.tokenizers[name]))

    def _model(self, name: str):
        model = load_model(self.folders[name], self.vocabulary(name).tokenizer)
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def chats(self) -> list[str]:
        """The models that were taught to chat: all with a template but those that are named base."""
        names = [name for name in self.folders if not name.endswith("base")]
        return [name for name in names if self.vocabulary(name).tokenizer.chat_template]


def short_name(model: str) -> str:
    return model.rstrip("/").removeprefix("outputs/")


def main(config: PlaygroundConfig) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    launch(app(Studio(config)), server_name=config.host, server_port=config.port or None, quiet=False)


def launch(blocks: gr.Blocks, quiet: bool = True, **options) -> None:
    fonts = {"font": ["Inter", "Helvetica Neue", "Arial", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Base(primary_hue="teal", **fonts).set(
        color_accent="#0d7f78",
        color_accent_soft="*primary_100",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
    )
    blocks.queue(default_concurrency_limit=4).launch(theme=theme, css=page.CSS, quiet=quiet, **options)


def app(studio: Studio) -> gr.Blocks:
    with gr.Blocks(title="crawl2chat playground", analytics_enabled=False) as blocks:
        gr.HTML("<h1>crawl2chat playground</h1>")
        with gr.Tab("Tokens"):
            tokens_tab(studio, blocks)
        with gr.Tab("Next token"):
            next_token_tab(studio, blocks)
        with gr.Tab("Chat"):
            chat_tab(studio)
        if studio.search:
            with gr.Tab("Corpus"):
                corpus_tab(studio.search)
    return blocks


# Tokens


def tokens_tab(studio: Studio, blocks: gr.Blocks) -> None:
    names = list(studio.tokenizers)
    text = gr.Textbox("Naïve snowmen ☃ add 1234 + 5678.", label="Text", lines=3)
    chosen = gr.CheckboxGroup(names, value=distinct(studio), label="Tokenizers")
    shown = gr.HTML(label="Tokens")

    def show(text: str, chosen: list[str]) -> str:
        return page.tokens([column(studio.vocabulary(name), name, text) for name in chosen])

    gr.on([blocks.load, text.change, chosen.change], said_plainly(show), [text, chosen], shown, **QUIETLY)


def distinct(studio: Studio) -> list[str]:
    """One name of each tokenizer: the models of a run share theirs."""
    first: dict[tuple, str] = {}
    for name in studio.tokenizers:
        first.setdefault(tuple(studio.vocabulary(name).bytes), name)
    return list(first.values())


def column(vocabulary: Vocabulary, name: str, text: str) -> dict:
    ids = vocabulary.ids(text)
    tokens = [vocabulary[id] for id in ids[:NUM_SHOWN]]
    size = len(text.encode("utf-8", "replace"))
    return {"name": name, "count": len(ids), "bytes": size, "vocabulary": len(vocabulary.tokenizer), "tokens": tokens}


# Next token


def next_token_tab(studio: Studio, blocks: gr.Blocks) -> None:
    names = list(studio.folders)
    known = gr.State((None, None))  # the text as ids, as far as it was written by clicks
    with gr.Row():
        with gr.Column(scale=2):
            model = gr.Dropdown(names, value=names[0], label="Model")
            text = gr.Textbox("The mayor of", label="Text so far", lines=4)
            temperature = gr.Slider(0, 2, 1, step=0.05, label="Temperature", info="0 draws the likeliest token only.")
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="Draws from the fewest that are as likely.")
        with gr.Column(scale=3):
            bars = gr.HTML(label="Next tokens", js_on_load=page.CLICKS)
            surprise = gr.HTML(label="Surprise")
    tree = gr.HTML(label="What may follow")

    def show(name: str, text: str, temperature: float, top_p: float, known: tuple):
        vocabulary, model = studio.vocabulary(name), studio.model(name)
        ids = known[1] if known[0] == (name, text) else vocabulary.ids(text)
        ids = ids or [model.config.eos_token_id or 0]  # between two texts
        recent = ids[-NUM_LOOKED_AT:]
        seen = expectation(model, recent)
        rows = [
            {**token_row(vocabulary, id), "plain": plain, "drawn": drawn}
            for id, plain, drawn in candidates(seen.logits, temperature, top_p, NUM_CANDIDATES)
        ]
        told = page.surprise(surprise_rows(vocabulary, recent, seen), seen.entropies[-1], len(ids) - len(recent))
        grown = page.tree(named(branches(model, recent), vocabulary))
        return page.bars(rows), told, grown, ((name, text), ids)

    def write(name: str, text: str, known: tuple, event: gr.EventData):
        vocabulary = studio.vocabulary(name)
        ids = known[1] if known[0] == (name, text) else vocabulary.ids(text)
        ids = [*ids, int(event.token)]
        longer = vocabulary.tokenizer.decode(ids)
        return longer, ((name, longer), ids)

    inputs, outputs = [model, text, temperature, top_p, known], [bars, surprise, tree, known]
    changes = [changed.change for changed in (model, text, temperature, top_p)]
    gr.on([blocks.load, *changes], said_plainly(show), inputs, outputs, **QUIETLY)
    bars.select(said_plainly(write), [model, text, known], [text, known], show_progress="hidden")


def token_row(vocabulary: Vocabulary, id: int) -> dict:
    return asdict(vocabulary[id])


def surprise_rows(vocabulary: Vocabulary, ids: list[int], seen) -> list[dict]:
    open_bits = [None, *seen.entropies.tolist()]
    rows = []
    for id, share, bits in zip(ids, seen.probabilities.tolist(), open_bits):
        said = (
            "what the model sees first"
            if bits is None
            else f"{100 * share:.1f}% likely, where {bits:.1f} bits were open"
        )
        rows.append({**token_row(vocabulary, id), "doubt": 1 - share, "said": said})
    return rows


def named(found: list, vocabulary: Vocabulary) -> list[dict]:
    return [
        {**token_row(vocabulary, branch.id), "probability": branch.probability, "then": named(branch.then, vocabulary)}
        for i, branch in enumerate(found)
        if i == 0 or branch.probability >= LEAST_SHOWN
    ]


# Chat


def chat_tab(studio: Studio) -> None:
    names = studio.chats()
    log = gr.HTML(page.chat([], False), label="Chat")
    with gr.Row():
        message = gr.Textbox(label="Message", placeholder="What is 4821 + 1377?", scale=5)
        send = gr.Button("Send", variant="primary")
        stop, clear = gr.Button("Stop"), gr.Button("Clear")
    with gr.Row():
        chosen = gr.CheckboxGroup(
            names, value=[name for name in ("sft", "grpo") if name in names] or names[:1], label="Models"
        )
        temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature")
    with gr.Row():
        tools = gr.Checkbox(False, label="Offer tools", info=f"They may call: {', '.join(studio.toolbox)}.")
        coloured = gr.Checkbox(False, label="Colour tokens", info="The redder, the less likely the model found it.")
    turns = gr.State([])

    def talk(message: str, chosen: list[str], temperature: float, tools: bool, coloured: bool, turns: list):
        if not message.strip():
            yield page.chat(turns, coloured), turns, message
            return
        offered = studio.toolbox if tools else {}
        if not chosen:
            raise gr.Error("choose a model to talk to.", print_exception=False)
        chosen = [name for name in names if name in chosen]  # as they were trained, not as they were clicked
        turn = {"message": message, "replies": {name: Reply() for name in chosen}}
        turns = [*turns, turn]
        streams = [answer(studio, name, message, temperature, offered, turns) for name in chosen]
        shown_at = 0.0
        for _ in zip_longest(*streams):  # a token of each model in turn
            if time.monotonic() - shown_at > PAUSE:
                shown_at = time.monotonic()
                yield page.chat(turns, coloured), turns, ""
        yield page.chat(turns, coloured), turns, ""

    inputs, outputs = [message, chosen, temperature, tools, coloured, turns], [log, turns, message]
    running = [event(talk, inputs, outputs, show_progress="hidden") for event in (send.click, message.submit)]
    stop.click(None, cancels=running)
    clear.click(lambda coloured: (page.chat([], coloured), []), coloured, [log, turns], cancels=running)
    coloured.change(lambda turns, coloured: page.chat(turns, coloured), [turns, coloured], log, show_progress="hidden")


@dataclass
class Reply:
    """What one model says in one turn, and all that it remembers after it."""

    pieces: list[Piece] = field(default_factory=list)
    history: list[dict] | None = None
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.history is not None

    @property
    def runs(self) -> list[dict]:
        """Neighbouring pieces of one kind; a thought is open while it is thought."""
        runs = [
            {"kind": kind, "pieces": list(group)} for kind, group in groupby(self.pieces, lambda piece: piece.kind)
        ]
        return [{**run, "open": not self.ended and run is runs[-1]} for run in runs]


def answer(studio: Studio, name: str, message: str, temperature: float, offered: dict, turns: list):
    """Puts what a model says into the last turn, piece by piece; what goes wrong is shown in its place."""
    reply: Reply = turns[-1]["replies"][name]
    before = [turn["replies"][name].history for turn in turns[:-1] if name in turn["replies"]]
    try:
        tokenizer = studio.vocabulary(name).tokenizer
        conversation = Conversation(studio.model(name), tokenizer, offered, studio.max_new_tokens, temperature)
        conversation.history = next((history for history in reversed(before) if history), [])
        for piece in conversation.reply(message):
            reply.pieces.append(piece)
            yield
        reply.history = conversation.history
    except StageError as error:
        reply.error = str(error)


# Corpus


def corpus_tab(search: Search) -> None:
    query = gr.Textbox(
        label="Search", info=f"BM25 over {len(search.sentences):,} sentences: where did the model read this?"
    )
    results = gr.HTML(page.found([], ""), label="Found")

    def find(query: str) -> str:
        return page.found([(sentence, search.sources[sentence]) for sentence in search.best(query, 10)], query)

    query.change(find, query, results, **QUIETLY)


def said_plainly(act):
    """What is wrong with an input is said in the page's corner."""

    @wraps(act)
    def acted(*inputs):
        try:
            return act(*inputs)
        except StageError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return acted


if __name__ == "__main__":
    try:
        main(*parse(sys.argv[1:], PlaygroundConfig))
    except StageError as error:
        sys.exit(f"playground: error: {error}")
