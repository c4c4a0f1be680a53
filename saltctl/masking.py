"""Secrets in the texts of others: servers, drivers and commands quote requests and credentials in their errors."""

from __future__ import annotations

import os
import re

MASK = "***"
_NAMES = (
    r"(?:aws_?)?secret_?access_?key|(?:session|security|access|refresh|id|web_?identity|bearer)_?token|client_?secret"
    r"|x-amz-(?:security-token|signature)|x-amz-sso_bearer_token|x-aws-ec2-metadata-token|\bsignature|saml_?assertion"
    r"|\bpassw(?:or)?d|aws_container_authorization_token"
)
# Reasons that follow the path of a file, as in `/etc/passwd: Permission denied`, or an option that was typed, as in
# `--password: saltctl rebuild has no such option`. They have spaces, which no value has.
_REASONS = (
    r"(?:\[errno \d+\] )?"
    r"(?:no such file or directory|permission denied|(?:not|is) a directory|it must be a regular file|not usable"
    r"|saltctl(?: [a-z-]+)* has no such option)"
    r"(?![^\s.,:;)])"
)
# A name and its value as in JSON, a Python dict, XML, a query, a header, a line of a file, and AWS's canonical request.
_NAMED = re.compile(rf"((?:{_NAMES})[\"']?\s*(?::|=|>)\s*(?:b?[\"'])?)(?!{_REASONS})[^\s\"'<>&,;)\]}}]+", re.IGNORECASE)
_TOKEN_IN_JSON = re.compile(r"([\"']Token[\"']\s*:\s*[\"'])[^\"']+")
_AUTHORIZATION = re.compile(r"(\bauthorization[\"']?\s*[:=]\s*(?:b?[\"'])?)[^\"'\r\n]+", re.IGNORECASE)
_WORDS = ("token", "secret", "signature", "authorization", "passw", "assertion")
"""One of them is in everything that the patterns above match."""
_STS_TOKEN = re.compile(r"\b(?:IQoJ|FwoG|AQo[A-Z])[A-Za-z0-9+/=%]{40,}")
_VARIABLES = ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_CONTAINER_AUTHORIZATION_TOKEN")
_SHORTEST = 8
"""A shorter value of a variable is a dummy, and may be part of any word."""


def without_secrets(text: str) -> str:
    """Mask tokens, secret keys, signatures, Authorization headers and passwords that a string names.

    The values of AWS's variables are masked wherever they are.

    Passwords in URLs are left to saltctl.cli.formats.text.without_passwords, which must mask more than it can prove.
    """
    for name in _VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= _SHORTEST:
            text = text.replace(value, MASK)
    lower = text.lower()
    if any(word in lower for word in _WORDS):  # lookups make errors by the thousand, and the patterns are slow
        for pattern in (_AUTHORIZATION, _NAMED, _TOKEN_IN_JSON):
            text = pattern.sub(rf"\1{MASK}", text)
    return _STS_TOKEN.sub(MASK, text)
