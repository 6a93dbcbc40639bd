"""ImageNet files: the names and shapes of torchvision's, written by the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.fitting.imagenet_weights import (
    WeightsRefused,
    fetch_weights,
    load_weights_file,
)
from training.models.inception import Inception
from training.models.vgg16 import VGG16

# torchvision/models/vgg.py, configuration D: channels, "M" is a pooling layer.
_VGG = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M"]
_VGG += [512, 512, 512, "M"]


def like(*shape: int, value: float = 0.5) -> Tensor:
    """A tensor that takes no memory, whatever its shape."""
    return torch.full((1,), value).expand(shape)


def vgg_file(norm: str) -> dict[str, Tensor]:
    found, place, channels = {}, 0, 3
    for step in _VGG:
        if step == "M":
            place += 1
            continue
        outputs = int(step)
        found[f"features.{place}.weight"] = like(outputs, channels, 3, 3)
        found[f"features.{place}.bias"] = like(outputs)
        place, channels = place + 1, outputs
        if norm == "batch":
            for name in ("weight", "bias", "running_mean", "running_var"):
                found[f"features.{place}.{name}"] = like(outputs)
            found[f"features.{place}.num_batches_tracked"] = torch.tensor(7)
            place += 1
        place += 1  # the rectifier
    for layer, (outputs, inputs) in {
        0: (4096, 25088),
        3: (4096, 4096),
        6: (1000, 4096),
    }.items():
        found[f"classifier.{layer}.weight"] = like(outputs, inputs)
        found[f"classifier.{layer}.bias"] = like(outputs)
    return found


def test_a_vgg16_file_fits_all_but_the_last_layer(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    torch.save(vgg_file("none"), path)
    network = VGG16(4, norm="none", head="classic")

    kept = load_weights_file(network, path)

    assert kept == ["classifier.6.weight", "classifier.6.bias"]
    own = dict(network.named_parameters())
    assert (own["features.28.weight"] == 0.5).all()
    assert (own["classifier.3.weight"] == 0.5).all()
    assert own["classifier.6.weight"].std() > 0


def test_a_vgg16_file_fits_the_pooled_head_as_well(tmp_path: Path) -> None:
    path = tmp_path / "vgg16_bn.safetensors"
    features = {n: t for n, t in vgg_file("batch").items() if "features" in n}
    save_file({n: t.contiguous() for n, t in features.items()}, path)
    network = VGG16(4, norm="batch", head="pooled")

    kept = load_weights_file(network, path)

    assert kept == ["classifier.1.weight", "classifier.1.bias"]
    assert network(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_an_inception_file_fits_all_but_both_heads(tmp_path: Path) -> None:
    """The file's names are those of torchvision's `inception_v3`, 1000 classes."""
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in Inception(1000).state_dict().items()}
    found = {
        name: torch.tensor(1) if name.endswith("tracked") else like(*shape)
        for name, shape in shapes.items()
    }
    path = tmp_path / "inception_v3.pth"
    torch.save(found, path)
    network = Inception(4)

    kept = load_weights_file(network, path)

    assert kept == ["AuxLogits.fc.weight", "AuxLogits.fc.bias", "fc.weight", "fc.bias"]
    assert (
        dict(network.named_parameters())["Mixed_5b.branch1x1.conv.weight"] == 0.5
    ).all()


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda: VGG16(4, norm="none", width=0.25), "have another shape.*width=1"),
        (lambda: VGG16(4, norm="batch"), "are missing"),
        (lambda: Inception(4, width=0.1), "are missing"),
    ],
)
def test_a_file_of_another_network_is_refused(
    tmp_path: Path, network: Callable[[], nn.Module], says: str
) -> None:
    path = tmp_path / "vgg16.pth"
    torch.save(vgg_file("none"), path)

    with pytest.raises(WeightsRefused, match=says):
        load_weights_file(network(), path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("data", [None, b"", b"nothing of the kind"])
def test_what_is_no_weight_file_is_refused(
    tmp_path: Path, name: str, data: bytes | None
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(WeightsRefused, match=name):
        load_weights_file(VGG16(4, width=0.1), path)


class _Code:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run from a weight file",)


def test_a_file_with_code_in_it_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"features.0.weight": _Code()}, path)

    with pytest.raises(WeightsRefused, match="more than weights"):
        load_weights_file(VGG16(4, width=0.1), path)

    assert "run from" not in capsys.readouterr().out


def test_only_two_families_have_imagenet_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="no ImageNet weights of dbn"):
        fetch_weights("dbn", tmp_path)
