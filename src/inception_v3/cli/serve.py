"""`inception-v3 serve`"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from inception_v3.cli.common import (
    END_POINTS_HELP,
    NO_FACTS,
    TOKEN_VARIABLE,
    Device,
    FastestPrecision,
    MinAgreement,
    ModelFacts,
    Names,
    OptionalBatchSize,
    end_points_option,
    engine_option,
    read_token,
    running_option,
    warn,
)
from inception_v3.errors import InputError
from inception_v3.inference.engines.registry import CHOICES
from inception_v3.support.packages import require_packages

PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client", "jinja2")


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Models as for `predict`, each as PATH, NAME=PATH or NAME:VERSION=PATH; a folder of models; or a "
            "folder of versions 1, 2, 3 ... of which the highest is served.",
        ),
    ],
    host: Annotated[str, running_option(metavar="ADDRESS", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, running_option(min=0, max=65535, metavar="N", help="Port to listen at; 0 for any.")] = 8000,
    unix_socket: Annotated[
        Path | None, running_option(metavar="FILE", help="Listen at a Unix socket instead of --host and --port.")
    ] = None,
    watch: Annotated[
        bool, running_option("--watch", help="Load a model again when its file changes, and new versions in a folder.")
    ] = False,
    token_file: Annotated[
        Path | None,
        running_option(
            metavar="FILE",
            help=f"Require the token in this file from clients (Authorization: Bearer TOKEN); or set {TOKEN_VARIABLE}.",
        ),
    ] = None,
    trusted_proxy: Annotated[
        str | None,
        running_option(
            metavar="ADDRESS,...", help="Addresses or networks of proxies whose X-Forwarded-For is believed."
        ),
    ] = None,
    deadline: Annotated[
        float,
        running_option(min=0.001, max=3600, metavar="SECONDS", help="Time for a response; then it is 504."),
    ] = 30.0,
    queue: Annotated[
        int, running_option(min=1, metavar="N", help="Images of a model in flight, above which a response is 503.")
    ] = 256,
    max_images: Annotated[int, running_option(min=1, metavar="N", help="Images in one request.")] = 128,
    max_pixels: Annotated[
        float, running_option(min=0.01, max=178, metavar="MILLIONS", help="Million pixels of one image.")
    ] = 50.0,
    max_body: Annotated[
        int, running_option(min=1, max=1024, metavar="MIB", help="Size of the body of a request, in MiB.")
    ] = 32,
    batch_size: OptionalBatchSize = None,
    end_points: Annotated[
        Names | None, end_points_option(help=f"Return these end points too, on request{END_POINTS_HELP}")
    ] = None,
    engine: Annotated[str, engine_option(CHOICES)] = "auto",
    precision: FastestPrecision = None,
    min_agreement: MinAgreement = None,
    device: Device = None,
    facts: ModelFacts = NO_FACTS,
) -> None:
    """Serve networks over HTTP: the Open Inference Protocol v2 (KServe, Triton), and uploads of images.

    The log is JSON, one line for each request, on stderr. Ctrl-C and SIGTERM end the server after the requests in
    flight; then the exit status is 0.
    """
    require_packages(PACKAGES, "serve", "serve")
    from inception_v3.serve.limits import Limits
    from inception_v3.serve.models import Models, OpenOptions
    from inception_v3.serve.server import Place, run

    token = read_token(token_file)
    if unix_socket is None and token is None and not _is_loopback(host):
        warn(f"--host {host}: other computers can use this server; require a token with --token-file")
    limits = Limits(
        body=max_body * 2**20,
        bodies=max(max_body * 2**20, Limits.bodies),
        images=max_images,
        pixels=int(max_pixels * 1e6),
        queue=max(queue, max_images),
        deadline=deadline,
    )
    options = OpenOptions(engine, precision, device, min_agreement, tuple(end_points or ()), batch_size, facts)
    opened = Models(models, options, limits.queue)
    run(opened, Place(host, port, unix_socket), limits, token, _addresses(trusted_proxy), watch)


def _is_loopback(host: str) -> bool:
    """Whether only programs on this computer can connect to an address. Other names than localhost do not count."""
    from ipaddress import ip_address

    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _addresses(text: str | None) -> tuple[str, ...]:
    """The values of --trusted-proxy. Raises InputError."""
    from ipaddress import ip_network

    addresses = tuple(filter(None, (text or "").split(",")))
    for address in addresses:
        try:
            ip_network(address, strict=False)
        except ValueError as error:
            fault = f"--trusted-proxy {address}: give an address such as 10.0.0.1, or a network such as 10.0.0.0/8"
            raise InputError(fault, exit_status=2) from error
    return addresses
