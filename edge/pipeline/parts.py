"""Put a pipeline together from files; where bundles, profile and scale meet."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edge.artifacts.bundle import (
    CLASSIFIER,
    LOCATOR,
    MODEL,
    ON_REFERENCE,
    SEQUENCE,
    Bundle,
    BundleRefused,
    crop_size,
    load_bundle,
)
from edge.artifacts.profile import (
    IDENTITY_PROFILE,
    Profile,
    ProfileMismatch,
    load_profile,
)
from edge.engines import EngineFailed
from edge.engines.cuda import GpuFailed
from edge.engines.opening import open_engine, stale_engine
from edge.pipeline.classifiers import Classifier
from edge.pipeline.known_colours import load_known_colours
from edge.pipeline.pipeline import Pipeline, abstain_below
from edge.pipeline.pixel_size import FrameScale, Scale
from edge.settings.files import DeviceFile, ReplaySettings
from edge.settings.models import ON_CPU, EngineSettings, SequenceSettings
from edge.stages.decision import Adaptation
from edge.stages.detection import locator_spec
from edge.taxonomy import TASKS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Parts:
    """The verified files that a pipeline is built from; shared by all workers."""

    profile: Profile
    classifier: Bundle
    locator: Bundle | None
    scale: FrameScale
    engine: EngineSettings = ON_CPU
    sequence: Bundle | None = None
    sequence_engine: EngineSettings = ON_CPU
    memory_frames: int = 0

    @property
    def locator_engine(self) -> EngineSettings:
        """Settings of the locator's engine: those of the classifier, in float32."""
        return msgspec.structs.replace(self.engine, precision="fp32")

    def open_pipeline(self) -> Pipeline:
        """Open engines in this thread, run their self-test, and return a pipeline."""
        with ExitStack() as opened:  # a failure leaves none open
            engine = opened.enter_context(
                closing(open_engine(self.classifier, self.engine))
            )
            finder = None
            if self.locator is not None:
                finder = open_engine(self.locator, self.locator_engine)
            opened.pop_all()
        return Pipeline(
            profile=self.profile,
            classifiers=(
                Classifier(
                    self.classifier,
                    engine,
                    abstain_below(self.classifier, self.profile),
                    self._adaptation(),
                ),
            ),
            locator=self.locator,
            locator_engine=finder,
            scale=self.scale,
            known_colours=load_known_colours(),
        )

    def _adaptation(self) -> Adaptation | None:
        site = self.profile.record.confidence
        if site is None:
            return None
        return Adaptation(np.array(site.scale), np.array(site.bias))

    def self_test(self) -> str:
        """Open the engines again, each with its golden input; return what was proven.

        Raises
        ------
        EngineFailed, BundleRefused
            A model cannot be opened, or its golden outputs differ from those at export.
        """
        start_s = time.monotonic()
        self.open_pipeline().close()
        spent_s = time.monotonic() - start_s
        models = [self.classifier, *([] if self.locator is None else [self.locator])]
        return (
            f"{' and '.join(m.id for m in models)}: files intact, golden outputs "
            f"reproduced by {self.engine.engine} in {spent_s:.1f} s"
        )

    def build_stale_engines(self) -> None:
        """Build the engines that TensorRT may not load, and log why.

        Raises
        ------
        EngineFailed
            There is no GPU or no TensorRT, or the building failed.
        """
        models = [(self.classifier, self.engine)]
        if self.locator is not None:
            models.append((self.locator, self.locator_engine))
        if self.sequence is not None:
            models.append((self.sequence, self.sequence_engine))
        for bundle, settings in models:
            if settings.engine == "tensorrt":
                _build_if_stale(bundle, settings)


def _build_if_stale(bundle: Bundle, settings: EngineSettings) -> None:
    """Build in another process: it needs `export`, which nothing here imports."""
    _, reasons = stale_engine(bundle, settings)
    try:
        if not reasons:
            open_engine(bundle, settings).close()
            return
    except GpuFailed:
        raise
    except (EngineFailed, BundleRefused) as error:
        reasons = [str(error)]
    log.warning(
        "model=%s the engine is built, which takes minutes: %s",
        bundle.id,
        "; ".join(reasons),
    )
    command = [sys.executable, "-m", "edge", "build", str(bundle.folder)]
    command += ["--precision", settings.precision]
    command += ["--batch", ",".join(str(rows) for rows in settings.batch)]
    command += [] if settings.has_graphs else ["--no-graphs"]
    if settings.is_mapped is not None:
        command += ["--mapped" if settings.is_mapped else "--copied"]
    if settings.engines is not None:
        command += ["--engines", str(settings.engines)]
    code = subprocess.run(command, check=False).returncode  # noqa: S603
    if code != 0:
        raise EngineNotBuilt(" ".join(command[2:]), code)


