"""Kubernetes manifests of the service and its scheduled jobs."""

from __future__ import annotations

import json
import re

from saltctl.deployment.variables import variables_of
from saltctl.errors import UsageError
from saltctl.settings import Settings

IMAGE = "registry.example/saltctl:latest"
"""A placeholder."""
METRICS_PORT = 9109
"""Of each pod of the service."""
_IMAGE = re.compile(r"[a-z0-9][\w.:/@-]*", re.ASCII)


def manifests(settings: Settings, image: str = IMAGE) -> str:
    """Return a ConfigMap, ServiceAccounts, the Deployment of the service, and CronJobs, as one YAML file.

    The Redis URL is read from a Secret, which the file names and does not contain.

    Raises:
        UsageError: this cannot be the name of an image.
    """
    if len(image) > 500 or _IMAGE.fullmatch(image) is None:
        raise UsageError(
            f"cannot use the image {image!r:.200}: it is not the name of a container image",
            hint=f"saltctl service emit kubernetes --image {IMAGE}",
        )
    variables = {name: value for name, value in variables_of(settings).items() if name != "SALTCTL_REDIS_URL"}
    data = "\n".join(f"  {name}: {json.dumps(value)}" for name, value in variables.items())
    text = (
        _MANIFESTS
        + _cron_job("rebuild", "*/5 * * * *", 900, _REBUILD)
        + _cron_job("stream", "*/5 * * * *", 120, _STREAM)
        + _cron_job("compare", "7 * * * *", 3600, _COMPARE)
        + _account("saltctl-canary", "It writes messages of the reserved conversations")
        + _cron_job("canary", "* * * * *", 120, _CANARY, account="saltctl-canary")
        + _account("saltctl-audit", "It scans the messages")
        + _cron_job("audit", "*/10 * * * *", 900, _AUDIT, account="saltctl-audit")
    )
    text = text.replace("@PORT@", str(METRICS_PORT)).replace("@IMAGE@", json.dumps(image))
    return text.replace("@DATA@", data)


