"""Group normalisation over the frames of each row's own utterance, not over its padding."""

from collections.abc import Sequence

import torch
from torch import nn


class MaskedGroupNorm(nn.Module):
    """The group normalisation of a first convolution, blind to padding.

    With one group a channel it normalises each channel over time (wav2vec2 base and its relatives, Baevski et al. 2020,
    arXiv:2006.11477, section 4.2), so zeros behind a clip would change every frame of it.

    Attributes:
        norm: the layer that it stands for
        counts: true frames of each row of the next batch; None if no row is padded
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.counts: Sequence[int] | None = None

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalise `(B, C, F)`; what lies behind a row's true frames becomes 0."""
        if self.counts is None:
            normal: torch.Tensor = self.norm(frames)
            return normal
        normal = torch.zeros_like(frames)
        # Row by row is what one clip at a time computes, to the bit; a masked mean is not.
        for row, count in enumerate(self.counts):
            normal[row, :, :count] = self.norm(frames[row : row + 1, :, :count])[0]
        return normal
