"""datatrove's spaCy pipeline for English, loaded with the module: tasks that are forked from one process share it.

spaCy imports torch where it finds it: 2 s and 180 MB more, that splitting words does not need.
"""

import sys

from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import load_word_tokenizer

_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None
try:
    NLP = load_word_tokenizer(Languages.english).tokenizer
finally:
    if _hidden:
        del sys.modules["torch"]
