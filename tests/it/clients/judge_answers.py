"""Holds a gateway's answers against its OpenAPI document, which another validator reads first.

stdin: {"document": …, "answers": [{"path", "method", "status", "headers", "body"}]}
stdout: {"wrong": [what does not conform], "unseen": [documented answers that no request had]}
"""
import json, sys
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

METHODS = ("get", "post")
given = json.load(sys.stdin)
document = given["document"]
wrong = [f"the document: {error.message} at {list(error.absolute_path)}"
         for error in OpenAPIV31SpecValidator(document).iter_errors()]
registry = Registry().with_resource("urn:document", Resource(contents=document, specification=DRAFT202012))


def resolved(part):
    while "$ref" in part:
        target = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name.replace("~1", "/").replace("~0", "~")]
        part = target
    return part


def absolute(schema):
    """References of a part lead into the whole document."""
    if isinstance(schema, dict):
        return {name: f"urn:document{value}" if name == "$ref" else absolute(value) for name, value in schema.items()}
    return [absolute(item) for item in schema] if isinstance(schema, list) else schema


def judge(answer):
    documented = document["paths"][answer["path"]][answer["method"]]["responses"].get(str(answer["status"]))
    if documented is None:
        return "is not documented"
    documented = resolved(documented)
    for name in documented.get("headers", {}):
        if name.lower() not in answer["headers"] and answer["status"] != 207:
            return f"lacks {name}"
    kind = answer["headers"].get("content-type", "").split(";")[0]
    if kind not in documented["content"]:
        return f"is {kind}"
    if not kind.endswith("json"):
        return None
    schema = absolute(documented["content"][kind]["schema"])
    errors = [error.message for error in
              Draft202012Validator(schema, registry=registry).iter_errors(json.loads(answer["body"]))]
    return "; ".join(errors) or None


for answer in given["answers"]:
    said = judge(answer)
    if said:
        wrong.append(f"{answer['method']} {answer['path']} {answer['status']} {said}: {answer['body'][:500]}")
seen = {(answer["path"], answer["method"], str(answer["status"])) for answer in given["answers"]}
unseen = [f"{method} {path} {status}" for path, methods in document["paths"].items() for method in METHODS
          if method in methods for status in methods[method]["responses"] if (path, method, status) not in seen]
print(json.dumps({"wrong": wrong, "unseen": unseen}))
