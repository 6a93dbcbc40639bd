"""Start from ImageNet: weight files of the torchvision kind."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edge.errors import HemascopeError
from training.fitting.families import CLASSIFIERS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HEADS = ("classifier.", "fc.", "AuxLogits.fc.")


class WeightsRefused(HemascopeError):
    """The weight file cannot be read or is of another network."""


def fetch_weights(family: str, folder: Path) -> Path:
    """Download torchvision's ImageNet weights of a family into `folder`.

    Raises
    ------
    WeightsRefused
        There are none, or they could not be downloaded.
    """
    url = CLASSIFIERS[family].weights_url
    if url is None:
        known = [name for name, kind in CLASSIFIERS.items() if kind.weights_url]
        raise WeightsRefused(f"there are no ImageNet weights of {family}, only {known}")
    path = folder / Path(url).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                url, str(path), hash_prefix=path.stem.split("-")[-1]
            )
        except (OSError, RuntimeError) as error:
            raise WeightsRefused(
                f"{url}: {error}; download it elsewhere and name the file "
                "with --weights"
            ) from error
    return path


def load_weights_file(network: nn.Module, path: Path) -> list[str]:
    """Put the weights of a file (safetensors, or torch's without code) into `network`.

    Heads of another number of classes stay untrained; everything else must fit.

    Returns
    -------
    list[str]
        Names of the weights that were left as they were.

    Raises
    ------
    WeightsRefused
        The file cannot be read, or a name or a shape differs.
    """
    found, own = _read(path), network.state_dict()
    kept = [
        name
        for name, value in own.items()
        if name.startswith(_HEADS)
        and (name not in found or found[name].shape != value.shape)
    ]
    counters = [n for n in own if n.endswith("num_batches_tracked") and n not in found]
    expected = {n: v.shape for n, v in own.items() if n not in {*kept, *counters}}
    missing = [n for n in expected if n not in found]
    differing = [
        f"{n} {tuple(found[n].shape)} for {tuple(shape)}"
        for n, shape in expected.items()
        if n in found and found[n].shape != shape
    ]
    if missing or differing:
        raise WeightsRefused(
            f"{path}: {len(missing)} of {len(expected)} weights are missing "
            f"{missing[:3]}, {len(differing)} have another shape {differing[:3]}; "
            "ImageNet weights fit at width=1 and with the norm they were fitted with"
        )
    network.load_state_dict({**own, **{name: found[name] for name in expected}})
    return kept


def _read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file by name; no code in it is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        read: dict[str, Tensor] = torch.load(
            path, map_location="cpu", weights_only=True
        )
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise WeightsRefused(
            f"{path}: {error}; expected safetensors or a weight file of torch"
        ) from error
    except pickle.UnpicklingError as error:
        raise WeightsRefused(
            f"{path}: holds more than weights ({error}); convert it to safetensors"
        ) from error
    return read
