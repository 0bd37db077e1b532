"""The description of the server for other programs (OpenAPI 3.1), and a page that shows it."""

from typing import TYPE_CHECKING, Any

from inception_v3 import __version__
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.serve.guard import OPEN_PATHS
from inception_v3.serve.live import FORMATS, METHOD, SHOW
from inception_v3.serve.protocol import DATATYPES, INPUT
from inception_v3.support.pages import content_hash

if TYPE_CHECKING:
    from inception_v3.serve.limits import Limits
    from inception_v3.serve.models import Models

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
IMAGE: Schema = {"type": "string", "format": "image-base64", "contentEncoding": "base64", "minLength": 1}
FILE: Schema = {"type": "string", "format": "binary"}


def _object(required: Schema, optional: Schema | None = None) -> Schema:
    return {"type": "object", "properties": required | (optional or {}), "required": [*required]}


def _array(items: Schema, minimum: int = 0, maximum: int | None = None) -> Schema:
    bounds = {"minItems": minimum} | ({} if maximum is None else {"maxItems": maximum})
    return {"type": "array", "items": items} | bounds


def _optional(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _refer(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _responses(content: dict[str, Schema], *errors: int) -> Schema:
    """The response 200 with the schema of each media type, and errors, all of one form."""
    error = {"description": "Error", "content": {"application/json": {"schema": _refer("error")}}}
    ok = {"description": "OK", "content": {kind: {"schema": schema} for kind, schema in content.items()}}
    return {"200": ok} | {str(status): error for status in errors} | {"default": error}


def _get(summary: str, schema: Schema, *errors: int, kind: str = "application/json", **more: Any) -> Schema:
    return {"get": {"summary": summary, "responses": _responses({kind: schema}, *errors)} | more}


def _request_schemas(limits: "Limits") -> dict[str, Schema]:
    parameters = _optional({"type": "object", "additionalProperties": True})
    request_input = _object(
        {
            "name": {"const": INPUT},
            "datatype": {"enum": [*DATATYPES, "BYTES"]},
            "shape": _array(COUNT, 1, 4),
            "data": _array({"type": ["array", "number", "string"]}, 1),
        },
        {"parameters": parameters},
    )
    request_output = _object(
        {"name": STRING},
        {
            "parameters": _optional(
                {
                    "type": "object",
                    "properties": {"binary_data": _optional(BOOLEAN), "classification": _optional(COUNT)},
                }
            )
        },
    )
    named_image = _object({"data": IMAGE}, {"name": _optional(STRING)})
    return {
        "inference_request": _object(
            {"inputs": _array(request_input, 1, 1)},
            {
                "id": _optional(STRING),
                "outputs": _optional(_array(request_output)),
                "parameters": _optional(
                    {
                        "type": "object",
                        "properties": {"binary_data_output": _optional(BOOLEAN)},
                    }
                ),
            },
        ),
        "images": _object({"images": _array({"anyOf": [IMAGE, named_image]}, 1, limits.images)}),
    }


def _description_schemas() -> dict[str, Schema]:
    duration = _object({"count": COUNT, "ns": COUNT})
    tensor = _object({"name": STRING, "datatype": STRING, "shape": _array({"type": "integer", "minimum": -1})})
    statistic = _object(
        {
            "name": STRING,
            "version": STRING,
            "last_inference": COUNT,
            "inference_count": COUNT,
            "execution_count": COUNT,
            "inference_stats": {"type": "object", "additionalProperties": duration},
            "batch_stats": _array(
                _object(
                    {
                        "batch_size": COUNT,
                        "compute_input": duration,
                        "compute_infer": duration,
                        "compute_output": duration,
                    }
                )
            ),
        }
    )
    return {
        "error": _object({"error": STRING}),
        "metadata_server_response": _object({"name": STRING, "version": STRING, "extensions": _array(STRING)}),
        "metadata_model_response": _object(
            {
                "name": STRING,
                "versions": _array(STRING),
                "platform": STRING,
                "inputs": _array(tensor),
                "outputs": _array(tensor),
            }
        ),
        "stats_model_response": _object({"model_stats": _array(statistic)}),
        "repository_index": _array(
            _object({"name": STRING, "version": STRING, "state": {"enum": ["READY", "UNAVAILABLE"]}, "reason": STRING})
        ),
    }


def _result_schemas() -> dict[str, Schema]:
    binary_size = {"binary_data_size": COUNT}
    response_output = _object(
        {"name": STRING, "datatype": {"enum": ["FP32", "BYTES"]}, "shape": _array(COUNT)},
        {"data": _array({"type": ["number", "string"]}), "parameters": _object(binary_size)},
    )
    failed = _object({"image": STRING, "error": STRING})
    predicted = _object({"class": STRING, "probability": {"type": "number", "minimum": 0, "maximum": 1}})
    number = {"type": "number"}
    explanation = {
        "model": STRING, "version": STRING, "image": STRING, "method": STRING, "class": STRING, "class_index": COUNT,
        "head": STRING, "end_point": STRING, "score": number, "shape": _array(COUNT, 2, 2),
        "box": _array(number, 4, 4), "remark": _optional(STRING), "values": _array(_array(number)),
    }  # fmt: skip
    activity = {
        "name": STRING, "version": STRING, "engine": STRING, "has_classes": BOOLEAN, "queue": COUNT,
        "in_flight": COUNT, "images": COUNT, "batches": COUNT, "engine_seconds": number,
    }  # fmt: skip
    return {
        "explanation": _object(explanation),
        "activity": _object({"models": _array(_object(activity))}),
        "inference_response": _object(
            {"model_name": STRING, "model_version": STRING, "outputs": _array(response_output)}, {"id": STRING}
        ),
        "predictions": _results({"anyOf": [_object({"image": STRING, "predictions": _array(predicted)}), failed]}),
        "features": _results({"anyOf": [_object({"image": STRING, "features": {"type": "object"}}), failed]}),
    }


def _results(result: Schema) -> Schema:
    return _object({"model": STRING, "version": STRING, "results": _array(result, 1)})


def openapi(models: "Models", limits: "Limits", has_token: bool) -> dict[str, Any]:
    """The OpenAPI document. The names and versions of the models are those of now."""
    served = models.names()
    names, versions = ([*dict.fromkeys(part)] for part in zip(*served, strict=True)) if served else ([], [])
    path = [_parameter("name", "path", {"enum": names}), _parameter("version", "path", {"enum": versions})]
    operations: dict[str, Any] = {
        "/v2": _get("The server", _refer("metadata_server_response")),
        "/v2/health/live": _get("Whether the server runs", _object({"live": BOOLEAN})),
        "/v2/health/ready": {
            "get": {
                "summary": "Whether all models are ready",
                "responses": {
                    status: {
                        "description": text,
                        "content": {"application/json": {"schema": _object({"ready": BOOLEAN, "live": BOOLEAN})}},
                    }
                    for status, text in (("200", "Ready"), ("503", "Not ready"))
                },
            }
        },
        "/v2/models/stats": _get("Statistics of all models", _refer("stats_model_response")),
        "/v2/repository/index": {
            "post": {
                "summary": "All models and their states",
                "requestBody": _body(
                    {"application/json": {"schema": _object({}, {"ready": _optional(BOOLEAN)})}}, required=False
                ),
                "responses": _responses({"application/json": _refer("repository_index")}, 400),
            }
        },
    } | _upload_operations(models, limits, names, versions)
    for suffix, parameters in (("", path[:1]), ("/versions/{version}", path)):
        base = "/v2/models/{name}" + suffix
        about: dict[str, Any] = {"parameters": parameters}
        ready = _object({"name": STRING, "ready": BOOLEAN})
        operations |= {
            base: _get("A model", _refer("metadata_model_response"), 404, **about),
            base + "/ready": _get("Whether a model is ready", ready, 404, **about),
            base + "/config": _get("The configuration of a model", {"type": "object"}, 404, **about),
            base + "/stats": _get("Statistics of a model", _refer("stats_model_response"), 404, **about),
            base + "/infer": {"post": _infer_operation() | about},
        }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "inception-v3",
            "version": __version__,
            "description": "Inception V3 networks: the Open Inference Protocol v2 with extensions of Triton, and "
            "uploads of images.",
        },
        "paths": operations,
        "components": {"schemas": _description_schemas() | _request_schemas(limits) | _result_schemas()},
    }
    if has_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        for open_path in OPEN_PATHS:
            operations[open_path]["get"]["security"] = []
    return document


