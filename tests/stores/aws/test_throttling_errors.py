"""Every throttling error that DynamoDB documents, with every reason, as botocore hands it on from HTTP."""

from __future__ import annotations

from itertools import product

import pytest

from saltctl.detection.write_meter import throttled_by_key_range
from saltctl.errors import ThrottledError
from saltctl.settings import Settings
from saltctl.stores.aws.client import create_client, to_saltctl_error
from tests.support.stubs import REASONS, THROTTLES, AwsStub, throttled


def test_only_a_key_range_of_the_table_is_heat(settings: Settings) -> None:
    """Three errors with two spellings, sixteen reasons: all are throttling, and salting helps against two of them."""
    from botocore.exceptions import ClientError

    with AwsStub(settings.aws_endpoint_url or "") as stub:
        client = create_client(stub.settings(settings), "dynamodb", attempts=1)
        heat = set()
        for code, reason in product(THROTTLES, REASONS):
            answer = throttled(code, reason)
            stub.rule = lambda operation, request, answer=answer: answer  # type: ignore[misc]
            with pytest.raises(ClientError) as raised:
                client.put_item(TableName="messages", Item={"k": {"S": "v"}})
            assert isinstance(to_saltctl_error(raised.value, "'messages'"), ThrottledError), (code, reason)
            if throttled_by_key_range(raised.value):
                heat.add((code, reason))
    assert len(REASONS) == 16
    key_ranges = {"TableReadKeyRangeThroughputExceeded", "TableWriteKeyRangeThroughputExceeded"}
    assert heat == set(product(THROTTLES, key_ranges))