class EngineNotBuilt(EngineFailed):
    """Building failed, and the screen says why; its exit code is passed on."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"`{command}` ended with {code}, expected 0; see above")
        self.exit_code = code if code > 0 else 1


def read_parts(
    *,
    classifier: Path | None = None,
    locator: Path | None = None,
    finds_cells: bool = True,
    profile: Path | None = None,
    engine: EngineSettings = ON_CPU,
    sequence: SequenceSettings | None = None,
) -> Parts:
    """Read and check the files that a pipeline needs; None means the shipped one.

    Which classifier that is depends on the profile, see `shipped_classifier`.

    Raises
    ------
    BundleRefused, ConfigurationInvalid, ProfileMismatch
        A file is missing, altered or does not fit.
    """
    chosen = IDENTITY_PROFILE if profile is None else load_profile(profile)
    model = load_model(classifier or shipped_classifier(chosen), engine)
    finder = load_bundle(locator or LOCATOR, task="location") if finds_cells else None
    if finder is not None:
        locator_spec(finder)
    refuse_other_confidence(chosen, model)
    scale = Scale(chosen.record.pixel_size_um)
    if sequence is None:
        return Parts(
            profile=chosen,
            classifier=model,
            locator=finder,
            scale=scale,
            engine=engine,
        )
    follows = load_model(sequence.bundle or SEQUENCE, sequence)
    if follows.record.state_size is None:
        raise BundleRefused(
            f"{follows.id}: keeps no state, expected a recurrent model for [sequence]; "
            "train one with `hemascope train rnn --task change`"
        )
    return Parts(
        profile=chosen,
        classifier=model,
        locator=finder,
        scale=scale,
        engine=engine,
        sequence=follows,
        sequence_engine=sequence,
        memory_frames=sequence.memory_frames,
    )


def parts_of(settings: DeviceFile | ReplaySettings) -> Parts:
    """Read the files that a device's settings name; raises as `read_parts` does."""
    return read_parts(
        classifier=settings.model.bundle,
        locator=settings.location.bundle,
        finds_cells=settings.location.mode == "cells",
        profile=settings.profile,
        engine=settings.model,
        sequence=settings.sequence,
    )


def shipped_classifier(profile: Profile) -> Path:
    """Return the shipped bundle that was trained on the colours of this profile."""
    return CLASSIFIER if profile.record.reference is None else ON_REFERENCE


def load_model(folder: Path, settings: EngineSettings) -> Bundle:
    """Load a bundle that names cells, in the precision that is asked for."""
    model = load_bundle(folder)
    if model.record.task not in TASKS:
        raise BundleRefused(
            f"{model.id}: its task is {model.record.task!r}, expected one of "
            f"{sorted(TASKS)}; name a classifier in [model], not the locator"
        )
    crop_size(model)
    model.model_of(settings.precision)
    return model


def refuse_other_confidence(profile: Profile, model: Bundle) -> None:
    """Refuse a profile whose confidence was measured with another model."""
    site = profile.record.confidence
    if site is None:
        return
    if site.model != model.record.files[MODEL] or site.classes != model.labels:
        raise ProfileMismatch(
            f"the profile's confidence was measured with model {site.model[:12]} of "
            f"{list(site.classes)}, not with {model.id}; run `hemascope calibrate "
            "confidence` again, or go back with `hemascope calibrate versions`"
        )
    sizes = {len(site.scale), len(site.bias), len(site.classes)}
    if len(sizes) > 1 or not np.isfinite(site.bias).all():
        raise ProfileMismatch(
            f"the profile's confidence has {len(site.scale)} scales and "
            f"{len(site.bias)} biases, expected {len(site.classes)} finite ones; "
            "calibrate again"
        )
