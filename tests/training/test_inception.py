from __future__ import annotations

import pytest
import torch

from training.models.inception import LEAST_PX, Inception, Width


def test_at_full_width_it_is_inception_v3() -> None:
    """23,834,568 parameters without the auxiliary head, as published with ImageNet."""
    network = Inception(1000)

    total = sum(p.numel() for n, p in network.named_parameters() if "Aux" not in n)

    assert total == 23_834_568
    assert network.fc.in_features == 2048
    assert network.Mixed_6e.outputs == 768
    names = dict(network.named_parameters())
    assert names["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    assert names["Mixed_7c.branch3x3dbl_3b.bn.bias"].shape == (384,)
    assert names["AuxLogits.fc.bias"].shape == (1000,)


def test_each_stage_has_the_grid_of_the_paper() -> None:
    """299 px give grids of 35, 17 and 8 (table 1 of the paper)."""
    network = Inception(10, width=0.1).eval()
    grids = {}
    for name in ("Mixed_5d", "Mixed_6e", "Mixed_7c"):
        getattr(network, name).register_forward_hook(
            lambda _m, _i, out, name=name: grids.update({name: out.shape[-1]})
        )

    network(torch.zeros(1, 3, 299, 299))

    assert grids == {"Mixed_5d": 35, "Mixed_6e": 17, "Mixed_7c": 8}


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5])
def test_the_compact_width_shrinks_the_network_by_its_square(width: float) -> None:
    small = sum(p.numel() for p in Inception(4, width=width).parameters())
    full = sum(p.numel() for p in Inception(4).parameters())

    assert 0.5 * width**2 < small / full < 2.0 * width**2


def test_the_auxiliary_head_speaks_only_in_training() -> None:
    network = Inception(4, width=0.1)
    image = torch.randn(2, 3, LEAST_PX, LEAST_PX)

    main, auxiliary = network.train()(image)
    alone = network.eval()(image)

    assert main.shape == auxiliary.shape == alone.shape == (2, 4)


def test_channels_are_whole_vector_registers() -> None:
    width = Width(0.25)

    assert [width(c) for c in (32, 80, 192, 448)] == [8, 16, 48, 112]
    assert Width(1)(80) == 80
