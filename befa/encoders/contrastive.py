"""Training a small CLIP on a catalogue's own pictures and titles."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Generator, Tensor, nn

from befa.encoders import clip_model
from befa.encoders.clip_config import Architecture, ContrastiveConfig, OpenClipConfig
from befa.encoders.open_clip import OpenClipEncoder
from befa.errors import EncoderError, TrainingError
from befa.progress import Progress
from befa.rng import stream

MAX_LOGIT_SCALE = math.log(100)
"""CLIP, section 2.5: logits are not scaled by more than 100."""

ENCODED_AT_ONCE = 64
"""Pictures, or titles, of one call to a tower when pairs are found again."""

ROWS_AT_ONCE = 1024
"""Of the cosines between all pairs' pictures and titles."""

POSITION_GAIN = 8.0
"""Factor on open_clip's initial position embeddings of patches.

They start small beside the patches, and a short training on some hundred pictures then learns colours and patterns but
hardly shapes: taught to name the demo's ten categories in 15 epochs of 768 pictures, a ViT of width 96 named 31% of the
unseen ones without this factor and 85% with it.
"""


def train_clip(
    pictures: Iterable[Image.Image | UInt8[np.ndarray, "H W 3"] | None],
    titles: Iterable[str | None],
    config: OpenClipConfig,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains a CLIP (arXiv 2103.00020) on (picture, title) pairs and writes it to `folder` in open_clip's form.

    Pairs that lack a picture or a title are left out. AdamW, half a cosine after a linear warm-up, random crops and
    mirrors. The same pairs and configuration give the same bytes on one machine. Pictures are taken one by one,
    and kept at the encoder's size, a byte a channel. `progress` is called with steps done and their number.

    Returns pairs used and left out, the loss (nats) of every epoch, the temperature's inverse, and how often each
    picture's nearest title among all training pairs is its own (recall at 1), and the other way round.
    Raises EncoderError when there is nothing to train on, TrainingError when the loss is not finite.
    """
    architecture, training = config.architecture, config.training
    if not isinstance(architecture, Architecture) or training is None:
        raise EncoderError("nothing to train", mend="give the encoder an architecture of its own and a training block")
    description = architecture.model_config()
    model = clip_model.build(description, seed=training.seed)
    with torch.no_grad():
        model.visual.positional_embedding.mul_(POSITION_GAIN)
    preprocessing = clip_model.preprocess_config(clip_model.default_preprocessing(), model)
    encoder = OpenClipEncoder(model, description, preprocessing)
    model.requires_grad_(True).train()

    kept, kept_titles, left_out = [], [], 0
    for picture, title in zip(pictures, titles, strict=True):
        if picture is None or not title:
            left_out += 1
        else:
            kept.append(encoder.pixels(picture if isinstance(picture, Image.Image) else Image.fromarray(picture)))
            kept_titles.append(title)
    if len(kept) < 2:
        what = f"{len(kept)} items have both a picture and a title"
        mend = "training needs two; without pictures take another encoder, such as minilm or given"
        raise EncoderError(what, mend=mend)
    pixels_N3HW = torch.stack(kept)
    kept.clear()
    tokens_NL, _, _ = encoder.tokenize(kept_titles)
    losses = _fit(model, encoder, pixels_N3HW, tokens_NL, training, progress=progress)

    model.eval()
    clip_model.write_folder(folder, model, description)
    to_title, to_picture = _recall(encoder, pixels_N3HW, tokens_NL)
    return {
        "pairs": len(kept_titles),
        "left_out": left_out,
        "loss": losses,
        "logit_scale": float(model.logit_scale.detach().exp()),
        "picture_to_title_recall_at_1": to_title,
        "title_to_picture_recall_at_1": to_picture,
    }


def info_nce(
    image_Bd: Float[Tensor, "B d"], text_Bd: Float[Tensor, "B d"], logit_scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE in nats, figure 3 of arXiv 2103.00020; `logit_scale` is minus the temperature's logarithm."""
    image_Bd = nn.functional.normalize(image_Bd, dim=-1)
    text_Bd = nn.functional.normalize(text_Bd, dim=-1)
    logits_BB = logit_scale.exp() * image_Bd @ text_Bd.T
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    cross_entropy = nn.functional.cross_entropy
    return (cross_entropy(logits_BB, own_B) + cross_entropy(logits_BB.T, own_B)) / 2


def _fit(
    model: nn.Module,
    encoder: OpenClipEncoder,
    pixels_N3HW: UInt8[Tensor, "N 3 H W"],
    tokens_NL: Int[Tensor, "N L"],
    training: ContrastiveConfig,
    *,
    progress: Progress | None,
) -> list[float]:
    """Runs all steps and returns the mean loss of every epoch; a last batch of a single pair is left out."""
    shuffle, augment = stream(training.seed, "clip", "shuffle"), stream(training.seed, "clip", "augment")
    n, size = len(pixels_N3HW), min(training.batch_size, len(pixels_N3HW))
    starts = [start for start in range(0, n, size) if n - start > 1]
    steps = training.epochs * len(starts)
    optimiser = torch.optim.AdamW(_groups(model, training.weight_decay), lr=training.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps, training.warm_up))
    losses, done = [], 0
    for epoch in range(training.epochs):
        order_N = torch.randperm(n, generator=shuffle)
        total = 0.0
        for start in starts:
            rows = order_N[start : start + size]
            pixels_B3HW = encoder.normalised(pixels_N3HW[rows])
            seen_B3HW = crop(pixels_B3HW, training.crop, flip=training.flip, rng=augment)
            image_Bd, text_Bd = model.encode_image(seen_B3HW), model.encode_text(tokens_NL[rows])
            loss = info_nce(image_Bd, text_Bd, model.logit_scale)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss.item()} in epoch {epoch + 1}",
                    where="contrastive training",
                    mend="lower encoders.<name>.training.learning_rate",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
            total, done = total + loss.item(), done + 1
            if progress is not None:
                progress(done, steps)
        losses.append(total / len(starts))
    return losses


