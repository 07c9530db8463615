"""The device that a person names, or the one that is there."""

from __future__ import annotations

from contextlib import suppress

import torch

from qa_lightning.errors import InputError, one_line


def known_device(name: str | torch.device | None) -> torch.device | None:
    """The device of a name, which may be one of another machine.

    Args:
        name: such as ``cuda:1``; None is any.

    Raises:
        InputError: there are no such devices.
    """
    with suppress(RuntimeError, TypeError):
        device = None if name is None else torch.device(name)
        if device is None or device.type != "meta":  # on which nothing is computed
            return device
    raise InputError(f"device is {name!r}; pass 'cpu', 'cuda' or, for one of several GPUs, 'cuda:1'")


def usable_device(name: str | torch.device | None) -> torch.device:
    """The device of a name on this machine; without a name the first GPU, or the CPU if there is none.

    Raises:
        InputError: this machine has no such device.
    """
    device = known_device(name)
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        here = f"the GPUs here are cuda:0 to cuda:{count - 1}" if count > 1 else "the GPU here is cuda:0"
        raise InputError(f"device is {device}; {here if count else 'there is no GPU here: pass cpu, or leave it out'}")
    if device.type not in ("cpu", "cuda"):
        try:
            torch.empty(0, device=device)
        except Exception as error:  # each kind of device has its own
            raise InputError(
                f"device is {device}, which this machine does not have ({one_line(error)}); pass cpu, or leave it out"
            ) from None
    return device