def _upload_operations(models: "Models", limits: "Limits", names: list[str], versions: list[str]) -> Schema:
    """The operations beside the protocol: on uploads, of the live page, and about the server."""
    return {
        "/predict": {"post": _image_operation("Classes of images", "predictions", names, versions, limits, _TOP)},
        "/features": {
            "post": _image_operation("Features of images", "features", names, versions, limits, _end_points(models))
        },
        "/explain": {"post": _explain_operation(names, versions)},
        "/": _get("The live page, in which people show images to the models", STRING, kind="text/html"),
        "/live/status": _get("The models and their activity, for the live page", _refer("activity")),
        "/live/model": _get(
            "The parts and the drawing of a model, for the live page",
            {"type": "object"},
            404,
            parameters=_which(names, versions),
        ),
        "/live/look": {"post": _look_operation(names, versions)},
        "/metrics": _get("Metrics for Prometheus", STRING, kind="text/plain"),
        "/openapi.json": _get("This description", {"type": "object"}),
        "/docs": _get("A page that shows this description", STRING, kind="text/html"),
    }


def _parameter(name: str, where: str, schema: Schema, description: str = "") -> Schema:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "schema": schema,
        "description": description,
    }


_TIMEOUT = _parameter("timeout", "query", {"type": "number", "minimum": 1}, "Seconds until the response.")
_TOP = _parameter("top", "query", {"type": "integer", "minimum": 1, "maximum": 999_999_999}, "Classes for each image.")


