"""Extract the features of `fidelity` on a cluster. The process of the command computes all scores from them.

The rows come back in the order of the set, so that every sum over them is computed as on one machine, to the last bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from inception_v3.cluster.predictions import ImagePart, split
from inception_v3.cluster.run import Note, run_parts
from inception_v3.cluster.session import Cluster
from inception_v3.errors import InputError
from inception_v3.fidelity.conventions import find_convention
from inception_v3.fidelity.features import FeatureResult, feature_results
from inception_v3.fidelity.image_sets import ImageSet
from inception_v3.fidelity.network import FeatureNetwork, load_network
from inception_v3.fidelity.options import FidelityOptions
from inception_v3.images.find import LeftOut
from inception_v3.images.located import LocatedImage, locate_in
from inception_v3.inference.schedule import Result


@dataclass(frozen=True)
class FeatureSetJob:
    """The network and the convention by their names, and the network's checksum."""

    weights: str
    checksum: str
    like: str | None
    mode: str | None
    dtype: str
    device: str
    any_weights: bool
    batch_size: int

    def open(self) -> Callable[[ImagePart], list[FeatureResult]]:
        options = FidelityOptions(device=self.device)
        network = load_network(
            self.weights,
            dtype=self.dtype,  # type: ignore[arg-type]
            device=self.device,
            any_weights=self.any_weights,
            callers=options.callers(),
        )
        if network.checksum != self.checksum:
            fault = "is another network on this node; copy it to all nodes, or give a path on shared storage"
            raise InputError(f"{self.weights}: {fault}")
        convention = find_convention(self.like, self.mode)

        def compute(part: ImagePart) -> list[FeatureResult]:
            results = feature_results(part.sources(), network, convention, self.batch_size, None)
            pairs = zip(part.images, results, strict=True)
            return [Result(image, result.info, result.outputs, result.error) for image, result in pairs]

        return compute


def check_on_cluster(options: FidelityOptions) -> None:
    """Raises InputError for options that need the whole set in one process."""
    if options.dtype == "int8":
        raise InputError("--precision int8: its calibration cannot be sent to actors; leave out --ray", exit_status=2)


def compute_on(cluster: Cluster, options: FidelityOptions, note: Note) -> Callable[..., Iterator[FeatureResult]]:
    """The `ComputeSet` of a cluster."""

    def compute(image_set: ImageSet, network: FeatureNetwork, batch_size: int) -> Iterator[FeatureResult]:
        weights = Path(str(options.weights))
        job = FeatureSetJob(
            str(weights.absolute()) if weights.exists() else str(weights),
            network.checksum,
            options.like,
            options.mode,
            network.dtype,
            str(options.device),
            options.any_weights,
            batch_size,
        )
        parts = split(_locate(image_set), batch_size, batch_size, cluster.actors[1])
        for result in run_parts(cluster, job, parts, note):
            yield from result.value

    return compute


def _locate(image_set: ImageSet) -> Iterator[LocatedImage]:
    left_out = LeftOut()
    for file in image_set.files():
        yield from locate_in(file, left_out)
    left_out.warn()
