"""Says whether the document in a file is good OpenAPI, or Swagger: validate_openapi.py FILE..."""

import json
import sys

from openapi_spec_validator import validate

for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        document = json.load(file)
    # The version is the document's own: "swagger": "2.0" or "openapi": "3.1.0".
    validate(document)
    print(f"{name}: good")