def _end_points(models: "Models") -> Schema:
    names = sorted({name for key in models.names() for name in models.outputs(*key)})
    return _parameter(
        "end_points", "query", {"type": "array", "items": {"enum": names}}, "Outputs, separated by commas."
    ) | {"explode": False, "style": "form"}


def _body(content: dict[str, Any], *, required: bool = True) -> Schema:
    return {"required": required, "content": content}


def _infer_operation() -> Schema:
    content = {
        "application/json": _refer("inference_response"),
        "application/octet-stream": FILE,
    }
    return {
        "summary": "Run a model",
        "description": "Pixels as UINT8 or FP32, or image files as BYTES, which in JSON are base64. Binary tensor data "
        "follows the JSON, whose length is in the header Inference-Header-Content-Length. The parameter timeout is in "
        "microseconds.",
        "requestBody": _body({"application/json": {"schema": _refer("inference_request")}}),
        "responses": _responses(content, 400, 404, 408, 413, 415, 500, 503, 504),
    }


def _which(names: list[str], versions: list[str]) -> list[Schema]:
    """The parameters that choose a model."""
    return [
        _parameter("model", "query", {"enum": names}, "By default the first."),
        _parameter("version", "query", {"enum": versions}, "By default the highest."),
    ]


def _one_image(
    summary: str, description: str, names: list[str], versions: list[str], content: dict[str, Schema], *more: Schema
) -> Schema:
    """An operation on one image, which is the body."""
    return {
        "summary": summary,
        "description": description,
        "parameters": [*_which(names, versions), _TIMEOUT, *more],
        "requestBody": _body({"image/*": {"schema": FILE | {"minLength": 1}}}),
        "responses": _responses(content, 400, 404, 408, 413, 415, 500, 503, 504),
    }


def _explain_operation(names: list[str], versions: list[str]) -> Schema:
    content = {"application/json": _refer("explanation"), "image/png": FILE}
    return _one_image(
        "Which positions of an image speak for a class", "Grad-CAM, as by `inception-v3 explain`. An exported file has "
        "it for Mixed_7c, by the weights of a linear head.", names, versions, content,
        _parameter("class", "query", STRING, "Name or number; by default the class with the highest score."),
        _parameter("end_point", "query", {"enum": [*BASE_END_POINTS]}, "By default Mixed_7c."),
        _parameter("method", "query", {"enum": [METHOD]}),
        _parameter("format", "query", {"enum": [*FORMATS]}, "png needs the extra `explain`."),
    )  # fmt: skip


