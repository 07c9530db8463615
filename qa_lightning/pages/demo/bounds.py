"""Keeps Gradio within bounds: no requests elsewhere, no files that stay, no event loops that are left open."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qa_lightning.errors import import_extra


def require_gradio() -> None:
    """Check that Gradio is installed.

    Raises:
        InputError: it is not.
    """
    import_extra("gradio", "demo", "demo")


@contextmanager
def quiet_gradio() -> Iterator[None]:
    """Inside this context Gradio asks nobody, and keeps dropped files in a folder that goes away at its end."""
    with tempfile.TemporaryDirectory(prefix="qa_lightning_demo_", ignore_cleanup_errors=True) as folder:
        wanted = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "GRADIO_SSR_MODE": "False"}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def within_a_loop(make: Callable[[], Any]) -> Any:
    """What ``make`` makes while an event loop runs; without one, Gradio makes one for each of its locks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:

        async def made() -> Any:
            return make()

        return asyncio.run(made())
    return make()


def refuse_addresses(block: Any) -> None:
    """Let no call make the server fetch what an address names: Gradio would, for a "file" whose path is one."""
    moved = getattr(block, "async_move_resource_to_block_cache", None)
    if moved is None:
        return

    async def only_files(path: str | None) -> Any:
        if path is not None and "://" in path:
            raise ValueError("a file is no address")
        return await moved(path)

    block.async_move_resource_to_block_cache = only_files