def crop(
    pixels_B3HW: Float[Tensor, "B 3 H W"], smallest: float, *, flip: bool, rng: Generator
) -> Float[Tensor, "B 3 H W"]:
    """Every picture cut to a random part of side [smallest, 1] times its own, scaled back; half are mirrored."""
    draw_B4 = torch.rand(len(pixels_B3HW), 4, generator=rng)
    side_B = smallest + (1 - smallest) * draw_B4[:, 0]
    mirror_B = torch.where((draw_B4[:, 3] < 0.5) & flip, -1.0, 1.0)
    zero_B = torch.zeros_like(side_B)
    # In grid_sample's coordinates the picture is [-1, 1]: the square's centre stays 1 - side away from the edge.
    x_B, y_B = ((2 * draw_B4[:, 1:3] - 1) * (1 - side_B)[:, None]).unbind(1)
    rows = [side_B * mirror_B, zero_B, x_B, zero_B, side_B, y_B]
    grid = nn.functional.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(pixels_B3HW.shape), align_corners=False)
    return nn.functional.grid_sample(pixels_B3HW, grid, padding_mode="border", align_corners=False)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay."""
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and "embedding" not in name
        (decayed if is_matrix else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _rate(step: int, steps: int, warm_up: float) -> float:
    """Share of the peak learning rate at `step`."""
    rising = math.ceil(warm_up * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _recall(
    encoder: OpenClipEncoder, pixels_N3HW: UInt8[Tensor, "N 3 H W"], tokens_NL: Int[Tensor, "N L"]
) -> tuple[float, float]:
    """Recall at 1 from pictures to titles and back; pairs with the same tokens count as one another's."""
    image_Nd = torch.cat([encoder.encode_images(part) for part in pixels_N3HW.split(ENCODED_AT_ONCE)])
    text_Nd = torch.cat([encoder.encode_texts(part) for part in tokens_NL.split(ENCODED_AT_ONCE)])
    image_Nd, text_Nd = (nn.functional.normalize(x_Nd, dim=-1) for x_Nd in (image_Nd, text_Nd))
    return _hits(image_Nd, text_Nd, tokens_NL), _hits(text_Nd, image_Nd, tokens_NL)


def _hits(from_Nd: Float[Tensor, "N d"], to_Nd: Float[Tensor, "N d"], tokens_NL: Int[Tensor, "N L"]) -> float:
    """Share of the rows whose nearest one on the other side has their tokens; all cosines at once would be N x N."""
    nearest_N = torch.cat([(rows @ to_Nd.T).argmax(1) for rows in from_Nd.split(ROWS_AT_ONCE)])
    return float((tokens_NL[nearest_N] == tokens_NL).all(1).double().mean())