def _look_operation(names: list[str], versions: list[str]) -> Schema:
    show = {"type": "array", "items": {"enum": [*SHOW]}, "minItems": 1}
    return _one_image(
        "What the live page shows of an image", "Its form may change with the page.", names, versions,
        {"application/json": {"type": "object"}},
        _parameter("show", "query", show, "Separated by commas; view by default.")
        | {"explode": False, "style": "form"},
        _parameter("part", "query", STRING, "End point, branch or layer of channels and field."),
        _parameter("class", "query", STRING, "Name or number of the class of cam."),
        _TOP,
        _parameter("prepared", "query", BOOLEAN, "Whether the image is the input that an earlier answer returned."),
        _parameter("picture", "query", BOOLEAN, "Whether view has the image itself."),
    )  # fmt: skip


def _image_operation(
    summary: str, schema: str, names: list[str], versions: list[str], limits: "Limits", *parameters: Schema
) -> Schema:
    files = {"type": "object", "minProperties": 1, "additionalProperties": FILE}
    return {
        "summary": summary,
        "parameters": [*_which(names, versions), _TIMEOUT, *parameters],
        "requestBody": _body(
            {
                "image/*": {"schema": FILE | {"minLength": 1}},
                "multipart/form-data": {"schema": files},
                "application/json": {"schema": _refer("images")},
            }
        ),
        "responses": _responses({"application/json": _refer(schema)}, 400, 404, 408, 413, 415, 500, 503, 504),
    }


# ---------------------------------------------------------------------------------------------------- the page

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 0 auto; max-width: 60rem; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font: 600 1rem/1.4 ui-monospace, monospace; margin: 2rem 0 0; overflow-wrap: anywhere }
b { background: #3b6fd4; border-radius: .3rem; color: #fff; font-size: .8rem; padding: .15rem .4rem }
p { margin: .3rem 0 } pre { background: color-mix(in srgb, currentColor 8%, transparent); border-radius: .4rem;
  overflow: auto; padding: .6rem; font-size: .85rem } summary { cursor: pointer }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ info.title }} {{ info.version }}</title><style>{{ style|safe }}</style></head><body>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.description }} The same as <a href="openapi.json">openapi.json</a>.</p>
{% for path, methods in paths.items() %}{% for method, operation in methods.items() %}
<h2><b>{{ method|upper }}</b> {{ path }}</h2>
<p>{{ operation.summary }}.{% if operation.description %} {{ operation.description }}{% endif %}</p>
{% for each in operation.parameters %}<p><code>{{ each.name }}</code> ({{ each.in }}):
{% if each.schema.enum %}one of {{ each.schema.enum|join(", ") }}.{% endif %} {{ each.description }}</p>{% endfor %}
{% for kind, content in (operation.requestBody or {"content": {}}).content.items() %}
<details><summary>body: {{ kind }}</summary><pre>{{ content.schema|tojson(indent=1) }}</pre></details>{% endfor %}
{% for status, response in operation.responses.items() %}{% if status == "200" %}
{% for kind, content in response.content.items() %}
<details><summary>response: {{ kind }}</summary><pre>{{ content.schema|tojson(indent=1) }}</pre></details>{% endfor %}
{% endif %}{% endfor %}{% endfor %}{% endfor %}
<h2>schemas</h2>
{% for name, schema in components.schemas.items() %}
<details><summary>{{ name }}</summary><pre>{{ schema|tojson(indent=1) }}</pre></details>{% endfor %}
</body></html>
"""


def docs_page(description: dict[str, Any]) -> tuple[str, str]:
    """The page, which loads nothing, and its Content-Security-Policy."""
    from jinja2 import Environment

    page = Environment(autoescape=True).from_string(_PAGE).render(description, style=_STYLE)
    return page, f"default-src 'none'; style-src '{content_hash(_STYLE)}'; frame-ancestors 'none'"
