"""Judge of a text that is exported for Prometheus: by saltctl/metrics.py, by prometheus-client and by promtool."""

from __future__ import annotations

import shutil
import subprocess

from saltctl.metrics import all_metrics


def exported_names(text: str) -> set[str]:
    """Return the names of the samples. Each must have the help, kind and labels of its metric.

    promtool, if it is installed, also checks that the names follow Prometheus' conventions.
    """
    from prometheus_client.parser import text_string_to_metric_families

    known, found = {metric.name: metric for metric in all_metrics()}, set()
    for family in text_string_to_metric_families(text):
        assert family.samples, family.name
        for sample in family.samples:
            metric = known[sample.name]
            assert (family.type, family.documentation) == (metric.kind, metric.about)
            assert set(sample.labels) == set(metric.labels), sample
            found.add(sample.name)
    if promtool := shutil.which("promtool"):
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return found
