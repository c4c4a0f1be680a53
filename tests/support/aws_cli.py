"""Commands of the AWS CLI, held against botocore's models."""

from __future__ import annotations

import re
import shlex
from typing import Any

AWS_COMMAND = re.compile(r"\baws (?:--\S+ \S+ )*(?!sso )([a-z0-9-]+) ([a-z-]+)( .*)?$")


def check_aws_command(text: str) -> None:
    """Assert that the AWS command at the end of a text has an operation, its required parameters, and no others."""
    from botocore.session import get_session

    found = AWS_COMMAND.search(text)
    assert found is not None, text
    service, operation, rest = found.groups()
    model = get_session().get_service_model(service)
    name = "".join(part.capitalize() for part in operation.split("-"))
    shape: Any = model.operation_model(name).input_shape
    assert shape is not None
    words = [word for word in shlex.split(rest or "") if word[:2] == "--" and word not in ("--query", "--output")]
    given = {"".join(part.capitalize() for part in word[2:].split("-")) for word in words}
    assert set(shape.required_members) <= given <= set(shape.members)
    if "ParameterNameValues" in given:
        assert {"ParameterName", "ParameterValue"} == set(shape.members["ParameterNameValues"].member.members)
