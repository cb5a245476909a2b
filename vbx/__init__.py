"""vbx: extract once, ablate thousands of times.

Stage 1 (`vbx.extract`) turns audio into vectors, `vbx.cache` keeps them, stage 2 (`vbx.heads`) learns from them.

Letters of shapes: run R, batch B, utterance N, dim D, output K, class C, time T (samples), frame F.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "read_corpus": "vbx.extract.corpus",
    "Corpus": "vbx.extract.corpus",
    "Utterance": "vbx.extract.corpus",
    "read_wave": "vbx.extract.audio",
    "extract_vectors": "vbx.extract.pipeline",
    "Encoder": "vbx.extract.encoder",
    "EncoderSpec": "vbx.cache.spec",
    "Feature": "vbx.cache.feature",
    "read_feature": "vbx.cache.feature",
    "Store": "vbx.cache.store",
    "import_vectors": "vbx.cache.importing",
    "Vectors": "vbx.cache.vectors",
    "Recipe": "vbx.heads.recipe",
    "Task": "vbx.heads.recipe",
    "Run": "vbx.heads.recipe",
    "read_recipe": "vbx.heads.recipe",
    "make_tasks": "vbx.heads.recipe",
    "with_tasks": "vbx.heads.recipe",
    "expand_runs": "vbx.heads.recipe",
    "train_heads": "vbx.heads.training",
    "rank_results": "vbx.heads.ranking",
    "VbxError": "vbx.errors",
}
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    # Names are imported when they are first used, so that `import vbx` does not import torch.
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'vbx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