# The probe and the comparison run Python, so that the image needs no shell.
_MANIFESTS = """\
# kubectl apply -n NAMESPACE -f FILE
# Before that, with the Redis URL and its password in a file that has no newline at its end (the password also if a
# context has it in redis_password_file):
#   kubectl create secret generic saltctl-redis -n NAMESPACE --from-file=url=FILE
# The image needs python3, and saltctl on its PATH.
apiVersion: v1
kind: ConfigMap
metadata:
  name: saltctl
  labels: {app.kubernetes.io/name: saltctl}
data:
@DATA@
---
# AWS credentials: let this account assume a role with the policy of
#   saltctl service emit iam --role saltctl-service
apiVersion: v1
kind: ServiceAccount
metadata:
  name: saltctl
  labels: {app.kubernetes.io/name: saltctl}
automountServiceAccountToken: false
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: saltctl-service
  labels: {app.kubernetes.io/name: saltctl, app.kubernetes.io/component: service}
spec:
  replicas: 2
  selector:
    matchLabels: {app.kubernetes.io/name: saltctl, app.kubernetes.io/component: service}
  template:
    metadata:
      labels: {app.kubernetes.io/name: saltctl, app.kubernetes.io/component: service}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "@PORT@"}
    spec:
      serviceAccountName: saltctl
      automountServiceAccountToken: false
      # SIGTERM finishes the batch, which takes at most 25 seconds.
      terminationGracePeriodSeconds: 45
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile: {type: RuntimeDefault}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {app.kubernetes.io/name: saltctl, app.kubernetes.io/component: service}
      containers:
        - name: saltctl
          image: @IMAGE@
          command: [saltctl, service, run]
          args:
            - --consumer=$(POD_NAME)
            - --metrics-port=@PORT@
            - --metrics-address=$(POD_IP)
            - --health-file=/run/saltctl/health
          ports:
            - {name: metrics, containerPort: @PORT@}
          env:
            - name: POD_NAME
              valueFrom: {fieldRef: {fieldPath: metadata.name}}
            - name: POD_IP
              valueFrom: {fieldRef: {fieldPath: status.podIP}}
            - name: SALTCTL_REDIS_URL
              valueFrom: {secretKeyRef: {name: saltctl-redis, key: url}}
          envFrom:
            - configMapRef: {name: saltctl}
          # The service touches the file every few seconds while all of its parts work.
          livenessProbe:
            exec:
              command:
                - python3
                - -c
                - import os, sys, time; sys.exit(time.time() - os.stat("/run/saltctl/health").st_mtime > 60)
            initialDelaySeconds: 60
            periodSeconds: 20
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet: {path: /metrics, port: metrics}
            periodSeconds: 10
            timeoutSeconds: 5
          resources:
            requests: {cpu: 100m, memory: 128Mi}
            limits: {memory: 512Mi}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: run, mountPath: /run/saltctl}
      volumes:
        - name: run
          emptyDir: {medium: Memory, sizeLimit: 1Mi}
"""
_REBUILD = """\
              command: [saltctl, rebuild, --if-needed, --cron, --timeout=10m]
"""
# After a flush of Redis: the Deployment does the same, unless it is down.
_STREAM = """\
              command: [saltctl, setup, --stream, --cron]
"""
_COMPARE = """\
              command:
                - python3
                - -c
                - |
                  import os, time
                  sample = f"--sample={time.gmtime().tm_hour + 1}/24"
                  os.execvp("saltctl", ["saltctl", "compare", "--cron", "--timeout=50m", sample])
"""
# A job that failed found a broken promise (3), or could not judge all of it.
_CANARY = """\
              command: [saltctl, canary, --cron, --timeout=90s]
"""
# It reads about 4 million units a day: change --max-rcu, or the schedule.
_AUDIT = """\
              command: [saltctl, history, audit, --all, --cron, --max-rcu=50, --for=9m]
"""


def _account(name: str, need: str) -> str:
    """Return a ServiceAccount for a role of its own, and why the job needs it."""
    return f"""\
---
# {need}, which the service may not:
#   saltctl service emit iam --role {name}
# Its Redis user is that of the service, unless you give its job a Secret of its own (saltctl service emit acl).
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: saltctl}}
automountServiceAccountToken: false
"""


def _cron_job(name: str, schedule: str, seconds: int, command: str, account: str = "saltctl") -> str:
    """Return a CronJob. A run that found something or failed is a failed Job, and is not tried again at once."""
    return f"""\
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: saltctl-{name}
  labels: {{app.kubernetes.io/name: saltctl, app.kubernetes.io/component: {name}}}
spec:
  schedule: "{schedule}"
  timeZone: Etc/UTC
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 120
  successfulJobsHistoryLimit: 1
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: 0
      activeDeadlineSeconds: {seconds}
      template:
        metadata:
          labels: {{app.kubernetes.io/name: saltctl, app.kubernetes.io/component: {name}}}
        spec:
          serviceAccountName: {account}
          automountServiceAccountToken: false
          restartPolicy: Never
          terminationGracePeriodSeconds: 45
          securityContext:
            runAsNonRoot: true
            runAsUser: 65532
            runAsGroup: 65532
            seccompProfile: {{type: RuntimeDefault}}
          containers:
            - name: saltctl
              image: @IMAGE@
{command}\
              env:
                - name: SALTCTL_REDIS_URL
                  valueFrom: {{secretKeyRef: {{name: saltctl-redis, key: url}}}}
              envFrom:
                - configMapRef: {{name: saltctl}}
              resources:
                requests: {{cpu: 100m, memory: 128Mi}}
                limits: {{memory: 512Mi}}
              securityContext:
                allowPrivilegeEscalation: false
                readOnlyRootFilesystem: true
                capabilities: {{drop: [ALL]}}
"""
