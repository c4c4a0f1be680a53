"""Commands of the AWS CLI with the options of the context, as hints have them."""

from __future__ import annotations

import pytest

from saltctl.settings import Settings
from saltctl.stores.aws_cli import aws_options, with_aws_options
from saltctl.stores.redis.replies.platforms import managed_service

SETTINGS = Settings(aws_profile="my profile", aws_region="eu-north-1", aws_endpoint_url="http://127.0.0.1:4566")
WHERE = "--profile 'my profile' --region eu-north-1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "wait\naws dynamodb describe-table --table-name 't' && saltctl recover",
            f"wait\naws {WHERE} --endpoint-url http://127.0.0.1:4566 dynamodb describe-table --table-name 't' "
            "&& saltctl recover",
        ),
        ("aws sts get-caller-identity", f"aws {WHERE} sts get-caller-identity"),
        ("aws sts get-caller-identity --profile p", "aws --region eu-north-1 sts get-caller-identity --profile p"),
        ("set it: aws elasticache modify-user --user-id u", f"set it: aws {WHERE} elasticache modify-user --user-id u"),
        ("aws configure list", "aws --profile 'my profile' configure list"),
        ("aws configure list-profiles", "aws configure list-profiles"),
        ("aws sso login --profile p", "aws sso login --profile p"),
        ("conversation 'aws sts get-caller-identity' of aws is not", None),
    ],
)
def test_a_command_has_the_options_in_force_once(text: str, expected: str | None) -> None:
    """Those that its service takes. What is quoted stays as it is."""
    once = with_aws_options(text, aws_options(SETTINGS))
    assert once == (expected or text)
    assert with_aws_options(text, {}) == text


def test_a_command_within_another_one_has_them_too() -> None:
    """MemoryDB's command reads the rules that it replaces."""
    platform = managed_service("c.memorydb.eu-north-1.amazonaws.com:6379", {})
    assert platform is not None
    text = with_aws_options(platform.set_user("u", ["+get"]), aws_options(SETTINGS))
    assert f'"$(aws {WHERE} memorydb describe-users' in text
    assert text.startswith(f"aws {WHERE} memorydb update-user")


def test_no_option_repeats_the_environment_or_shows_a_password() -> None:
    """The AWS CLI reads the environment itself."""
    settings = Settings(
        aws_region="r",
        aws_profile="p",
        aws_endpoint_url="http://u:geheim@h",
        origins={"aws_profile": "environment AWS_PROFILE"},
    )
    assert aws_options(settings) == {"region": "r"}
