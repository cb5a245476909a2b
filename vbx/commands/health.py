"""What `vbx doctor` looks at: versions, extras, kernel, which onnxruntime is live, and whether CUDA would be used."""

import importlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import vbx
from vbx.errors import DeviceError

NEEDED = (
    "torch",
    "transformers",
    "audonnx",
    "onnxruntime",
    "zarr",
    "h5py",
    "soundfile",
    "soxr",
    "scikit-learn",
    "numpy",
)
EXTRAS = {
    "opensmile": "egemaps, compare (research licence: no commercial use)",
    "audformat": "reader audformat",
    "av": "m4a, aac, video",
    "obstore": "a cache in an object store",
    "optuna": "vbx heads train --search optuna",
}
"""Package to what it is for; the extra that brings it has its name, but for those below."""
EXTRA_OF = {"obstore": "remote", "optuna": "search"}


def examine() -> list[dict[str, Any]]:
    """Rows of what, state (`ok`, `absent`, `warning`, `broken`) and detail."""
    rows = [_row("vbx", "ok", f"{vbx.__version__} on Python {platform.python_version()}, {platform.machine()}")]
    rows += [_package(name, "broken", "") for name in NEEDED]
    for name, what in EXTRAS.items():
        rows.append(_package(name, "absent", f"pip install 'vbx[{EXTRA_OF.get(name, name)}]' for {what}"))
    return [*rows, _kernel(), _torch_device(), _onnx_device()]


def _row(what: str, state: str, detail: str) -> dict[str, Any]:
    return {"what": what, "state": state, "detail": detail}


def _package(name: str, otherwise: str, remedy: str) -> dict[str, Any]:
    try:
        found = version(name)
    except PackageNotFoundError:
        return _row(name, otherwise, remedy or f"pip install {name}")
    try:
        importlib.import_module({"scikit-learn": "sklearn"}.get(name, name))
    except (ImportError, OSError) as error:
        return _row(name, "broken", f"{found} is installed but cannot be imported: {error}")
    return _row(name, "ok", found)


def _kernel() -> dict[str, Any]:
    """The kernel that trains heads on a CPU: whether it is there, and which instructions it uses."""
    from vbx.heads.native import find_kernel

    try:
        kernel = find_kernel()
    except DeviceError as error:
        return _row("native kernel", "broken", str(error))
    if kernel.library is None:
        return _row("native kernel", "absent", f"{kernel.missing}; torch trains heads, several times as slowly")
    detail = f"{kernel.path} is live" + (f"; {kernel.missing}" if kernel.missing else "")
    return _row("native kernel", "warning" if kernel.missing else "ok", detail)


def _torch_device() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return _row("torch on CUDA", "absent", "no CUDA device that torch can use; --device auto means cpu")
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return _row("torch on CUDA", "ok", f"{names}; CUDA {torch.version.cuda}")


def _onnx_device() -> dict[str, Any]:
    """Ask for CUDA with a real session, for onnxruntime falls back to the CPU without an error."""
    import onnxruntime
    from onnx import TensorProto, helper

    gpu = _version("onnxruntime-gpu")
    providers = onnxruntime.get_available_providers()
    which = (
        f"onnxruntime-gpu {gpu}"
        if gpu and "CUDAExecutionProvider" in providers
        else f"onnxruntime {onnxruntime.__version__}"
    )
    if "CUDAExecutionProvider" not in providers:
        hidden = gpu is not None
        detail = f"{which} is live: CPU only"
        detail += "; onnxruntime-gpu is installed but covered: reinstall it last (README)" if hidden else ""
        return _row("onnxruntime on CUDA", "warning" if hidden else "absent", detail)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
    used = session.get_providers()[0]
    state = "ok" if used == "CUDAExecutionProvider" else "warning"
    return _row("onnxruntime on CUDA", state, f"{which} is live; a session asked for CUDA runs on {used}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
