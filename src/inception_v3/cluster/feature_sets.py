"""Extract the features of `fidelity` on a cluster. The process of the command computes all scores from them.

The rows come back in the order of the set, so that every sum over them is computed as on one machine, to the last bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from inception_v3.cluster.predictions import ImagePart, split
from inception_v3.cluster.run import Note, check_same_model, path_on_nodes, run_parts
from inception_v3.cluster.session import Cluster
from inception_v3.errors import InputError
from inception_v3.fidelity.features import ComputeSet, FeatureResult, feature_results
from inception_v3.fidelity.image_sets import ImageSet
from inception_v3.fidelity.network import FeatureNetwork, load_network
from inception_v3.fidelity.options import FidelityOptions
from inception_v3.images.find import LeftOut
from inception_v3.images.located import LocatedImage, locate_in
from inception_v3.inference.schedule import Result


@dataclass(frozen=True)
class FeatureSetJob:
    """The options that choose the network and the convention, and the network's checksum."""

    options: FidelityOptions
    checksum: str
    batch_size: int

    def open(self) -> Callable[[ImagePart], list[FeatureResult]]:
        options, convention = self.options, self.options.convention()
        network = load_network(
            options.weights,
            dtype=options.dtype,
            device=options.device,
            any_weights=options.any_weights,
            callers=options.callers(),
        )
        check_same_model(str(options.weights), network.checksum, self.checksum)

        def compute(part: ImagePart) -> list[FeatureResult]:
            results = feature_results(part.sources(), network, convention, self.batch_size, None)
            pairs = zip(part.images, results, strict=True)
            return [Result(image, result.info, result.outputs, result.error) for image, result in pairs]

        return compute


def check_on_cluster(options: FidelityOptions) -> None:
    """Raises InputError for options that need the whole set in one process."""
    if options.dtype == "int8":
        raise InputError("--precision int8: its calibration cannot be sent to actors; leave out --ray", exit_status=2)


def compute_on(cluster: Cluster, options: FidelityOptions, note: Note) -> ComputeSet:
    """The function that computes the features of sets on a cluster. An actor uses all its cores, not `workers`."""
    options = replace(options, weights=path_on_nodes(str(options.weights)), workers=None)

    def compute(image_set: ImageSet, network: FeatureNetwork, batch_size: int) -> Iterator[FeatureResult]:
        parts = split(_locate(image_set), batch_size, batch_size, cluster.actors[1])
        job = FeatureSetJob(options, network.checksum, batch_size)
        yield from chain.from_iterable(run_parts(cluster, job, parts, note))

    return compute


def _locate(image_set: ImageSet) -> Iterator[LocatedImage]:
    """Where the images of `image_set.images()` are. Raises InputError as it does: a damaged archive."""
    left_out = LeftOut()
    for file in image_set.files():
        yield from locate_in(file, left_out)
    left_out.warn()
