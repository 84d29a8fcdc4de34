"""The graph of a detector that finds the persons itself, with non-maximum suppression inside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from vmae_det.inference.export.exported_model import ONE_STAGE_INPUTS, ONE_STAGE_OUTPUTS
from vmae_det.modeling.person_heads import MAX_CANDIDATES
from vmae_det.utils.errors import ConfigError

# Members of a person head that the graph uses.
_HEAD_MEMBERS = ("candidates", "nms_threshold", "max_persons", "score_threshold")


class OneStageGraph(nn.Module):
    """A detector with a person head, whose inputs and outputs are tensors only.

    The persons are those of `ActionDetector.forward`.

    Raises:
        ConfigError: the person head is a custom one without candidates, or the RoI head takes tokens.
    """

    inputs = ONE_STAGE_INPUTS
    outputs = ONE_STAGE_OUTPUTS
    smallest_grid = 3  # patches per side of the smallest clip: two rows in the coarsest map

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        head = model.person_head
        missing = [name for name in _HEAD_MEMBERS if not hasattr(head, name)]
        if missing:
            raise ConfigError(
                f"MODEL.PERSON_HEAD.NAME: {type(head).__name__} has no `{missing[0]}`, which the file "
                "needs; set TEST.PERSON_BOXES to dataset to export a detector that takes person boxes"
            )
        self.model = model
        # Two boxes of score 0 outside of the frame: the traced NMS assumes that it returns two boxes or more.
        dummies = torch.tensor([[-4.0, -4.0, -3.0, -3.0], [-2.0, -2.0, -1.0, -1.0]])
        self.register_buffer("dummies", dummies)
        self.defaults = {"score_threshold": head.score_threshold}

    def forward(
        self, video: torch.Tensor, sizes: torch.Tensor, score_threshold: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the R persons of all clips, sorted by clip and by falling score, and their scores.

        Args:
            video: uint8 (B, 3, T, H, W).
            sizes: (B, 2), width and height of each frame without padding.
            score_threshold: scalar; persons with a lower score are dropped.

        Returns:
            boxes (R, 4), xyxy pixels of the clip; clips (R,), the index of each person's clip; person scores
            (R,); scores (R, classes).
        """
        model = self.model
        tokens, predictions = model.tokens_and_persons(model.normalization(video))
        boxes, scores = model.person_head.candidates(predictions, sizes)
        boxes, clips, person_scores = self._select(boxes, scores, score_threshold, predictions.cells)
        scores = model.token_scores(tokens, boxes, clips, person_scores, sizes[clips])
        return boxes, clips, person_scores, scores

    def _select(
        self, boxes: torch.Tensor, scores: torch.Tensor, score_threshold: torch.Tensor, cells: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return boxes (R, 4), clips (R,) and scores (R,) of the persons among candidates (B, A).

        It does what `FcosPersonHead.suppress` does for each clip, for any number of clips.
        """
        from torchvision.ops import nms

        head, count = self.model.person_head, boxes.shape[0]
        # Padded, because the number of candidates depends on the size of the frame.
        scores, order = F.pad(scores, (0, MAX_CANDIDATES)).topk(MAX_CANDIDATES, dim=1)  # (B, K)
        order = order.clamp(max=boxes.shape[1] - 1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)).flatten(0, 1)  # (B * K, 4)
        scores = scores.flatten()
        kept = ((scores >= score_threshold) & (scores > 0)).nonzero().squeeze(1)
        boxes = torch.cat([boxes[kept], self.dummies])
        scores, clips = F.pad(scores[kept], (0, 2)), F.pad(kept // MAX_CANDIDATES, (0, 2))
        # Clips side by side, so that boxes of different clips do not overlap.
        right = clips[:, None] * cells[-1, 2:].max().ceil()
        best = nms(boxes + right.to(boxes.dtype), scores, head.nms_threshold)  # by falling score
        # Each person gets the slot of its rank in its clip, to sort them by clip and to drop the worst.
        of_best = clips[best]
        rank = (of_best[:, None] == of_best).long().tril().sum(dim=1) - 1
        last = count * head.max_persons
        has_slot = (rank < head.max_persons) & (scores[best] > 0)
        slot = torch.where(has_slot, of_best * head.max_persons + rank, last)
        person = best.new_full((last + 1,), -1).scatter(0, slot, best)[:-1]
        person = person[(person >= 0).nonzero().squeeze(1)]
        return boxes[person], clips[person], scores[person]

    def threshold_for(self, video: torch.Tensor, sizes: torch.Tensor, number: int) -> torch.Tensor:
        """Return a threshold at which a comparison finds some persons; none if `number` is 0.

        It is in the middle of a gap between scores, so that rounding does not change the persons.

        Args:
            number: about how many persons to find in each clip.
        """
        model = self.model
        _, predictions = model.tokens_and_persons(model.normalization(video))
        _, scores = model.person_head.candidates(predictions, sizes)
        if not number:
            return scores.max() + 1
        scores = scores.flatten().sort(descending=True).values
        scores = scores[number * len(video) - 1 : 4 * number * len(video)]
        gap = (scores[:-1] - scores[1:]).argmax()
        return (scores[gap] + scores[gap + 1]) / 2
