"""Give transformers its question answering pipeline back: by a call, or in programs that nobody can edit.

For those, `restore_when_imported` makes the call as soon as a program imports ``transformers.pipelines``. A line in
``qa_lightning_restore.pth``, which every interpreter reads when it starts, calls it if the environment has
``QA_LIGHTNING_RESTORE_PIPELINE=1``; else it does nothing. So this module imports nothing heavy itself.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_CLASS = "QuestionAnsweringPipeline"
_OURS, _THEIRS = "qa_lightning.inference.pipeline", "transformers.pipelines"
_OLD_MODULE = f"{_THEIRS}.question_answering"  # where the class was in 4.57


def register_pipeline(restore: bool = False) -> None:
    """Make ``transformers.pipeline("extractive-qa", model=...)`` build a `QuestionAnsweringPipeline`.

    Args:
        restore: as in transformers 4.57: register it under the task's old name, ``question-answering``, too, and set
            ``transformers.QuestionAnsweringPipeline``.
    """
    import transformers
    from transformers import pipelines

    from qa_lightning.inference.building import DEFAULT_MODEL, OLD_TASK, TASK
    from qa_lightning.inference.pipeline import QuestionAnsweringPipeline

    registry = pipelines.PIPELINE_REGISTRY
    for task in [TASK, OLD_TASK] if restore else [TASK]:
        pipelines.REMOVED_TASKS.pop(task, None)
        registry.supported_tasks.pop(task, None)  # avoids a warning if it was registered before
        registry.register_pipeline(
            task,
            pipeline_class=QuestionAnsweringPipeline,
            pt_model=transformers.AutoModelForQuestionAnswering,
            default={"model": DEFAULT_MODEL},
            type="text",
        )
    # With this attribute, save_pretrained would copy this package's source beside the model as remote code.
    del QuestionAnsweringPipeline._registered_impl
    if restore:
        module = ModuleType(_OLD_MODULE)
        sys.modules.setdefault(_OLD_MODULE, module)
        for place in (*_all_of(transformers), pipelines, module):
            setattr(place, _CLASS, QuestionAnsweringPipeline)


def _all_of(package: ModuleType) -> list[ModuleType]:
    """The module objects of a package: transformers runs its ``__init__`` again when its processors are imported.

    ``import transformers`` before then has given the program an object that ``sys.modules`` no longer has.
    """
    kind = type(package)  # a class of transformers' own, so that few objects refer to it
    found = [*gc.get_referrers(kind), package]
    if gc.get_freeze_count():  # what a program froze, as servers do before they fork, the collector does not list
        found += [value for module in [*sys.modules.values()] for value in [*getattr(module, "__dict__", {}).values()]]
    every = {id(one): one for one in found if type(one) is kind and one.__name__ == package.__name__}
    return list(every.values())


class _Watch(MetaPathFinder):
    """Calls `register_pipeline` once both its module and transformers' own are imported, in either order."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders have; for the watched modules, one that goes on after their import."""
        if fullname not in ("transformers", _THEIRS, _OURS):
            return None
        others = (finder.find_spec for finder in sys.meta_path if not isinstance(finder, _Watch))
        spec = next((found for find in others if (found := find(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _imported(fullname)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _imported(name: str) -> None:
    if name == "transformers":  # a module that imports the others on first use, by this table
        sys.modules[name].__dict__.get("_class_to_module", {}).setdefault(_CLASS, "pipelines")
    elif name == _THEIRS:
        import_module(_OURS)  # comes back at once if it is this one that imports transformers
    else:
        register_pipeline(restore=True)


def restore_when_imported() -> None:
    """Call ``register_pipeline(restore=True)`` as soon as ``transformers.pipelines`` is imported."""
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):  # a .pth file may be read twice
        sys.meta_path.insert(0, _Watch())
