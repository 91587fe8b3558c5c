"""What a mirror needs of MLflow's REST API: experiments, runs, metrics by step, artifacts, registered versions, aliases.

Over plain HTTP, without MLflow's own client: that brings a cloud vendor's SDK and twelve more distributions for these dozen
calls, takes seconds to import, and waits minutes for a server that hangs. Knows nothing of loops. Credentials come from
``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``, or ``MLFLOW_TRACKING_TOKEN``, and are never shown.
"""

import base64
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from everloop.errors import MirrorError
from everloop.records import encode

PATIENCE = 10.0
"""Seconds without a word from the server."""
LARGEST = 16 * 2**20
MOST_METRICS, MOST_OTHERS = 900, 90
"""In one call; MLflow takes 1,000 and 100."""
LONGEST_PARAMETER, LONGEST_TAG = 5_900, 7_900
ARTIFACTS = "mlflow-artifacts:"


class _Stay(urllib.request.HTTPRedirectHandler):
    """Credentials go to the address that was given and to no other."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)


class MLflow:
    """One server. Every call raises `MirrorError` when it does not answer as it should; ``seconds`` bounds them all."""

    def __init__(self, address: str, *, seconds: float = 60.0) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MirrorError(
                f"MLflow is at {_shown(address)!r}, which is no server's address; write http://host:port, or leave it out."
            )
        try:
            parts.port  # noqa: B018  raises for a port that is none
        except ValueError:
            raise MirrorError(
                f"MLflow is at {_shown(address)!r}, whose port is none; write http://host:port."
            ) from None
        host = parts.netloc.rpartition("@")[2]
        self._root = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        self._headers = _credentials(parts)
        self._until = time.monotonic() + seconds

    @property
    def address(self) -> str:
        return self._root

    def experiment(self, name: str) -> str:
        """The id of the experiment of that name, made where there is none."""
        found = self._get("experiments/get-by-name", {"experiment_name": name}, absent=None)
        if found is not None:
            if found["experiment"].get("lifecycle_stage") == "deleted":
                self._post("experiments/restore", {"experiment_id": found["experiment"]["experiment_id"]})
            return str(found["experiment"]["experiment_id"])
        made = self._post("experiments/create", {"name": name}, known="RESOURCE_ALREADY_EXISTS")
        return self.experiment(name) if made is None else str(made["experiment_id"])

    def runs(self, experiment: str, tag: str, value: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Every run that has the tag (and that value)."""
        condition = f"tags.`{tag}` = '{value}'" if value is not None else f"tags.`{tag}` != ''"
        asked: dict[str, Any] = {"experiment_ids": [experiment], "filter": condition, "max_results": 1_000}
        while True:
            found = self._post("runs/search", asked) or {}
            yield from found.get("runs", ())
            if not found.get("next_page_token"):
                return
            asked["page_token"] = found["next_page_token"]

    def begin(self, experiment: str, name: str, started: int, tags: Mapping[str, str]) -> tuple[str, str]:
        """A new run's id and the address of its artifacts. Times are milliseconds since 1970."""
        given = {
            "experiment_id": experiment,
            "run_name": name,
            "start_time": started,
            "tags": _pairs(tags, LONGEST_TAG),
        }
        made = self._post("runs/create", given) or {}
        return made["run"]["info"]["run_id"], made["run"]["info"].get("artifact_uri", "")

    def log(
        self,
        run: str,
        *,
        parameters: Mapping[str, Any],
        metrics: Sequence[tuple[str, float, int, int]],
        tags: Mapping[str, str],
    ) -> None:
        """``metrics``: name, value, step, milliseconds since 1970. In as many calls as it takes."""
        whole = [{"key": name, "value": v, "step": step, "timestamp": at} for name, v, step, at in metrics]
        for begin in range(0, len(whole), MOST_METRICS):
            self._post("runs/log-batch", {"run_id": run, "metrics": whole[begin : begin + MOST_METRICS]})
        for kind, pairs in (("params", _pairs(parameters, LONGEST_PARAMETER)), ("tags", _pairs(tags, LONGEST_TAG))):
            for begin in range(0, len(pairs), MOST_OTHERS):
                self._post("runs/log-batch", {"run_id": run, kind: pairs[begin : begin + MOST_OTHERS]})

    def end(self, run: str, at: int) -> None:
        self._post("runs/update", {"run_id": run, "status": "FINISHED", "end_time": at})

    def delete(self, run: str) -> None:
        self._post("runs/delete", {"run_id": run})

    def artifact(self, address: str, name: str, content: bytes) -> bool:
        """Whether it was kept: only a server that takes artifacts itself can be sent any."""
        if not address.startswith(ARTIFACTS):
            return False
        path = urllib.parse.urlsplit(address).path.strip("/")
        place = urllib.parse.quote(f"{path}/{name}")
        self._send("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{place}", content, {})
        return True

    def registered(self, name: str, digest: str, *, source: str, run: str, tags: Mapping[str, str]) -> str:
        """The number of the registered version that has the digest as its tag, made where there is none."""
        self._post("registered-models/create", {"name": name}, known="RESOURCE_ALREADY_EXISTS")
        for each in self._versions(name):
            if {tag["key"]: tag["value"] for tag in each.get("tags", ())}.get("everloop.digest") == digest:
                if each.get("run_id") == run:
                    return str(each["version"])
                self._send_json("DELETE", "model-versions/delete", {"name": name, "version": each["version"]})
        given = {"name": name, "source": source, "run_id": run}
        made = self._post("model-versions/create", {**given, "tags": _pairs(tags, LONGEST_TAG)}) or {}
        return str(made["model_version"]["version"])

    def _versions(self, name: str) -> Iterator[Mapping[str, Any]]:
        asked: dict[str, Any] = {"filter": f"name='{name}'", "max_results": 1_000}
        while True:
            found = self._get("model-versions/search", asked) or {}
            yield from found.get("model_versions", ())
            if not found.get("next_page_token"):
                return
            asked["page_token"] = found["next_page_token"]

    def alias(self, name: str, alias: str, version: str | None) -> None:
        """Point the alias at the version; None takes it away."""
        if version is not None:
            self._post("registered-models/alias", {"name": name, "alias": alias, "version": version})
            return
        asked = urllib.parse.urlencode({"name": name, "alias": alias})
        self._send_json("DELETE", f"registered-models/alias?{asked}", {"name": name, "alias": alias}, absent=None)

    # One call

    def _get(self, path: str, asked: Mapping[str, Any], **absent: Any) -> Any:
        return self._send_json("GET", f"{path}?{urllib.parse.urlencode(asked)}", None, **absent)

    def _post(self, path: str, given: Mapping[str, Any], *, known: str | None = None) -> Any:
        return self._send_json("POST", path, given, known=known)

    def _send_json(
        self, method: str, path: str, given: Mapping[str, Any] | None, *, known: str | None = None, **absent: Any
    ) -> Any:
        body = None if given is None else encode(given)
        answer = self._send(
            method, f"/api/2.0/mlflow/{path}", body, {"content-type": "application/json"}, known=known, **absent
        )
        if answer is None:
            return None
        try:
            return msgspec.json.decode(answer)
        except msgspec.DecodeError:
            raise MirrorError(f"{self._root} does not answer as MLflow does: {answer[:80]!r}.") from None

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, known: str | None = None,
        **absent: Any,
    ) -> bytes | None:  # fmt: skip
        left = self._until - time.monotonic()
        if left <= 0:
            raise MirrorError(f"{self._root} was too slow; what is missing is sent later.")
        request = urllib.request.Request(
            self._root + path, data=body, method=method, headers={**self._headers, **headers}
        )
        try:
            with _OPENER.open(request, timeout=min(PATIENCE, left)) as answer:
                return self._read(answer)
        except urllib.error.HTTPError as error:
            said = error.read(4_096)
            try:
                told = msgspec.json.decode(said)
                code, message = str(told.get("error_code")), str(told.get("message"))
            except (msgspec.DecodeError, AttributeError):
                code, message = "", said.decode("utf-8", "replace")
            if known is not None and code == known:
                return None
            if "absent" in absent and (error.code == 404 or code == "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise MirrorError(
                f"{self._root} answers {error.code} to {path.partition('?')[0]}: {message[:200]}"
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise MirrorError(f"{self._root} does not answer: {str(error) or type(error).__name__}.") from None

    def _read(self, answer: Any) -> bytes:
        """All of it, as long as there is time: a server that drips is one that hangs."""
        parts, size = [], 0
        while part := answer.read1(65_536):
            parts.append(part)
            size += len(part)
            if size > LARGEST or time.monotonic() > self._until:
                raise MirrorError(f"{self._root} answers without an end; what is missing is sent later.")
        return b"".join(parts)


def _credentials(parts: urllib.parse.SplitResult) -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token:
        return {"authorization": f"Bearer {token}"}
    user = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME")
    if not user:
        return {}
    password = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    pair = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
    return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _shown(address: str) -> str:
    """Without what stands before the host."""
    scheme, _, rest = address.rpartition("//")
    return f"{scheme}//{rest.rpartition('@')[2]}"[:200] if scheme else address.rpartition("@")[2][:200]


def _pairs(given: Mapping[str, Any], longest: int) -> list[dict[str, str]]:
    return [{"key": name, "value": str(value)[:longest]} for name, value in given.items()]
