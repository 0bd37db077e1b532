"""Errors that become HTTP responses."""

from http import HTTPStatus

from inception_v3.errors import printable

MAX_MESSAGE = 1000  # characters


class RequestError(Exception):
    """A request that gets no result: the status of the response, and the text of its {"error": ...}.

    `retry_after` is the number of seconds after which the client may try again.
    """

    def __init__(self, message: str, status: int = HTTPStatus.BAD_REQUEST, *, retry_after: int | None = None) -> None:
        super().__init__(printable(message)[:MAX_MESSAGE])
        self.status, self.retry_after = status, retry_after

    @property
    def headers(self) -> dict[str, str]:
        if self.status == HTTPStatus.REQUEST_TIMEOUT:
            return {"Connection": "close"}  # the rest of the body may still come
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class ClientGoneError(Exception):
    """The client has closed the connection before its response."""
