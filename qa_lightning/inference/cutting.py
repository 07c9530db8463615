"""Cut the questions of a pipeline call into windows, in any number of threads at once.

A tokenizer truncates and pads by state that any call of it changes, so no thread may use the pipeline's own: windows
are cut by copies that nobody else has. The copies are cached by window settings, at most 8 of them; the least recently
used one goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Encoding

from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.inference.arguments import Item

MAX_WINDOWERS = 8  # each holds its own tokenizer


@dataclass(frozen=True)
class CutQuestions:
    """Some questions and their windows.

    Attributes:
        items: the questions.
        store: their windows; the ``example`` of a window is the index of its question.
        encodings: the tokens of each distinct context.
    """

    items: Sequence[Item]
    store: FeatureStore
    encodings: Mapping[str, Encoding]


class Windowers:
    """Cuts questions into windows of any settings; copies and pickles start with an empty cache.

    Args:
        tokenizer: a fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._cached: OrderedDict[WindowSettings, Windower] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Windowers], tuple[Any]]:
        return type(self), (self._tokenizer,)

    def __len__(self) -> int:
        return len(self._cached)

    def cut(self, items: Sequence[Item], settings: WindowSettings) -> CutQuestions:
        """Cut the windows of some questions."""
        windower = self.of(settings)
        questions, contexts = [item["question"] for item in items], [item["context"] for item in items]
        encodings = windower.encode_contexts(contexts)
        features = windower(questions, contexts, [None] * len(items), encodings=encodings)
        return CutQuestions(items, FeatureStore.of_batch(features), encodings)

    def of(self, settings: WindowSettings) -> Windower:
        """The windower for some settings, which any number of threads may use at once."""
        with self._lock:
            if settings not in self._cached:
                self._cached[settings] = Windower(self._tokenizer, settings, shorten=True)
                if len(self._cached) > MAX_WINDOWERS:
                    self._cached.popitem(last=False)
            self._cached.move_to_end(settings)
            return self._cached[settings]
