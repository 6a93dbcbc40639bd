"""Each family is what its paper says, checked against published figures or by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.fitting.dbn_pretraining import PretrainPlan, pretrain
from training.fitting.families import CLASSIFIERS, new_classifier
from training.fitting.model_graphs import Standardise
from training.models.capsnet import CapsNet, length, margin_loss, route, squash
from training.models.dbn import DBN, RBM
from training.models.inception import MIN_PX, Inception
from training.models.layers import cross_entropy, normalisation, scaled
from training.models.rnn import RecurrentCNN
from training.models.vgg16 import VGG16

PLAIN = Standardise((0.5,) * 3, (0.2,) * 3)


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("norm", "published"), [("none", 138_357_544), ("batch", 138_365_992)]
)
def test_at_full_width_it_is_vgg16(norm: str, published: int) -> None:
    """The numbers of weights published with the ImageNet files."""
    with torch.device("meta"):
        network = VGG16(1000, norm=norm, head="classic")  # type: ignore[arg-type]

    assert weights(network) == published
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 13


def test_at_full_width_it_is_inception_v3() -> None:
    """The numbers of weights published, with and without the auxiliary classifier."""
    with torch.device("meta"):
        network = Inception(1000)

    assert weights(network) == 27_161_264
    assert weights(network) - weights(network.AuxLogits) == 23_834_568
    assert network.fc.in_features == 2048
    names = dict(network.named_parameters())
    assert names["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    assert names["Mixed_7c.branch3x3dbl_3b.bn.bias"].shape == (384,)
    assert names["AuxLogits.conv1.conv.weight"].shape == (768, 128, 5, 5)


def test_each_stage_of_inception_has_the_grid_of_the_paper() -> None:
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
@pytest.mark.parametrize("build", [Inception, VGG16])
def test_a_compact_width_shrinks_the_network_by_its_square(
    build: type[nn.Module], width: float
) -> None:
    with torch.device("meta"):
        small, full = weights(build(4, width=width)), weights(build(4))

    assert 0.5 * width**2 < small / full < 2.0 * width**2


def test_channels_are_whole_vector_registers() -> None:
    assert [scaled(c, 0.25) for c in (32, 80, 192, 448)] == [8, 16, 48, 112]
    assert scaled(80, 1) == 80


def test_the_auxiliary_classifier_counts_in_the_loss_alone() -> None:
    network = Inception(4, width=0.1).eval()
    image = torch.randn(2, 3, MIN_PX, MIN_PX)
    classes = torch.tensor([0, 3])

    both = network.loss(image, classes)

    assert network(image).shape == (2, 4)
    assert both > cross_entropy(network(image), classes)


@pytest.mark.parametrize("family", [*CLASSIFIERS])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_with_group_normalisation_an_image_is_seen_alone(
    family: str, norm: str
) -> None:
    kind = CLASSIFIERS[family]
    if "norm" not in kind.network:
        pytest.skip("has no normalisation")
    settings = {**kind.network, "norm": norm}
    network = new_classifier(family, 4, settings, PLAIN).network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = torch.randn(4, 3, kind.size_px, kind.size_px)
    state = (torch.zeros(4, network.state_size),) if kind.has_memory else ()

    def predicted(count: int) -> Tensor:
        out = network(images[:count], *(s[:count] for s in state))
        return (out[0] if kind.has_memory else out)[0].detach()

    is_alone = torch.allclose(predicted(2), predicted(4), atol=1e-4)
    assert is_alone == (norm == "group")


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_normalised_channels_have_no_mean_and_unit_variance(norm: str) -> None:
    values = 5 + 3 * torch.randn(8, 16, 6, 6)

    out = normalisation(16, norm)(values)  # type: ignore[arg-type]

    assert out.mean().abs() < 1e-5
    assert out.std().item() == pytest.approx(1, abs=0.01)


def test_labels_that_are_missing_do_not_count() -> None:
    logits = torch.randn(3, 4)

    partly = cross_entropy(logits, torch.tensor([1, -1, 2]))

    assert partly == cross_entropy(logits[[0, 2]], torch.tensor([1, 2]))


@pytest.mark.parametrize("head", ["classic", "pooled"])
@pytest.mark.parametrize("size_px", [64, 96])
def test_vgg16_takes_the_size_it_was_made_for(head: str, size_px: int) -> None:
    network = VGG16(4, width=0.1, head=head, size_px=size_px)  # type: ignore[arg-type]

    assert network(torch.zeros(2, 3, size_px, size_px)).shape == (2, 4)


def test_squashing_keeps_the_direction_and_shortens_to_below_one() -> None:
    """Equation 1 of the paper: |v| = |s|^2 / (1 + |s|^2)."""
    vectors = (
        torch.randn(50, 8, dtype=torch.float64) * torch.logspace(-2, 2, 50)[:, None]
    )

    short = squash(vectors)

    assert short.dtype == torch.float32
    before = vectors.norm(dim=1)
    np.testing.assert_allclose(
        short.norm(dim=1), before**2 / (1 + before**2), rtol=1e-3
    )
    cosine = nn.functional.cosine_similarity(short.double(), vectors)
    np.testing.assert_allclose(cosine, 1, atol=1e-6)


def test_squashing_half_precision_loses_no_short_vector() -> None:
    """(1e-4)^2 is below what half precision holds."""
    short = squash(torch.full((1, 8), 1e-4, dtype=torch.float16))

    assert (short > 0).all()
    assert squash(torch.zeros(1, 8)).isfinite().all()


def test_routing_gives_a_class_to_the_capsules_that_agree() -> None:
    """Eight capsules agree on class 0; on class 1 they point everywhere."""
    agreed = torch.zeros(8, 16)
    agreed[:, 0] = 1
    scattered = torch.eye(16)[:8] * torch.tensor([1.0, -1.0] * 4)[:, None]
    votes = torch.stack([agreed, scattered], 1)[None]

    even, routed = length(route(votes, 1)), length(route(votes, 3))

    np.testing.assert_allclose(route(votes, 1), squash(votes.mean(1) * 4), atol=1e-6)
    assert routed[0, 0] > even[0, 0]
    assert routed[0, 0] > 2 * routed[0, 1]


def test_the_margin_loss_is_that_of_the_paper() -> None:
    lengths = torch.tensor([[0.95, 0.05], [0.7, 0.3]])

    loss = margin_loss(lengths, torch.tensor([0, 0]))

    assert loss.item() == pytest.approx((0 + (0.2**2 + 0.5 * 0.2**2)) / 2, abs=1e-6)


def test_the_decoder_learns_to_draw_what_the_capsules_saw() -> None:
    network = CapsNet(2, width=0.25, size_px=32)
    image = torch.zeros(8, 3, 32, 32)
    image[:4, :, :16], image[4:, :, 16:] = 1, 1
    classes = torch.tensor([0] * 4 + [1] * 4)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = network.loss(image, classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[-1] < 0.2 * losses[0]
    drawn = network.reconstruct(network.capsules(image), classes)
    wanted = nn.functional.avg_pool2d(image, 2)
    assert (drawn - wanted).square().mean() < 0.5 * wanted.square().mean()


def all_states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)))


def small_machine() -> RBM:
    machine = RBM(4, 3, "bernoulli")
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.normal_(0, 0.7)
    return machine


def energies(machine: RBM, visible: Tensor, hidden: Tensor) -> Tensor:
    """E(v, h) = -v'W'h - b'v - c'h, for all pairs."""
    return -(
        visible @ machine.weight.T @ hidden.T
        + (visible @ machine.visible_bias)[:, None]
        + hidden @ machine.hidden_bias
    )


@torch.no_grad()
def test_the_free_energy_sums_the_hidden_units_out() -> None:
    machine = small_machine()
    visible, hidden = all_states(4), all_states(3)

    summed = -torch.logsumexp(-energies(machine, visible, hidden), 1)

    np.testing.assert_allclose(machine.free_energy(visible), summed, atol=1e-5)


@torch.no_grad()
def test_the_conditional_probabilities_are_those_of_the_energy() -> None:
    machine = small_machine()
    visible, hidden = all_states(4), all_states(3)
    joint = torch.softmax(-energies(machine, visible, hidden).flatten(), 0)
    joint = joint.reshape(16, 8)

    up = joint @ hidden / joint.sum(1, keepdim=True)
    down = joint.T @ visible / joint.sum(0)[:, None]

    np.testing.assert_allclose(machine.up(visible), up, atol=1e-5)
    np.testing.assert_allclose(machine.down(hidden), down, atol=1e-5)


@torch.no_grad()
def test_gibbs_sampling_reaches_the_distribution_of_the_energy() -> None:
    machine = small_machine()
    exact = torch.softmax(-machine.free_energy(all_states(4)), 0)

    drawn = machine.gibbs(torch.zeros(20_000, 4), 30)

    place = (drawn @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    seen = torch.bincount(place, minlength=16) / len(drawn)
    np.testing.assert_allclose(seen, exact, atol=0.015)


def test_a_gaussian_machine_has_the_gradient_of_its_likelihood() -> None:
    """With chains from the data itself nothing is left to learn."""
    machine = RBM(6, 3, "gaussian")
    data = torch.randn(32, 6)

    machine.contrast(data, data).backward()

    assert all(p.grad.abs().max() < 1e-6 for p in machine.parameters())


@pytest.mark.parametrize("is_persistent", [False, True])
def test_pretraining_makes_the_data_likely(is_persistent: bool) -> None:
    """Images of a bright upper or lower half become likelier than noise."""
    stack = DBN(2, size_px=4, width=0.02)
    plan = PretrainPlan(150, 32, (5e-3, 5e-2), 1e-4, (1, 2), is_persistent)

    def draw(size: int) -> Tensor:
        images = -torch.ones(size, 3, 4, 4)
        upper = torch.rand(size) < 0.5
        images[upper, :, :2] = 1
        images[~upper, :, 2:] = 1
        return images + 0.1 * torch.randn_like(images)

    pretrain(stack, draw, plan)

    machine = stack.stack[0]
    data = draw(200).flatten(1)
    noise = data[:, torch.randperm(data.shape[1])]
    assert machine.free_energy(data).mean() < machine.free_energy(noise).mean() - 5
    drawn = stack.draw(torch.randn(50, 3, 4, 4), 50)
    contrast = (drawn[:, :, :2].mean((1, 2, 3)) - drawn[:, :, 2:].mean((1, 2, 3))).abs()
    assert drawn.shape == (50, 3, 4, 4)
    assert contrast.mean() > 1  # of 2: halves, not noise


def test_a_deep_belief_network_knows_no_upper_side() -> None:
    network = DBN(4, size_px=8, width=0.05).eval()
    image = torch.randn(3, 3, 8, 8)

    predicted = network(image)

    for turns in range(4):
        turned = image.rot90(turns, (2, 3))
        np.testing.assert_allclose(
            network(turned).detach(), predicted.detach(), atol=1e-5
        )
        np.testing.assert_allclose(
            network(turned.flip(3)).detach(), predicted.detach(), atol=1e-5
        )


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_steps_on_the_device_are_what_training_unrolled(cell: str) -> None:
    network = RecurrentCNN(4, width=0.25, cell=cell, memory=16).eval()  # type: ignore[arg-type]
    clips, classes = torch.randn(2, 5, 3, 32, 32), torch.randint(0, 4, (2, 5))

    state, predicted = torch.zeros(2, network.state_size), []
    for frame in clips.unbind(1):
        logits, state = network(frame, state)
        predicted.append(logits)

    assert network.state_size == (16 if cell == "gru" else 32)
    stepped = cross_entropy(torch.stack(predicted, 1).flatten(0, 1), classes.flatten())
    assert network.loss(clips, classes).item() == pytest.approx(
        stepped.item(), abs=1e-5
    )


def test_a_memory_changes_what_is_said_of_the_same_frame() -> None:
    network = RecurrentCNN(4, width=0.25, memory=16).eval()
    frame = torch.randn(1, 3, 32, 32)

    first, state = network(frame, torch.zeros(1, 16))
    second, _ = network(frame, state)

    assert not torch.allclose(first, second)
