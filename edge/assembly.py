"""Put a pipeline together from files; where bundles, profile and scale meet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.bundle import (
    CLASSIFIER,
    LOCATOR,
    Bundle,
    BundleRefused,
    crop_size,
    load_bundle,
)
from edge.engines.opening import open_engine
from edge.location import locator_spec
from edge.pipeline import Pipeline
from edge.profile import IDENTITY_PROFILE, Profile, load_profile
from edge.scale import Scale
from edge.settings import EngineKind
from edge.taxonomy import TASKS


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What pipelines are made of; read and verified once, shared by all workers."""

    profile: Profile
    classifier: Bundle
    locator: Bundle | None
    scale: Scale
    engine: EngineKind = "onnxruntime"
    threads: int = 1

    def open_pipeline(self) -> Pipeline:
        """Open engines in this thread, prove them, and return a pipeline."""
        return Pipeline(
            profile=self.profile,
            classifier=self.classifier,
            classifier_engine=open_engine(self.classifier, self.engine, self.threads),
            locator=self.locator,
            locator_engine=(
                open_engine(self.locator, self.engine, self.threads)
                if self.locator is not None
                else None
            ),
            scale=self.scale,
        )


def read_parts(
    *,
    classifier: Path | None = None,
    locator: Path | None = None,
    finds_cells: bool = True,
    profile: Path | None = None,
    engine: EngineKind = "onnxruntime",
    threads: int = 1,
) -> Parts:
    """Read and check the files that a pipeline needs; None is what is shipped.

    Raises
    ------
    BundleRefused, ConfigurationInvalid, ProfileMismatch
        A file is missing, altered or does not fit.
    """
    model = load_bundle(classifier or CLASSIFIER)
    if model.record.task not in TASKS:
        raise BundleRefused(
            f"{model.id}: its task is {model.record.task!r}, expected one of "
            f"{sorted(TASKS)}; is this the locator?"
        )
    crop_size(model)
    finder = load_bundle(locator or LOCATOR, task="location") if finds_cells else None
    if finder is not None:
        locator_spec(finder)
    chosen = IDENTITY_PROFILE if profile is None else load_profile(profile)
    scale = Scale(chosen.record.pixel_size_um)
    return Parts(chosen, model, finder, scale, engine, threads)
