"""Devices: `auto` becomes one, and one that is asked for and not there is an error, never another."""

from vbx.errors import DeviceError


def pick_device(name: str) -> str:
    """Turn `auto` into a device, and make sure that the one named is there.

    Raises:
        DeviceError: if a CUDA device is asked for that torch cannot use, or the name is not a device
    """
    if name == "cpu":
        return name
    import torch  # late: `cpu` needs none of it

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if there else "cpu"
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index == "" or index.isdigit()):
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:0")
    if int(index or 0) >= there:
        raise DeviceError(f"device {name!r} was asked for, but torch sees {there} CUDA devices; see `vbx doctor`")
    return name
